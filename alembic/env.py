"""Alembic's environment: one migrator at a time, a transaction for each revision, and retries on lock timeouts."""

from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.util import CommandError

from audiocatalog.db.first_revision import FIRST_REVISION, mark_database
from audiocatalog.db.function_rights import SECURE_FUNCTIONS
from audiocatalog.db.settings import parse_url, url_from_environment
from audiocatalog.errors import CatalogError, ConfigurationError
from audiocatalog.migrations import alembic_operations  # noqa: F401  # The import adds the operations to `op`.
from audiocatalog.migrations.migrator import TIMEOUTS, exclusive_migrator
from audiocatalog.models.base import Base
from audiocatalog.models.sql_names import VERSION_TABLE

config = context.config
run_from_command_line = config.cmd_opts is not None

# Only the command line may set up logging: a service that upgrades has set up its own.
if run_from_command_line and config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)


def _is_ours(name: str | None, kind: str, parents: object) -> bool:  # noqa: ARG001
    """Return False for tables of other applications in the same database."""
    return kind != "table" or name in Base.metadata.tables


def _end_revision(ctx: MigrationContext, step: MigrationInfo, **_: object) -> None:
    """Revoke EXECUTE on new functions from PUBLIC, in the transaction of each revision."""
    ctx.execute(SECURE_FUNCTIONS)
    if step.up_revision_id == FIRST_REVISION and step.is_upgrade and not step.is_stamp:
        ctx.execute(mark_database())


OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table": VERSION_TABLE,
    "transaction_per_migration": True,
    "include_name": _is_ours,
    "on_version_apply": _end_revision,
    "compare_server_default": True,
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
}


def _run_offline() -> None:
    """Print the SQL (``--sql``)."""
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    for name, value in TIMEOUTS.items():
        context.static_output(f"SET {name} = '{value}';")
    with context.begin_transaction():
        context.run_migrations()


def _run_online() -> None:
    arguments = context.get_x_argument(as_dictionary=True)
    given = config.attributes.get("url") or arguments.get("url")
    url = parse_url(given) if given else url_from_environment()
    # The seconds to wait for another migrator, and for the locks of each revision.
    timeout = config.attributes.get("lock_timeout")
    if timeout is None:
        try:
            timeout = float(arguments.get("lock_timeout", 300.0))
        except ValueError:
            raise ConfigurationError(
                "lock_timeout must be a number of seconds, such as -x lock_timeout=300", field="lock_timeout"
            ) from None
    with exclusive_migrator(url, timeout=timeout) as migrator:
        context.configure(connection=migrator.connection, migrator=migrator, **OPTIONS)
        migrator.run(context.get_context(), context.run_migrations)


if context.is_offline_mode():
    _run_offline()
else:
    try:
        _run_online()
    except CatalogError as error:
        if run_from_command_line:
            # Alembic prints a CommandError as one line, and other errors with a traceback.
            raise CommandError(str(error)) from error
        raise
