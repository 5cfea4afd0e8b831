"""Nothing that a caller hands in comes out where somebody else may read it: in errors, reprs and logs."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy.exc
from psycopg import sql
from sqlalchemy import make_url, text

import audiocatalog
from audiocatalog import Catalog, SearchFilters, TrackRecord, TrackStatus, migrations
from audiocatalog.db.settings import Settings
from audiocatalog.embedded import EmbeddedPostgres
from audiocatalog.errors import CatalogError
from tests.support.databases import libpq
from tests.support.planted import (
    ACTOR,
    ARTIST,
    AUDIO_PATH,
    FAILURES,
    OPERATION_ID,
    PASSWORD,
    QUERY,
    REASON,
    TITLE,
    TRACK_ID,
    USER,
    Place,
    leaks,
    metadata,
)

LONGEST_MESSAGE = 500
OF_THE_DRIVER = ("psycopg DEBUG ", "sqlalchemy.pool.impl.NullPool DEBUG Error on connect(): ")
HOST_FAILS = """
CREATE FUNCTION host_fails(title text, query text, artist text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% %', title, query USING DETAIL = artist, HINT = artist; END $$"""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with EmbeddedPostgres() as server:
        trusted = make_url(server.url())
        with psycopg.connect(libpq(trusted), autocommit=True) as admin:
            for name, password in ((USER, PASSWORD), (f"{USER}-locked", "another")):
                create = sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}")
                admin.execute(create.format(sql.Identifier(name), sql.Literal(password)))
            folder = (admin.execute("SHOW data_directory").fetchone() or [""])[0]
            rules = "(VALUES ('local all postgres trust'), ('local all all scram-sha-256'))"
            admin.execute(f"COPY {rules} TO '{folder}/pg_hba.conf'")
        migrations.upgrade(trusted)
        with psycopg.connect(libpq(trusted), autocommit=True) as admin:
            admin.execute("SELECT pg_reload_conf()")
            admin.execute("CREATE TABLE host (name text UNIQUE)")
            admin.execute(HOST_FAILS)
        url = trusted.set(username=USER, password=PASSWORD)
        with Catalog(url, actor=ACTOR) as catalog:
            with catalog.unit_of_work() as work:
                work.save(metadata(), id=TRACK_ID, audio_path=AUDIO_PATH, reason=REASON)
                work.update_status(TRACK_ID, TrackStatus.PENDING, reason=REASON, operation_id=OPERATION_ID)
                work.save(metadata(), audio_path=AUDIO_PATH, status=TrackStatus.PENDING)
                first, second = work.claim(2, worker=ACTOR)
                work.fail(next(one for one in (first, second) if one.track.id != TRACK_ID), REASON)
                work.release(next(one for one in (first, second) if one.track.id == TRACK_ID))
            catalog.refresh_vocabulary()
            yield Place(url, catalog)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Give what the loggers of the package and of all below it write, each at its most talkative."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("audiocatalog", "sqlalchemy", "psycopg")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(handler)
    yield written
    logging.getLogger().removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


#: Statements of the host's own, in its session, of whose values the server quotes some in what it says. Every value is
#: a parameter: what the host itself writes into a statement, it also writes into SQLAlchemy's log.
STATEMENTS = {
    "22P02": "SELECT CAST(:title AS uuid)",
    "22P02 of a number": "SELECT CAST(:title AS integer)",
    "22P02 of JSON": "SELECT CAST(:title AS jsonb)",
    "22007": "SELECT CAST(:title AS timestamptz)",
    "22003": "SELECT CAST(:number AS integer), CAST(:title AS text)",
    "22001": "UPDATE audio_tracks SET format = repeat(:title, 9) WHERE id = :id",
    "22012": "SELECT length(:title) / 0",
    "2201B": "SELECT '' ~ ('(' || :title)",
    "23502": "INSERT INTO audio_tracks (id, status, title, audio_path) VALUES (:new, NULL, :title, :path)",
    "23503": "INSERT INTO audio_track_edits (track_id, version, actor, reason) VALUES (:new, 1, :actor, :reason)",
    "23505": "INSERT INTO audio_tracks (id, status, title, audio_path) VALUES (:id, 'FAILED', :title, :path)",
    "23505 of the host": "INSERT INTO host (name) VALUES (:query), (:query)",
    "23514": "UPDATE audio_tracks SET year = 1, title = :title WHERE id = :id",
    "42601": "SELECT ts_stat('SELECT FROM ' || :title || ' ' || :query)",
    "42601 of a text search": "SELECT to_tsquery('simple', :query || ' &')",
    "42703": "SELECT ts_stat('SELECT ' || quote_ident(:title))",
    "42P01": "SELECT CAST(quote_ident(:title) AS regclass)",
    "42883": "SELECT ts_stat('SELECT ' || quote_ident(:title) || '(1)')",
    "42704": "SELECT CAST(quote_ident(:title) AS regtype)",
    "P0001": "SELECT host_fails(:title, :query, :artist)",
    "57014": "SELECT pg_sleep(9), CAST(:title AS text), set_config('statement_timeout', '20', true)",
}
VALUES = {
    "title": TITLE, "artist": ARTIST, "path": AUDIO_PATH, "actor": ACTOR, "reason": REASON, "query": QUERY,
    "id": TRACK_ID, "new": OPERATION_ID, "number": "99999999999999999999",
}  # fmt: skip


def shown(error: CatalogError) -> dict[str, str]:
    """Return all that a service may write of *error*, by the way that it is written."""
    ways = {"str": str(error), "repr": repr(error), "args": repr(error.args)}
    cause: BaseException | None = error
    while cause is not None:
        ways[f"traceback of {type(cause).__name__}"] = "".join(traceback.format_exception_only(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    ways["traceback"] = "".join(traceback.format_exception(error))
    return ways


def told_by(logged: str) -> dict[str, list[str]]:
    """Return the lines of a log that tell a secret, with what they tell."""
    told = {line: leaks(line) for line in logged.splitlines() if leaks(line)}
    # Where DEBUG is asked of them, the driver and SQLAlchemy say for themselves as whom they could not connect.
    return {line: found for line, found in told.items() if not (line.startswith(OF_THE_DRIVER) and found == ["user"])}


def assert_nothing_is_told(failure: Callable[[], object], written: io.StringIO) -> None:
    with pytest.raises(CatalogError) as caught:
        failure()
    logging.getLogger("audiocatalog").error("a service tells of it", exc_info=caught.value)
    told = {f"{way}: {text}": leaks(text) for way, text in shown(caught.value).items() if leaks(text)}
    assert told | told_by(written.getvalue()) == {}
    assert len(str(caught.value)) <= LONGEST_MESSAGE
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_no_error_tells_a_secret(place: Place, written: io.StringIO, failure: Callable[[Place], object]) -> None:
    assert_nothing_is_told(lambda: failure(place), written)


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_what_fails_of_the_hosts_own_is_told_to_the_host_alone(
    place: Place, written: io.StringIO, statement: str
) -> None:
    """The server's words may quote a value. They reach the author of the statement, and no log or message of ours."""
    with pytest.raises((sqlalchemy.exc.DBAPIError, CatalogError)) as caught, place.catalog.unit_of_work() as work:
        named = {name: value for name, value in VALUES.items() if f":{name}" in statement}
        work.session.execute(text(statement), named)
    assert told_by(written.getvalue()) == {}
    if isinstance(caught.value, CatalogError):
        assert leaks(str(caught.value)) == []
    told = "".join(traceback.format_exception(caught.value))
    assert "SQL parameters hidden" in told
    assert "[parameters:" not in told


def public_objects(place: Place) -> Iterator[object]:
    """Give one of everything that the package hands out, with all that it may hold."""
    record = TrackRecord(metadata(), AUDIO_PATH, TRACK_ID, AUDIO_PATH, TrackStatus.PENDING)
    yield from (metadata(), record, Settings(), place.catalog, place.catalog.worker(worker=ACTOR))
    yield from (SearchFilters(genre=TITLE, artist=ARTIST), TrackStatus.PENDING, place.catalog.health())
    with place.catalog.unit_of_work() as work:
        yield from (
            work,
            work.get(TRACK_ID),
            *work.history(TRACK_ID),
            work.history(TRACK_ID),
        )
        page = work.search(f"{TITLE} -{QUERY}", facets=["artist", "genre"])
        yield from (page, *page.hits, page.facets, *page.facets.values(), page.hits)
        yield work.search(f"{TITLE[:-2]} {ARTIST[:4]}")
        yield place.catalog.explain(f"{TITLE} {QUERY}", TRACK_ID)
        yield from (work.changes(), *work.changes().tracks)
        yield from work.iter_tracks()
        claims = work.claim(1, worker=ACTOR)
        yield from (claims, *claims)
        work.fail(claims[0], REASON)
        yield work.bulk_save([record, {"title": TITLE, "year": QUERY}])
        refused = work.bulk_save([{"title": TITLE, "year": QUERY, "audio_path": AUDIO_PATH}])
        yield from (refused, *refused.refusals, refused.refusals, refused.outcomes)
        work.session.rollback()
    with place.catalog.unit_of_work() as work:
        yield from work.claim(1, worker=ACTOR)
        yield from (place.catalog.activity(timedelta(hours=1)), *place.catalog.count_by_status())
        work.session.rollback()
    yield place.catalog.refresh_vocabulary()


def test_no_repr_tells_a_secret(place: Place, written: io.StringIO) -> None:
    ways = [(type(one).__name__, repr(one)) for one in public_objects(place)]
    # That of an explanation is its text for people.
    ways += [(name, str(one)) for one in public_objects(place) if (name := type(one).__name__) != "Explanation"]
    assert {name: leaks(way) for name, way in ways if leaks(way)} == {}
    assert told_by(written.getvalue()) == {}


def test_what_the_host_reads_and_writes_in_its_session_is_in_no_log(place: Place, written: io.StringIO) -> None:
    with place.catalog.unit_of_work() as work:
        track = work.session.get(audiocatalog.Track, TRACK_ID)
        assert track is not None
        assert track.title == TITLE
        rows = work.session.execute(text("SELECT CAST(:title AS text), artist FROM audio_tracks"), {"title": TITLE})
        assert (TITLE, ARTIST) in rows.all()
        work.session.execute(text("SELECT set_config('application_name', :actor, true)"), {"actor": ACTOR})
        work.session.rollback()
    assert told_by(written.getvalue()) == {}
