"""Ways to run the command in tests: in this process, or as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from click.testing import CliRunner, Result

from audiocatalog.cli import main
from tests.support.databases import libpq
from tests.support.repository import ROOT

Run = Callable[..., Result]

#: What would name another database, another actor or another width.
UNSET = dict.fromkeys(
    [
        *("AUDIOCATALOG_DATABASE_URL", "AUDIOCATALOG_ACTOR", "COLUMNS", "NO_COLOR", "FORCE_COLOR"),
        *("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"),
    ]
)


def invoke(*arguments: str, data: bytes | str | None = None, **environment: str | None) -> Result:
    """Run the command in this process, with nothing in the environment but *environment*."""
    return CliRunner(env={**UNSET, **environment}).invoke(main, arguments, input=data, catch_exceptions=False)


def run_on(database_url: str) -> Run:
    """Return what runs the command on a database."""
    return lambda *arguments, **options: invoke("--url", database_url, "--actor", "tester", *arguments, **options)


def forget_words(database_url: str) -> None:
    """Empty the vocabulary, which outlives the tracks that it was counted in."""
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute("DELETE FROM audio_search_words")
        admin.execute("DELETE FROM audio_search_counts")


@contextmanager
def locked(database_url: str, table: str) -> Iterator[None]:
    """Lock *table*, so that all other sessions wait for it."""
    with psycopg.connect(libpq(database_url)) as admin:
        admin.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        admin.rollback()


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command as a program of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
    return subprocess.Popen([sys.executable, "-m", "audiocatalog", *arguments], **options)


def ended(program: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = program.communicate(timeout=60)
    return program.returncode, (out or b"").decode(), (err or b"").decode()
