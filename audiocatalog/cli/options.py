"""Options that several commands share, and the callbacks that read their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

import click

from audiocatalog import SearchFilters, TrackStatus
from audiocatalog.cli.failures import Failure
from audiocatalog.errors import InvalidInput, QueryTimeout
from audiocatalog.models.filters import RANGE_FILTERS, TEXT_FILTERS
from audiocatalog.models.limits import WholeLimit
from audiocatalog.models.metadata import FIELDS, LIMITS, Unit
from audiocatalog.search.query import seconds_of_clock

as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
status_choice: Final = click.Choice([str(status) for status in TrackStatus], case_sensitive=False)
whole: Final = click.option("--whole", is_flag=True, help="The last word is complete: do not match longer words.")

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: The options whose names differ from the names of their arguments.
_ARGUMENTS: Final[Mapping[str, str]] = {"query": "QUERY", "id": "ID", "facets": "--facet"}
#: Advice for arguments whose error message alone does not help.
_ADVICE: Final[Mapping[str, str]] = {
    "after": "the cursor belongs to another search: repeat the QUERY, --whole, the filters and --sort of the page that "
    "printed the cursor, or leave --after out",
    "lease": "from 10ms to 7d",
    "since": "from 1s to 366d",
}


def _thousands(text: str) -> int:
    return int(text.rstrip("k")) * (1000 if text.endswith("k") else 1)


def _end_of_second(text: str) -> float:
    """Read seconds, or a time such as 4:30. Without a fraction, such a time covers the whole second."""
    return seconds_of_clock(text) + (0.999 if ":" in text and "." not in text else 0.0)


_UNITS: Final = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0, "ms": 0.001}
_SPAN: Final = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,6})?(?:d|h|min|ms|m|s) ?)+", re.ASCII)
_SPAN_PART: Final = re.compile(r"([0-9.]+)([a-z]+)")


def read_span(context: click.Context, option: click.Parameter, text: str) -> timedelta:
    """Read a span of time such as 90s or 1h30m."""
    if not _SPAN.fullmatch(text):
        raise click.BadParameter(f"{text!r} is not a time such as 90s, 5m, 1h30m or 7d", context, option)
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _SPAN_PART.findall(text)))
    except OverflowError:
        raise click.BadParameter(f"{text!r} is too long", context, option) from None


def _read_time(context: click.Context, option: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        expected = "a time such as 2024-05-31 or 2024-05-31T14:30+02:00"
        raise click.BadParameter(f"{text!r} is not {expected}", context, option) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class _RangeForm(NamedTuple):
    """
    How to parse a range: the parser and the pattern of its bounds, their name, and an example for the help.

    *read_last*: the parser of the upper bound, if it is another one.
    """

    read: Callable[[str], float]
    pattern: str
    kind: str
    example: str
    read_last: Callable[[str], float] | None = None


_RANGE_FORMS: Final[Mapping[Unit | None, _RangeForm]] = {
    "year": _RangeForm(int, "[0-9]{1,9}", "a year", "years: 1999, 1990..1999, 1990.. or ..1999"),
    "s": _RangeForm(
        seconds_of_clock,
        r"[0-9]{1,9}(?::[0-5][0-9]){0,2}(?:\.[0-9]{1,9})?",
        "a length such as 270 (seconds) or 4:30",
        "durations: 3:00..4:30, or in seconds 180..270",
        _end_of_second,
    ),
    "Hz": _RangeForm(_thousands, "[0-9]{1,10}k?", "a rate such as 44100 or 48k", "Hz: 44100..96000 or 48k..96k"),
    "bit/s": _RangeForm(
        _thousands,
        "[0-9]{1,10}k?",
        "a rate such as 320000 or 320k",
        "bit/s: 256000..320000 or 256k..320k",
    ),
}
_WHOLE_RANGE: Final = _RangeForm(int, "[0-9]{1,10}", "a whole number", "numbers: 2, 2..8, 2.. or ..8")
_NUMBER_RANGE: Final = _RangeForm(
    float, r"[0-9]{1,10}(?:\.[0-9]{1,9})?", "a number", "numbers: 2.5, 2.5..8, 2.5.. or ..8"
)


def _form(field: str) -> _RangeForm:
    is_whole = isinstance(LIMITS[field], WholeLimit)
    return _RANGE_FORMS.get(FIELDS[field].unit, _WHOLE_RANGE if is_whole else _NUMBER_RANGE)


def range_reader(field: str) -> Callable[..., Any]:
    """Return a callback that reads a range of *field*: ``A..B``, ``A..``, ``..B`` or ``A``."""
    form = _form(field)
    ends = re.compile(rf"({form.pattern})?(\.\.)?({form.pattern})?", re.ASCII)

    def read_range(context: click.Context, option: click.Parameter, text: str | None) -> Any:  # noqa: ANN401
        if text is None:
            return None
        match = ends.fullmatch(text)
        if match is None or not (match[1] or match[3]):
            raise click.BadParameter(f"{text!r} is not {form.kind}, A..B, A.. or ..B", context, option)
        lowest, highest = match[1], match[3] if match[2] else match[1]
        read_last = form.read_last or form.read
        return (form.read(lowest) if lowest else None, read_last(highest) if highest else None)

    return read_range


def _range_option(field: str) -> Callable[[_Command], _Command]:
    text = f"Only tracks in this range of {_form(field).example}."
    return click.option(_option(field), metavar="A..B", callback=range_reader(field), help=text)


def filters(*names_of_format: str) -> Callable[[_Command], _Command]:
    """Return a decorator that adds the options that narrow a search; *names_of_format* are those for the format."""
    names: Mapping[str, Sequence[str]] = {"format": names_of_format}
    options = (
        click.option("--status", type=status_choice, multiple=True, help="Only tracks with this status."),
        *(
            click.option(
                *names.get(field, (_option(field),)),
                field,
                multiple=True,
                help=f"Only tracks with this {_words(field)}.",
            )
            for field in TEXT_FILTERS
        ),
        *map(_range_option, RANGE_FILTERS),
        click.option(
            "--created-since",
            metavar="TIME",
            callback=_read_time,
            help="Only tracks added since this time in UTC, such as 2024-05-31.",
        ),
        click.option(
            "--updated-since",
            metavar="TIME",
            callback=_read_time,
            help="Only tracks changed since this time in UTC, such as 2024-05-31T14:30.",
        ),
    )

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def filters_of(options: Mapping[str, Any]) -> SearchFilters | None:
    """Return the filters in *options*, or None if no filter is given."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return SearchFilters(**given) if given else None


def text_of(words: tuple[str, ...], *, whole: bool) -> str:
    """Return *words* as one query. A space at the end means that the last word is *whole*."""
    return " ".join(words) + (" " if whole else "")


@contextmanager
def inputs_by_option(**names: str) -> Iterator[None]:
    """Turn ``InvalidInput`` into a failure that names options. *names* maps further arguments to options."""
    arguments = {**_ARGUMENTS, **names}
    try:
        yield
    except InvalidInput as error:
        raise Failure(
            "; ".join(
                f"{arguments.get(problem.field) or _option(problem.field)}: {_ADVICE.get(problem.field, problem.rule)}"
                for problem in error.problems
            )
        ) from None


@contextmanager
def refusals_by_option() -> Iterator[None]:
    """Turn ``InvalidInput`` and a timeout of a search into failures that name options."""
    try:
        with inputs_by_option():
            yield
    except QueryTimeout:
        raise Failure(
            "the search took too long: add a filter such as --artist or --year, or raise the seconds in "
            "AUDIOCATALOG_SEARCH_TIMEOUT"
        ) from None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _words(name: str) -> str:
    return name.replace("_", " ")
