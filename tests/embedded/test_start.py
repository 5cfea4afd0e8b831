"""To import the package does nothing but define things: it reaches no server, reads no secret and starts nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import os, sys, threading

seen, read = [], []
plain = os._Environ.__getitem__
os._Environ.__getitem__ = lambda self, name: (read.append(name), plain(self, name))[1]
sys.addaudithook(lambda event, _: event.startswith(("socket.", "subprocess.", "os.fork")) and seen.append(event))

import audiocatalog
from audiocatalog import Catalog, embedded
from audiocatalog.migrations import roles

assert seen == [], seen
ours = [name for name in read if name.startswith(("AUDIOCATALOG_", "DB_", "PG"))]
assert set(ours) <= {"AUDIOCATALOG_DEBUG"}, ours  # It says how classes print themselves.
assert threading.active_count() == 1
for heavy in ("alembic.config", "click", "rich", "sqlalchemy.ext.asyncio"):
    assert heavy not in sys.modules, heavy
"""


@pytest.mark.slow
def test_importing_opens_no_socket_reads_no_secret_and_starts_nothing() -> None:
    secrets = {
        "AUDIOCATALOG_DATABASE_URL": "postgresql://u:secret@h/d",
        "DB_PASSWORD": "secret",
        "PGPASSWORD": "secret",
    }
    subprocess.run(
        [sys.executable, "-W", "error", "-c", _SCRIPT], check=True, timeout=60, env={**os.environ, **secrets}
    )
