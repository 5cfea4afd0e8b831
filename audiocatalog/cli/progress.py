"""How far an import has come: a bar where somebody watches, a line now and then where nobody does."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from audiocatalog.cli.saving import Tally
from audiocatalog.cli.text import counted, time_span

_SECONDS_BETWEEN_LINES: Final = 10.0


class Reporter(Protocol):
    """Tell on stderr how far an import is, and whatever else there is to tell meanwhile."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, line: str) -> None:
        """Print *line*, which has nothing to do with the progress."""

    def update(self, position: int | None) -> None:
        """Take note that *position* bytes have been read."""


def reporter(tally: Tally, size: int | None, clock: Callable[[], float] = time.monotonic) -> Reporter:
    """Return what suits stderr, for an import of *size* bytes (None if that is unknown) that *tally* counts."""
    console = Console(stderr=True, highlight=False)
    speed = _Speed(tally, size, clock)
    return _Bar(console, speed) if console.is_interactive else _Lines(speed)


class _Speed:
    """Know how fast an import is and how long it will take."""

    def __init__(self, tally: Tally, size: int | None, clock: Callable[[], float]) -> None:
        self.tally = tally
        self.size = size
        self.clock = clock
        self.position: int | None = 0
        self._start = clock()

    def __str__(self) -> str:
        seconds = self.clock() - self._start
        parts = [counted(self.tally.rows, "row")]
        if self.tally.refused:
            parts.append(f"{self.tally.refused:,} refused")
        if seconds > 0:
            parts.append(f"{self.tally.rows / seconds:,.0f} rows/s")
        if self.size and self.position:
            parts.append(f"{time_span(round(seconds * (self.size - self.position) / self.position))} left")
        return ", ".join(parts)


class _Lines:
    """Print a plain line every ten seconds."""

    def __init__(self, speed: _Speed) -> None:
        self._speed = speed
        self._last = speed.clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def update(self, position: int | None) -> None:
        self._speed.position = position
        if (now := self._speed.clock()) - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            done = f"{100 * position // self._speed.size} %, " if self._speed.size and position else ""
            self.say(f"importing: {done}{self._speed}")


class _Bar:
    """Draw a bar below everything else that is printed."""

    def __init__(self, console: Console, speed: _Speed) -> None:
        self._speed = speed
        self._progress = Progress(
            TextColumn("importing"), BarColumn(bar_width=24), TextColumn("{task.description}"), console=console,
            transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=speed.size)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        # The text is wrapped by the terminal, so that a line that is copied from it is one line.
        self._progress.console.print(Text(line), soft_wrap=True)

    def update(self, position: int | None) -> None:
        self._speed.position = position
        self._progress.update(self._task, completed=position, description=str(self._speed))
