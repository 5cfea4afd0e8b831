"""What somebody typed into a search box, read into terms, exclusions and ranges; every text means something.

::

    dark side          both words; the last may go on, unless a space follows it
    "dark side"        a phrase: these words next to each other, in this order
    -live  -"radio edit"  -artist:cher        none of these
    mono OR stereo     one of the two; binds closer than the space between other terms
    artist:cher  title:"hey jude"  album:…  genre:…        in this field
    year:1990  year:1990..1999  year:1990..  year:..1999   both ends included
    duration:270  duration:4:30  duration:..4:30  duration:3:00..1:02:03.5   seconds, m:ss or h:mm:ss
    01890a5d-ac96-774b-bcce-b302099a8057      the track of this id, if nothing else is typed

What fits no rule is a word like any other: ``7"``, ``blink-182``, ``Artist - Title``, ``Title: Something``, ``year:x``.
Case, accents and punctuation stay as typed: the server folds them, for queries and for stored text alike.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.characters import INVISIBLE
from audiocatalog.models.ids import is_id
from audiocatalog.models.limits import TextLimit, clean_text
from audiocatalog.models.metadata import NUMBER_LIMITS
from audiocatalog.search.results import MAXIMUM_TERMS

MAXIMUM_CHARACTERS: Final = 1000

#: The fields that a term can be bound to.
TERM_FIELDS: Final = ("title", "artist", "album", "genre")

_VISIBLE: Final = re.compile(f"[^{INVISIBLE}]")
_WORD: Final = re.compile(r"\S+")
#: What closes a phrase, by what opens it; countries differ in which quote comes first.
_CLOSING: Final[Mapping[str, str]] = {'"': '"', "“": "”", "„": "“”", "”": "”", "«": "»", "»": "«»"}
_QUOTE: Final = re.compile(f"[{''.join(_CLOSING)}]")

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Term:
    """
    Name one thing to look for: a word as typed, which may hold punctuation (AC/DC), or a phrase.

    *field* is one of TERM_FIELDS, or None for any of them. A *phrase* is words that stand next to each other in this
    order, here with one space between them; a *prefix* is a word that may go on.
    """

    text: str
    field: str | None = None
    is_phrase: bool = False
    is_prefix: bool = False


class Range(NamedTuple, Generic[Number]):
    """Bound a value by *lowest* and *highest*, both included; one of them may be None, an open end."""

    lowest: Number | None
    highest: Number | None


@dataclass(frozen=True, slots=True)
class Query:
    """
    Hold what was typed, as *text* (in NFC, trimmed, empty where nothing is visible) and as what it means.

    A track must meet every group of *groups*, each by one of its alternatives, and no term of *excluded*; its *year*
    and its *duration* (seconds) must lie within their ranges. *groups* is empty if only ranges narrow the search, and
    if there is an *id*, to which nothing else applies. *ignored* is how many terms at the end were one too many.
    """

    text: str
    groups: tuple[tuple[Term, ...], ...] = ()
    excluded: tuple[Term, ...] = ()
    year: Range[int] | None = None
    duration: Range[float] | None = None
    id: UUID | None = None
    ignored: int = 0

    @property
    def words(self) -> list[str]:
        """The words of the text, no more of them than terms and the OR between them."""
        return self.text.split()[: 2 * MAXIMUM_TERMS]

    @property
    def is_plain(self) -> bool:
        """Whether there are words and nothing else, so that the whole text may be a name."""
        terms = [term for group in self.groups for term in group]
        return (
            0 < len(terms) == len(self.groups)
            and not any(term.field or term.is_phrase for term in terms)
            and not (self.excluded or self.year or self.duration)
        )


def parse_query(text: object) -> Query:
    """
    Read what somebody typed; the only texts that are refused are those that break a limit.

    Where rules meet: of two ranges of one field, what they have in common counts, and a range that would leave nothing
    is a word. OR joins wanted terms only; beside an exclusion, a range or another OR, it is a word. A range cannot be
    excluded: ``-year:1990`` excludes the word. Exclusions without anything to exclude from are words, hyphens and all.
    Words without a visible character are dropped.

    The first 32 terms count, wanted or excluded; a phrase that goes on behind them is cut. The words of a phrase count
    one by one, a range counts as one, and OR between two terms does not count. What is behind them is ignored.

    Raises:
        InvalidInput: *text* is no text, longer than 1,000 characters, or not storable as text.

    >>> query = parse_query('artist:cher "believe" -live year:1998..')
    >>> [[term.text for term in alternatives] for alternatives in query.groups], query.excluded
    ([['cher'], ['believe']], (Term(text='live', field=None, is_phrase=False, is_prefix=False),))
    >>> query.year
    Range(lowest=1998, highest=None)

    """
    typed = clean_text("query", text, TextLimit(MAXIMUM_CHARACTERS))
    if isinstance(typed, Problem):
        raise InvalidInput(typed, operation="search")
    typed = typed or ""
    trimmed = typed.strip()
    if is_id(trimmed):
        return Query(trimmed, id=UUID(trimmed))

    terms: list[Term | None] = []  # None holds the place of what is not wanted, so that OR does not reach over it.
    excluded: list[Term] = []
    ranges: dict[str, Range[Any]] = {}
    parsed, ignored = _first_terms(list(_split_terms(trimmed)))
    if all(is_excluded for _, is_excluded in parsed):
        parsed, ignored = _first_terms([(Term(word), False) for word in _visible_words(trimmed)])
    for term, is_excluded in parsed:
        limits = {} if is_excluded else _parse_range(term, ranges)
        ranges |= limits
        if is_excluded:
            excluded.append(term)
        terms.append(None if is_excluded or limits else term)
    last = terms[-1] if terms and not ignored else None
    if last and not last.is_phrase and last != _OR and not (typed[-1].isspace() or typed[-1] in _CLOSING):
        terms[-1] = replace(last, is_prefix=True)
    groups = tuple(_grouped(terms))
    return Query(trimmed, groups, tuple(excluded), ranges.get("year"), ranges.get("duration"), ignored=ignored)


_OR: Final = Term("OR")
_Parsed = tuple[Term, bool]


def _first_terms(parsed: Sequence[_Parsed]) -> tuple[list[_Parsed], int]:
    """Return the terms that count, each with whether it is excluded, and how many are behind them."""
    first: list[_Parsed] = []
    left, ignored, ends_in_or = MAXIMUM_TERMS, 0, False
    for before, (term, is_excluded), after in zip([None, *parsed], parsed, [*parsed[1:], None], strict=False):
        is_or = term == _OR and not is_excluded and _is_alternative(before) and _is_alternative(after)
        count = 0 if is_or else _count_terms(term.text)
        if not ignored and count <= left:
            first.append((term, is_excluded))
            left, ends_in_or = left - count, is_or
            continue
        if not ignored:
            if cut := _first_words(term.text, left):
                first.append((replace(term, text=cut), is_excluded))
                count -= _count_terms(cut)
            elif ends_in_or:
                first.pop()
        ignored += count
    return first, ignored


def _is_alternative(parsed: _Parsed | None) -> bool:
    """Tell whether OR can join the term that was read to another."""
    return parsed is not None and not parsed[1] and parsed[0] != _OR and not _parse_range(parsed[0], {})


def _first_words(text: str, most: int) -> str:
    """Return the longest beginning of *text* that holds at most *most* terms."""
    length = bisect_right(range(1, len(text) + 1), most, key=lambda length: _count_terms(text[:length]))
    return " ".join(_visible_words(text[:length]))


def _visible_words(text: str) -> list[str]:
    return [word for word in text.split() if _VISIBLE.search(word)]


def _split_terms(text: str) -> Iterator[tuple[Term, bool]]:
    """Part *text* into words and phrases, and tell of each whether it is excluded."""
    closing = _closing_quotes(text)
    letters = [0, *accumulate(map(str.isalnum, text))]  # How many letters and digits stand before each place.
    place = 0
    while match := _WORD.search(text, place):
        word, (start, place) = match.group(), match.span()
        hyphen = word.startswith("-")
        field = _field_before(word[hyphen:])
        begin = start + hyphen + (len(field) + 1 if field else 0)
        end = closing.get(begin, place)
        if hyphen and letters[start] == letters[end]:
            yield Term(word), False
        elif phrase := " ".join(_visible_words(text[begin + 1 : end])) if begin in closing else "":
            place = end + 1
            yield Term(phrase, field, is_phrase=True), hyphen
        elif _VISIBLE.search(word):
            yield Term(text[begin:place], field), hyphen


def _closing_quotes(text: str) -> dict[int, int]:
    """Return the places of the quotes that could open a phrase, each with the place of the one that would close it."""
    nearest: dict[str, int] = {}
    closing = {}
    for match in reversed(list(_QUOTE.finditer(text))):
        quote, place = match.group(), match.start()
        if ends := [nearest[end] for end in _CLOSING[quote] if end in nearest]:
            closing[place] = min(ends)
        if not text[place + 1 : place + 2].strip():
            nearest[quote] = place
    return closing


def _field_before(word: str) -> str | None:
    """Return the field that *word* begins with, if something visible follows its colon."""
    name, _, rest = word.partition(":")
    field = name.lower()
    return field if field in TERM_FIELDS and _VISIBLE.search(rest) else None


def _seconds(clock: str) -> float:
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


_NUMBERS: Final[Mapping[str, tuple[re.Pattern[str], Callable[[str], float]]]] = {
    "year": (re.compile(r"\d+", re.ASCII), int),
    "duration": (re.compile(r"\d+(:[0-5]\d){0,2}(\.\d+)?", re.ASCII), _seconds),
}


def _parse_range(term: Term, before: Mapping[str, Range[Any]]) -> dict[str, Range[Any]]:
    """Return what *term* leaves of the range of its field; nothing if it is no range, or leaves nothing."""
    name, _, written = term.text.partition(":")
    field = name.lower()
    if term.is_phrase or term.field or field not in _NUMBERS:
        return {}
    limit = NUMBER_LIMITS[field]
    pattern, number = _NUMBERS[field]
    first, dots, last = written.partition("..")
    ends = [first, last if dots else first]
    if not any(ends) or not all(pattern.fullmatch(end) for end in ends if end):
        return {}
    lowest, highest = (number(end) if end else None for end in ends)
    if any(end is not None and not limit.lowest <= end <= limit.highest for end in (lowest, highest)):
        return {}
    other = before.get(field, Range(None, None))
    lowest = max((end for end in (lowest, other.lowest) if end is not None), default=None)
    highest = min((end for end in (highest, other.highest) if end is not None), default=None)
    empty = lowest is not None and highest is not None and lowest > highest
    return {} if empty else {field: Range(lowest, highest)}


def _count_terms(text: str) -> int:
    """Return how many terms the server makes of *text*: some signs stand for several words, & among them."""
    return len(unicodedata.normalize("NFKD", text).replace("&", " and ").split())


def _grouped(terms: Sequence[Term | None]) -> Iterator[tuple[Term, ...]]:
    """Join the terms that OR stands between; None parts."""
    group: list[Term] = []
    joined = False
    for before, term, after in zip([None, *terms], terms, [*terms[1:], None], strict=False):
        if term == _OR and {before, after}.isdisjoint({None, _OR}):
            joined = True
        elif term:
            if group and not joined:
                yield tuple(group)
                group = []
            group.append(term)
            joined = False
    if group:
        yield tuple(group)
