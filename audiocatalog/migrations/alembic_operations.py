"""
What revisions do to tables that are in use, as operations of Alembic's ``op``.

They are here and not in the revisions because they look before they act: at what a build that was broken off has left.
A revision that calls them still imports nothing of this package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from alembic.operations import MigrateOperation, Operations
from sqlalchemy import TextClause, text

from audiocatalog.migrations.migrator import LIMITS, Migrator
from audiocatalog.models.characters import CHARACTERS


@Operations.register_operation("long_step")
class LongStep(MigrateOperation):
    """Stand for statements that take longer than others may."""

    @classmethod
    def long_step(cls, operations: Operations, seconds: int = 3600) -> AbstractContextManager[None]:
        """
        Let statements run for *seconds* instead of 5.

        Only for what keeps neither readers nor writers waiting, such as ``VALIDATE CONSTRAINT``.

        >>> with op.long_step(600):  # doctest: +SKIP
        ...     op.execute("ALTER TABLE audio_tracks VALIDATE CONSTRAINT ck_audio_tracks_rating_range")
        """
        return _limits(operations, statement_timeout=f"{seconds}s")


@Operations.register_operation("build_index_concurrently")
class BuildIndexConcurrently(MigrateOperation):
    """Stand for the building of an index while its table is in use."""

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
        Build an index on a *table* that is being read and written; *options* are those of ``op.create_index``.

        It must be alone in its revision. An invalid leftover of its name is dropped first, a valid index of that name
        on that table is kept: the revision may have been broken off before or after the index was finished.

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
        # In a transaction again, without which the revision is not marked as done.
        index, of_table = _quoted(operations, name), _quoted(operations, table)
        operations.execute(
            f"DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_index WHERE indisvalid AND indexrelid = to_regclass('{index}')"
            f" AND indrelid = to_regclass('{of_table}')) THEN"
            f" RAISE EXCEPTION USING MESSAGE = 'the index {name} of {table} is not there, or not valid'; END IF; END$$"
        )


@Operations.register_operation("drop_index_concurrently")
class DropIndexConcurrently(MigrateOperation):
    """Stand for the dropping of an index while its table is in use."""

    @classmethod
    def drop_index_concurrently(cls, operations: Operations, name: str) -> None:
        """
        Drop an index of a table that is being read and written, if it is there; it must be alone in its revision.

        >>> op.drop_index_concurrently("ix_audio_tracks_rating")  # doctest: +SKIP
        """
        with operations.get_context().autocommit_block(), _long_lock_wait(operations):
            operations.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_quoted(operations, name)}")


@Operations.register_operation("add_track_column")
class AddTrackColumn(MigrateOperation):
    """Stand for a new column of the tracks, whose domain checks its values."""

    @classmethod
    def add_track_column(cls, operations: Operations, column: str, data_type: str, rule: str) -> None:
        """
        Add a nullable *column* to the tracks, which may be in use, with a domain as its type and *rule* as its CHECK.

        PostgreSQL rewrites a table for a column whose domain has a CHECK, so the CHECK comes after the column. It is
        NOT VALID: no value is there that could break it, and looking for one would block writers.

        >>> op.add_track_column("label", "varchar(200)", "audiocatalog_visible_v1(VALUE)")  # doctest: +SKIP
        """
        constraint = f"ck_audio_tracks_{column}_{'range' if 'BETWEEN' in rule else 'visible'}"
        operations.execute(f"CREATE DOMAIN audiocatalog_{column} AS {data_type}")
        operations.execute(f"ALTER TABLE audio_tracks ADD COLUMN {column} audiocatalog_{column}")
        operations.execute(f"ALTER DOMAIN audiocatalog_{column} ADD CONSTRAINT {constraint} CHECK ({rule}) NOT VALID")


@Operations.register_operation("drop_track_column")
class DropTrackColumn(MigrateOperation):
    """Stand for the dropping of such a column."""

    @classmethod
    def drop_track_column(cls, operations: Operations, column: str) -> None:
        """
        Drop a *column* of the tracks and its domain, and with them all of its values.

        >>> op.drop_track_column("label")  # doctest: +SKIP
        """
        operations.drop_column("audio_tracks", column)
        operations.execute(f"DROP DOMAIN audiocatalog_{column}")


@Operations.register_operation("create_functions")
class CreateFunctions(MigrateOperation):
    """Stand for the creation of the functions of a file."""

    @classmethod
    def create_functions(
        cls, operations: Operations, file: str | Path, *, version: int = 1, **columns: Mapping[str, str]
    ) -> None:
        """
        Run a *file* of functions, in which a blank line ends a statement; a released file never changes.

        In the file, ``{version}`` stands for *version*, and ``{fields: new_NAME TYPE}`` for a list of what follows the
        colon, once for each name and type in *fields*. ``{separators_v1}`` stands for a class of characters, as does
        each other name in ``CHARACTERS``.

        At the end of the revision, PUBLIC loses the right to execute them, and the roles that may execute
        ``audiocatalog_x_v1`` may execute a new ``audiocatalog_x_v2``. Until then, PUBLIC has that right within the
        transaction, so this must not be called within an ``autocommit_block``.

        >>> op.create_functions(Path(__file__).parents[1] / "functions" / "search_v2.sql")  # doctest: +SKIP
        """
        for statement in filled_in(Path(file).read_text(encoding="utf-8"), version, columns).split("\n\n"):
            if "CREATE FUNCTION" in statement or "CREATE OR REPLACE FUNCTION" in statement:
                # A colon begins no parameter here.
                operations.execute(text(statement.strip().removesuffix(";").replace(":", r"\:")))


def filled_in(text: str, version: int, columns: Mapping[str, Mapping[str, str]]) -> str:
    """
    Return the *text* of functions for these *columns*.

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
    Let concurrent operations wait for the transactions before them, as they must.

    Nobody reads or writes behind them, so that there is no hurry; but the wait is a lock's, and its end leaves an
    invalid index and the whole work to be done again.
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
    """Set *limits* for what is inside; a try that fails leaves them to the next one to set back."""
    migrator: Migrator | None = operations.get_context().opts.get("migrator")
    before = LIMITS if migrator is None else migrator.limits
    for name, value in limits.items():
        operations.execute(f"SET {name} = '{value}'")
    yield
    for name in limits:
        operations.execute(f"SET {name} = '{before[name]}'")


def _is_valid(operations: Operations, name: str, table: str) -> bool | None:
    """Return whether the index of that *table* is valid, None if it is not there; printed SQL takes it for invalid."""
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
