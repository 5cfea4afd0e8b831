"""No call of a function, however crafted, hides a track from workers and figures; what cannot be meant is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from audiocatalog import Catalog, TrackMetadata, TrackStatus, errors
from audiocatalog.db.error_translation import translated
from audiocatalog.migrations.layout import LIFECYCLE_FUNCTIONS
from tests.support.databases import TABLES
from tests.support.lifecycle import DISAGREEMENTS
from tests.support.roles import BARE_CONTENT, Place

Connection = psycopg.Connection[Any]
PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus

#: What is not one value of a type, but what somebody may send for one; as text, which the server casts.
CRAFTED: dict[str, list[str | None]] = {
    "boolean": [None, "true", "false"],
    "integer": [None, "-2147483648", "-1", "0", "1", "3", "1000", "1001", "2147483647"],
    "double precision": [None, "NaN", "Infinity", "-Infinity", "-1", "0", "0.5", "1", "86400", "86401", "1e308"],
    "interval": [
        *(None, "-1 second", "0", "1 microsecond", "1 minute", "7 days", "8 days", "178000000 years"),
        *("100 years -35995 days", "-1 month 31 days", "infinity"),
    ],
    "text": [None, "", "x", "x" * 300, "x" * 5000, *map(str, TrackStatus), "ARCHIVED"],
    "text[]": [None, "{}", "{NULL}", "{PENDING}", "{PROCESSING,NULL}", "{{PENDING},{FAILED}}", "{x}"],
    "jsonb": [
        *(None, "null", "5", "{}", "[]", "[null]", "[5]", '[{"title": "x"}]', '[{"title": null}]', "[null, null]"),
        '[{"title": "x", "duration": "NaN"}]',
    ],
    # T stands for tracks, H for those that are claimed, and K for the tokens of their claims.
    "uuid": [None, "T0", "T1", "T2", "T3", "01920000-0000-7000-8000-000000000001"],
    "bigint": [None, "-1", "0", "9223372036854775807", "K0", "K1"],
    "uuid[]": [
        *(None, "{}", "{NULL}", "{H0,H1}", "{H1,H0}", "{T0,T1,T2,T3}", "{H0,H1,NULL}", "{H0,H1,H0,H1}", "{H0}"),
        *("{{H0},{H1}}", "[-5:-4]={H0,H1}"),
    ],
    "bigint[]": [None, "{}", "{NULL}", "{K0,K1}", "{K1,K0}", "{K0,NULL}", "{K0,K1,K0,K1}", "{K0}", "[0:1]={K0,K1}"],
}
#: What time does not end by itself: a track that failed, and one that somebody moved to PROCESSING without a claim.
LASTING = "SELECT count(*) FROM audio_track_tasks WHERE status = 'FAILED' OR (status = 'PROCESSING' AND token IS NULL)"
UNFINISHED = "SELECT count(*) FROM audio_tracks WHERE status <> 'COMPLETED'"
#: Let eight days pass, longer than any lease or pause.
EIGHT_DAYS_LATER = """
UPDATE audio_track_tasks SET since = since - interval '8 days', ready_at = ready_at - interval '8 days',
  expires_at = expires_at - interval '8 days'"""


@pytest.fixture
def admin(place: Place) -> Iterator[Connection]:
    with place.admin() as connection:
        yield connection
        for table in TABLES:
            connection.execute(f"DELETE FROM {table}")


@pytest.fixture
def catalog(place: Place) -> Iterator[Catalog]:
    with Catalog(place.url_of(place.names.app), actor="app", retry_delay=0.001) as catalog:
        yield catalog


def signatures(admin: Connection) -> dict[str, list[str]]:
    """Return the types of the arguments of every function that the application may call and that writes."""
    rows = admin.execute(
        "SELECT proname, ARRAY(SELECT format_type(one, NULL) FROM unnest(proargtypes) AS one) FROM pg_proc"
        " WHERE proname = ANY (%s) AND prosecdef ORDER BY proname",
        [list(LIFECYCLE_FUNCTIONS)],
    ).fetchall()
    return {name: types for name, types in rows if types}


def call(connection: Connection, name: str, types: list[str], values: list[str | None]) -> str | None:
    """Call a function, and return the SQLSTATE by which it was refused, if it was."""
    arguments = sql.SQL(", ").join(sql.SQL("CAST(%s::text AS {})").format(sql.SQL(one)) for one in types)
    statement = sql.SQL("SELECT * FROM {}({})").format(sql.Identifier(name), arguments)
    try:
        connection.execute(statement, values).fetchall()
    except psycopg.Error as error:
        return error.sqlstate
    return None


def save(catalog: Catalog, number: int) -> None:
    with catalog.unit_of_work() as work:
        for _ in range(number):
            work.save(TrackMetadata(title="x"), audio_path="p", status=PENDING)


def test_every_function_is_looked_at(admin: Connection) -> None:
    found = signatures(admin)
    assert set(found) == set(LIFECYCLE_FUNCTIONS) - {"audiocatalog_stage_v1"}
    assert {one for types in found.values() for one in types} <= set(CRAFTED)


def test_no_call_hides_a_track(catalog: Catalog, admin: Connection, app: Connection) -> None:
    functions = signatures(admin)

    def crafted_call(name: str) -> st.SearchStrategy[tuple[str, list[str | None]]]:
        right = RIGHT[name.removeprefix("audiocatalog_").removesuffix("_v1")]
        # Most arguments are right: where many are wrong, the first one is refused, and nothing else happens.
        values = [
            st.sampled_from([value] * 4 * len(CRAFTED[kind]) + CRAFTED[kind])
            for value, kind in zip(right, functions[name], strict=True)
        ]
        return st.tuples(*values).map(lambda found: (name, list(found)))

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.sampled_from(sorted(functions)).flatmap(crafted_call), min_size=1, max_size=4))
    def attack(calls: list[tuple[str, list[str | None]]]) -> None:
        for table in TABLES:
            admin.execute(f"DELETE FROM {table}")
        save(catalog, 4)
        claims = catalog.claim(2, lease=timedelta(minutes=1))
        tracks = [row[0] for row in admin.execute("SELECT id FROM audio_tracks ORDER BY id").fetchall()]
        names = {f"T{number}": str(track) for number, track in enumerate(tracks)}
        for number, claim in enumerate(claims):
            names |= {f"H{number}": str(claim.track.id), f"K{number}": str(claim.token)}
        for name, values in calls:
            meant = [meaning(value, names) for value in values]
            refused = call(app, name, functions[name], meant)
            # Class 22 is what the functions and the types of the columns say; 23 what the rules of the tables say;
            # 55000 that no batch is staged.
            assert refused is None or refused[:2] in {"22", "23"} or refused == "55000", (name, meant, refused)
        assert_nothing_is_hidden(catalog, admin)

    attack()


def meaning(value: str | None, names: dict[str, str]) -> str | None:
    for name, meant in names.items():
        value = value and value.replace(name, meant)
    return value


def assert_nothing_is_hidden(catalog: Catalog, admin: Connection) -> None:
    """Every unfinished track is counted once, and what does not rest for good is given to a worker in the end."""
    assert admin.execute(DISAGREEMENTS).fetchall() == []
    found = catalog.activity()
    ((unfinished,),) = admin.execute(UNFINISHED).fetchall()
    ((failed,),) = admin.execute("SELECT count(*) FROM audio_track_tasks WHERE status = 'FAILED'").fetchall()
    assert found.waiting + found.delayed + found.claimed + found.unclaimed + failed == unfinished
    # The rule also holds for what the owner does to the times.
    admin.execute(EIGHT_DAYS_LATER)
    catalog.release_expired()
    admin.execute(EIGHT_DAYS_LATER)
    ((lasting,),) = admin.execute(LASTING).fetchall()
    assert len(catalog.claim(1000)) == unfinished - lasting


#: The place of the first argument behind the content.
BEHIND = 2 + len(BARE_CONTENT)
REFUSED: list[tuple[str, Mapping[int, str | None], str]] = [
    *(("claim", {0: most}, "most") for most in (None, "0", "-1", "1001")),
    *(("claim", {1: lease}, "lease") for lease in (None, "0", "-1 second", "8 days", "100 years -35995 days")),
    ("claim", {2: None}, "actor_"),
    ("claim", {3: None}, "newest"),
    ("claim", {4: None}, "begins_one"),
    *(("begin", {place: None}, name) for place, name in enumerate(("track", "fence", "begins"))),
    *(("renew", {0: tracks}, "tracks") for tracks in (None, "{}", "{NULL}")),
    *(("renew", {1: tokens}, "tokens") for tokens in (None, "{}", "{NULL}", "{1,2}", "{{1}}")),
    ("renew", {2: "8 days"}, "lease"),
    *(("complete", {2: operations}, "operations") for operations in (None, "{}", "{NULL}")),
    *(("complete", {4: metadata}, "metadata") for metadata in ("5", "{}", "[]", "[null, null]")),
    *(("give_up", {place: None}, name) for place, name in ((0, "tracks"), (5, "retry"), (6, "counts_as_attempt"))),
    ("give_up", {11: None}, "notify"),
    *(("give_up", {7: most}, "most_attempts") for most in (None, "0", "1001")),
    *(("give_up", {8: delay}, "delay") for delay in (None, "-1", "NaN", "Infinity", "86401")),
    *(("give_up", {9: longest}, "longest") for longest in (None, "-1", "NaN", "1e9")),
    *(("give_up", {10: spread}, "jitter") for spread in (None, "-0.1", "1.1", "NaN")),
    *(("release_expired", {place: None}, name) for place, name in ((0, "most"), (1, "actor_"), (5, "jitter"))),
    *(("move", {place: None}, name) for place, name in ((0, "track"), (1, "target"), (3, "actor_"), (6, "notify"))),
    *(("move", {2: starts}, "allowed_from") for starts in ("{}", "{NULL}", "{{PENDING}}")),
    *(("save", {place: None}, name) for place, name in ((0, "track"), (1, "first_status"), (BEHIND, "actor_"))),
    ("save", {BEHIND + 2: None}, "notify"),
    *(("replace", {place: None}, name) for place, name in ((0, "track"), (2, "new_title"), (BEHIND, "actor_"))),
    *(("load", {place: None}, name) for place, name in ((0, "replacing"), (1, "actor_"), (3, "notify"))),
]

TRACK = "01920000-0000-7000-8000-000000000001"
#: A call of each function with nothing wrong in it, in the words of ``CRAFTED``.
RIGHT: dict[str, list[str | None]] = {
    "claim": ["1", "1 minute", "w", "false", "false"],
    "begin": ["H0", "K0", "true"],
    "renew": ["{H0}", "{K0}", "1 minute"],
    "complete": ["{H0}", "{K0}", "{H0}", None, None],
    "give_up": ["{H0}", "{K0}", "{H0}", None, None, "true", "true", "5", "1", "1", "0.5", "false"],
    "release_expired": ["1", "w", "5", "1", "1", "0.5", "false"],
    "move": ["T3", "PENDING", "{FAILED}", "w", None, None, "false"],
    "save": ["T3", "PENDING", *BARE_CONTENT, "w", None, "false"],
    "replace": ["T3", None, *BARE_CONTENT, "w", None],
    "load": ["false", "w", None, "false"],
}


@pytest.mark.parametrize(("function", "changed", "argument"), REFUSED)
def test_what_cannot_be_meant_is_refused_by_its_name(
    admin: Connection, app: Connection, function: str, changed: Mapping[int, str | None], argument: str
) -> None:
    name = f"audiocatalog_{function}_v1"
    types = signatures(admin)[name]
    names = {"H0": TRACK, "T3": TRACK, "K0": "1"}
    right = [meaning(value, names) for value in RIGHT[function]]
    assert call(app, name, types, right) in {None, "55000"}
    wrong = [changed.get(place, value) for place, value in enumerate(right)]
    arguments = sql.SQL(", ").join(sql.SQL("CAST(%s::text AS {})").format(sql.SQL(one)) for one in types)
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        app.execute(sql.SQL("SELECT * FROM {}({})").format(sql.Identifier(name), arguments), wrong)
    assert caught.value.diag.column_name == argument


def test_what_is_refused_is_invalid_input_that_names_the_argument(app: Connection) -> None:
    with pytest.raises(errors.InvalidInput) as caught, translated("claim"):
        app.execute("SELECT * FROM audiocatalog_claim_v1(1, '1 minute', NULL, false)")
    assert (caught.value.sqlstate, caught.value.field) == ("22023", "actor_")


@pytest.mark.parametrize("rounds", [[2_000_000_000], [0, 2], [-1, 0]])
def test_a_batch_with_rounds_that_nobody_needs_is_refused(app: Connection, rounds: list[int]) -> None:
    """The load goes round by round: two billions of them would keep the server busy until its time limit."""
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught, app.transaction():
        app.execute("SELECT audiocatalog_stage_v1()")
        for number in rounds:
            app.execute(
                "INSERT INTO pg_temp.audiocatalog_stage (place, round, id, status, title, audio_path)"
                " VALUES (0, %s, gen_random_uuid(), 'PENDING', 't', 'p')",
                [number],
            )
        app.execute("SELECT audiocatalog_load_v1(false, 'w', NULL, false)")
    assert caught.value.diag.column_name == "round"


#: What the owner itself may not write of a task, each from one that waits, one that is claimed and one that failed.
HIDDEN = {
    "no time": "ready_at = NULL",
    "no end": "ready_at = since + interval '25 hours'",
    "a claim beside the wait": "token = 1, worker = 'w', expires_at = since",
    "a token alone": "status = 'PROCESSING', ready_at = NULL, token = 1",
    "a lease without a token": "status = 'PROCESSING', ready_at = NULL, expires_at = since",
    "a worker without a token": "status = 'PROCESSING', ready_at = NULL, worker = 'w'",
    "a wait in work": "status = 'PROCESSING'",
    "work that has begun without a claim": "status = 'PROCESSING', ready_at = NULL, begun = true",
    "a failure that waits": "status = 'FAILED'",
    "what is done": "status = 'COMPLETED', ready_at = NULL",
    "less than no try": "attempts = -1",
}


@pytest.mark.parametrize("change", HIDDEN)
def test_the_columns_of_a_task_fit_each_other(catalog: Catalog, admin: Connection, change: str) -> None:
    save(catalog, 1)
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        admin.execute(f"UPDATE audio_track_tasks SET {HIDDEN[change]}")
    assert caught.value.diag.constraint_name == "ck_audio_track_tasks_legal_task"
