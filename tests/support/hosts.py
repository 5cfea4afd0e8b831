"""A table of a host's own, beside those of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.support.databases import libpq


class Base(DeclarativeBase):
    pass


class Note(Base):
    """A name that there is at most once."""

    __tablename__ = "host_notes"

    name: Mapped[str] = mapped_column(primary_key=True)


@contextmanager
def host_notes(url: str) -> Iterator[None]:
    """Make the table in the database at *url*, with all rights for all roles, and drop it."""
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute("CREATE TABLE host_notes (name text PRIMARY KEY)")
        admin.execute("GRANT ALL ON host_notes TO public")
    try:
        yield
    finally:
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute("DROP TABLE host_notes")
