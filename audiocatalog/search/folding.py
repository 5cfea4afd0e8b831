"""
Folding and splitting of text into words, with the position of every character, for highlights.

These functions mirror ``audiocatalog_fold_v1`` and ``audiocatalog_words_v1`` in ``alembic/functions/search_v1.sql``,
which the server uses to find tracks. A test compares the results of both for every character of Unicode.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, pairwise, repeat
from typing import Final, NamedTuple

from audiocatalog.models.characters import ALONE, BLANKS, SEPARATORS
from audiocatalog.search.results import Span

#: The characters that folding drops: marks of Latin, Greek, Cyrillic, Hebrew and Arabic, the Arabic tatweel, invisible
#: characters that are not blanks, and the noncharacter that ends a run of marks in SQL.
VANISHING: Final = (
    r"\u00ad\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u061c"
    r"\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u08ca-\u08e1\u08e3-\u08ff"
    r"\u115f\u1160\u17b4\u17b5\u180b-\u180f\u1ab0-\u1aff\u1dc0-\u1dff\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u20d0-\u20ff\ufdd0\ufe00-\ufe0f\ufe20-\ufe2f\ufeff\ufff0-\ufffb\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
#: Replacements for signs that NFKD would decompose to a space or to letters.
SIGNS: Final = str.maketrans("´™℠🅪🅫🅬", "'®®®®®")
#: Ranges of code points with capitals that are not listed in PLAIN one by one.
CAPITALS: Final = (
    (0x0180, 0x058F),  # Latin, Greek, Cyrillic
    (0x10A0, 0x10FF),  # Georgian
    (0x13A0, 0x13FF),  # Cherokee
    (0x1C80, 0x1CBF),  # Cyrillic, Georgian
    (0x1E00, 0x1EFF),  # Latin
    (0x2100, 0x218F),  # letterlike symbols
    (0x2C00, 0x2CFF),  # Glagolitic, Latin, Coptic
    (0xA640, 0xA7FF),  # Cyrillic, Latin
    (0x10400, 0x105BF),  # Deseret, Osage, Vithkuqi
    (0x10C80, 0x10D8F),  # Old Hungarian, Garay
    (0x118A0, 0x118DF),  # Warang Citi
    (0x16E40, 0x16E7F),  # Medefaidrin
    (0x1E900, 0x1E943),  # Adlam
)
#: Plain forms of capitals, of letters that do not decompose, and of typographic apostrophes and hyphens.
PLAIN: Final = (
    str.maketrans(
        {
            capital: capital.lower()
            for first, last in CAPITALS
            for capital in map(chr, range(first, last + 1))
            if len(capital.lower()) == 1 and capital.lower() != capital
        }
    )
    | str.maketrans(
        "’‘‛ʼʹʺʻʽʾʿˮ`′ꞌꞋ՚׳״‐‑‒–—―−"
        "øØłŁđĐðÐħĦıŋŊŧŦəƏȺⱥȾⱦςєЄґҐ"
        "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"
        "АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЂЅІЈЉЊЋЏҒҖҚҢҮҰҲҺӘӨ"
        "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "''''''''''''''''''-------"
        "oollddddhhinnttəəaattσеегг"
        "αβγδεζηθικλμνξοπρστυφχψω"
        "абвгдежзиклмнопрстуфхцчшщъыьэюяђѕіјљњћџғҗқңүұҳһәө"
        "աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆabcdefghijklmnopqrstuvwxyz",
    )
    | str.maketrans(
        dict.fromkeys("ßẞ", "ss")
        | dict.fromkeys("æÆ", "ae")
        | dict.fromkeys("œŒ", "oe")
        | {"þ": "th", "Þ": "th", "&": " and "}
    )
)

#: Longer words are cut into pieces. Longer symbols are cut to their first characters.
LONGEST_WORD: Final = 200
LONGEST_SYMBOL: Final = 50
#: A longer run of marks is cut, because its normalisation takes quadratic time.
MAX_MARKS: Final = 30

_VANISHING = re.compile(f"[{VANISHING}]")
_RUN = re.compile(f"[^{SEPARATORS}]+")
_WORD = re.compile(f"(?![{SEPARATORS}])[{ALONE}]|[^{SEPARATORS}{ALONE}]{{1,{LONGEST_WORD}}}")
_TERM_WITH_PUNCTUATION = re.compile(f"(?<![^{BLANKS}])[^{SEPARATORS}]*+[^{BLANKS}]+")
_AROUND_SIGNS: Final = '()[]{}"'
_SIGN = re.compile("[$!@]")
# Signs that are read as letters: $ beside a letter or digit (Ke$ha), ! and @ between two letters or digits (P!nk).
_DOLLARS = re.compile(rf"(?<=[^{SEPARATORS}])\$+|(?<!\$)\$++(?=[^{SEPARATORS}])")
_EXCLAMATION_MARK = re.compile(f"(?<=[^{SEPARATORS}])!(?=[^{SEPARATORS}])")
_AT_SIGN = re.compile(f"(?<=[^{SEPARATORS}])@(?=[^{SEPARATORS}])")
_BETWEEN_APOSTROPHES = re.compile("[^']+")
_WRITTEN_WORD = re.compile(r"[^ \n]+")


class Folded(NamedTuple):
    """
    Folded text with the origin of its characters.

    The character ``text[i]`` comes from the original's characters ``starts[i]`` up to, not including, ``ends[i]``.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def words(self) -> Iterator[tuple[str, int, int]]:
        """Yield each word with its start and end in the original."""
        for word in _WRITTEN_WORD.finditer(self.text):
            yield word.group(), self.starts[word.start()], self.ends[word.end() - 1]


#: Consecutive words, as spans of folded text.
Line = tuple[Folded, list[Span]]


def fold(text: str) -> Folded:
    """Fold case, accents, ligatures, full width and typographic punctuation, as ``audiocatalog_fold_v1`` does."""
    if text.isascii():
        folded = text.lower().replace("`", "'")
        if "&" in folded:
            return _placed((letter if letter != "&" else " and ", at, at + 1) for at, letter in enumerate(folded))
    elif any(map(_attaches, text)):
        return _placed(_folded_clusters(text))
    else:
        letters = list(map(_folded, text))
        folded = "".join(letters)
        if len(folded) != len(text) or "" in letters:
            return _placed((letter, at, at + 1) for at, letter in enumerate(letters))
    places = list(range(len(folded) + 1))
    return Folded(folded, places[:-1], places[1:])


def tokenize(text: str) -> Folded:
    r"""
    Return the words of *text* with a space before and after each, as ``audiocatalog_words_v1`` splits them.

    Words on one line are consecutive in the text. The first line holds the split words. Each joined spelling, and each
    term that is also split at its apostrophes, has a line of its own.

    >>> tokenize("AC/DC rule").text
    ' ac dc rule \n acdc \n'

    """
    # Short texts are cached, because many of them are names that repeat.
    return _tokenize_short(text) if len(text) <= LONGEST_WORD else _tokenize(text)


# The origins of the characters if folding only puts a space before the text.
_SHIFTED_STARTS: Final = range(-1, LONGEST_WORD + 1)
_SHIFTED_ENDS: Final = range(LONGEST_WORD + 2)


@lru_cache(maxsize=1024)
def _tokenize_short(text: str) -> Folded:
    if text.isascii() and text.replace(" ", "").isalnum() and "  " not in text:
        return Folded(f" {text.lower()} ", _SHIFTED_STARTS, _SHIFTED_ENDS)
    return _tokenize(text)


def _tokenize(text: str) -> Folded:
    """Tokenize text without the cache."""
    folded = fold(text)
    closed = folded
    if "'" in folded.text:
        closed = _together(folded, [piece.span() for piece in _BETWEEN_APOSTROPHES.finditer(folded.text)])
    return _written([(closed, [word.span() for word in _WORD.finditer(closed.text)]), *_spellings(folded)])


def _spellings(folded: Folded) -> Iterator[Line]:
    """Yield the other spellings of terms with punctuation."""
    text = folded.text
    lettered = _with_signs_as_letters(folded)
    for term in _TERM_WITH_PUNCTUATION.finditer(text):
        start, end = term.span()
        runs = [run.span() for run in _RUN.finditer(text, start, end)]
        if not runs:
            yield _word(_symbol(folded, *_bare(folded.text, start, end)))
        elif sum(end - start for start, end in runs) <= LONGEST_WORD:
            # The first line already joins runs at apostrophes and splits them at other punctuation.
            parted = [bool(text[end:start].strip("'")) for (_, end), (start, _) in pairwise(runs)]
            if any(parted):
                yield _word(_together(folded, runs))
            if lettered.text[start:end] != text[start:end]:
                yield _word(_together(lettered, [run.span() for run in _RUN.finditer(lettered.text, start, end)]))
            if not all(parted):
                yield folded, [word.span() for word in _WORD.finditer(text, start, end)]


def _with_signs_as_letters(folded: Folded) -> Folded:
    """Replace $, ! and @ with s, i and a where names use these signs as letters."""
    text = folded.text
    if not _SIGN.search(text):
        return folded
    text = _DOLLARS.sub(lambda dollars: "s" * len(dollars.group()), text)
    return folded._replace(text=_AT_SIGN.sub("a", _EXCLAMATION_MARK.sub("i", text)))


def _word(folded: Folded) -> Line:
    """Return a line with all *folded* text as one word."""
    return folded, [(0, len(folded.text))]


def _together(folded: Folded, spans: Sequence[Span]) -> Folded:
    """Join the characters in *spans*."""
    text, starts, ends = folded
    return Folded(
        "".join([text[start:end] for start, end in spans]),
        list(chain.from_iterable([starts[start:end] for start, end in spans])),
        list(chain.from_iterable([ends[start:end] for start, end in spans])),
    )


def _bare(text: str, start: int, end: int) -> Span:
    """Return the span of a sign without the brackets and quotes around it, unless the sign consists only of these."""
    sign = text[start:end]
    bare = sign.strip(_AROUND_SIGNS)
    if bare:
        start += len(sign) - len(sign.lstrip(_AROUND_SIGNS))
        end = start + len(bare)
    return start, min(end, start + LONGEST_SYMBOL)


def _symbol(folded: Folded, start: int, end: int) -> Folded:
    """Return the word for a name that is only punctuation: ``=symbol:`` and the bytes of the name in hexadecimal."""
    codes = [sign.encode().hex() for sign in folded.text[start:end]]
    codes[0] = f"=symbol:{codes[0]}"
    return _placed(zip(codes, folded.starts[start:end], folded.ends[start:end], strict=True))


def _written(lines: Iterable[Line]) -> Folded:
    """Write *lines* with a space before and after each word."""
    written: list[str] = []
    written_starts: list[int] = []
    written_ends: list[int] = []
    for (text, starts, ends), words in lines:
        for start, end in words:
            written += (" ", text[start:end])
            written_starts.append(0)
            written_starts += starts[start:end]
            written_ends.append(0)
            written_ends += ends[start:end]
        written.append(" \n")
        written_starts += (0, 0)
        written_ends += (0, 0)
    return Folded("".join(written), written_starts, written_ends)


def _placed(pieces: Iterable[tuple[str, int, int]]) -> Folded:
    """Join *pieces*, each a folded text with its start and end in the original."""
    text: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for piece, start, end in pieces:
        if piece:
            text.append(piece)
            starts += repeat(start, len(piece))
            ends += repeat(end, len(piece))
        elif ends:
            ends[-1] = end  # A dropped mark belongs to the character before it.
    return Folded("".join(text), starts, ends)


def _folded_clusters(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each character of *text*, folded together with the marks after it, and its start and end."""
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and end - start <= MAX_MARKS and _attaches(text[end]):
            continue
        cluster = text[start:end]
        folded = _folded(cluster)
        if len(cluster) > 1 and folded == "".join(letters := list(map(_folded, cluster))):
            for at, letter in enumerate(letters, start):
                yield letter, at, at + 1
        else:
            # Normalisation composed or reordered the cluster, such as a Hangul syllable, so it cannot be split.
            yield folded, start, end
        start = end


@lru_cache(maxsize=4096)
def _folded(cluster: str) -> str:
    """Fold *cluster*, a part of a text that is not only ASCII."""
    kept = _VANISHING.sub("", unicodedata.normalize("NFKD", cluster.translate(SIGNS)))
    return unicodedata.normalize("NFKC", kept).translate(PLAIN)


@lru_cache(maxsize=4096)
def _attaches(letter: str) -> bool:
    """Return whether normalisation may compose *letter* with the character before it, or reorder the two."""
    first = unicodedata.normalize("NFKD", letter)[0]
    # Marks, vowels and finals of Hangul, the vowel sign of Kirat Rai, and dropped characters that are not marks.
    return (
        unicodedata.category(first).startswith("M")
        or "\u1160" <= first <= "\u11ff"
        or first == "\U00016d67"
        or bool(_VANISHING.match(first))
    )
