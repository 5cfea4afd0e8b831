# Made from audiocatalog/methods/reading.py by `make twins`: change that module.
"""Methods that read tracks: by id, by search, all tracks, or changed tracks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import Any
from uuid import UUID

from audiocatalog.aio.calls import AsyncCalls
from audiocatalog.errors import CatalogError
from audiocatalog.models.filters import SearchFilters
from audiocatalog.models.metadata import FacetName
from audiocatalog.models.tables import StatusChange, Track
from audiocatalog.operations import changes, moves, tracks
from audiocatalog.operations.changes import ChangePage
from audiocatalog.operations.iteration import TrackOrder, TrackScan, read_page, tracks_of
from audiocatalog.search.explanation import explain
from audiocatalog.search.request import Request
from audiocatalog.search.results import Explanation, SearchOrder, SearchPage
from audiocatalog.search.search import search


class AsyncReading(AsyncCalls):
    """Methods that read tracks; each takes one round trip unless its docstring says otherwise."""

    async def get(self, id: UUID | str) -> Track:  # noqa: A002
        """
        Return the track with *id*.

        Raises:
            TrackNotFound: no track has this id.
            InvalidInput: *id* is not a UUID.
        """
        return await self._run("get", lambda: tracks.get(id))

    async def find(self, id: UUID | str) -> Track | None:  # noqa: A002
        """
        Return the track with *id*, or None if no track has this id.

        Raises:
            InvalidInput: *id* is not a UUID.
        """
        return await self._run("find", lambda: tracks.find(id))

    async def get_many(self, ids: Iterable[UUID | str]) -> dict[UUID, Track]:
        """
        Return the tracks with *ids* (at most 10,000), each once, in the order of the ids; omit ids without a track.

        Raises:
            InvalidInput: *ids* is not a collection, has more than 10,000 ids, or contains an id that is not a UUID.

        >>> tracks = await catalog.get_many(hit.id for hit in hits)  # doctest: +SKIP
        >>> [track.title for track in tracks.values()]  # doctest: +SKIP
        ['Idioteque', 'Jóga']

        """
        return await self._run("get_many", lambda: tracks.get_many(ids))

    async def history(self, id: UUID | str) -> list[StatusChange]:  # noqa: A002
        """
        Return every status change of the track with *id*, oldest first; the first change has no ``from_status``.

        The ``duration`` of a change is the time that the track stayed in its ``to_status``.

        Raises:
            TrackNotFound: no track has this id.
            InvalidInput: *id* is not a UUID.
        """
        return await self._run("history", lambda: moves.history(id))

    async def search(
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
        Return the tracks that match *query*, best first.

        Case, accents and punctuation do not matter. Words are searched in title, artist, album, genre and year. If no
        space follows the last word, it also matches the beginning of a longer word. The syntax:

        - ``"a phrase"``, ``-excluded``, ``one OR another``
        - ``artist:word``, ``title:word``, ``album:word``, ``genre:word``
        - ``year:1990..1999``, ``duration:..4:30``
        - a track's id, which finds that track; all other text is searched as words

        If no track contains every word, the search returns tracks with similar words, or with most of the words. If a
        one-word query looks like a typo and matches few tracks, matches of the corrected query follow. The page's
        *suggestion* is the corrected query. A query without words lists the tracks that match its ranges and
        *filters*, newest first. Without words, ranges and *filters*, the page is empty.

        - *filters*: conditions that every track must meet
        - *limit*: the size of the page, from 1 to 100
        - *offset*: how many tracks to skip, from 0 to 10,000
        - *after*: the ``next_cursor`` of the previous page; concurrent writes do not make this page skip or repeat a
          track
        - *order_by*: the order of the tracks
        - *facets*: fields whose values are counted among the matches

        In a catalogue, at most ``max_searches`` searches run at the same time, and others wait in a queue. In a unit of
        work, a search uses the unit's connection.

        Raises:
            InvalidInput: the query is longer than 1,000 characters, or another argument breaks its rule.
            QueryTimeout: the search took longer than ``search_timeout``; the unit of work can continue.
            TooManySearches: in a catalogue, if other searches used all search connections for ``pool_timeout``.

        >>> page = await catalog.search("ac dc", filters=SearchFilters(year=(1975, 1980)))  # doctest: +SKIP
        >>> [hit.track.title for hit in page.hits]  # doctest: +SKIP
        ['Highway to Hell']

        """
        timeout = self._settings.search_timeout
        return await self._run(
            "search",
            lambda: search(
                Request.make(query, filters, limit, offset, after, order_by=order_by, facets=facets, timeout=timeout)
            ),
            searching=True,
        )

    async def explain(self, query: str, id: UUID | str, *, filters: SearchFilters | None = None) -> Explanation:  # noqa: A002
        """
        Explain the rank of the track with *id* in the search for *query*, or why the search does not find the track.

        Raises:
            TrackNotFound: no track has this id.
            InvalidInput: the query contains no word, or an argument breaks its rule.
            QueryTimeout: the explanation took longer than ``search_timeout``.
            TooManySearches: in a catalogue, if searches used all search connections for ``pool_timeout``.

        >>> print(await work.explain("ac dc live", track.id))  # doctest: +SKIP
        not found: it does not hold 'live'
          'ac' in artist
          'dc' in artist
          'live' in nowhere

        """
        timeout = self._settings.search_timeout
        return await self._run("explain", lambda: explain(query, id, filters=filters, timeout=timeout), searching=True)

    def iter_tracks(
        self, filters: SearchFilters | None = None, *, order_by: TrackOrder = "id", batch: int = 1000
    ) -> AsyncIterator[Track]:
        """
        Iterate over all tracks that meet *filters*, and keep at most *batch* tracks (1 to 10,000) in memory.

        A track that exists during the whole iteration is yielded exactly once, even while other callers write, because
        its sort key never changes. Each track is yielded as it was when its batch was read. Each batch is one
        statement, which reads at most 10,000 tracks. If few tracks meet *filters*, the iteration therefore sends many
        short statements. In a catalogue, no transaction stays open between batches. In a unit of work, the server ends
        the transaction if the caller takes longer than ``idle_timeout`` for a batch.

        Raises:
            InvalidInput: an argument breaks its rule; the error is raised by the call, not by the first track.
            QueryTimeout: a batch took longer than ``statement_timeout``.

        >>> async for track in catalog.iter_tracks(SearchFilters(genre="Jazz"), order_by="oldest"):  # doctest: +SKIP
        ...     index(track)

        """
        began = perf_counter()
        try:
            scan = TrackScan.make(filters, order_by, batch)
        except CatalogError as error:
            self._observer.call_ended("iter_tracks", began, error)
            raise
        return self._scan(scan)

    async def changes(self, after: str | None = None, *, limit: int = 1000) -> ChangePage:
        """
        Return up to *limit* tracks (1 to 10,000) that were written since the page with the ``next_cursor`` *after*.

        Use these pages to keep a copy, such as a search index, up to date. Without *after*, the first pages contain
        all tracks. Later pages contain the tracks that were written since, in their current state. The pages miss no
        write of this package, whatever the order of concurrent writers. A track may appear more than once; compare its
        ``version`` with the copy's version.

        Store ``next_cursor`` with the copy, in the same transaction as the tracks. Then call again: at once if ``more``
        is true, otherwise after a pause.

        A unit of work's own changes appear in pages that are read after its commit, but tracks on earlier pages already
        show these changes. On a standby, a change appears when all transactions that began before the change have
        ended. Each page reads the log from the oldest transaction that was open at the previous page, so a transaction
        that stays open for hours slows down every page.

        Raises:
            InvalidInput: an argument breaks its rule, or *after* is a cursor of another database, or of a time before a
                restore of this database; start again with ``after=None``.
            QueryTimeout: the page took longer than ``statement_timeout``.

        >>> page = await catalog.changes(copy.cursor)  # doctest: +SKIP
        >>> copy.store(page.tracks, cursor=page.next_cursor)  # doctest: +SKIP

        """
        timeout = self._settings.statement_timeout
        return await self._run("changes", lambda: changes.read_changes(after, limit=limit, timeout=timeout))

    async def _scan(self, scan: TrackScan) -> AsyncIterator[Track]:
        timeout = self._settings.statement_timeout
        after: Mapping[str, Any] | None = None
        while True:
            rows, after = await self._run("iter_tracks", partial(read_page, scan, after, timeout=timeout))
            for track in tracks_of(rows):
                yield track
            if after is None:
                return
            del rows
