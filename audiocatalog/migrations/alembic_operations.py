"""
Operations of Alembic's ``op`` for tables in use.

Some operations first check the state that an interrupted build has left, so their code is here and not in the
revisions. A revision that calls an operation still imports nothing from this package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from alembic.operations import MigrateOperation, Operations
from sqlalchemy import TextClause, text

from audiocatalog.migrations.migrator import TIMEOUTS, Migrator
from audiocatalog.models.characters import CHARACTERS


@Operations.register_operation("long_step")
class LongStep(MigrateOperation):
    """A longer timeout for some statements."""

    @classmethod
    def long_step(cls, operations: Operations, seconds: int = 3600) -> AbstractContextManager[None]:
        """
        Let each statement in a ``with`` block run for at most *seconds* seconds instead of 5.

        Use it only for statements that block neither readers nor writers, such as ``VALIDATE CONSTRAINT``.

        >>> with op.long_step(600):  # doctest: +SKIP
        ...     op.execute("ALTER TABLE audio_tracks VALIDATE CONSTRAINT ck_audio_tracks_rating_range")
        """
        return _limits(operations, statement_timeout=f"{seconds}s")


@Operations.register_operation("build_index_concurrently")
class BuildIndexConcurrently(MigrateOperation):
    """The build of an index on a table in use."""

    @classmethod
    def build_index_concurrently(
        cls,
        operations: Operations,
        name: str,
        table: str,
        columns: Sequence[str | TextClause],
        **options: Any,  # noqa: ANN401
    ) -> None:
        """
        Build an index on a *table* in use; *options* are those of ``op.create_index``.

        The build must be alone in its revision. Because the revision may be interrupted and run again, an invalid index
        of this name is dropped first, and a valid index of this name on the table is kept.

        >>> op.build_index_concurrently("ix_audio_tracks_rating", "audio_tracks", ["rating", "id"])  # doctest: +SKIP
        """
        with operations.get_context().autocommit_block(), _long_lock_wait(operations):
            valid = _is_valid(operations, name, table)
            if valid is False:
                operations.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_quoted(operations, name)}")
            if not valid:
                operations.create_index(
                    name, table, columns, postgresql_concurrently=True, if_not_exists=True, **options
                )
        # This statement runs in a transaction again; if it fails, the revision is not marked as done.
        index, of_table = _quoted(operations, name), _quoted(operations, table)
        operations.execute(
            f"DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_index WHERE indisvalid AND indexrelid = to_regclass('{index}')"
            f" AND indrelid = to_regclass('{of_table}')) THEN"
            f" RAISE EXCEPTION USING MESSAGE = 'the index {name} of {table} is missing or not valid: upgrade again'"
            "; END IF; END$$"
        )


@Operations.register_operation("drop_index_concurrently")
class DropIndexConcurrently(MigrateOperation):
    """The drop of an index of a table in use."""

    @classmethod
    def drop_index_concurrently(cls, operations: Operations, name: str) -> None:
        """
        Drop an index of a table in use, if it exists; the drop must be alone in its revision.

        >>> op.drop_index_concurrently("ix_audio_tracks_rating")  # doctest: +SKIP
        """
        with operations.get_context().autocommit_block(), _long_lock_wait(operations):
            operations.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_quoted(operations, name)}")


@Operations.register_operation("add_track_column")
class AddTrackColumn(MigrateOperation):
    """A new column of the tracks, with a domain that checks its values."""

    @classmethod
    def add_track_column(cls, operations: Operations, column: str, data_type: str, rule: str) -> None:
        """
        Add a nullable *column* to the tracks, with a new domain as its type and *rule* as the domain's CHECK.

        PostgreSQL rewrites the table for a column whose domain has a CHECK, so the CHECK is added after the column. The
        CHECK is NOT VALID, because the column is empty and validation would block writers.

        >>> op.add_track_column("label", "varchar(200)", "audiocatalog_visible_v1(VALUE)")  # doctest: +SKIP
        """
        constraint = f"ck_audio_tracks_{column}_{'range' if 'BETWEEN' in rule else 'visible'}"
        operations.execute(f"CREATE DOMAIN audiocatalog_{column} AS {data_type}")
        operations.execute(f"ALTER TABLE audio_tracks ADD COLUMN {column} audiocatalog_{column}")
        operations.execute(f"ALTER DOMAIN audiocatalog_{column} ADD CONSTRAINT {constraint} CHECK ({rule}) NOT VALID")


@Operations.register_operation("drop_track_column")
class DropTrackColumn(MigrateOperation):
    """The drop of a column of the tracks."""

    @classmethod
    def drop_track_column(cls, operations: Operations, column: str) -> None:
        """
        Drop a *column* of the tracks with all of its values, and its domain.

        >>> op.drop_track_column("label")  # doctest: +SKIP
        """
        operations.drop_column("audio_tracks", column)
        operations.execute(f"DROP DOMAIN audiocatalog_{column}")


@Operations.register_operation("create_functions")
class CreateFunctions(MigrateOperation):
    """The creation of the functions in a file."""

    @classmethod
    def create_functions(
        cls, operations: Operations, file: str | Path, *, version: int = 1, **columns: Mapping[str, str]
    ) -> None:
        """
        Run the statements of *file*; blank lines separate the statements. A released file must never change.

        In the file, ``{version}`` stands for *version*. ``{fields: new_NAME TYPE}`` stands for a comma-separated list
        of the text after the colon, once for each name and type in *fields*. ``{separators_v1}``, and each other name
        in ``CHARACTERS``, stands for a class of characters.

        At the end of the revision, EXECUTE is revoked from PUBLIC, and a new ``audiocatalog_x_v2`` gets the grantees of
        ``audiocatalog_x_v1``. Until then, PUBLIC has EXECUTE within the transaction, so do not create functions in an
        ``autocommit_block``.

        >>> op.create_functions(Path(__file__).parents[1] / "functions" / "search_v2.sql")  # doctest: +SKIP
        """
        for statement in filled_in(Path(file).read_text(encoding="utf-8"), version, columns).split("\n\n"):
            if "CREATE FUNCTION" in statement or "CREATE OR REPLACE FUNCTION" in statement:
                # SQLAlchemy would read a colon as the beginning of a parameter.
                operations.execute(text(statement.strip().removesuffix(";").replace(":", r"\:")))


def filled_in(text: str, version: int, columns: Mapping[str, Mapping[str, str]]) -> str:
    """
    Return *text* with its placeholders replaced, as ``create_functions`` describes.

    >>> filled_in("f_v{version}({fields: new_NAME TYPE})", 2, {"fields": {"title": "text", "year": "integer"}})
    'f_v2(new_title text, new_year integer)'

    """
    for group, types in columns.items():
        for form in set(re.findall(rf"\{{{group}: ([^}}]+)\}}", text)):
            parts = (form.replace("NAME", name).replace("TYPE", kind) for name, kind in types.items())
            text = text.replace(f"{{{group}: {form}}}", ", ".join(parts))
    for name, characters in CHARACTERS.items():
        text = text.replace(f"{{{name}}}", characters)
    return text.replace("{version}", str(version))


@contextmanager
def _long_lock_wait(operations: Operations) -> Iterator[None]:
    """
    Let a concurrent operation wait for earlier transactions.

    No reader or writer waits for the operation, so a long wait does no harm. A lock timeout would leave an invalid
    index, and the whole build would have to be repeated.
    """
    migrator: Migrator | None = operations.get_context().opts.get("migrator")
    lock_timeout = "0" if migrator is None else f"{round(migrator.lock_timeout * 1000)}ms"
    with (
        _limits(operations, lock_timeout=lock_timeout, statement_timeout="0"),
        nullcontext() if migrator is None else migrator.watching(),
    ):
        yield


@contextmanager
def _limits(operations: Operations, **limits: str) -> Iterator[None]:
    """Set *limits* in a ``with`` block; after a failure, the next attempt restores the earlier values."""
    migrator: Migrator | None = operations.get_context().opts.get("migrator")
    before = TIMEOUTS if migrator is None else migrator.limits
    for name, value in limits.items():
        operations.execute(f"SET {name} = '{value}'")
    yield
    for name in limits:
        operations.execute(f"SET {name} = '{before[name]}'")


def _is_valid(operations: Operations, name: str, table: str) -> bool | None:
    """Return whether the index of *table* is valid, or None if it does not exist; for printed SQL, return False."""
    if operations.get_context().as_sql:
        return False
    find = text(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name) AND indrelid = to_regclass(:table)"
    )
    names = {"name": _quoted(operations, name), "table": _quoted(operations, table)}
    found: bool | None = operations.get_bind().execute(find, names).scalar_one_or_none()
    return found


def _quoted(operations: Operations, name: str) -> str:
    return operations.get_context().dialect.identifier_preparer.quote(name)
