"""Upgrades and checks of a database's schema, from an installed package."""

from audiocatalog.migrations.commands import check, config_path, current, upgrade

__all__ = ["check", "config_path", "current", "upgrade"]
