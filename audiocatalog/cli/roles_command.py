"""The command roles."""

from __future__ import annotations

import click

from audiocatalog.cli import output
from audiocatalog.cli.failures import Failure
from audiocatalog.cli.options import as_json, inputs_by_option
from audiocatalog.cli.target import Target
from audiocatalog.errors import PermissionDenied
from audiocatalog.roles import RoleNames, apply_roles, roles_sql

_DEFAULTS = RoleNames()


@click.command()
@click.option("--apply", is_flag=True, help="Execute the statements, all of them or nothing.")
@click.option("--owner", metavar="NAME", default=_DEFAULTS.owner, show_default=True, help="Who migrates.")
@click.option("--app", metavar="NAME", default=_DEFAULTS.app, show_default=True, help="Who works with the tracks.")
@click.option("--search", metavar="NAME", default=_DEFAULTS.search, show_default=True, help="Who only searches.")
@as_json
@click.pass_obj
def roles(target: Target, /, *, apply: bool, as_json: bool, **names: str) -> None:
    """
    Print the SQL for three roles with few rights.

    None has more than it needs. The owner runs migrations. The application saves, moves, claims and searches tracks; it
    can neither change the schema nor write the history otherwise than by moving tracks. The search reads what searches
    need. None can log in before you give it a password, or make login roles of yours its members.

    Run it with --apply as a superuser, or as the owner of the database with CREATEROLE, and again after each upgrade:

    \b
      audiocatalog upgrade && audiocatalog roles --apply
    """  # noqa: D301  # Click needs the character itself: it keeps the lines of a paragraph.
    with inputs_by_option():
        chosen = RoleNames(**names)
    with target.database() as url:
        try:
            script = apply_roles(url, chosen) if apply else roles_sql(url, chosen)
        except PermissionDenied:
            raise Failure(
                "this database role may not create roles or grant on the objects of audiocatalog; nothing was changed: "
                "run it as a superuser, or as the owner of the database and its schema with CREATEROLE"
            ) from None
    if as_json:
        output.print_json({"applied": apply, **names, "sql": script})
    elif apply:
        click.echo(f"the roles {chosen.owner}, {chosen.app} and {chosen.search} have their rights")
    else:
        click.echo(script)
