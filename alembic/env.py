"""How Alembic reaches the database: one migrator at a time, one transaction for each revision."""

from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.util import CommandError

from audiocatalog.engine import parse_url, url_from_environment
from audiocatalog.errors import CatalogError
from audiocatalog.migrations import migrating
from audiocatalog.models import VERSION_TABLE, Base

config = context.config
run_from_command_line = config.cmd_opts is not None

# Only the command line may set up logging; a service that upgrades keeps its own loggers as they are.
if run_from_command_line and config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)


def _is_ours(name: str | None, kind: str, parents: object) -> bool:  # noqa: ARG001
    """Leave the tables of a host service in the same database alone."""
    return kind != "table" or name in Base.metadata.tables


OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table": VERSION_TABLE,
    "transaction_per_migration": True,
    "include_name": _is_ours,
    "compare_server_default": True,
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
}


def _run_offline() -> None:
    """Print the SQL (``--sql``); no revision reads the database, so that this works."""
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def _run_online() -> None:
    arguments = context.get_x_argument(as_dictionary=True)
    given = config.attributes.get("url") or arguments.get("url")
    url = parse_url(given) if given else url_from_environment()
    with migrating(url, timeout=config.attributes.get("lock_timeout", 300.0)) as connection:
        context.configure(connection=connection, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    _run_offline()
else:
    try:
        _run_online()
    except CatalogError as error:
        if run_from_command_line:
            # Alembic prints this error as one line, and every other with a traceback.
            raise CommandError(str(error)) from error
        raise
