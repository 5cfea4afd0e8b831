"""The query language: text from a search box, parsed into terms, exclusions and ranges.

::

    dark side          both words; the last is a prefix, unless a space follows it
    "dark side"        a phrase: these words side by side, in this order
    -live  -"radio edit"  -artist:cher        none of these
    mono OR stereo     either word; binds closer than the space between other terms
    artist:cher  title:"hey jude"  album:…  genre:…        in this field
    year:1990  year:1990..1999  year:1990..  year:..1999   both ends included
    duration:270  duration:4:30  duration:..4:30  duration:3:00..1:02:03.5   seconds, m:ss or h:mm:ss
    01890a5d-ac96-774b-bcce-b302099a8057      the track with this id, if nothing else is typed

Every text is a valid query. Text that fits no rule is a word: ``7"``, ``blink-182``, ``Artist - Title``, ``year:x``.
Case, accents and punctuation stay as typed, because the server folds queries and stored text alike.
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
from audiocatalog.models.ids import is_id
from audiocatalog.models.limits import VISIBLE, TextLimit, clean_text
from audiocatalog.models.metadata import NUMBER_LIMITS
from audiocatalog.search.results import MAX_TERMS

MAX_CHARACTERS: Final = 1000

#: The fields to which a query can limit a term.
TERM_FIELDS: Final = ("title", "artist", "album", "genre")

_WORD: Final = re.compile(r"\S+")
#: The quotes that can close each opening quote. Some countries open with a quote that others close with.
_CLOSING: Final[Mapping[str, str]] = {'"': '"', "“": "”", "„": "“”", "”": "”", "«": "»", "»": "«»"}
_QUOTE: Final = re.compile(f"[{''.join(_CLOSING)}]")

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Term:
    """
    A word of the query, as typed and with its punctuation (AC/DC), or a phrase.

    *field*: one of TERM_FIELDS, or None for any field. *is_phrase*: whether the words of *text*, separated
    by one space, must be side by side. *is_prefix*: whether longer words match too.
    """

    text: str
    field: str | None = None
    is_phrase: bool = False
    is_prefix: bool = False


class Range(NamedTuple, Generic[Number]):
    """The bounds of a number, both included; None is an open end."""

    lowest: Number | None
    highest: Number | None


@dataclass(frozen=True, slots=True)
class Query:
    """
    A parsed query.

    - *text*: the query in NFC, trimmed; empty if it has no visible character;
    - *groups*: a track must match one term of each group; empty if the query has only ranges or an id;
    - *excluded*: a track must match none of these terms;
    - *year*, *duration*: the ranges; the bounds of *duration* are seconds;
    - *id*: the id of the only track that can be a hit;
    - *ignored*: the number of terms beyond the limit, which are not searched for.
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
        """The first words of the text, at most 64: the 32 terms, and an OR between each two of them."""
        return self.text.split()[: 2 * MAX_TERMS]

    @property
    def is_plain(self) -> bool:
        """Whether the query has only words, so that the whole text may be a name."""
        terms = [term for group in self.groups for term in group]
        return (
            0 < len(terms) == len(self.groups)
            and not any(term.field or term.is_phrase for term in terms)
            and not (self.excluded or self.year or self.duration)
        )


def parse_query(text: object) -> Query:
    """
    Parse the text of a search box.

    If rules overlap:

    - Two ranges of one field are intersected. If the intersection is empty, the second range is a word.
    - OR beside an exclusion, a range or another OR is a word.
    - A range cannot be excluded: ``-year:1990`` excludes the word ``year:1990``.
    - If every term is excluded, the terms are words with a hyphen.
    - Words without a visible character are dropped.

    A search uses at most 32 terms, including excluded terms, and ignores the rest of the query. Each word of a phrase
    counts as a term. A range counts as one term. OR does not count.

    Raises:
        InvalidInput: *text* is not a string, has more than 1,000 characters, or holds a character that cannot be
            stored.

    >>> query = parse_query('artist:cher "believe" -live year:1998..')
    >>> [[term.text for term in alternatives] for alternatives in query.groups], query.excluded
    ([['cher'], ['believe']], (Term(text='live', field=None, is_phrase=False, is_prefix=False),))
    >>> query.year
    Range(lowest=1998, highest=None)

    """
    typed = clean_text("query", text, TextLimit(MAX_CHARACTERS))
    if isinstance(typed, Problem):
        raise InvalidInput(typed, operation="search")
    typed = typed or ""
    trimmed = typed.strip()
    if is_id(trimmed):
        return Query(trimmed, id=UUID(trimmed))

    terms: list[Term | None] = []  # None keeps OR from joining terms across a range or an exclusion.
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
    """Return the terms within the limit, each paired with whether it is excluded, and the number of further terms."""
    first: list[_Parsed] = []
    left, ignored, ends_in_or = MAX_TERMS, 0, False
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
    """Return whether OR can join this term to another term."""
    return parsed is not None and not parsed[1] and parsed[0] != _OR and not _parse_range(parsed[0], {})


def _first_words(text: str, maximum: int) -> str:
    """Return the longest prefix of *text* with at most *maximum* terms."""
    length = bisect_right(range(1, len(text) + 1), maximum, key=lambda length: _count_terms(text[:length]))
    return " ".join(_visible_words(text[:length]))


def _visible_words(text: str) -> list[str]:
    return [word for word in text.split() if VISIBLE.search(word)]


def _split_terms(text: str) -> Iterator[tuple[Term, bool]]:
    """Yield each word or phrase of *text*, and whether the query excludes it."""
    closing = _closing_quotes(text)
    letters = [0, *accumulate(map(str.isalnum, text))]  # The number of letters and digits before each position.
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
        elif VISIBLE.search(word):
            yield Term(text[begin:place], field), hyphen


def _closing_quotes(text: str) -> dict[int, int]:
    """Map the position of each quote that can open a phrase to the position of its closing quote."""
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
    """Return the field before the colon of *word*, if a visible character follows the colon."""
    name, _, rest = word.partition(":")
    field = name.lower()
    return field if field in TERM_FIELDS and VISIBLE.search(rest) else None


def seconds_of_clock(clock: str) -> float:
    """Return the seconds in *clock*, such as 4:30, 1:02:05.5 or 270."""
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


_NUMBERS: Final[Mapping[str, tuple[re.Pattern[str], Callable[[str], float]]]] = {
    "year": (re.compile(r"\d+", re.ASCII), int),
    "duration": (re.compile(r"\d+(:[0-5]\d){0,2}(\.\d+)?", re.ASCII), seconds_of_clock),
}


def _parse_range(term: Term, before: Mapping[str, Range[Any]]) -> dict[str, Range[Any]]:
    """Return the range in *term*, intersected with the ranges *before*; an empty mapping if *term* is a word."""
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
    """Return the number of terms that *text* counts as. The server splits some signs, such as &, into several words."""
    return len(unicodedata.normalize("NFKD", text).replace("&", " and ").split())


def _grouped(terms: Sequence[Term | None]) -> Iterator[tuple[Term, ...]]:
    """Yield groups of terms: OR joins the terms beside it into one group, and a None ends a group."""
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
