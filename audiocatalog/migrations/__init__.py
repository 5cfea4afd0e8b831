"""The schema of a database: upgrades and checks, as ``alembic`` does them, from an installed package."""

from audiocatalog.migrations.commands import check, config_path, current, upgrade

__all__ = ["check", "config_path", "current", "upgrade"]
