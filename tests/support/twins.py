"""
The asynchronous twins of modules whose code only calls what waits: each is made from the synchronous module.

``make twins`` writes the twins. ``tests/aio/test_twins.py`` checks that they are current. The modules that wait by
themselves (the connection, the pool, the transaction, the worker) are written by hand on both sides.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parents[2] / "audiocatalog"
#: The twin of each module.
TWINS: Final = {
    "methods/calls.py": "aio/calls.py",
    "methods/reading.py": "aio/reading.py",
    "methods/writing.py": "aio/writing.py",
    "methods/claiming.py": "aio/claiming.py",
    "methods/supervising.py": "aio/supervising.py",
    "methods/__init__.py": "aio/methods.py",
    "unit_of_work.py": "aio/unit_of_work.py",
    "catalog.py": "aio/catalog.py",
    "db/retry.py": "aio/retry.py",
}
#: Public functions and methods that stay as they are, and private ones that wait.
_PLAIN: Final = ("from_env", "unit_of_work", "worker", "session", "pool_stats", "iter_tracks", "begin")
_WAITING: Final = ("_run", "_perform", "_scan", "_end", "_run_once", "_ask", "__aenter__", "__aexit__")
#: Calls that are awaited.
_AWAITED: Final = (
    *(r"self\._run", r"(?:self|work)\._perform", r"carry_out", r"run(?=\(driver)", r"save_in_batches"),
    *(r"self\._(?:database|runner)\.(?!stats|transaction|autocommit)\w+", r"self\.(?:run|close|outcome_of|_ask)"),
    *(r"self\._open\(\)\.(?:driver|set_statement_timeout)", r"transaction\.(?:commit|roll_back)", "result_of"),
    *(r"self\._end", r"self\._scope\.__a(?:enter|exit)__", r"loader\.save", "tries"),
)
#: Blocks that are entered and left with await.
_CONTEXTS: Final = (
    *(r"self\._database\.(?:transaction|autocommit)", r"self\._begin", r"catalog\.unit_of_work", "AsyncCatalog"),
)
_CLASSES: Final = (
    *("Calls", "Reading", "Writing", "Claiming", "Supervising", "Methods", "UnitOfWork", "Catalog", "Database"),
    *("Runner", "Worker", "Transaction", "BatchLoader"),
)
_NAMES: Final = (
    ("contextmanager", "asynccontextmanager"),
    ("AbstractContextManager", "AbstractAsyncContextManager"),
    ("Iterator", "AsyncIterator"),
    ("Session", "AsyncSession"),
    ("Retrying", "AsyncRetrying"),
    ("__enter__", "__aenter__"),
    ("__exit__", "__aexit__"),
)
_MODULES: Final = (
    *((f"audiocatalog.methods.{name}", f"audiocatalog.aio.{name}") for name in ("calls", "reading", "writing")),
    *((f"audiocatalog.methods.{name}", f"audiocatalog.aio.{name}") for name in ("claiming", "supervising")),
    *((f"audiocatalog.db.{name}", f"audiocatalog.aio.{name}") for name in ("bulk_load", "database", "execute")),
    *((f"audiocatalog.db.{name}", f"audiocatalog.aio.{name}") for name in ("retry", "misuse")),
    ("audiocatalog.db.transaction", "audiocatalog.aio.transaction"),
    ("audiocatalog.methods import", "audiocatalog.aio.methods import"),
    ("audiocatalog.unit_of_work", "audiocatalog.aio.unit_of_work"),
    ("audiocatalog.worker import", "audiocatalog.aio.worker import"),
    ("sqlalchemy.orm import Session", "sqlalchemy.ext.asyncio import AsyncSession"),
)
_CONCURRENCY: Final = """\
        - *concurrency*: how many claims ``run`` works on at the same time, from 1 to 1,000
"""
_WIDTH: Final = 120
_RECORDS: Final = "[TrackRecord | ExportedRecord | Mapping[str, Any]]"
#: What a twin says in other words.
_WORDS: Final = (
    (
        "            yield from tracks_of(rows)\n",
        "            for track in tracks_of(rows):\n                yield track\n",
    ),
    ("Callable[[UnitOfWork], _Result]", "Callable[[UnitOfWork], Awaitable[_Result]]"),
    ("Callable[[_Unit], _Result]", "Callable[[_Unit], Awaitable[_Result]]"),
    (f"records: Iterable{_RECORDS}", f"records: Iterable{_RECORDS} | AsyncIterable{_RECORDS}"),
    ("one thread. The exit", "one task. The exit"),
    ("belongs to one thread", "belongs to one task"),
    ("process and database, and share it between threads", "event loop and database, and share it between tasks"),
    ("a Catalog cannot", "an Catalog cannot"),
    ("a ``with`` block", "an ``async with`` block"),
    ("A ``with`` block", "An ``async with`` block"),
    ("the ``with`` block", "the ``async with`` block"),
    ("`with` block", "`async with` block"),
)
#: What the other side has besides; each is put before the text on the left.
_ADDED: Final = (
    ("    ) -> AsyncWorker:", "        concurrency: int = 1,\n"),
    ("\n        SIGTERM and ``stop`` also end", _CONCURRENCY),
    (
        "            listening=self._database.listening if",
        "            concurrency=concurrency,\n            finish_first=self._database.finish_first,\n",
    ),
)


def twin_of(text: str, module: str) -> str:
    """Return the twin of a module's *text*, before it is formatted."""
    for old, new in (*_WORDS, *_MODULES):
        text = text.replace(old, new)
    text = re.sub(rf"\b({'|'.join(_CLASSES)})\b(?! that| for)", r"Async\1", text)
    for old, new in _NAMES:
        text = re.sub(rf"\b{old}\b", new, text)
    text = re.sub(
        rf"^( *)def (?=(?:{'|'.join(_WAITING)})\(|(?!_|(?:{'|'.join(_PLAIN)})\())",
        r"\1async def ",
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(rf"(?<!def )(?<!await )(?<![\w.`])((?:{'|'.join(_AWAITED)})\()", r"await \1", text)
    text = re.sub(r"(lambda[^:\n]*: )await ", r"\1", text)
    text = re.sub(rf"\bwith (?=(?:{'|'.join(_CONTEXTS)})\()", "async with ", text)
    # Examples in docstrings.
    text = re.sub(r"(>>> |\.\.\. )(.*)", lambda match: match[1] + _example(match[2]), text)
    for before, added in _ADDED:
        text = text.replace(before, added + before)
    missing = "".join(f"{name}, " for name in ("AsyncIterable", "Awaitable") if f"{name}[" in text)
    text = text.replace("from collections.abc import ", f"from collections.abc import {missing}", 1)
    return f"# Made from audiocatalog/{module} by `make twins`: change that module.\n{text}"


def _wrapped(text: str) -> str:
    """Move the last words of a docstring's line that has become too long to the line below."""
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1]):
        if len(line) > _WIDTH and "# noqa" not in line and (below := lines[number + 1].strip()):
            end = line.rindex(" ", 0, _WIDTH + 1)
            indent = lines[number + 1][: -len(below)]
            lines[number], lines[number + 1] = line[:end], f"{indent}{line[end + 1 :]} {below}"
    return "\n".join(lines)


def _example(line: str) -> str:
    if re.search(r"\bwith\b", line):
        return line
    line, comma, function = line.partition("lambda")
    line = re.sub(r"\b((?:catalog|work)(?!\.session\b)\.(?!iter_tracks|worker|unit_of_work)\w+\()", r"await \1", line)
    line = re.sub(r"\b(work\.session\.\w+\(|catalog\.worker\(\)\.run\()", r"await \1", line)
    return re.sub(r"\bfor (?=\w+ in catalog\.(?:iter_tracks|worker))", "async for ", line) + comma + function


def formatted(text: str) -> str:
    """Return *text* as ``make format`` leaves it."""
    ruff = [str(Path(sys.executable).with_name("ruff"))]
    for command in (["check", "--fix", "--select", "I", "--quiet"], ["format", "--quiet"]):
        ran = subprocess.run(
            [*ruff, *command, "--stdin-filename", str(_PACKAGE / "aio/twin.py"), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = ran.stdout
    return _wrapped(text)


def main() -> None:
    """Write every twin."""
    for module, twin in TWINS.items():
        (_PACKAGE / twin).write_text(formatted(twin_of((_PACKAGE / module).read_text(), module)))


if __name__ == "__main__":
    main()
