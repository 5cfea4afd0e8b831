"""The command `roles`, which prints or grants the rights of database roles."""

from __future__ import annotations

import click

from audiocatalog.cli import output
from audiocatalog.cli.failures import Failure
from audiocatalog.cli.options import as_json, inputs_by_option
from audiocatalog.cli.target import Target
from audiocatalog.errors import PermissionDenied
from audiocatalog.errors.printing import escaped
from audiocatalog.migrations.grants import Rights, grant_rights, grant_sql
from audiocatalog.migrations.roles import RoleNames, apply_roles, roles_sql

_DEFAULTS = RoleNames()
_NAMED = {"app": "application", "search": "search"}


@click.command()
@click.option("--apply", is_flag=True, help="Execute the statements in one transaction.")
@click.option(
    "--owner", metavar="NAME", default=_DEFAULTS.owner, show_default=True, help="The role that runs migrations."
)
@click.option("--app", metavar="NAME", default=_DEFAULTS.app, show_default=True, help="The role of services.")
@click.option("--search", metavar="NAME", default=_DEFAULTS.search, show_default=True, help="The role of searches.")
@click.option(
    "--revoke-temporary",
    is_flag=True,
    help="Also revoke the right to create temporary tables from all other roles.",
)
@click.option("--grant", metavar="ROLE", help="Only grant the rights of the application to ROLE, at once.")
@click.option("--grant-search", metavar="ROLE", help="Only grant the right to search to ROLE, at once.")
@click.option("--dry-run", is_flag=True, help="With --grant or --grant-search: only print the statements.")
@as_json
@click.pass_obj
def roles(
    target: Target,
    /,
    *,
    apply: bool,
    grant: str | None,
    grant_search: str | None,
    revoke_temporary: bool,
    dry_run: bool,
    as_json: bool,
    **names: str,
) -> None:
    """
    Print the SQL that creates three roles with the least rights.

    \b
      owner        runs migrations
      application  saves, moves, claims and searches tracks, but cannot change
                   the schema or forge the history
      search       reads what searches need

    The roles cannot log in. Give them passwords, or make your own login roles their members.

    Run the command with --apply as a superuser, or as the owner of the database with CREATEROLE, and
    again after each upgrade:

    \b
      audiocatalog upgrade && audiocatalog roles --apply

    If your services have their own roles, grant the rights to each role, as the owner of the tables:

    \b
      audiocatalog roles --grant uploads

    In PostgreSQL, every role may create temporary tables and so fill the disk. --revoke-temporary revokes this right
    from all roles but the owner and superusers. Grant the right by name to roles that need temporary tables.
    """  # noqa: D301  # Click keeps the lines of a paragraph only after a real backspace character.
    if grant is not None or grant_search is not None:
        if grant is not None and grant_search is not None:
            raise click.UsageError("--grant and --grant-search exclude each other: leave one of them out")
        if revoke_temporary:
            raise click.UsageError("--revoke-temporary works only without --grant and --grant-search: leave one out")
        _grant(target, grant or grant_search or "", "app" if grant else "search", dry_run=dry_run, as_json=as_json)
        return
    if dry_run:
        raise click.UsageError(
            "--dry-run needs --grant or --grant-search: leave --dry-run and --apply out to print SQL"
        )
    with inputs_by_option():
        chosen = RoleNames(**names)
    with target.database() as url:
        try:
            script = (apply_roles if apply else roles_sql)(url, chosen, revoke_temporary=revoke_temporary)
        except PermissionDenied:
            raise Failure(
                "this database role may not create roles, or may not grant rights on audiocatalog's objects. Nothing "
                "was changed. Run the command as a superuser, or as the owner of database and schema with CREATEROLE"
            ) from None
    done = f"the roles {chosen.owner}, {chosen.app} and {chosen.search} have their rights"
    output.show({"applied": apply, **names, "sql": script}, done if apply else script, as_json=as_json)


def _grant(target: Target, role: str, rights: Rights, *, dry_run: bool, as_json: bool) -> None:
    with target.database() as url:
        try:
            script = (grant_sql if dry_run else grant_rights)(url, role, rights)
        except PermissionDenied:
            raise Failure(
                "this database role may not grant rights on audiocatalog's objects. Nothing was changed. Run the "
                "command as the owner of the tables and their schema, or as a superuser"
            ) from None
    done = f"the role {escaped(role)} has the rights of the {_NAMED[rights]}"
    value = {"applied": not dry_run, "role": role, "rights": rights, "sql": script}
    output.show(value, script if dry_run else done, as_json=as_json)
