"""Plans of statements, as EXPLAIN tells them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from tests.support.searches import Asked

Node = dict[str, Any]


def prepare(connection: psycopg.Connection[Any], one: Asked, name: str = "statement") -> sql.Composed:
    """Prepare a statement as the server keeps it, with the settings of its own, and return how to execute it."""
    for setting, value in one.planned.items():
        connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(setting), value))
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", one.statement)))
    types = ["bigint" if parameter in {"limit", "offset"} else "unknown" for parameter in names]
    text = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", one.statement).replace("%%", "%")
    connection.execute(f"DEALLOCATE ALL; PREPARE {name} ({', '.join(types)}) AS {text}".encode())
    values = sql.SQL(", ").join(map(sql.Literal, (one.parameters[parameter] for parameter in names)))
    return sql.SQL("EXECUTE {} ({})").format(sql.Identifier(name), values)


def plan_of(connection: psycopg.Connection[Any], one: Asked) -> Node:
    """Execute a statement and return its plan with what was done."""
    execute = prepare(connection, one)
    explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ")
    row = connection.execute(explain + execute).fetchone()
    assert row is not None
    plan: Node = row[0][0]["Plan"]
    return plan


def nodes(plan: Node) -> Iterator[Node]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(plan: Node) -> int:
    """Return how many rows of tracks were looked at, kept or not."""
    return sum(
        int(
            node["Actual Loops"]
            * (
                node["Actual Rows"]
                + node.get("Rows Removed by Filter", 0)
                + node.get("Rows Removed by Index Recheck", 0)
            )
        )
        for node in nodes(plan)
        if node.get("Relation Name") == "audio_tracks"
    )


def whole_reads(plan: Node) -> list[str]:
    """Return the tables that are read from their beginning to their end."""
    read = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan" and node["Actual Loops"]]
    return [name for name in read if name in {"audio_tracks", "audio_search_words"}]
