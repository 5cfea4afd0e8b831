"""What is stored: SQL refuses what Python refuses, names follow one convention, and objects only show."""

from __future__ import annotations

import itertools
import math
import pickle
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import ColumnElement, Connection, Select, Table, event, func, select, text
from sqlalchemy import insert as insert_new
from sqlalchemy.orm import Session, object_session

from audiocatalog import TRANSITIONS, StatusChange, Track, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.models.base import Base
from audiocatalog.models.characters import INVISIBLE
from audiocatalog.models.ids import new_id
from audiocatalog.models.metadata import CONTENT_COLUMNS
from audiocatalog.models.rows import CHANGES, TRACKS
from audiocatalog.models.sql_names import SEARCH_VECTOR_FUNCTION, VISIBLE_FUNCTION
from audiocatalog.models.tables import DOMAINS
from tests.support.databases import Units
from tests.support.factories import TrackFactory
from tests.support.limits import LONGEST, LONGEST_PATH, NUMBERS, WHOLE

PLANTED = "planted secret"
NAN, INFINITY = math.nan, math.inf
PENDING, COMPLETED = TrackStatus.PENDING, TrackStatus.COMPLETED
#: The first and the last number of each range.
RANGES: dict[str, tuple[float, float]] = {**WHOLE, **NUMBERS, "version": (1, 2**31 - 1)}
#: The name of the CHECK that refuses another number.
RANGE_CHECKS = {field: f"ck_audio_tracks_{field}_range" for field in RANGES} | {
    "version": "ck_audiocatalog_count_range"
}
#: Each text with nothing to see in it: plain spaces, controls and no-break spaces, zero width, fillers and marks.
INVISIBLE_TEXTS = ["", " ", "\t\n", "\u00a0\u2003\u3000", "\u200b\ufeff", "\u3164\u00ad\u200f", "\U000e0001"]


def insert(connection: Connection, table: Table, values: Mapping[str, object]) -> None:
    """Insert one row past every check of this package, in a savepoint of its own."""
    columns, marks = ", ".join(values), ", ".join(f"%({column})s" for column in values)
    with connection.begin_nested():
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", dict(values))


def insert_track(connection: Connection, **values: object) -> UUID:
    track_id = new_id()
    defaults = {"id": track_id, "status": "COMPLETED", "title": "a", "audio_path": "b"}
    insert(connection, TRACKS, defaults | values)
    return track_id


def insert_change(connection: Connection, **values: object) -> None:
    defaults = {"version": 1, "from_status": None, "to_status": "PENDING", "actor": "a"}
    insert(connection, CHANGES, defaults | values)


def refused(run: Callable[[], object]) -> tuple[str | None, str | None]:
    """Return SQLSTATE and constraint of the error that refuses what *run* does."""
    with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
        run()
    driver = caught.value.orig
    assert isinstance(driver, psycopg.Error)
    return driver.sqlstate, driver.diag.constraint_name


# SQL refuses what Python refuses.


@pytest.mark.parametrize("field", RANGES)
def test_sql_takes_both_ends_of_a_range_and_nothing_beyond(connection: Connection, field: str) -> None:
    lowest, highest = RANGES[field]
    for value in (lowest, highest):
        insert_track(connection, **{field: value})
    for value in (lowest - 1, -1, -(2**31)):
        found = refused(partial(insert_track, connection, **{field: value}))
        assert found == ("23514", RANGE_CHECKS[field])
    if field != "version":
        found = refused(lambda: insert_track(connection, **{field: highest + 1}))
        assert found == ("23514", RANGE_CHECKS[field])


@pytest.mark.parametrize("field", [*WHOLE, "version"])
def test_sql_takes_no_whole_number_that_is_none(connection: Connection, field: str) -> None:
    for value in (2**31, 2**63, 2**64, NAN, INFINITY, -INFINITY):
        assert refused(partial(insert_track, connection, **{field: value})) == ("22003", None)
    assert refused(lambda: insert_track(connection, **{field: True})) == ("42804", None)


@pytest.mark.parametrize(
    "value",
    [NAN, INFINITY, -INFINITY, -5e-324, math.nextafter(31_536_000, INFINITY), 2**31, 2**63, 1e308],
    ids=repr,
)
def test_sql_takes_no_duration_that_is_none(connection: Connection, value: float) -> None:
    found = refused(lambda: insert_track(connection, duration=value))
    assert found == ("23514", "ck_audio_tracks_duration_range")


@pytest.mark.parametrize("field", LONGEST | LONGEST_PATH)
def test_sql_takes_no_text_with_nothing_to_see(connection: Connection, field: str) -> None:
    for invisible in INVISIBLE_TEXTS:
        found = refused(partial(insert_track, connection, **{field: invisible}))
        assert found == ("23514", f"ck_audio_tracks_{field}_visible")
    insert_track(connection, **{field: "\u200b.\u00a0"})


@pytest.mark.parametrize(("field", "longest"), (LONGEST | LONGEST_PATH).items())
def test_sql_counts_characters_and_takes_none_too_many(connection: Connection, field: str, longest: int) -> None:
    insert_track(connection, **{field: "\U0001f3b5" * longest})
    assert refused(lambda: insert_track(connection, **{field: "x" * (longest + 1)})) == ("22001", None)


def test_text_too_long_is_refused_before_its_words_are_read(connection: Connection) -> None:
    # Long words, for the more there are, the longer it takes to find that they are too many.
    words = " ".join(f"{number:05d}{'x' * 1500}" for number in range(700))
    read = text(f"SELECT {SEARCH_VECTOR_FUNCTION}(:words, NULL, NULL, NULL, NULL)")
    with connection.begin_nested() as savepoint:
        assert refused(lambda: connection.execute(read, {"words": words})) == ("54000", None)
        savepoint.rollback()
    assert refused(lambda: insert_track(connection, title=words)) == ("22001", None)
    insert_track(connection)
    # As the package and the sessions of hosts send it: a value that was cast to the domain would be cut.
    assert refused(lambda: connection.execute(TRACKS.update().values(title=words))) == ("22001", None)


def test_no_way_of_writing_cuts_a_text(connection: Connection) -> None:
    rows = [{"id": new_id(), "status": PENDING, "title": "x" * 1001, "audio_path": "b"} for _ in range(2)]
    sorted_rows = insert_new(TRACKS).returning(TRACKS.c.id, sort_by_parameter_order=True)
    for statement in (insert_new(TRACKS), sorted_rows, insert_new(TRACKS).values(rows)):
        with connection.begin_nested() as savepoint:
            assert refused(partial(connection.execute, statement, rows)) == ("22001", None)
            savepoint.rollback()


@pytest.mark.parametrize("instant", ["infinity", "-infinity"])
@pytest.mark.parametrize("field", ["created_at", "updated_at"])
def test_sql_takes_no_instant_that_is_none(connection: Connection, field: str, instant: str) -> None:
    found = refused(lambda: insert_track(connection, **{field: instant}))
    assert found == ("23514", "ck_audiocatalog_time_finite")


@pytest.mark.parametrize("status", ["DONE", "pending", "", " PENDING"])
def test_sql_takes_no_unknown_status(connection: Connection, status: str) -> None:
    assert refused(lambda: insert_track(connection, status=status)) == ("23514", "ck_audio_tracks_status_known")


@pytest.mark.parametrize("status", TrackStatus)
def test_sql_takes_every_known_status(connection: Connection, status: TrackStatus) -> None:
    insert_track(connection, status=str(status))


@pytest.mark.parametrize("field", ["id", "status", "title", "audio_path", "created_at", "updated_at", "version"])
def test_sql_demands_what_every_track_has(connection: Connection, field: str) -> None:
    assert refused(lambda: insert_track(connection, **{field: None})) == ("23502", None)


def test_nobody_writes_the_search_vector(connection: Connection) -> None:
    assert refused(lambda: insert_track(connection, search_vector="a:1")) == ("428C9", None)
    insert_track(connection)
    found = refused(lambda: connection.execute(text("UPDATE audio_tracks SET search_vector = 'a:1'")))
    assert found == ("428C9", None)


def test_an_id_is_there_once(connection: Connection) -> None:
    track_id = insert_track(connection)
    assert refused(lambda: insert_track(connection, id=track_id)) == ("23505", "pk_audio_tracks")


# The history.

KNOWN_AND_NOT = (*TrackStatus, "ARCHIVED", "pending")


@pytest.mark.parametrize(("start", "end"), list(itertools.product((None, *KNOWN_AND_NOT), KNOWN_AND_NOT)), ids=str)
def test_sql_takes_exactly_the_moves_of_the_table(connection: Connection, start: str | None, end: str) -> None:
    track_id = insert_track(connection)
    legal = {(None if begin is None else str(begin), str(to)) for begin, ends in TRANSITIONS.items() for to in ends}
    if (start, end) in legal:
        insert_change(connection, track_id=track_id, from_status=start, to_status=end)
    else:
        found = refused(lambda: insert_change(connection, track_id=track_id, from_status=start, to_status=end))
        assert found == ("23514", "ck_audio_track_status_changes_legal_transition")


@pytest.mark.parametrize("start", [None, *TrackStatus])
def test_every_move_leads_somewhere(connection: Connection, start: str | None) -> None:
    track_id = insert_track(connection)
    found = refused(lambda: insert_change(connection, track_id=track_id, from_status=start, to_status=None))
    assert found[0] in {"23502", "23514"}


@pytest.mark.parametrize(
    ("values", "sqlstate", "constraint"),
    [
        ({"track_id": None}, "23502", None),
        ({"version": None}, "23502", None),
        ({"actor": None}, "23502", None),
        ({"at": None}, "23502", None),
        ({"actor": "x" * 201}, "22001", None),
        ({"reason": "x" * 1001}, "22001", None),
        ({"actor": " "}, "23514", "ck_audio_track_status_changes_actor_visible"),
        ({"reason": "\u200b"}, "23514", "ck_audio_track_status_changes_reason_visible"),
        ({"version": 0}, "23514", "ck_audiocatalog_count_range"),
        ({"at": "infinity"}, "23514", "ck_audiocatalog_time_finite"),
        ({"track_id": uuid4()}, "23503", "fk_audio_track_status_changes_track_id"),
        ({"version": 1}, "23505", "pk_audio_track_status_changes"),
        ({"operation_id": UUID(int=1)}, "23505", "uq_audio_track_status_changes_track_id_operation_id"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_sql_takes_no_history_row_that_is_none(
    connection: Connection, values: dict[str, object], sqlstate: str, constraint: str | None
) -> None:
    track_id = insert_track(connection)
    insert_change(connection, track_id=track_id, version=1, operation_id=UUID(int=1))
    found = refused(lambda: insert_change(connection, **({"track_id": track_id, "version": 2} | values)))
    assert found == (sqlstate, constraint)


def test_the_longest_actor_and_reason_are_stored(connection: Connection) -> None:
    track_id = insert_track(connection)
    insert_change(connection, track_id=track_id, actor="\U0001f3b5" * 200, reason="\U0001f3b5" * 1000)


def test_a_track_with_a_history_cannot_be_deleted(connection: Connection) -> None:
    track_id = insert_track(connection)
    insert_change(connection, track_id=track_id)
    found = refused(lambda: connection.execute(TRACKS.delete().where(TRACKS.c.id == track_id)))
    assert found == ("23503", "fk_audio_track_status_changes_track_id")


# Twins.


def test_python_and_sql_call_the_same_characters_visible(connection: Connection) -> None:
    """Every character there is, but NUL and the surrogates, which PostgreSQL does not have."""
    asked = text(
        "SELECT code FROM generate_series(1, 1114111) AS code"
        f" WHERE code NOT BETWEEN 55296 AND 57343 AND NOT {VISIBLE_FUNCTION}(chr(code))"
    )
    in_sql = set(connection.execute(asked).scalars())
    visible = re.compile(f"[^{INVISIBLE}]")
    in_python = {code for code in range(1, 0x110000) if not 0xD800 <= code <= 0xDFFF and not visible.search(chr(code))}
    assert [hex(code) for code in sorted(in_sql ^ in_python)] == []


def test_one_visible_character_is_enough_wherever_it_stands(connection: Connection) -> None:
    blank = "\u200b \u3164" * 300
    for shown in ("x" + blank, blank + "x", blank + "x" + blank):
        assert connection.execute(text(f"SELECT {VISIBLE_FUNCTION}(:shown)"), {"shown": shown}).scalar_one() is True
    assert connection.execute(text(f"SELECT {VISIBLE_FUNCTION}(:blank)"), {"blank": blank}).scalar_one() is False
    assert connection.execute(text(f"SELECT {VISIBLE_FUNCTION}(NULL)")).scalar_one() is None


# The catalogue of the database.

TRACK_TABLES = "('audio_tracks'::regclass, 'audio_track_status_changes'::regclass)"
OUR_TABLES = "({})".format(", ".join(f"'{name}'::regclass" for name in Base.metadata.tables))


def names(connection: Connection, query: str) -> list[str]:
    return sorted(str(name) for name in connection.execute(text(query)).scalars())


def test_every_constraint_and_index_has_the_name_that_the_convention_gives(connection: Connection) -> None:
    # PostgreSQL 18 lists NOT NULL among the constraints (n), under names that 15 to 17 could not have given.
    query = f"""
        SELECT conname FROM pg_constraint WHERE conrelid IN {OUR_TABLES} AND contype <> 'n'
        UNION SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid IN {OUR_TABLES}
        UNION SELECT conname FROM pg_constraint JOIN pg_type ON pg_type.oid = contypid
        WHERE typnamespace = current_schema()::regnamespace
    """
    preparer = connection.dialect.identifier_preparer
    expected = {domain.constraint_name for domain in DOMAINS}
    for table in Base.metadata.tables.values():
        expected |= {preparer.format_constraint(constraint) for constraint in table.constraints}
        expected |= {str(index.name) for index in table.indexes}
    found = names(connection, query)
    assert found == sorted(map(str, expected))
    convention = re.compile(rf"(pk|fk|uq|ix|ck)_({'|'.join(Base.metadata.tables)}|audiocatalog)(_[a-z_]+(_\d+)?)?")
    assert [name for name in found if not convention.fullmatch(name)] == []


def test_every_unique_key_holds_the_id_of_the_track(connection: Connection) -> None:
    query = f"""
        SELECT indexrelid::regclass FROM pg_index WHERE indisunique AND indrelid IN {TRACK_TABLES} AND NOT EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY (indkey)
            AND attname = CASE indrelid WHEN 'audio_tracks'::regclass THEN 'id' ELSE 'track_id' END)
    """
    assert names(connection, query) == []


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(
            f"SELECT tgname FROM pg_trigger WHERE tgrelid IN {OUR_TABLES} AND NOT tgisinternal", id="triggers"
        ),
        pytest.param("SELECT evtname FROM pg_event_trigger", id="event triggers"),
        pytest.param(f"SELECT rulename FROM pg_rewrite WHERE ev_class IN {OUR_TABLES}", id="rules"),
        pytest.param(
            "SELECT oid::regclass FROM pg_class WHERE relkind = 'S' AND relnamespace = current_schema()::regnamespace",
            id="sequences",
        ),
        pytest.param(
            f"SELECT attname FROM pg_attribute WHERE attrelid IN {OUR_TABLES} AND attidentity <> ''",
            id="identity columns",
        ),
        pytest.param(
            f"SELECT adnum FROM pg_attrdef WHERE adrelid IN {OUR_TABLES} AND pg_get_expr(adbin, adrelid) ~ 'nextval'",
            id="serial columns",
        ),
        pytest.param(
            "SELECT typname FROM pg_type WHERE typtype = 'e' AND typnamespace = current_schema()::regnamespace",
            id="enums",
        ),
        pytest.param("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'", id="extensions"),
        pytest.param(
            "SELECT conname FROM pg_constraint"
            " WHERE connamespace = current_schema()::regnamespace AND NOT convalidated",
            id="constraints not validated",
        ),
        pytest.param(
            f"SELECT conname FROM pg_constraint WHERE conrelid IN {TRACK_TABLES} AND contype = 'c'"
            " AND cardinality(conkey) = 1",
            id="rules of one column that every statement reads",
        ),
        pytest.param(
            f"SELECT indexrelid::regclass FROM pg_index WHERE indrelid IN {OUR_TABLES} AND NOT indisvalid",
            id="invalid indexes",
        ),
    ],
)
def test_the_database_holds_no_such_thing(connection: Connection, query: str) -> None:
    assert names(connection, query) == []


def test_the_search_vector_is_generated_and_stored(connection: Connection) -> None:
    found = connection.execute(
        text(
            "SELECT attgenerated::text, atttypid::regtype::text FROM pg_attribute"
            " WHERE attrelid = 'audio_tracks'::regclass AND attname = 'search_vector'"
        )
    ).one()
    assert found == ("s", "tsvector")


def test_the_search_vector_follows_the_words_by_itself(connection: Connection) -> None:
    track_id = insert_track(connection, title="First")
    vector = select(TRACKS.c.search_vector).where(TRACKS.c.id == track_id)
    assert connection.execute(vector).scalar_one() == "'first':1A"
    connection.execute(TRACKS.update().where(TRACKS.c.id == track_id).values(title="Second"))
    assert connection.execute(vector).scalar_one() == "'second':1A"


# Hosts ask for tracks by their columns, as for any others.


@pytest.mark.parametrize(
    "condition",
    [
        Track.title == "Jóga",
        Track.title.in_(["Jóga", "Bachelorette"]),
        Track.title.contains("óg"),
        Track.title + "!" == "Jóga!",
        func.lower(Track.title) == "jóga",
        Track.status == COMPLETED,
        Track.status.in_([COMPLETED, PENDING]),
        Track.year >= 1990,
        Track.year.between(1990, 1999),
        Track.year + 3 == 2000,
        Track.duration / 2 < 152.6,
        Track.created_at <= datetime.now(UTC) + timedelta(days=1),
        Track.created_at > func.now() - timedelta(days=1),
        Track.version == 1,
        Track.artist.is_(None),
        Track.sample_rate.is_distinct_from(44_100),
    ],
    ids=str,
)
def test_a_host_finds_tracks_by_any_column(session: Session, condition: ColumnElement[bool]) -> None:
    track_id = TrackFactory(title="Jóga", artist=None, year=1997, duration=305.0, sample_rate=48_000).id
    assert session.scalars(select(Track.id).where(Track.id == track_id, condition)).all() == [track_id]
    assert session.scalars(select(Track.id).where(Track.id == track_id, ~condition)).all() == []


def test_what_a_host_reads_has_the_types_of_the_columns(session: Session) -> None:
    track_id = TrackFactory(title="Jóga", year=1997, duration=305.0).id
    asked = select(Track.status, Track.title, Track.year, Track.duration, Track.created_at, func.max(Track.year))
    row = session.execute(asked.where(Track.id == track_id).group_by(Track.id)).one()
    assert [type(value) for value in row] == [TrackStatus, str, int, float, datetime, int]


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        (select(Track.id).where(Track.year >= 1990), "ix_audio_tracks_year"),
        (select(Track.id).where(Track.year == 1997), "ix_audio_tracks_year"),
        (select(Track.id).order_by(Track.year, Track.id), "ix_audio_tracks_year"),
        (select(Track.id).where(Track.created_at >= datetime.now(UTC)), "ix_audio_tracks_created_at"),
        (select(StatusChange.reason).where(StatusChange.version == 1), "pk_audio_track_status_changes"),
    ],
    ids=["range", "one", "order", "instant", "version"],
)
def test_a_hosts_query_uses_the_index(connection: Connection, asked: Select[Any], index: str) -> None:
    for setting in ("enable_seqscan", "enable_sort"):
        connection.exec_driver_sql(f"SET LOCAL {setting} = off")
    compiled = asked.compile(dialect=connection.dialect)
    plan = connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params).scalars().all()
    assert any(index in line for line in plan), plan
    assert not any("Sort" in line or "Seq Scan" in line for line in plan), plan
    if asked.whereclause is not None:
        assert any("Index Cond" in line for line in plan), plan


# Objects show what was read, and no more.


def a_track(units: Units) -> Track:
    with units() as work:
        return work.save(TrackMetadata(title="Idioteque", year=2000), audio_path="a", status=PENDING)


def a_change(units: Units) -> StatusChange:
    with units() as work:
        track = work.save(TrackMetadata(title="Idioteque"), audio_path="a", status=PENDING)
        return work.update_status(track.id, TrackStatus.PROCESSING)


READERS: list[Any] = [pytest.param(a_track, id="track"), pytest.param(a_change, id="change")]


def columns(shown: Track | StatusChange) -> list[str]:
    return [attribute.key for attribute in type(shown).__mapper__.column_attrs if not attribute.deferred]


@pytest.mark.parametrize("read", READERS)
def test_nothing_can_be_assigned_and_the_error_says_what_to_do(
    units: Units, read: Callable[[Units], Track | StatusChange]
) -> None:
    shown = read(units)
    for name in (*columns(shown), "search_vector", "outcome", "nonsense"):
        with pytest.raises(AttributeError) as caught:
            setattr(shown, name, "x")
        assert f"{type(shown).__name__}.{name} cannot be assigned" in str(caught.value)
        assert "save(..., replace=True)" in str(caught.value)
        assert "update_status()" in str(caught.value)
    assert shown.version in {1, 2}


@pytest.mark.parametrize("read", READERS)
def test_nothing_can_be_deleted_either(units: Units, read: Callable[[Units], Track | StatusChange]) -> None:
    shown = read(units)
    for name in columns(shown):
        with pytest.raises(AttributeError):
            delattr(shown, name)


def test_what_the_hosts_session_read_cannot_be_assigned_either(session: Session) -> None:
    track_id = TrackFactory().id
    session.expunge_all()
    track = session.get_one(Track, track_id)
    with pytest.raises(AttributeError, match=r"Track\.status cannot be assigned: .*update_status\(\)"):
        track.status = TrackStatus.FAILED
    session.flush()
    assert not session.dirty


@pytest.mark.parametrize("read", READERS)
def test_what_was_read_stays_readable_and_never_loads(
    connection: Connection, units: Units, read: Callable[[Units], Track | StatusChange]
) -> None:
    shown = read(units)
    sent: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    assert object_session(shown) is None
    assert {name: getattr(shown, name) for name in columns(shown)}.keys() <= vars(shown).keys()
    assert repr(shown)
    assert sent == []


def test_what_the_hosts_session_read_stays_readable_when_detached(connection: Connection, session: Session) -> None:
    track_id = TrackFactory(title="Detached").id
    with Session(connection) as other:
        track = other.get_one(Track, track_id)
    assert {name: getattr(track, name) for name in columns(track)}["title"] == "Detached"


def test_the_search_vector_is_never_loaded_behind_the_readers_back(connection: Connection, session: Session) -> None:
    track_id = TrackFactory().id
    session.expunge_all()
    track = session.get_one(Track, track_id)
    sent: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    with pytest.raises(sqlalchemy.exc.InvalidRequestError, match="raiseload"):
        _ = track.search_vector
    assert sent == []


@pytest.mark.parametrize("read", READERS)
def test_what_was_read_can_be_pickled(units: Units, read: Callable[[Units], Track | StatusChange]) -> None:
    shown = read(units)
    again = pickle.loads(pickle.dumps(shown))  # noqa: S301
    assert {name: getattr(again, name) for name in columns(shown)} == {
        name: getattr(shown, name) for name in columns(shown)
    }
    assert (type(again), repr(again)) == (type(shown), repr(shown))
    with pytest.raises(AttributeError, match="cannot be assigned"):
        again.version = 7


def test_what_the_hosts_session_read_can_be_pickled(session: Session) -> None:
    track_id = TrackFactory(title="Pickled").id
    session.expunge_all()
    again = pickle.loads(pickle.dumps(session.get_one(Track, track_id)))  # noqa: S301
    assert (again.id, again.title) == (track_id, "Pickled")


def test_a_repr_holds_no_data(units: Units) -> None:
    planted: dict[str, Any] = dict.fromkeys(("title", "artist", "album", "genre", "format"), PLANTED)
    with units() as work:
        track = work.save(
            TrackMetadata(**planted, year=1977), audio_path=PLANTED, thumbnail_path=PLANTED, status=PENDING
        )
        change = work.update_status(track.id, TrackStatus.FAILED, actor=PLANTED, reason=PLANTED)
    for shown in (track, change):
        for printed in (repr(shown), str(shown), f"{[shown]}"):
            assert PLANTED not in printed
            assert "1977" not in printed
            assert len(printed) < 200
    assert repr(track) == f"<Track …{track.id.hex[-8:]} PENDING version 1>"
    assert repr(change) == f"<StatusChange of …{track.id.hex[-8:]}: PENDING -> FAILED>"


def test_an_object_without_values_can_be_printed() -> None:
    assert (repr(Track()), repr(StatusChange())) == (
        "<Track no id None version None>",
        "<StatusChange of no id: None -> None>",
    )


def test_the_columns_that_a_save_compares_are_columns_of_the_table() -> None:
    assert set(CONTENT_COLUMNS) <= set(TRACKS.columns.keys())


# A newer version of the code may write a status that this one does not know.


@pytest.fixture
def archived(connection: Connection, work: UnitOfWork) -> UUID:
    """Give the id of a track that a newer version has archived."""
    track = work.save(TrackMetadata(title="Archived"), audio_path="a", status=PENDING)
    for altered, constraint in (
        ("DOMAIN audiocatalog_status", "ck_audio_tracks_status_known"),
        ("TABLE audio_track_status_changes", "ck_audio_track_status_changes_legal_transition"),
    ):
        connection.exec_driver_sql(f"ALTER {altered} DROP CONSTRAINT {constraint}")
    connection.exec_driver_sql("UPDATE audio_tracks SET status = 'ARCHIVED', version = 2")
    insert_change(connection, track_id=track.id, version=2, from_status="PENDING", to_status="ARCHIVED")
    return track.id


def test_an_unknown_status_is_read_as_text(session: Session, work: UnitOfWork, archived: UUID) -> None:
    for track in (work.get(archived), session.get_one(Track, archived), work.search("archived").hits[0].track):
        assert (track.status, type(track.status)) == ("ARCHIVED", str)
        assert repr(track) == f"<Track …{archived.hex[-8:]} ARCHIVED version 2>"


def test_an_unknown_status_does_not_break_the_history(work: UnitOfWork, archived: UUID) -> None:
    changes = work.history(archived)
    assert [change.to_status for change in changes] == [PENDING, "ARCHIVED"]
    assert isinstance(changes[0].to_status, TrackStatus)
    assert repr(changes[1]) == f"<StatusChange of …{archived.hex[-8:]}: PENDING -> ARCHIVED>"


def test_no_move_of_ours_leads_out_of_an_unknown_status(work: UnitOfWork, archived: UUID) -> None:
    for to in TrackStatus:
        with pytest.raises(errors.IllegalTransition) as caught:
            work.update_status(archived, to)
        assert (caught.value.from_status, caught.value.to_status) == ("ARCHIVED", to)
    with pytest.raises(errors.TransitionConflict) as lost:
        work.update_status(archived, COMPLETED, expected=TrackStatus.PROCESSING)
    assert lost.value.actual == "ARCHIVED"


def test_the_content_of_a_track_in_an_unknown_status_can_be_saved(work: UnitOfWork, archived: UUID) -> None:
    assert work.save(TrackMetadata(title="Archived"), id=archived, audio_path="a").outcome == "unchanged"
    replaced = work.save(TrackMetadata(title="Other"), id=archived, audio_path="a", replace=True)
    assert (replaced.status, replaced.version) == ("ARCHIVED", 3)
