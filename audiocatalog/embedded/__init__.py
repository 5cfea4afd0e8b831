"""A private PostgreSQL server for demos, tests and small catalogues (extra: embedded)."""

from audiocatalog.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
