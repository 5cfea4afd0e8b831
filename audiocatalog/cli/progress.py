"""The progress of a long command on stderr: the items done, the speed, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from audiocatalog.cli.failures import tell
from audiocatalog.cli.text import counted, time_span
from audiocatalog.errors.printing import escaped

_SECONDS_BETWEEN_LINES: Final = 10.0


def progress_reporter(verb: str, noun: str, size: int | None, clock: Callable[[], float] = time.monotonic) -> Reporter:
    """
    Return a progress bar if stderr is a terminal, else a printer of lines.

    *noun* names the items. *size*: the position at which the work is complete, or None if unknown.
    """
    console = Console(stderr=True, highlight=False)
    if console.is_interactive:
        return _ProgressBar(verb, noun, size, clock, console)
    return Reporter(verb, noun, size, clock)


class Reporter:
    """A printer of lines on stderr, with a line about the progress every ten seconds."""

    def __init__(self, verb: str, noun: str, size: int | None, clock: Callable[[], float]) -> None:
        self._noun = noun
        self._size = size
        self._clock = clock
        self._last = clock()
        self.begin(verb, 0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        """Print *line* without disturbing the progress."""
        tell(line)

    def begin(self, verb: str, done: int, position: int | None) -> None:
        """Begin the step *verb*. The items *done* before, up to *position*, do not count toward the speed."""
        self._verb = verb
        self._position = self._first_position = position
        self._done = self._done_before = done
        self._refused = 0
        self._start = self._clock()

    def update(self, done: int, position: int | None, refused: int = 0) -> None:
        """Show the numbers of items *done* and *refused*, up to *position*, if the position is known."""
        self._done, self._position, self._refused = done, position, refused
        self._show()

    def _show(self) -> None:
        if (now := self._clock()) - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            share = f"{100 * self._position // self._size} %, " if self._size and self._position else ""
            self.say(f"{self._verb}: {share}{self}")

    def __str__(self) -> str:
        """Return the items done, the speed, and the time left."""
        seconds = self._clock() - self._start
        parts = [counted(self._done, self._noun)]
        if self._refused:
            parts.append(f"{self._refused:,} refused")
        if seconds > 0:
            parts.append(f"{(self._done - self._done_before) / seconds:,.0f} {self._noun}s/s")
        position, way = self._position or 0, (self._position or 0) - (self._first_position or 0)
        if self._size and way > 0 and (left := round(seconds * (self._size - position) / way)):
            parts.append(f"{time_span(left)} left")
        return ", ".join(parts)


class _ProgressBar(Reporter):
    """A reporter that draws a progress bar below the other lines."""

    def __init__(self, verb: str, noun: str, size: int | None, clock: Callable[[], float], console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[verb]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=size, verb=verb)
        super().__init__(verb, noun, size, clock)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        # With soft wrapping, a terminal copies the text as one line.
        self._progress.console.print(Text(escaped(line)), soft_wrap=True)

    def begin(self, verb: str, done: int, position: int | None) -> None:
        super().begin(verb, done, position)
        self._progress.update(self._task, verb=verb, completed=position, description="")

    def _show(self) -> None:
        self._progress.update(self._task, completed=self._position, description=str(self))
