"""The command `audiocatalog`: its subcommands and the options that precede them."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from audiocatalog.cli.claim_commands import claim, complete, fail, release, renew
from audiocatalog.cli.commands import health, history, show, stats, status, upgrade
from audiocatalog.cli.demo.command import tell_story
from audiocatalog.cli.export_command import export_file
from audiocatalog.cli.failures import plain_failures, tell
from audiocatalog.cli.importing.command import import_file
from audiocatalog.cli.rebuild_command import rebuild
from audiocatalog.cli.roles_command import roles
from audiocatalog.cli.search_commands import explain, search
from audiocatalog.cli.target import Target
from audiocatalog.cli.vocabulary_command import vocabulary

__all__ = ["main"]


class _Group(click.Group):
    """A group that lists its commands in a useful order and reports every failure in the same form."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make the output escape the characters that the terminal cannot encode, then parse *args*."""
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(errors="backslashreplace")
        with plain_failures():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. If an option of the group follows the command, say that it precedes the command."""
        with plain_failures():
            try:
                return super().invoke(ctx)
            except click.NoSuchOption as error:
                if any(error.option_name in option.opts for option in self.params):
                    raise click.UsageError(f"{error.option_name} must come before the command", ctx) from None
                raise

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order in which the commands were added."""
        return list(self.commands)


class _Waits(logging.Handler):
    """A log handler that prints on stderr what a migration waits for."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        if getattr(record, "operation", None) == "upgrade":
            tell(record.getMessage())


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if not value:
        return
    try:
        number = version("audiocatalog")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"audiocatalog {number}")
    context.exit()


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--url", metavar="URL", help="The database: postgresql://user:password@host/name.")
@click.option("--local", metavar="DIR", type=click.Path(file_okay=False), help="Use the catalogue in this folder.")
@click.option("--actor", metavar="NAME", help="The name that the history records; default: your user name.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.pass_context
def main(context: click.Context, url: str | None, local: str | None, actor: str | None) -> None:
    """
    Keep a catalogue of audio tracks in PostgreSQL.

    Choose the catalogue in one of three ways:

    \b
      --url URL     a database on your own server
      --local DIR   a folder; each command starts a server on it and stops it
      environment   AUDIOCATALOG_DATABASE_URL, or DB_HOST, DB_PORT, DB_NAME,
                    DB_USER and DB_PASSWORD

    The options precede the command:

    \b
      audiocatalog demo
      audiocatalog --local music upgrade
      audiocatalog --local music import tracks.csv
      audiocatalog --local music search sigur ros

    \b
    Exit codes:
      0    done
      1    the command failed, or the catalogue refused the request
      2    the command line or a setting is wrong
      3    the import finished, but refused some rows
      130  interrupted
      141  the program that read the output closed it
    """  # noqa: D301  # Click keeps the lines of a paragraph only after a real backspace character.
    # The libraries log every failed attempt to connect. The command prints one error at the end, which is enough.
    for library in ("psycopg", "sqlalchemy"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    # An upgrade or a rebuild may wait for minutes, so the command prints at once what it waits for.
    logger, teller = logging.getLogger("audiocatalog"), _Waits(logging.WARNING)
    logger.addHandler(teller)
    context.call_on_close(lambda: logger.removeHandler(teller))
    context.obj = Target(url, local, actor)


_commands = (
    *(upgrade, rebuild, roles, import_file, export_file, search, explain, show, status, history, stats),
    *(claim, renew, complete, fail, release),
    *(vocabulary, health, tell_story),
)
for _command in _commands:
    main.add_command(_command)
