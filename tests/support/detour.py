"""
The whole suite on another way to its server: through PgBouncer, or as the role of the application.

``AUDIOCATALOG_TEST_POOLER=1`` has every catalogue of this process go through PgBouncer in transaction mode, with
``pooler=True`` and a few connections of the server's for each database. ``AUDIOCATALOG_TEST_ROLE=app`` has it log in as
a role that may do what `roles.py` grants to the application, and nothing else. Migrations, and what the tests do by
hand, keep to the direct way as the superuser. So do programs of their own that the tests start.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import DBAPIError

from audiocatalog import Catalog
from audiocatalog.errors import CatalogError
from audiocatalog.migrations.roles import RoleNames, apply_roles
from tests.support.pgbouncer import PgBouncer, bouncing

THROUGH_POOLER: Final = os.environ.get("AUDIOCATALOG_TEST_POOLER") == "1"
AS_APPLICATION: Final = os.environ.get("AUDIOCATALOG_TEST_ROLE") == "app"
# Some tests hold as many transactions open at the same moment.
_CONNECTIONS: Final = 20

#: What cannot be done on a way, by the test's name or the beginning of it, and why.
_NO_LISTENING: Final = "PgBouncer in transaction mode hands on no notifications; without them, a worker polls"
_NO_OPTIONS: Final = "it sets what a session begins with, which PgBouncer does not hand on"
_PROCESSES: Final = "it knows a connection by its process, and PgBouncer gives each transaction another one"
_CANCELLED_CANCELS: Final = (
    "an interrupted client leaves its cancel request early, which may end PgBouncer since 1.18 (pgbouncer issue 801)"
)
NOT_THROUGH_POOLER: Final[Mapping[str, str]] = {
    "faults/test_interrupts.py::": _CANCELLED_CANCELS,
    "faults/test_interrupts_under_contention.py::": _CANCELLED_CANCELS,
    "worker/test_worker.py::test_a_loop_that_listens_wakes_up_long_before_it_would_look": _NO_LISTENING,
    "worker/test_worker.py::test_a_loop_listens_again_when_its_listener_was_cut_off": _NO_LISTENING,
    "search/test_search_hostile.py::test_an_error_after_the_last_statement_leaves_the_connection_usable": (
        "its temporary table outlives a transaction"
    ),
    "test_catalog.py::test_a_database_that_is_not_there_is_a_mistake_of_configuration": (
        "PgBouncer does not say why it cannot connect to a database"
    ),
    "db/test_pool.py::test_connections_are_replaced_when_they_are_old": _PROCESSES,
    "db/test_time_limits.py::test_what_somebody_ends_on_the_server_was_cancelled": _PROCESSES,
    "db/test_time_limits.py::test_idleness_that_ends_at_the_commit_keeps_nothing_either": (
        "PgBouncer answers such a COMMIT twice, so that its outcome counts as unknown"
    ),
    "faults/test_lost_commits.py::test_a_single_call_is_asked_for_again_by_its_operation": (
        "behind a pooler, a call alone is a transaction with a COMMIT"
    ),
    "db/test_retry.py::test_a_single_call_that_is_refused_for_certain_is_no_unknown_outcome": _NO_OPTIONS,
    "db/test_retry.py::test_a_server_that_stays_read_only_is_not_connected_to_again_and_again": _NO_OPTIONS,
    "db/test_parameters.py::test_a_wrong_option_of_the_server_is_told_with_its_name": _NO_OPTIONS,
    "db/test_schemas.py::": _NO_OPTIONS,
    "migrations/test_function_rights.py::TestGrant::": _NO_OPTIONS,
    "migrations/test_vector_rebuild.py::": "it copies a database, whose connections of PgBouncer would be in the way",
}
_WRITES_BY_HAND: Final = "in it, the host writes or deletes tracks past the functions, which is the owner's to do"
_RESTORES: Final = "it keeps times of creation, which only the owner may"
_ABOUT_ROLES: Final = "it is about rights and owners before any role was applied"
_CHANGES_THE_SCHEMA: Final = "in it, the host changes the schema, which is the owner's to do"
NOT_AS_APPLICATION: Final[Mapping[str, str]] = {
    "cli/test_export_command.py::test_what_is_written_is_read_back": _WRITES_BY_HAND,
    "operations/test_restoring.py::test_the_time_of_creation_is_kept_and_is_never_in_the_future": _RESTORES,
    "operations/test_round_trip.py::test_the_owner_can_keep_the_times_of_creation": _RESTORES,
    "operations/test_round_trip.py::test_what_is_no_status_or_no_time_is_refused_with_the_row[sync-a,p": _RESTORES,
    "operations/test_round_trip.py::test_what_is_no_status_or_no_time_is_refused_with_the_row[async-a,p": _RESTORES,
    "migrations/test_function_rights.py::": _ABOUT_ROLES,
    "db/test_schemas.py::": _ABOUT_ROLES,
    "models/test_models.py::test_an_unknown_status_": _CHANGES_THE_SCHEMA,
    "models/test_models.py::test_no_move_of_ours_leads_out_of_an_unknown_status": _CHANGES_THE_SCHEMA,
    "models/test_models.py::test_the_content_of_a_track_in_an_unknown_status_can_be_saved": _CHANGES_THE_SCHEMA,
    "search/test_search_ranking.py::test_tracks_that_are_alike_stand_in_the_order_of_their_ids": _WRITES_BY_HAND,
    "search/test_corrections.py::test_a_word_of_tracks_that_are_gone_does_no_harm": _WRITES_BY_HAND,
}


class Detour:
    """Tell where the URLs of the server at *server* lead: through *bouncer*, as the application of *names*, or both."""

    def __init__(self, server: str, bouncer: PgBouncer | None, names: RoleNames | None) -> None:
        self._server = make_url(server)
        self._bouncer = bouncer
        self._names = names
        self._granted: set[str | None] = set()

    def url(self, url: Any) -> Any:
        """Return *url*, or another one if it is the superuser's on the server of the tests."""
        try:
            parsed = make_url(url)
        except Exception:  # noqa: BLE001  # What is no URL is the test's own business.
            return url
        if _place_of(parsed) != _place_of(self._server):
            return url
        if self._names is not None and parsed.username == self._server.username:
            self._grant(parsed, self._names)
            parsed = parsed.set(username=self._names.app)
        return parsed if self._bouncer is None else make_url(self._bouncer.url(parsed))

    def direct(self, url: URL) -> URL:
        """Return *url* as it was before ``url`` changed it."""
        if self._bouncer is not None and _place_of(url) == _place_of(make_url(self._bouncer.url(self._server))):
            url = url.set(host=self._server.host, port=self._server.port, query={**url.query, **self._server.query})
        if self._names is not None and url.username == self._names.app:
            url = url.set(username=self._server.username)
        return url

    def settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return *settings* of a catalogue, with what this way demands."""
        return dict(settings) if self._bouncer is None else {**settings, "pooler": True}

    @property
    def application(self) -> str | None:
        """The role of the application, if that is the way."""
        return None if self._names is None else self._names.app

    def _grant(self, url: URL, names: RoleNames) -> None:
        # A database without our schema has nothing to be granted yet.
        if url.database not in self._granted:
            with suppress(CatalogError):
                apply_roles(url, names)
                self._granted.add(url.database)
                with psycopg.connect(_dsn(url), autocommit=True) as admin:
                    password = sql.Literal(self._server.password) if self._server.password else sql.NULL
                    admin.execute(
                        sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(names.app), password)
                    )


_detour: Detour | None = None


def detoured(url: Any) -> Any:
    """Return the URL by which the catalogues of this run reach *url*."""
    return url if _detour is None else _detour.url(url)


def direct(url: URL) -> URL:
    """Return the URL by which the superuser reaches *url* directly."""
    return url if _detour is None else _detour.direct(url)


@contextmanager
def as_application(connection: Connection) -> Iterator[None]:
    """Let what is done in the transaction of *connection* be done by the application, if that is this run's way."""
    with _acting_as(connection, None if _detour is None else _detour.application, after="default"):
        yield


@contextmanager
def as_owner(connection: Connection) -> Iterator[None]:
    """Let a test prepare, inside ``as_application``, what the application may not do."""
    role = None if _detour is None else _detour.application
    if role is not None and connection.exec_driver_sql("SELECT session_user").scalar_one() == role:
        with _acting_as(connection, "default", after=role):
            yield
    else:
        yield


@contextmanager
def _acting_as(connection: Connection, role: str | None, after: str) -> Iterator[None]:
    if role is None:
        yield
        return
    _act_as(connection, role)
    try:
        yield
    finally:
        with suppress(DBAPIError):  # The end of an aborted transaction takes the role back, too.
            _act_as(connection, after)


def _act_as(connection: Connection, role: str) -> None:
    connection.exec_driver_sql(f"SET LOCAL SESSION AUTHORIZATION {role}")


@contextmanager
def detour(server: str) -> Iterator[None]:
    """Have every catalogue go the way that the environment names."""
    global _detour  # noqa: PLW0603  # There is one way for the whole run, as there is one environment.
    open_catalog = Catalog.__init__
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        bouncer = stack.enter_context(bouncing(server, pool_size=_CONNECTIONS)) if THROUGH_POOLER else None
        names = RoleNames(*(f"test_{kind}_{uuid4().hex[:12]}" for kind in ("owner", "app", "search")))
        _detour = way = Detour(server, bouncer, names if AS_APPLICATION else None)

        @functools.wraps(open_catalog)
        def open_on_the_way(catalog: Catalog, url: Any, **settings: Any) -> None:
            open_catalog(catalog, way.url(url), **way.settings(settings))

        patch.setattr(Catalog, "__init__", open_on_the_way)
        if bouncer is not None:
            # What the driver takes for the server's process is PgBouncer's, but tests that ask mean the server's.
            patch.setattr(psycopg.ConnectionInfo, "backend_pid", property(_process_of_the_server))
        try:
            yield
        finally:
            _detour = None


def skip_what_cannot_be_done(items: list[pytest.Item]) -> None:
    """Mark the tests that cannot go the way of this run, with the reason."""
    for chosen, known in ((THROUGH_POOLER, NOT_THROUGH_POOLER), (AS_APPLICATION, NOT_AS_APPLICATION)):
        for item in items if chosen else ():
            for name, reason in known.items():
                if item.nodeid.removeprefix("tests/").startswith(name):
                    item.add_marker(pytest.mark.skip(reason=reason))


def _process_of_the_server(info: psycopg.ConnectionInfo) -> int:
    return int(info.pgconn.exec_(b"SELECT pg_backend_pid()").get_value(0, 0) or 0)


def _place_of(url: URL) -> tuple[str, str]:
    return (str(url.query.get("host") or url.host), str(url.query.get("port") or url.port or 5432))


def _dsn(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
