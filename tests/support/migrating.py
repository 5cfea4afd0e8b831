"""Alembic as a deploy runs it."""

from __future__ import annotations

import os
import subprocess
import sys

from alembic.config import Config

from audiocatalog import migrations
from tests.support.repository import ROOT


def config_for(url: str, **attributes: object) -> Config:
    config = Config(migrations.config_path())
    config.attributes |= {"url": url, **attributes}
    return config


def environment_for(url: str) -> dict[str, str]:
    """Return an environment that names no database but *url*, if that."""
    named = {"AUDIOCATALOG_DATABASE_URL": url} if url else {}
    return {name: value for name, value in os.environ.items() if not name.startswith(("AUDIOCATALOG_", "DB_"))} | named


def alembic_command(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=environment_for(url),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
