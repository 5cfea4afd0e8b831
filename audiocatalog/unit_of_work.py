"""One transaction, and what can be done in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import psycopg
import sqlalchemy.exc
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from audiocatalog.engine import milliseconds
from audiocatalog.errors import InvalidInput, Problem, TrackNotFound, UnitOfWorkEnded, from_driver, translated
from audiocatalog.identifiers import parse_id
from audiocatalog.metadata import TrackMetadata, TrackRecord
from audiocatalog.models import SaveOutcome, StatusChange, Track
from audiocatalog.search.filters import SearchFilters
from audiocatalog.search.page import Hit, SearchPage, highlights_of, words_of
from audiocatalog.search.statement import COUNTED_HITS, MATCHING_WORDS, check_page, check_query, search_statement
from audiocatalog.status import TrackStatus
from audiocatalog.tracks import (
    FIND,
    INSERT,
    REPLACE,
    check_expected_version,
    clean_note,
    find_parameters,
    save_parameters,
    settle,
    track_of,
)
from audiocatalog.transitions import (
    CHANGE_BY_OPERATION,
    EXISTS,
    HISTORY,
    MOVE,
    change_of,
    move_parameters,
    moved,
    refusal,
)

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
        if isinstance(error, sqlalchemy.exc.SQLAlchemyError | psycopg.Error):
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
        for *reason*. An id that already holds the same content is left as it is, so that a save can be repeated. Other
        content is overwritten only with *replace*, and then only at *expected_version*, if that is given; a track's
        status is never touched.

        Raises:
            InvalidInput: names every bad field; nothing was sent.
            IllegalTransition: no track begins in *status*.
            SaveConflict: the id holds other content, or another version than *expected_version*.
            TrackNotFound: *expected_version* was given for an id that does not exist.

        >>> with catalog.unit_of_work() as work:  # doctest: +SKIP
        ...     track = work.save(TrackMetadata(title="Jóga", artist="Björk"), audio_path="s3://music/joga.flac")

        """
        record = TrackRecord(metadata, audio_path, id=id, thumbnail_path=thumbnail_path, status=status)  # type: ignore[arg-type]
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
        check_expected_version(expected_version, replace=replace)
        parameters = save_parameters(
            record,
            actor=self._who(actor),
            reason=clean_note("reason", reason),
            expected_version=expected_version,
        )
        connection = self._connection()
        with translated("save"):
            if expected_version is None and (row := connection.execute(INSERT, parameters).one_or_none()):
                return track_of(row, SaveOutcome.INSERTED)
            if replace and (row := connection.execute(REPLACE, parameters).one_or_none()):
                return track_of(row, SaveOutcome.UPDATED)
            existing = find_track(connection, record.id)
        return settle(existing, record, expected_version=expected_version)

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
        track_id = parse_id(id)
        with translated("find"):
            return find_track(self._connection(), track_id)

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
            actor=self._who(actor),
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
        track_id = parse_id(id)
        connection = self._connection()
        with translated("history"):
            changes = [change_of(row) for row in connection.execute(HISTORY, find_parameters(track_id))]
            known = changes or connection.execute(EXISTS, find_parameters(track_id)).one_or_none()
        if not known:
            raise TrackNotFound(track_id, operation="history")
        return changes

    def search(
        self, query: str, *, filters: SearchFilters | None = None, limit: int = 20, offset: int = 0
    ) -> SearchPage:
        """
        Return the tracks in which every word of *query* is found, best first.

        Words are found whatever their case, accents and punctuation, in title, artist, album and genre, in this order
        of weight; an exact title or artist comes before all others. A query without a searchable word finds nothing.

        *filters* narrow the search. *limit* is from 1 to 100, *offset* from 0 to 10,000.

        Raises:
            InvalidInput: the query is longer than 1,000 characters or 32 terms, or limit or offset are out of bounds.
            QueryTimeout: it took longer than the catalogue's ``search_timeout``.

        >>> page = catalog.search("ac dc", filters=SearchFilters(year=(1975, 1980)))  # doctest: +SKIP
        >>> [hit.track.title for hit in page.hits]  # doctest: +SKIP
        ['Highway to Hell']

        """
        text = check_query(query)
        check_page(limit, offset)
        if filters is not None and not isinstance(filters, SearchFilters):
            raise InvalidInput(Problem("filters", f"SearchFilters, not {type(filters).__name__}"), operation="search")
        return search_tracks(
            self._connection(), text, filters=filters, limit=limit, offset=offset, timeout=self._search_timeout
        )

    def _connection(self) -> Connection:
        with translated("connect", "connect"):
            return self.session.connection()

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else clean_actor(actor)


def clean_actor(actor: object) -> str:
    """
    Return *actor*, who does something, in NFC.

    Raises:
        InvalidInput: it is no text, has no visible character, or more than 200 characters.
    """
    cleaned = clean_note("actor", "" if actor is None else actor, required=True)
    assert cleaned is not None  # noqa: S101
    return cleaned


def required(track: Track | None, track_id: UUID | str) -> Track:
    """
    Return *track*.

    Raises:
        TrackNotFound: it is None.
    """
    if track is None:
        raise TrackNotFound(parse_id(track_id), operation="get")
    return track


def find_track(connection: Connection, track_id: UUID) -> Track | None:
    """Return the track with *track_id*, or None, in one round trip."""
    row = connection.execute(FIND, find_parameters(track_id)).one_or_none()
    return None if row is None else track_of(row)


def move_track(
    connection: Connection,
    track_id: UUID | str,
    to: TrackStatus,
    *,
    actor: str,
    reason: str | None,
    expected: TrackStatus | None,
    operation_id: UUID | str | None,
) -> StatusChange:
    """Move a track as ``UnitOfWork.update_status`` says: in one round trip, or one more after a lost race."""
    identifier = parse_id(track_id)
    operation = None if operation_id is None else parse_id(operation_id, "operation_id")
    target = TrackStatus.parse(to, "to")
    start = None if expected is None else TrackStatus.parse(expected, "expected")
    parameters = move_parameters(
        identifier, target, actor=actor, reason=clean_note("reason", reason), expected=start, operation_id=operation
    )
    with translated("update_status"):
        row = connection.execute(MOVE, parameters).one_or_none()
        if change := moved(row):
            return change
        # The same operation may have been under way when this one began, and have won the race against it.
        if operation is not None and (earlier := connection.execute(CHANGE_BY_OPERATION, parameters).one_or_none()):
            return change_of(earlier)
    raise refusal(row, identifier, target, start)


def search_tracks(
    connection: Connection, query: str, *, filters: SearchFilters | None, limit: int, offset: int, timeout: float
) -> SearchPage:
    """Answer a checked *query* within *timeout* seconds for each statement."""
    with translated("search"):
        usual = _exchange_statement_timeout(connection, milliseconds(timeout))
        rows = connection.execute(search_statement(filters), {"query": query, "limit": limit, "offset": offset}).all()
        scored = [(float(row.score), track_of(row[2:])) for row in rows if row.id is not None]
        words = words_of([track for _, track in scored])
        matching = (
            set(connection.execute(MATCHING_WORDS, {"query": query, "words": words}).scalars()) if words else set()
        )
        _exchange_statement_timeout(connection, usual)
    total = rows[0].total
    return SearchPage(
        hits=tuple(Hit(track, score, highlights_of(track, matching)) for score, track in scored),
        total=min(total, COUNTED_HITS),
        total_is_exact=total <= COUNTED_HITS,
    )


def _exchange_statement_timeout(connection: Connection, value: str) -> str:
    """Set the transaction's statement time-out to *value* and return what it was."""
    row = connection.exec_driver_sql(
        "SELECT current_setting('statement_timeout') AS before, set_config('statement_timeout', %s, true)", (value,)
    ).one()
    return str(row.before)


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
    try:
        session.rollback()
    except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error) as error:
        _logger.debug("rolling back failed: %s", type(error).__name__)
