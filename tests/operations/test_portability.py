"""The rules that keep PgBouncer, replicas and Citus possible hold for every statement and every function."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, text

from tests.support.portability import EXCUSED, OUTSIDE_OF_FUNCTIONS, RULES, broken_rules, unexcused_rules

#: What our functions break today, and who is to change it: distributed tables get versions of their own.
KNOWN = {
    # One lookup by id a row: a join might read all tracks.
    "audiocatalog_load_v1": {"LATERAL with LIMIT"},
}


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("MERGE INTO audio_tracks AS t USING new ON t.id = new.id WHEN MATCHED THEN DO NOTHING", "MERGE"),
        ("SELECT genre, count(*) FROM audio_tracks GROUP BY ROLLUP (genre)", "grouping sets"),
        ("WITH RECURSIVE t AS (SELECT 1) SELECT * FROM t", "recursive"),
        ("SELECT EXISTS (SELECT FROM audio_tracks)", "no column"),
        (
            "SELECT * FROM asked, LATERAL (SELECT a FROM t WHERE (b = (c)) ORDER BY a LIMIT 1) AS f",
            "LATERAL with LIMIT",
        ),
        ("UPDATE x SET at = clock_timestamp() WHERE id = $1", "volatile function in SET"),
        ("UPDATE x SET a = 1, token = (random() * 5)::int WHERE id = $1", "volatile function in SET"),
        ("INSERT INTO x VALUES (1) ON CONFLICT (id) DO UPDATE SET updated_at = now()", "clock in ON CONFLICT SET"),
        ("SELECT reltuples FROM pg_class", "estimate of the catalog"),
        ("SELECT pg_try_advisory_lock(5)", "session lock"),
        ("SET statement_timeout = '1s'", "session setting"),
        ("SELECT id FROM audio_tracks LIMIT 5 FOR UPDATE SKIP LOCKED", "row lock"),
        ("UPDATE audio_tracks SET status = 'PENDING' WHERE id = $1", "direct write"),
        ("INSERT INTO audio_track_edits VALUES ($1)", "direct write"),
    ],
)
def test_a_statement_that_breaks_a_rule_is_found(sql: str, rule: str) -> None:
    assert broken_rules(sql) == {rule}
    assert broken_rules(sql, in_function=True) == ({rule} - OUTSIDE_OF_FUNCTIONS.keys())


def test_an_id_is_never_changed() -> None:
    assert "changed id" in broken_rules("UPDATE audio_tracks SET version = 2, id = $2 WHERE id = $1", in_function=True)
    assert "changed id" not in broken_rules("UPDATE audio_tracks SET version = 2 WHERE id = $1", in_function=True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM audiocatalog_move_v1($1, $2)",
        "UPDATE x SET at = $2 WHERE id = $1 AND at < clock_timestamp()",
        "INSERT INTO x VALUES (now()) ON CONFLICT (id) DO UPDATE SET at = excluded.at",
        "SELECT 'MERGE INTO x; SELECT FROM y' AS text -- FOR UPDATE",
        "SELECT pg_try_advisory_xact_lock(5)",
        "SELECT * FROM (SELECT a FROM t LIMIT 1) AS f, LATERAL (SELECT f.a) AS g",
    ],
)
def test_a_statement_that_keeps_the_rules_is_not(sql: str) -> None:
    assert broken_rules(sql) == set()


@pytest.mark.parametrize("part", EXCUSED)
def test_an_excuse_covers_its_rules_alone(part: str) -> None:
    for rule in EXCUSED[part]:
        assert rule in RULES
    assert unexcused_rules(f"SELECT FROM audio_tracks AS t WHERE {part} $1") == {"no column"}


def test_the_functions_keep_the_rules_but_for_those_that_are_known(connection: Connection) -> None:
    rows = connection.execute(
        text("SELECT proname, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace")
    )
    broken = {name: rules for name, body in rows if (rules := broken_rules(body, in_function=True))}
    assert broken == KNOWN
