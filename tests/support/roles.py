"""Databases with the roles that `audiocatalog roles` makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from audiocatalog.migrations.roles import RoleNames
from audiocatalog.models.metadata import CONTENT_COLUMNS, CONTENT_VERSION
from tests.support.databases import libpq

#: The content of a track of which nothing is known but its title and path, as functions are called with it by hand.
BARE_CONTENT = [{"title": "x", "audio_path": "p"}.get(name) for name in CONTENT_COLUMNS]


@dataclass(frozen=True)
class Place:
    """A database with its three roles, who may log in."""

    url: str
    names: RoleNames

    def url_of(self, role: str) -> str:
        return make_url(self.url).set(username=role).render_as_string(hide_password=False)

    def login(self, role: str) -> psycopg.Connection[Any]:
        return psycopg.connect(libpq(self.url_of(role)), autocommit=True)

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(libpq(self.url), autocommit=True)


def random_names() -> RoleNames:
    """Roles belong to the whole server, so each test takes names of its own."""
    suffix = uuid4().hex[:12]
    return RoleNames(*(f"Test-{kind}.{suffix}" for kind in ("owner", "app", "search")))


def drop_roles(connection: psycopg.Connection[Any], *names: str) -> None:
    for name in names:
        role = sql.Identifier(name)
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).rowcount:
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
            connection.execute(sql.SQL("DROP ROLE {}").format(role))


def save_call(track: str, status: str, actor: str) -> str:
    """Return the call of the function that saves a track, with arguments in SQL, as a role may write it by hand."""
    content = ", ".join("NULL" if value is None else f"'{value}'" for value in BARE_CONTENT)
    return f"audiocatalog_save_v{CONTENT_VERSION}({track}, {status}, {content}, {actor}, NULL, false)"
