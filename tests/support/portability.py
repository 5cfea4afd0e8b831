"""
The rules that keep PgBouncer, replicas and Citus possible, as a check of the statements that the package sends.

What Citus refuses was tried on Citus 13; most of it is refused at run time alone, when tables are distributed.
"""

from __future__ import annotations

import re
from typing import Final

_LITERAL: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
#: Parentheses that may hold parentheses, three deep.
_INSIDE: Final = r"(?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*"
_VOLATILE: Final = r"(?:clock_timestamp|timeofday|random|gen_random_uuid|uuidv7|nextval|pg_current_xact_id)\s*\("
_CLOCK: Final = r"(?:now\s*\(|statement_timestamp\s*\(|transaction_timestamp\s*\(|current_timestamp\b|current_date\b)"
_SET: Final = r"\bSET\b(?:(?!\bWHERE\b|\bRETURNING\b|;).)*?"

#: By name, what no statement may hold that asks a table of the tracks.
RULES: Final = {
    "MERGE": r"\bMERGE\s+INTO\b",
    "grouping sets": r"\b(?:GROUPING\s+SETS|ROLLUP|CUBE)\s*\(",
    "recursive": r"\bWITH\s+RECURSIVE\b",
    "no column": r"\bSELECT\s+FROM\b",
    "LATERAL with LIMIT": rf"\bLATERAL\s*\({_INSIDE}\bLIMIT\b",
    "volatile function in SET": rf"\bUPDATE\s+[\w.]+(?:\s+(?:AS\s+)?\w+)?\s+{_SET}{_VOLATILE}",
    "clock in ON CONFLICT SET": rf"\bDO\s+UPDATE\s+{_SET}(?:{_VOLATILE}|{_CLOCK})",
    "changed id": r"\bUPDATE\s+audio_tracks\b(?:\s+AS\s+\w+)?\s+SET\b(?:(?!\bWHERE\b|;).)*?\bid\s*=",
    "estimate of the catalog": r"\b(?:reltuples|pg_stats|pg_relation_size|pg_total_relation_size)\b",
    "session lock": r"\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\(",
    "session setting": r"^\s*SET\s+(?!LOCAL\b)",
}
#: What only a function may do, which is one call with the track's id.
OUTSIDE_OF_FUNCTIONS: Final = {
    "row lock": r"\bFOR\s+(?:NO\s+KEY\s+UPDATE|UPDATE|KEY\s+SHARE|SHARE)\b",
    "direct write": r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(?:audio_tracks|audio_track_\w+)\b",
}


def broken_rules(sql: str, *, in_function: bool = False) -> set[str]:
    """Return the names of the rules that *sql*, a statement or the body of a function, breaks."""
    code = _LITERAL.sub("''", sql)
    rules = RULES if in_function else RULES | OUTSIDE_OF_FUNCTIONS
    return {name for name, rule in rules.items() if re.search(rule, code, re.IGNORECASE | re.DOTALL)}


#: The rules that some statements break, by a part of their text: each with the reason why it does no harm there.
EXCUSED: Final = {
    # A search asks one shard after the other for all of it: its statement never spans two shards.
    "search_vector @@": {"LATERAL with LIMIT"},
}


def unexcused_rules(sql: str) -> set[str]:
    """Return the rules that the statement *sql* breaks without an excuse."""
    excused = (rules for part, rules in EXCUSED.items() if part in sql)
    return broken_rules(sql).difference(*excused)
