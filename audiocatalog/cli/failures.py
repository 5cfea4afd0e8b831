"""Every way to fail as one plain line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import click

from audiocatalog.cli.text import printable
from audiocatalog.errors import CatalogError, ConfigurationError

#: The end of an import that saved what it could.
ROWS_REFUSED: Final = 3
#: 128 plus the number of SIGPIPE, as shells report a program that nobody listened to.
NOBODY_READS: Final = 141


class Failure(click.ClickException):
    """End the command with one line on stderr."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"error: {printable(self.message)}", file=file, err=file is None)


class WrongSettings(Failure):
    """End a command that was asked for in the wrong way."""

    exit_code = 2


class Interrupted(Failure):
    """End a command that somebody interrupted; the number is 128 plus that of SIGINT, as shells have it."""

    exit_code = 130


def failure_of(error: CatalogError) -> Failure:
    """Return the failure that *error* is to somebody at a command line."""
    return WrongSettings(str(error)) if isinstance(error, ConfigurationError) else Failure(str(error))


@contextmanager
def plain_failures() -> Iterator[None]:
    """Let nothing that can be expected to happen end in a traceback."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except CatalogError as error:
        raise failure_of(error) from None
    except BrokenPipeError:
        _let_go_of_broken_pipes()
        raise click.exceptions.Exit(NOBODY_READS) from None
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{what}{error.strerror or error}") from None


def _let_go_of_broken_pipes() -> None:
    """Have the rest of the output go nowhere: Python would write it at its end, and complain."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # What is wanted is its descriptor.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(nowhere.fileno(), stream.fileno())
