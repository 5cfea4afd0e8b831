"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from audiocatalog.migrations.roles import apply_roles
from tests.support.databases import temporary_database
from tests.support.roles import Place, drop_roles, random_names


@pytest.fixture(scope="module")
def place(server_url: str, migrated_template: str) -> Iterator[Place]:
    names = random_names()
    with temporary_database(server_url, template=migrated_template) as url:
        found = Place(url, names)
        try:
            apply_roles(url, names)
            with found.admin() as admin:
                for name in (names.owner, names.app, names.search):
                    admin.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(name)))
            try:
                found.login(names.app).close()
            except psycopg.OperationalError:
                pytest.skip("this server asks for passwords")
            yield found
        finally:
            with found.admin() as admin:
                drop_roles(admin, names.app, names.search, names.owner)


@pytest.fixture
def app(place: Place) -> Iterator[psycopg.Connection[Any]]:
    with place.login(place.names.app) as connection:
        yield connection
