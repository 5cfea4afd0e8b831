"""The database that a command works on, and the actor that the history records."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from sqlalchemy import URL

from audiocatalog import Catalog
from audiocatalog.cli.failures import WrongSettings
from audiocatalog.db.settings import url_from_environment
from audiocatalog.errors import InvalidInput
from audiocatalog.models.limits import clean_actor

_URL: Final = "AUDIOCATALOG_DATABASE_URL"
_NO_DATABASE: Final = (
    "no database is named: add --url, or set AUDIOCATALOG_DATABASE_URL (or DB_HOST, DB_PORT, DB_NAME, DB_USER and "
    "DB_PASSWORD), or keep the catalogue in a folder by --local DIR (pip install 'audiocatalog[embedded]')"
)


@dataclass(frozen=True, slots=True)
class Target:
    """The options that precede the command: --url, --local and --actor."""

    url: str | None
    local: str | None
    actor: str | None

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        """Open the catalogue while a command runs."""
        with (
            self._environment(create=False) as environment,
            Catalog.from_env(actor=self.who, environment=environment) as catalog,
        ):
            yield catalog

    @contextmanager
    def database(self) -> Iterator[URL]:
        """Yield the URL of the database while a command runs. The database may have no schema yet."""
        with self._environment(create=True) as environment:
            yield url_from_environment(environment)

    @property
    def place(self) -> str:
        """The folder of the catalogue, or its server and database without user and password."""
        if self.local is not None:
            return str(Path(self.local).resolve())
        url = url_from_environment(os.environ if self.url is None else {_URL: self.url})
        host, port = (given or url.query.get(name) for name, given in (("host", url.host), ("port", url.port)))
        return f"{host or 'localhost'}:{port or 5432}/{url.database}"

    @property
    def who(self) -> str:
        """The actor that commands record: --actor, else AUDIOCATALOG_ACTOR, else the name of the user."""
        return self.actor or os.environ.get("AUDIOCATALOG_ACTOR") or _user_name()

    @contextmanager
    def _environment(self, *, create: bool) -> Iterator[Mapping[str, str]]:
        """Yield the environment variables, with the URL of the database that the options name."""
        if self.url is not None and self.local is not None:
            raise click.UsageError("--url and --local name two databases: leave one of them out")
        if "" in (self.url, self.local):
            raise click.UsageError("--url or --local is empty: give a value, or set the variable that holds the value")
        if self.url is not None:
            yield {**os.environ, _URL: self.url}
        elif self.local is not None:
            with _served(Path(self.local), create=create) as url:
                yield {**os.environ, _URL: url}
        elif os.environ.get(_URL) or os.environ.get("DB_NAME"):
            yield os.environ
        else:
            raise WrongSettings(_NO_DATABASE)


@contextmanager
def _served(folder: Path, *, create: bool) -> Iterator[str]:
    """Run a server on *folder*. Only `upgrade` creates the folder, so that a misspelt name creates no folder."""
    if not create and not _holds_cluster(folder):
        raise WrongSettings(f"{folder} holds no catalogue: create one by `audiocatalog --local {folder} upgrade`")
    # Imported here because only --local needs the server.
    from audiocatalog.embedded import EmbeddedPostgres  # noqa: PLC0415

    with EmbeddedPostgres(folder, durable=True) as server:
        yield server.url("postgres")


def _holds_cluster(folder: Path) -> bool:
    try:
        return (folder / "PG_VERSION").exists()
    except PermissionError:
        return True  # The server will report a folder that it cannot read.


def _user_name() -> str:
    """Return the user's name in the system, or "audiocatalog" if there is no valid name."""
    try:
        return clean_actor(getpass.getuser())
    except (OSError, KeyError, ImportError, InvalidInput):
        return "audiocatalog"
