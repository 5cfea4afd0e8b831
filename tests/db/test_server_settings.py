"""What a database, a role or a session may set changes no answer of any verb."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url, text

from audiocatalog import Catalog, TrackMetadata, TrackStatus, UnitOfWork, errors
from tests.support.contract import contract_round, seed, sweep
from tests.support.databases import libpq, temporary_database
from tests.support.detour import AS_APPLICATION, THROUGH_POOLER
from tests.support.pgbouncer import MISSING, PROGRAM, bouncing

# A limit of time that is set elsewhere would strike in a pause of this length.
_LIMIT: Final = "250ms"
_PAUSE: Final = 0.35
_WAYS: Final = (
    *("indexscan", "indexonlyscan", "bitmapscan", "seqscan", "tidscan", "sort", "nestloop", "hashjoin", "mergejoin"),
    *("hashagg", "material", "memoize", "incremental_sort"),
)
Settings = dict[str, str]
#: How values are written and read, and what a statement means.
MEANINGS: Final[list[Settings]] = [
    *({"IntervalStyle": value} for value in ("sql_standard", "iso_8601", "postgres_verbose")),
    *({"DateStyle": value} for value in ("German, DMY", "SQL, MDY", "Postgres, DMY", "ISO, DMY")),
    *({"TimeZone": value} for value in ("Asia/Kathmandu", "America/St_Johns")),
    *({"default_transaction_isolation": value} for value in ("repeatable read", "serializable")),
    {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
    *({"extra_float_digits": value} for value in ("-15", "0")),
    {"array_nulls": "off"},
    {"standard_conforming_strings": "off"},
    {"escape_string_warning": "off", "backslash_quote": "off"},
    {"transform_null_equals": "on"},
    {"quote_all_identifiers": "on"},
    {"gin_fuzzy_search_limit": "1"},
    {"bytea_output": "escape", "xmlbinary": "hex", "xmloption": "document", "lo_compat_privileges": "on"},
    {"client_encoding": "LATIN1"},
    {"default_text_search_config": "pg_catalog.german"},
    {"search_path": "public, pg_catalog"},
    {"search_path": '"$user", public, elsewhere'},
    {"row_security": "off"},
    {"lc_messages": "C", "lc_numeric": "C", "lc_time": "C", "lc_monetary": "C"},
    {"exit_on_error": "on"},
    {"session_replication_role": "replica"},
    {"plpgsql.variable_conflict": "error", "plpgsql.check_asserts": "off"},
    {"plpgsql.extra_errors": "all"},
    {"check_function_bodies": "off", "synchronous_commit": "off", "track_activities": "off"},
    {"restrict_nonsystem_relation_kind": "view"},
    {"client_min_messages": "debug1"},
    {"default_toast_compression": "pglz", "default_table_access_method": "heap", "temp_tablespaces": ""},
    {"client_connection_check_interval": "1s", "track_functions": "all", "compute_query_id": "on"},
]
#: How a plan is chosen, and what may be spent on it: each of these alone, for together they make plans that never end.
PLANS: Final[list[Settings]] = [
    {f"enable_{way}": "off" for way in _WAYS},
    {f"enable_{way}": "off" for way in ("indexscan", "indexonlyscan", "bitmapscan")},
    {"enable_seqscan": "off", "enable_sort": "off", "random_page_cost": "0.01", "cpu_tuple_cost": "1000"},
    {"plan_cache_mode": "force_generic_plan", "geqo_threshold": "2", "cursor_tuple_fraction": "1"},
    {"plan_cache_mode": "force_custom_plan", "from_collapse_limit": "1", "join_collapse_limit": "1"},
    {"jit_above_cost": "0", "constraint_exclusion": "on", "default_statistics_target": "1"},
    {"work_mem": "64kB", "temp_buffers": "800kB", "hash_mem_multiplier": "1000"},
    {"temp_file_limit": "0"},
    {"debug_parallel_query": "on", "max_parallel_workers_per_gather": "8"},
]
#: What limits the time of a session, of its transactions or statements, or of a rest between them.
LIMITS: Final[list[Settings]] = [
    {"transaction_timeout": _LIMIT},
    {"statement_timeout": _LIMIT, "lock_timeout": _LIMIT},
    {"idle_in_transaction_session_timeout": _LIMIT, "idle_session_timeout": _LIMIT},
]
#: Behind a pooler, each transaction brings its settings along, for all clients share its session.
SHARED: Final[list[Settings]] = [
    {"IntervalStyle": "iso_8601", "DateStyle": "German, DMY", "array_nulls": "off", "gin_fuzzy_search_limit": "1"},
    {"default_transaction_isolation": "serializable", "standard_conforming_strings": "off"},
    {"transaction_timeout": _LIMIT},
]
#: What a client may say as it connects.
GIVEN: Final[list[Settings]] = [
    {"IntervalStyle": "sql_standard", "DateStyle": "SQL,DMY", "array_nulls": "off"},
    {"default_transaction_isolation": "serializable", "gin_fuzzy_search_limit": "1"},
]


def together(several: Sequence[Settings]) -> list[Settings]:
    """Return all of *several* in as few databases as can hold them, for each name has one value in a database."""
    databases: list[Settings] = []
    for settings in several:
        free = next((database for database in databases if not database.keys() & settings.keys()), None)
        if free is None:
            databases.append(dict(settings))
        else:
            free.update(settings)
    return databases


def alone(several: Sequence[Settings]) -> list[Any]:
    """Return each of *several* for itself, so that none can hide what another one does: for `make test-faults`."""
    return [pytest.param(settings, marks=pytest.mark.faults) for settings in several]


class Place(NamedTuple):
    """Hold the URL of a seeded database, and what a round answers there under the server's own defaults."""

    url: str
    answers: dict[str, Any]

    def round(self, url: str | None = None, *, pause: float = 0.0, **settings: Any) -> dict[str, Any]:
        """Return what a round answers that differs from the answers under the defaults, beside those."""
        try:
            found = contract_round(url or self.url, pause=pause, **settings)
        finally:
            sweep(self.url)
        assert found.keys() == self.answers.keys()
        return {what: (answer, self.answers[what]) for what, answer in found.items() if answer != self.answers[what]}


@pytest.fixture(scope="module")
def place(server_url: str, migrated_template: str) -> Iterator[Place]:
    with temporary_database(server_url, template=migrated_template) as url:
        seed(url)
        contract_round(url)  # Each round begins with the words that the one before it has counted.
        sweep(url)
        answers = contract_round(url)
        sweep(url)
        yield Place(url, answers)


@contextmanager
def set_for_the_database(url: str, settings: Settings) -> Iterator[None]:
    """Have every session in the database at *url* begin with *settings*; skip the test if the server has none such."""
    database = sql.Identifier(make_url(url).database or "")
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        known = 0
        try:
            for name, value in settings.items():
                what = sql.SQL(value) if name == "search_path" else sql.Literal(value)
                with suppress(psycopg.errors.UndefinedObject):  # An older server does not know all of them.
                    admin.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, _named(name), what))
                    known += 1
            if not known:
                pytest.skip("this server has no such setting")
            yield
        finally:
            admin.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))


def _named(setting: str) -> sql.Composable:
    return sql.SQL(".").join(map(sql.Identifier, setting.split(".")))


def named(settings: Settings) -> str:
    """Return what a test with *settings* is called."""
    (name, value), *others = settings.items()
    return f"{name}={value}" + (f" and {len(others)} more" if others else "")


def test_a_round_answers_the_same_twice(place: Place) -> None:
    """Else no difference would tell anything."""
    assert place.round() == {}


def test_a_round_uses_every_verb(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    public = {(kind, name) for kind in (Catalog, UnitOfWork) for name in dir(kind) if not name.startswith("_")}
    used: set[str] = set()

    def noting(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            used.add(name)
            return function(*arguments, **named)

        return call

    for kind, name in public:
        original = getattr(kind, name)
        if isinstance(original, property):
            monkeypatch.setattr(kind, name, property(noting(name, original.fget)))
        elif not hasattr(original, "__self__"):
            monkeypatch.setattr(kind, name, noting(name, original))
        else:
            monkeypatch.setattr(kind, name, classmethod(noting(name, original.__func__)))
    assert place.round() == {}
    assert {name for _, name in public} - used == set()


beside_the_pooler = pytest.mark.skipif(THROUGH_POOLER, reason="PgBouncer's connections are older than the setting")


@beside_the_pooler
@pytest.mark.parametrize("settings", [*together(MEANINGS), *alone(MEANINGS), *PLANS], ids=named)
def test_a_setting_of_the_database_changes_no_answer(place: Place, settings: Settings) -> None:
    with set_for_the_database(place.url, settings):
        assert place.round() == {}


@beside_the_pooler
@pytest.mark.parametrize("settings", [*together(LIMITS), *alone(LIMITS)], ids=named)
def test_a_limit_of_the_database_ends_nothing(place: Place, settings: Settings) -> None:
    """The catalogue has limits of its own."""
    with set_for_the_database(place.url, settings):
        assert place.round(pause=_PAUSE) == {}


@beside_the_pooler
@pytest.mark.parametrize("settings", GIVEN, ids=named)
def test_a_setting_of_the_url_changes_no_answer(place: Place, settings: Settings) -> None:
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    url = make_url(place.url).update_query_dict({"options": options})
    assert place.round(url.render_as_string(hide_password=False)) == {}


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
@pytest.mark.skipif(THROUGH_POOLER or AS_APPLICATION, reason="it goes its own way, through a PgBouncer of its own")
@pytest.mark.parametrize("settings", SHARED, ids=named)
def test_behind_a_pooler_a_setting_changes_no_answer_either(place: Place, settings: Settings) -> None:
    pause = _PAUSE if _LIMIT in settings.values() else 0.0
    with set_for_the_database(place.url, settings), bouncing(place.url, pool_size=4) as bouncer:
        assert place.round(bouncer.url(place.url), pause=pause, pooler=True) == {}


@beside_the_pooler
def test_a_database_that_is_read_only_by_default_says_so(place: Place) -> None:
    with (
        set_for_the_database(place.url, {"default_transaction_read_only": "on"}),
        Catalog(place.url) as catalog,
        pytest.raises(errors.DatabaseUnavailable, match=r"read-only.*default_transaction_read_only"),
        catalog.unit_of_work() as work,
    ):
        work.save(TrackMetadata(), audio_path="a")


@pytest.mark.parametrize("style", ["sql_standard", "iso_8601", "postgres_verbose"])
def test_a_host_may_write_intervals_as_it_likes(work: UnitOfWork, style: str) -> None:
    track = work.save(TrackMetadata(), audio_path="a", status=TrackStatus.PENDING)
    work.update_status(track.id, TrackStatus.FAILED)
    work.session.execute(text(f"SET LOCAL IntervalStyle = '{style}'"))
    first, last = work.history(track.id)
    assert first.duration == last.at - first.at
    assert last.duration is None


def test_a_host_that_writes_times_in_another_way_is_told_so(work: UnitOfWork) -> None:
    track = work.save(TrackMetadata(), audio_path="a")
    work.session.execute(text("SET LOCAL DateStyle = 'German'"))
    with pytest.raises(errors.CatalogInternalError, match="do not change DateStyle"):
        work.get(track.id)
