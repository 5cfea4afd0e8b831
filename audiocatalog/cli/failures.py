"""Failures of commands: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import click
from click.exceptions import NoArgsIsHelpError

from audiocatalog.errors import CatalogError, ConfigurationError
from audiocatalog.errors.printing import escaped

#: The exit code of an import that refused some rows and saved all others.
ROWS_REFUSED: Final = 3
#: The exit code if the program that reads the output closes it: 128 plus the number of SIGPIPE, as in a shell.
BROKEN_PIPE: Final = 141


class Failure(click.ClickException):
    """A failure that ends the command with one line on stderr."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"error: {escaped(self.message)}", file=file, err=file is None)


class WrongSettings(Failure):
    """A failure because of wrong options or settings."""

    exit_code = 2


class Interrupted(Failure):
    """An interruption of the command. The exit code is 128 plus the number of SIGINT, as in a shell."""

    exit_code = 130


def failure_of(error: CatalogError) -> Failure:
    """Return the failure that reports *error*."""
    # The messages of errors leave ids out. The user typed the id, so the command may show it.
    track_id = getattr(error, "track_id", None)
    message = str(error) if track_id is None else f"track {track_id}: {error}"
    return WrongSettings(message) if isinstance(error, ConfigurationError) else Failure(message)


@contextmanager
def plain_failures() -> Iterator[None]:
    """
    Turn errors of the catalogue and of the system, a closed pipe and Ctrl-C into failures.

    Click's own errors repeat arguments and file names, so these errors are escaped before they are shown.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except (Failure, NoArgsIsHelpError):
        raise
    except click.UsageError as error:
        raise click.UsageError(escaped(error.format_message()), error.ctx) from None
    except click.ClickException as error:
        raise Failure(error.format_message()) from None
    except CatalogError as error:
        raise failure_of(error) from None
    except BrokenPipeError:
        _discard_output()
        raise click.exceptions.Exit(BROKEN_PIPE) from None
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    except OSError as error:
        # On a full disk, for example, the flush at exit would fail again.
        _discard_output()
        what = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{what}{error.strerror or error}") from None


def tell(line: str) -> None:
    """Print *line* on stderr, with control characters escaped."""
    click.echo(escaped(line), err=True)


def _discard_output() -> None:
    """Discard the rest of the output. Otherwise, Python flushes it at exit and reports the failure again."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # Only its descriptor is needed.
        # A stream that was closed at the start is None.
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere.fileno(), stream.fileno())
