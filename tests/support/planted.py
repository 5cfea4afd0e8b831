"""Secrets, a place where they are kept, and every way to fail there; `test_secrets.py` looks at what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, text

from audiocatalog import Catalog, SearchFilters, TrackMetadata, TrackRecord, TrackStatus, migrations
from audiocatalog.db.settings import url_from_environment
from tests.support.databases import libpq
from tests.support.proxy import proxied

#: What is planted: each is somewhere in the reach of every error below. Some would move a terminal's cursor.
PASSWORD = "hunter2/9f3c@\x1b[31m"
USER = "agent-47b1"
TITLE = "Unreleased-5d2e"
ARTIST = "Pseudonym-81ac"
AUDIO_PATH = "s3://vault-c3d4/take\x1b[2J.wav"
TRACK_ID = UUID("0192f7c3-10aa-7abc-8def-10bb10cc10dd")
ACTOR = "insider-2b6f"
REASON = "lawsuit-7e90\x1b[1A\r\n"
OPERATION_ID = UUID("5d7c0f61-9a3e-4b28-b6d1-e2f7a9c80b34")
QUERY = "rumour-d41d"

#: By what each would be recognised, in whatever form it came out.
MARKS = {
    "password": ("hunter2", "9f3c"),
    "user": (USER,),
    "title": ("5d2e", "unreleased"),
    "artist": ("81ac", "pseudonym"),
    "audio path": ("vault", "c3d4"),
    "track id": (str(TRACK_ID), TRACK_ID.hex),
    "actor": ("insider", "2b6f"),
    "reason": ("lawsuit", "7e90"),
    "operation id": (str(OPERATION_ID), OPERATION_ID.hex),
    "query": ("rumour", "d41d"),
}


def leaks(shown: str) -> list[str]:
    """Return the names of the secrets that *shown* holds, and of what else has no place in it."""
    found = [name for name, marks in MARKS.items() if any(mark in shown.lower() for mark in marks)]
    # A traceback has lines of its own; nothing else may begin one, or move the cursor.
    return found + [ascii(one) for one in ("\x1b", "\r", "\0") if one in shown]


def metadata() -> TrackMetadata:
    return TrackMetadata(title=TITLE, artist=ARTIST, genre="Rock")


@dataclass(frozen=True)
class Place:
    """A server that asks for a password, with a track that is nobody's business."""

    url: URL
    catalog: Catalog

    @contextmanager
    def another(self, url: URL | None = None, **settings: Any) -> Iterator[Catalog]:
        with Catalog(self.url if url is None else url, actor=ACTOR, **settings) as catalog:
            yield catalog

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(libpq(self.url), autocommit=True)


# Every way to fail on a real server. Each is handed all the secrets that it has room for.


def wrong_password(place: Place) -> None:
    with place.another(place.url.set(username=f"{USER}-locked")) as catalog:
        catalog.find(TRACK_ID)


def password_in_the_query_of_the_url(place: Place) -> None:
    url = place.url.set(username=None, password=None)
    with place.another(url.update_query_dict({"user": f"{USER}-locked", "password": PASSWORD})) as catalog:
        catalog.find(TRACK_ID)


def a_password_that_is_not_quoted(place: Place) -> None:
    with Catalog(f"postgresql://{USER}:{PASSWORD}@127.0.0.1:1/x", actor=ACTOR) as catalog:
        catalog.find(TRACK_ID)


def a_password_with_a_sign_that_ends_it(_: Place) -> None:
    with Catalog(f"postgresql://{USER}:@{PASSWORD}@127.0.0.1:1/x", actor=ACTOR) as catalog:
        assert leaks(repr(catalog)) == []
        catalog.find(TRACK_ID)


def a_port_that_is_none(_: Place) -> None:
    Catalog(f"postgresql://{USER}:{quote(PASSWORD)}@127.0.0.1:port/x")


def another_dialect(_: Place) -> None:
    Catalog(f"mysql://{USER}:{quote(PASSWORD)}@127.0.0.1/x")


def no_url(_: Place) -> None:
    Catalog(f"{USER} {PASSWORD}")


def a_port_of_the_environment(_: Place) -> None:
    url_from_environment({"DB_NAME": "x", "DB_USER": USER, "DB_PASSWORD": PASSWORD, "DB_PORT": PASSWORD})


def no_such_option(place: Place) -> None:
    with place.another(place.url.update_query_dict({"pasword": PASSWORD})) as catalog:
        catalog.find(TRACK_ID)


def no_server(place: Place) -> None:
    with place.another(place.url.update_query_dict({"host": "127.0.0.1", "port": "1"})) as catalog:
        catalog.find(TRACK_ID)


def no_such_host(place: Place) -> None:
    with place.another(place.url.set(host="nowhere.invalid", query={})) as catalog:
        catalog.find(TRACK_ID)


def no_such_database(place: Place) -> None:
    with place.another(place.url.set(database="not_there")) as catalog:
        catalog.find(TRACK_ID)


def no_such_role(place: Place) -> None:
    migrations.upgrade(place.url.set(username=f"{USER}-nobody"))


def a_role_that_loses_its_password(place: Place) -> None:
    """The pool connects again in the background, and is refused there."""
    with place.admin() as admin, place.another(pool_timeout=0.5) as catalog:
        try:
            catalog.find(TRACK_ID)
            admin.execute(sql.SQL("ALTER ROLE {} PASSWORD 'another'").format(sql.Identifier(USER)))
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            catalog.find(TRACK_ID)
        finally:
            change = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(USER), sql.Literal(PASSWORD))
            admin.execute(change)


def roles_of_a_wrong_password(place: Place) -> None:
    migrations.check(place.url.set(username=f"{USER}-locked"))


def a_closed_catalogue(place: Place) -> None:
    with place.another() as catalog:
        pass
    catalog.find(TRACK_ID)


def a_full_pool(place: Place) -> None:
    with place.another(pool_size=1, pool_timeout=0.05) as catalog:
        catalog.warm_up(timeout=60)
        with catalog.unit_of_work() as work:
            work.find(TRACK_ID)
            catalog.update_status(TRACK_ID, TrackStatus.COMPLETED, reason=REASON)


def no_such_track(place: Place) -> None:
    place.catalog.get(UUID(int=TRACK_ID.int ^ 1 << 64))


def no_such_track_to_move(place: Place) -> None:
    place.catalog.update_status(OPERATION_ID, TrackStatus.FAILED, reason=REASON, operation_id=OPERATION_ID, actor=ACTOR)


def other_content(place: Place) -> None:
    with place.catalog.unit_of_work() as work:
        work.save(TrackMetadata(title=QUERY, artist=ARTIST), id=TRACK_ID, audio_path=AUDIO_PATH, reason=REASON)


def another_version(place: Place) -> None:
    with place.catalog.unit_of_work() as work:
        work.save(metadata(), id=TRACK_ID, audio_path=QUERY, reason=REASON, replace=True, expected_version=7)


def an_illegal_move(place: Place) -> None:
    place.catalog.update_status(TRACK_ID, TrackStatus.COMPLETED, reason=REASON, actor=ACTOR, operation_id=uuid4())


def a_lost_race(place: Place) -> None:
    place.catalog.update_status(
        TRACK_ID, TrackStatus.COMPLETED, expected=TrackStatus.PROCESSING, reason=REASON, actor=ACTOR
    )


def an_operation_id_used_twice(place: Place) -> None:
    place.catalog.update_status(TRACK_ID, TrackStatus.FAILED, operation_id=OPERATION_ID, reason=REASON)


def a_lost_claim(place: Place) -> None:
    (claim,) = place.catalog.claim(1, worker=ACTOR)
    place.catalog.release(claim, reason=REASON)
    place.catalog.complete(claim, metadata())


def values_that_are_none(_: Place) -> None:
    huge = f"{TITLE} {QUERY}" * 10_000
    TrackMetadata(title=huge, artist=huge, album=huge, genre=huge, year=huge, duration=huge)  # type: ignore[arg-type]


def names_that_are_none(_: Place) -> None:
    TrackRecord.from_mapping(
        {"id": str(TRACK_ID) + "0", "year": TITLE, "audio_path": AUDIO_PATH * 999, "status": QUERY}
    )


def an_actor_that_is_too_long(place: Place) -> None:
    place.catalog.update_status(TRACK_ID, TrackStatus.FAILED, actor=ACTOR * 99, reason=REASON * 999)


def a_query_that_is_too_long(place: Place) -> None:
    place.catalog.search(QUERY * 999)


def a_query_with_a_surrogate(place: Place) -> None:
    place.catalog.search(QUERY + "\ud800")


def a_cursor_of_nothing(place: Place) -> None:
    place.catalog.search(QUERY, after=TITLE)


def a_filter_that_is_none(_: Place) -> None:
    SearchFilters(year=(QUERY, TITLE), status=QUERY, genre=5)  # type: ignore[arg-type]


def a_load_with_an_error_of_its_own(place: Place) -> None:
    place.catalog.bulk_save([{"title": TITLE, "audio_path": AUDIO_PATH}], on_conflict=QUERY)  # type: ignore[arg-type]


def a_swallowed_error(place: Place) -> None:
    with place.catalog.unit_of_work() as work:
        work.save(metadata(), id=uuid4(), audio_path=AUDIO_PATH)
        with pytest.raises(Exception, match="invalid"):
            work.session.execute(text("SELECT CAST(:value AS uuid)"), {"value": TITLE})


def a_lost_commit(place: Place) -> None:
    with proxied(place.url) as proxy, place.another(proxy.url) as catalog, catalog.unit_of_work() as work:
        work.update_status(TRACK_ID, TrackStatus.FAILED, reason=REASON)
        work.update_status(TRACK_ID, TrackStatus.PENDING, reason=REASON)
        proxy.losses.append("its answer")


def a_terminated_connection(place: Place) -> None:
    with place.catalog.unit_of_work() as work:
        work.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def a_cancelled_statement(place: Place) -> None:
    with place.another(statement_timeout=0.05) as catalog, catalog.unit_of_work() as work:
        work.session.execute(text("SELECT pg_sleep(9), CAST(:value AS text)"), {"value": TITLE})


def a_lock_that_is_held(place: Place) -> None:
    with place.admin() as admin, admin.transaction(), place.another(lock_timeout=0.05) as catalog:
        admin.execute("SELECT FROM audio_tracks WHERE id = %s FOR UPDATE", [TRACK_ID])
        catalog.update_status(TRACK_ID, TrackStatus.FAILED, reason=REASON, actor=ACTOR, operation_id=uuid4())


def a_schema_that_is_missing(place: Place) -> None:
    with place.admin() as admin:
        admin.execute("DROP DATABASE IF EXISTS empty")
        admin.execute("CREATE DATABASE empty TEMPLATE template0")
    with place.another(place.url.set(database="empty")) as catalog:
        catalog.find(TRACK_ID)


FAILURES: list[Callable[[Place], object]] = [
    *(
        wrong_password,
        password_in_the_query_of_the_url,
        a_password_that_is_not_quoted,
        a_password_with_a_sign_that_ends_it,
    ),
    *(a_port_that_is_none, another_dialect, no_url, a_port_of_the_environment, no_such_option, no_server),
    *(
        no_such_host,
        no_such_database,
        no_such_role,
        a_role_that_loses_its_password,
        roles_of_a_wrong_password,
        a_closed_catalogue,
        a_full_pool,
    ),
    *(no_such_track, no_such_track_to_move, other_content, another_version, an_illegal_move, a_lost_race),
    *(an_operation_id_used_twice, a_lost_claim, values_that_are_none, names_that_are_none, an_actor_that_is_too_long),
    *(a_query_that_is_too_long, a_query_with_a_surrogate, a_cursor_of_nothing, a_filter_that_is_none),
    *(a_load_with_an_error_of_its_own, a_swallowed_error, a_lost_commit, a_terminated_connection),
    *(a_cancelled_statement, a_lock_that_is_held, a_schema_that_is_missing),
]
