"""How tracks are read: by id, by search, all of them, or what has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from time import perf_counter
from typing import Any
from uuid import UUID

from audiocatalog.errors import CatalogError
from audiocatalog.methods.calls import Calls
from audiocatalog.models.filters import SearchFilters
from audiocatalog.models.metadata import FacetName
from audiocatalog.models.tables import StatusChange, Track
from audiocatalog.operations import changes, moves, tracks
from audiocatalog.operations.changes import ChangePage
from audiocatalog.operations.iteration import TrackOrder, TrackScan, read_page, tracks_of
from audiocatalog.operations.operation import Operation
from audiocatalog.search.results import Explanation, SearchOrder, SearchPage


class Reading(Calls):
    """Reads of tracks, each in one round trip unless it says otherwise."""

    def get(self, id: UUID | str) -> Track:  # noqa: A002
        """
        Return the track with *id*.

        Raises:
            TrackNotFound: there is none.
            InvalidInput: *id* is no UUID.
        """
        return self._run("get", lambda: tracks.get(id))

    def find(self, id: UUID | str) -> Track | None:  # noqa: A002
        """
        Return the track with *id*, or None if there is none.

        Raises:
            InvalidInput: *id* is no UUID.
        """
        return self._run("find", lambda: tracks.find(id))

    def get_many(self, ids: Iterable[UUID | str]) -> dict[UUID, Track]:
        """
        Return the tracks with *ids* in the order of those, each once; an id without a track is left out.

        At most 10,000 ids, in one round trip.

        Raises:
            InvalidInput: *ids* is no collection, holds too many, or one of them is no UUID.

        >>> tracks = catalog.get_many(hit.id for hit in hits)  # doctest: +SKIP
        >>> [track.title for track in tracks.values()]  # doctest: +SKIP
        ['Idioteque', 'Jóga']

        """
        return self._run("get_many", lambda: tracks.get_many(ids))

    def history(self, id: UUID | str) -> list[StatusChange]:  # noqa: A002
        """
        Return every status change of the track with *id*, oldest first; the first has no ``from_status``.

        The ``duration`` of each says how long the track stayed in the status that it led to.

        Raises:
            TrackNotFound: there is no such track.
            InvalidInput: *id* is no UUID.
        """
        return self._run("history", lambda: moves.history(id))

    def search(
        self,
        query: str,
        *,
        filters: SearchFilters | None = None,
        limit: int = 20,
        offset: int = 0,
        after: str | None = None,
        order_by: SearchOrder = "relevance",
        facets: Collection[FacetName] = (),
    ) -> SearchPage:
        """
        Return the tracks that *query* finds, best first.

        Words are found whatever their case, accents and punctuation, in title, artist, album, genre and year; the last
        one may go on, unless a space follows it. A query may hold ``"phrases"``, ``-exclusions``, ``one OR another``,
        ``artist:``, ``title:``, ``album:`` and ``genre:`` before a word, ``year:1990..1999`` and ``duration:..4:30``;
        an id finds its track. Whatever fits none of this is a word. Where no track holds all words, those that hold
        like ones, or most of them, are found instead; behind the few tracks that hold a single word which looks like a
        slip, those that hold what may have been meant. The page's *suggestion* says it. A
        query without words lists what its ranges and the filters leave, the newest first, or nothing if there is none.

        *filters* narrow the search. *limit* is from 1 to 100, *offset* from 0 to 10,000; *after* is the ``next_cursor``
        of the page before and neither skips nor repeats a track while others are written. *order_by* is another order.
        *facets* names what to count among the hits: genre, decade, artist, format, status.

        In a catalogue, at most ``max_searches`` searches run at the same time; the others wait in turn. Inside a unit
        of work, a search uses the connection that the unit has.

        Raises:
            TooManySearches: in a catalogue, if other searches were running for all of ``pool_timeout``.
            InvalidInput: the query is longer than 1,000 characters, or another argument breaks its rule.
            QueryTimeout: it took longer than the catalogue's ``search_timeout``; the unit of work goes on.

        >>> page = catalog.search("ac dc", filters=SearchFilters(year=(1975, 1980)))  # doctest: +SKIP
        >>> [hit.track.title for hit in page.hits]  # doctest: +SKIP
        ['Highway to Hell']

        """
        timeout = self._settings.search_timeout

        def begin() -> Operation[SearchPage]:
            # The first search imports the rest of the package `search`, which most workers never need.
            from audiocatalog.search.request import Request
            from audiocatalog.search.search import search

            request = Request.make(
                query,
                filters=filters,
                limit=limit,
                offset=offset,
                after=after,
                order_by=order_by,
                facets=facets,
                timeout=timeout,
            )
            return search(request, timeout=timeout)

        return self._run("search", begin, searching=True)

    def explain(self, query: str, id: UUID | str, *, filters: SearchFilters | None = None) -> Explanation:  # noqa: A002
        """
        Say why the track with *id* stands where it stands in the search for *query*, or why it is not there.

        Raises:
            TrackNotFound: there is no such track.
            InvalidInput: the query holds no word, or an argument breaks its rule.

        >>> print(work.explain("ac dc live", track.id))  # doctest: +SKIP
        not found: it does not hold 'live'
          'ac' in artist
          'dc' in artist
          'live' in nowhere

        """
        timeout = self._settings.search_timeout

        def begin() -> Operation[Explanation]:
            from audiocatalog.search.explanation import explain

            return explain(query, id, filters=filters, timeout=timeout)

        return self._run("explain", begin, searching=True)

    def iter_tracks(
        self, filters: SearchFilters | None = None, *, order_by: TrackOrder = "id", batch: int = 1000
    ) -> Iterator[Track]:
        """
        Go through all tracks that meet *filters*, however many, and hold no more than *batch* of them in memory.

        *batch* is from 1 to 10,000. What they are sorted by never changes, so that a track which is there throughout is
        given exactly once while others write; it is shown as it is when its batch is read. Each batch is a statement of
        its own, which looks at 10,000 tracks at the most, or *batch* if that is more: filters that few tracks meet cost
        many statements, not a long one. In a catalogue no transaction stays open between two batches. In a unit of work
        all are read in its transaction, which the server ends if nothing is asked of it for 10 seconds.

        Raises:
            InvalidInput: names the argument that breaks its rule; at once, not at the first track.

        >>> for track in catalog.iter_tracks(SearchFilters(genre="Jazz"), order_by="oldest"):  # doctest: +SKIP
        ...     index(track)

        """
        began = perf_counter()
        try:
            scan = TrackScan.make(filters, order_by, batch)
        except CatalogError as error:
            self._observer.call_ended("iter_tracks", began, error)
            raise
        return self._scan(scan)

    def changes(self, after: str | None = None, *, limit: int = 1000) -> ChangePage:
        """
        Return up to *limit* tracks that were written since the page whose ``next_cursor`` is *after*, as they are now.

        For those who keep a copy, such as an index: without *after*, it begins with all tracks, page by page, and
        goes on with what is written. Nothing that this package writes is missed, whatever is written at the same time,
        in whichever order writers begin and commit. A track is given again if it is written again, and may be if it was
        written while pages were read or if an answer was lost; its ``version`` tells whether the copy has it.

        Keep ``next_cursor`` with the copy, stored together with the tracks, and ask again: at once if ``more`` says so,
        else after a while. In a unit of work, the changes of this transaction itself are given after it has committed;
        tracks are shown with them before. On a standby, a change is given when all transactions that began before it
        have ended. *limit* is from 1 to 10,000. Each page reads the log of its window once, which begins with the
        oldest transaction that was open at the last: a transaction that stays open for hours makes all pages longer.

        Raises:
            InvalidInput: *after* is no cursor, or that of another database or of a time before a restore; begin anew.

        >>> page = catalog.changes(copy.cursor)  # doctest: +SKIP
        >>> copy.store(page.tracks, cursor=page.next_cursor)  # doctest: +SKIP

        """
        timeout = self._settings.statement_timeout
        return self._run("changes", lambda: changes.read_changes(after, limit=limit, timeout=timeout))

    def _scan(self, scan: TrackScan) -> Iterator[Track]:
        timeout = self._settings.statement_timeout
        after: Mapping[str, Any] | None = None
        while True:
            rows, after = self._run("iter_tracks", partial(read_page, scan, after, timeout=timeout))
            yield from tracks_of(rows)
            if after is None:
                return
            del rows
