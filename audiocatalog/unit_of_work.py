"""One transaction, and what can be done in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import psycopg
import sqlalchemy.exc
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from audiocatalog.errors import UnitOfWorkEnded, from_driver, translated
from audiocatalog.explaining import explain_hit
from audiocatalog.identifiers import parse_id
from audiocatalog.metadata import TrackMetadata, TrackRecord, clean_actor
from audiocatalog.models import StatusChange, Track
from audiocatalog.operations import find_track, move_track, read_history, required, save_track
from audiocatalog.search.explanation import Explanation
from audiocatalog.search.filters import SearchFilters
from audiocatalog.search.page import SearchPage, SearchSort
from audiocatalog.search.request import Request
from audiocatalog.searching import search_tracks
from audiocatalog.status import TrackStatus

_logger: Final = logging.getLogger("audiocatalog")


class UnitOfWork:
    """
    Do several things in one transaction: all of them are kept, or none.

    Used in a ``with`` block: it commits on a clean exit and rolls back on any exception. It belongs to one thread.

    Raises, on exit:
        TransactionAborted: an error of the database was caught inside the block, so that nothing could be kept.
        CommitOutcomeUnknown: the connection was lost while committing.
    """

    def __init__(
        self, sessions: Callable[[], AbstractContextManager[Session]], *, actor: str, search_timeout: float
    ) -> None:
        self._sessions = sessions
        self._actor = actor
        self._search_timeout = search_timeout
        self._scope: AbstractContextManager[Session] | None = None
        self._session: Session | None = None

    def __enter__(self) -> Self:
        if self._scope is not None:
            raise UnitOfWorkEnded("a unit of work can be entered only once; ask the catalogue for a new one")
        self._scope = self._sessions()
        self._session = self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, scope = self._session, self._scope
        assert session is not None  # noqa: S101
        assert scope is not None  # noqa: S101
        self._session = None
        try:
            if error is None:
                _commit(session)
            else:
                _roll_back(session)
        finally:
            scope.__exit__(None, None, None)
        if isinstance(error, sqlalchemy.exc.DBAPIError | sqlalchemy.exc.PendingRollbackError | psycopg.Error):
            raise from_driver(error, operation="unit_of_work") from error

    @property
    def session(self) -> Session:
        """
        The SQLAlchemy session of this transaction, for statements and joins of the host's own.

        Raises:
            UnitOfWorkEnded: outside the ``with`` block.
        """
        if self._session is None:
            raise UnitOfWorkEnded("this unit of work has ended, or has not begun: use it inside its `with` block")
        return self._session

    def save(
        self,
        metadata: TrackMetadata,
        *,
        audio_path: str,
        id: UUID | str | None = None,  # noqa: A002  # The column's name, which callers know.
        thumbnail_path: str | None = None,
        status: TrackStatus = TrackStatus.COMPLETED,
        replace: bool = False,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Track:
        """
        Store a track and return it; its ``outcome`` says what was done.

        A new *id* (a new one is made if None) is inserted in *status*, with the first row of its history, by *actor*
        for *reason*. An id that already holds the same content is left as it is, so that a save can be repeated,
        whatever its version is by then. Other content is overwritten only with *replace*, and then only at
        *expected_version*, if that is given; a track's status is never touched.

        Raises:
            InvalidInput: names every bad field; nothing was sent.
            IllegalTransition: no track begins in *status*.
            SaveConflict: the id holds other content that was not to be replaced, or not at this version.
            TrackNotFound: *expected_version* was given for an id that does not exist.

        >>> with catalog.unit_of_work() as work:  # doctest: +SKIP
        ...     track = work.save(TrackMetadata(title="Jóga", artist="Björk"), audio_path="s3://music/joga.flac")

        """
        record = TrackRecord(metadata, audio_path, id=id, thumbnail_path=thumbnail_path, status=status)
        return self.save_record(record, replace=replace, expected_version=expected_version, actor=actor, reason=reason)

    def save_record(
        self,
        record: TrackRecord,
        *,
        replace: bool = False,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Track:
        """Store *record*, a save that was validated before, as ``save`` does."""
        return save_track(
            self._connection(),
            record,
            replace=replace,
            expected_version=expected_version,
            actor=self._actor_or_default(actor),
            reason=reason,
        )

    def get(self, id: UUID | str) -> Track:  # noqa: A002
        """
        Return the track with *id*.

        Raises:
            TrackNotFound: there is none.
            InvalidInput: *id* is no UUID.
        """
        return required(self.find(id), id)

    def find(self, id: UUID | str) -> Track | None:  # noqa: A002
        """
        Return the track with *id*, or None if there is none.

        Raises:
            InvalidInput: *id* is no UUID.
        """
        return find_track(self._connection(), parse_id(id))

    def update_status(
        self,
        id: UUID | str,  # noqa: A002
        to: TrackStatus,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: TrackStatus | None = None,
        operation_id: UUID | str | None = None,
    ) -> StatusChange:
        """
        Move the track with *id* to the status *to* and return the row of its history that says so.

        With *expected*, the track moves only from that status; without, from any that the table allows. A repeated
        *operation_id* is answered with the first answer, so that a lost answer can be asked for again.

        Raises:
            IllegalTransition: the table forbids the move from the status it is in.
            TransitionConflict: the track is not *expected*, or somebody else moved it at the same moment.
            TrackNotFound: there is no such track.
            InvalidInput: names the argument that breaks its rule.
        """
        return move_track(
            self._connection(),
            id,
            to,
            actor=self._actor_or_default(actor),
            reason=reason,
            expected=expected,
            operation_id=operation_id,
        )

    def history(self, id: UUID | str) -> list[StatusChange]:  # noqa: A002
        """
        Return every status change of the track with *id*, oldest first; the first has no ``from_status``.

        Raises:
            TrackNotFound: there is no such track.
            InvalidInput: *id* is no UUID.
        """
        return read_history(self._connection(), parse_id(id))

    def search(
        self,
        query: str,
        *,
        filters: SearchFilters | None = None,
        limit: int = 20,
        offset: int = 0,
        after: str | None = None,
        sort: SearchSort | str = SearchSort.RELEVANCE,
        facets: Collection[str] = (),
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

        *filters* narrow the search. *limit* is from 1 to 100, *offset* from 0 to 10,000; *after* is the ``next`` of
        the page before and neither skips nor repeats a track while others are written. *sort* is another order.
        *facets* names what to count among the hits: genre, decade, artist, format, status.

        Raises:
            InvalidInput: the query is longer than 1,000 characters or 32 terms, or another argument breaks its rule.
            QueryTimeout: it took longer than the catalogue's ``search_timeout``; the unit of work goes on.

        >>> page = catalog.search("ac dc", filters=SearchFilters(year=(1975, 1980)))  # doctest: +SKIP
        >>> [hit.track.title for hit in page.hits]  # doctest: +SKIP
        ['Highway to Hell']

        """
        request = Request.make(
            query,
            filters=filters,
            limit=limit,
            offset=offset,
            after=after,
            sort=sort,
            facets=facets,
            timeout=self._search_timeout,
        )
        return search_tracks(self._connection(), request, timeout=self._search_timeout)

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
        return explain_hit(self._connection(), query, id, filters=filters, timeout=self._search_timeout)

    def _connection(self) -> Connection:
        """Return the connection, once what the host has added to the session is written: reads must see it."""
        with translated("flush"):
            self.session.flush()
            return self.session.connection()

    def _actor_or_default(self, actor: str | None) -> str:
        return self._actor if actor is None else clean_actor(actor)


def _commit(session: Session) -> None:
    try:
        with translated("flush"):
            session.flush()
        with translated("commit", "commit"):
            session.commit()
    except BaseException:
        _roll_back(session)
        raise


def _roll_back(session: Session) -> None:
    """Roll back, whatever state the connection is in: the error that led here is the one to be told."""
    # A rollback expires what the session holds; the host's objects stay readable as they are.
    session.expunge_all()
    try:
        session.rollback()
    except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error) as error:
        _logger.debug("rolling back failed: %s", type(error).__name__)
