"""
How text becomes words, told with the place of every character.

The twin of ``audiocatalog_fold_v1`` and ``audiocatalog_words_v1`` in ``alembic/functions/search_v1.sql``: the server
finds with those, and what it found is marked with these. A test compares the two for every character there is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, pairwise, repeat
from typing import Final, NamedTuple

from audiocatalog.search.results import Span

#: The insides of a regular expression's brackets, as in SQL. What parts terms:
BLANKS: Final = r"\u0001-\u0020\u007f-\u00a0\u1680\u2028\u2029\u2800\u3000"
#: What parts words: these blanks, punctuation and symbols.
SEPARATORS: Final = (
    r"\u0001-\u002f\u003a-\u0060\u007b-\u00bf\u00d7\u00f7\u02c2-\u02c5\u02d2-\u02eb\u02ed\u02ef-\u02ff\u0375"
    r"\u03f6\u0482\u055b-\u055f\u0589-\u058f\u05be-\u05c6\u0600-\u061f\u066a-\u066d\u06d4\u06dd\u06de\u06e9"
    r"\u06fd\u06fe\u0700-\u070d\u07f6-\u07f9\u07fe\u07ff\u0830-\u083e\u085e\u0888\u0964\u0965\u0970"
    r"\u09f2\u09f3\u09fa\u09fb\u09fd\u0a76\u0af0\u0af1\u0b70\u0bf3-\u0bfa\u0c77\u0c7f\u0c84\u0d4f\u0d79\u0df4"
    r"\u0e3f\u0e4f\u0e5a\u0e5b\u0f01-\u0f17\u0f1a-\u0f1f\u0f34\u0f36\u0f38\u0f3a-\u0f3d\u0f85\u0fbe-\u0fc5"
    r"\u0fc7-\u0fda\u104a-\u104f\u109e\u109f\u10fb\u1360-\u1368\u1390-\u1399\u1400\u166d\u166e\u1680"
    r"\u169b\u169c\u16eb-\u16ed\u1735\u1736\u17d4-\u17d6\u17d8-\u17db\u1800-\u180a\u1940-\u1945\u19de-\u19ff"
    r"\u1a1e\u1a1f\u1aa0-\u1aa6\u1aa8-\u1aad\u1b4e\u1b4f\u1b5a-\u1b6a\u1b74-\u1b7f\u1bfc-\u1bff\u1c3b-\u1c3f"
    r"\u1c7e\u1c7f\u1cc0-\u1cc7\u1cd3\u2000-\u2131\u2133-\u214d\u214f-\u217f\u2189-\u2bff\u2ce5-\u2cea"
    r"\u2cf9-\u2cfc\u2cfe\u2cff\u2d70\u2e00-\u2e2e\u2e30-\u2ef2\u2ff0-\u3004\u3008-\u3020\u3030\u3037"
    r"\u303d-\u303f\u30a0\u30fb\u3190\u3191\u31c0-\u31ef\u327f\u4dc0-\u4dff\ua490-\ua4c6\ua4fe\ua4ff"
    r"\ua60d-\ua60f\ua673\ua67e\ua6f2-\ua716\ua720\ua721\ua789\ua78a\ua828-\ua82b\ua836-\ua839\ua874-\ua877"
    r"\ua8ce\ua8cf\ua8f8-\ua8fa\ua8fc\ua92e\ua92f\ua95f\ua9c1-\ua9cd\ua9de\ua9df\uaa5c-\uaa5f\uaa77-\uaa79"
    r"\uaade\uaadf\uaaf0\uaaf1\uab5b\uab6a\uab6b\uabeb\ufbb2-\ufbc2\ufd3e-\ufd4f\ufdcf\ufdfd-\ufe6f"
    r"\ufff0-\uffff\U0001d000-\U0001d24f\U0001d300-\U0001d356\U0001f000-\U0001fbef"
)
#: The characters of scripts that are written without spaces, each a word of its own unless it separates.
ALONE: Final = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30fa\u30fd-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
#: The marks of Latin, Greek, Cyrillic, Hebrew and Arabic, the Arabic stretch, what is invisible but no blank, and the
#: noncharacter that ends a row of marks in SQL.
VANISHING: Final = (
    r"\u00ad\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u061c"
    r"\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u08ca-\u08e1\u08e3-\u08ff"
    r"\u115f\u1160\u17b4\u17b5\u180b-\u180f\u1ab0-\u1aff\u1dc0-\u1dff\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u20d0-\u20ff\ufdd0\ufe00-\ufe0f\ufe20-\ufe2f\ufeff\ufff0-\ufffb\U0001bca0-\U0001bca3"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
#: Signs that decompose to a space or to letters, and what stands for them.
SIGNS: Final = str.maketrans("´™℠🅪🅫🅬", "'®®®®®")
#: The first and last of the scripts that have rarer capitals.
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
#: Letters that no decomposition brings to their plain form, and typographic apostrophes and hyphens.
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

#: A longer word is cut into pieces, and is not spelled in one piece; longer symbols are known by their beginning.
LONGEST_WORD: Final = 200
LONGEST_SYMBOL: Final = 50
#: Marks in a row are put into their order one by one, in the square of their number, so a row of them ends here.
MOST_MARKS: Final = 30

_VANISHING = re.compile(f"[{VANISHING}]")
_RUN = re.compile(f"[^{SEPARATORS}]+")
_WORD = re.compile(f"(?![{SEPARATORS}])[{ALONE}]|[^{SEPARATORS}{ALONE}]{{1,{LONGEST_WORD}}}")
_TERM_WITH_PUNCTUATION = re.compile(f"(?<![^{BLANKS}])[^{SEPARATORS}]*+[^{BLANKS}]+")
_AROUND_SIGNS: Final = '()[]{}"'
_SIGN = re.compile("[$!@]")
# What stands for letters beside letters or digits: Ke$ha, Bo$$; or between two: P!nk, M@tt.
_DOLLARS = re.compile(rf"(?<=[^{SEPARATORS}])\$+|(?<!\$)\$++(?=[^{SEPARATORS}])")
_EXCLAMATION_MARK = re.compile(f"(?<=[^{SEPARATORS}])!(?=[^{SEPARATORS}])")
_AT_SIGN = re.compile(f"(?<=[^{SEPARATORS}])@(?=[^{SEPARATORS}])")
_BETWEEN_APOSTROPHES = re.compile("[^']+")
_WRITTEN_WORD = re.compile(r"[^ \n]+")


class Folded(NamedTuple):
    """
    Hold folded *text* and where its characters come from.

    The one at *i* was made of the original's characters from ``starts[i]`` up to ``ends[i]``.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def words(self) -> Iterator[tuple[str, int, int]]:
        """Go through the words between spaces, each with the start and end of what it covers of the original."""
        for word in _WRITTEN_WORD.finditer(self.text):
            yield word.group(), self.starts[word.start()], self.ends[word.end() - 1]


#: Words that follow each other, each the characters in one span of folded text.
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


def read(text: str) -> Folded:
    r"""
    Return the words of *text*, each between spaces, as ``audiocatalog_words_v1`` finds them.

    Words on one line follow each other in the text. The first line holds the split words; each spelling in one piece,
    and each term that is parted at its apostrophes too, has a line of its own.

    >>> read("AC/DC rule").text
    ' ac dc rule \n acdc \n'

    """
    # Nearly all that a catalogue holds is short, and names repeat.
    return _read_short(text) if len(text) <= LONGEST_WORD else _read(text)


# Where the characters of text come from that only got a space before it.
_SHIFTED_STARTS: Final = range(-1, LONGEST_WORD + 1)
_SHIFTED_ENDS: Final = range(LONGEST_WORD + 2)


@lru_cache(maxsize=1024)
def _read_short(text: str) -> Folded:
    if text.isascii() and text.replace(" ", "").isalnum() and "  " not in text:
        return Folded(f" {text.lower()} ", _SHIFTED_STARTS, _SHIFTED_ENDS)
    return _read(text)


def _read(text: str) -> Folded:
    """Read text of any length, with nothing remembered."""
    folded = fold(text)
    closed = folded
    if "'" in folded.text:
        closed = _together(folded, [piece.span() for piece in _BETWEEN_APOSTROPHES.finditer(folded.text)])
    return _written([(closed, [word.span() for word in _WORD.finditer(closed.text)]), *_spellings(folded)])


def _spellings(folded: Folded) -> Iterator[Line]:
    """Yield the further spellings of terms that hold punctuation."""
    text = folded.text
    lettered = _with_signs_as_letters(folded)
    for term in _TERM_WITH_PUNCTUATION.finditer(text):
        start, end = term.span()
        runs = [run.span() for run in _RUN.finditer(text, start, end)]
        if not runs:
            yield _word(_symbol(folded, *_bare(folded.text, start, end)))
        elif sum(end - start for start, end in runs) <= LONGEST_WORD:
            # Between two runs, apostrophes have closed up already, and other punctuation has parted them.
            parted = [bool(text[end:start].strip("'")) for (_, end), (start, _) in pairwise(runs)]
            if any(parted):
                yield _word(_together(folded, runs))
            if lettered.text[start:end] != text[start:end]:
                yield _word(_together(lettered, [run.span() for run in _RUN.finditer(lettered.text, start, end)]))
            if not all(parted):
                yield folded, [word.span() for word in _WORD.finditer(text, start, end)]


def _with_signs_as_letters(folded: Folded) -> Folded:
    """Read $ ! @ as letters where names do."""
    text = folded.text
    if not _SIGN.search(text):
        return folded
    text = _DOLLARS.sub(lambda dollars: "s" * len(dollars.group()), text)
    return folded._replace(text=_AT_SIGN.sub("a", _EXCLAMATION_MARK.sub("i", text)))


def _word(folded: Folded) -> Line:
    """Return a line of all *folded* text as one word."""
    return folded, [(0, len(folded.text))]


def _together(folded: Folded, spans: Sequence[Span]) -> Folded:
    """Put the characters in *spans* together."""
    text, starts, ends = folded
    return Folded(
        "".join([text[start:end] for start, end in spans]),
        list(chain.from_iterable([starts[start:end] for start, end in spans])),
        list(chain.from_iterable([ends[start:end] for start, end in spans])),
    )


def _bare(text: str, start: int, end: int) -> Span:
    """Return where a sign stands without the brackets and quotes around it, unless it is nothing else."""
    sign = text[start:end]
    bare = sign.strip(_AROUND_SIGNS)
    if bare:
        start += len(sign) - len(sign.lstrip(_AROUND_SIGNS))
        end = start + len(bare)
    return start, min(end, start + LONGEST_SYMBOL)


def _symbol(folded: Folded, start: int, end: int) -> Folded:
    """Return the word for a name that is nothing but punctuation: its code."""
    codes = [sign.encode().hex() for sign in folded.text[start:end]]
    codes[0] = f"=symbol:{codes[0]}"
    return _placed(zip(codes, folded.starts[start:end], folded.ends[start:end], strict=True))


def _written(lines: Iterable[Line]) -> Folded:
    """Write *lines* of words, given by their spans in folded text, with a space before and after each."""
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
    """Put *pieces* of folded text together, each made of the original from its start up to its end."""
    text: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for piece, start, end in pieces:
        if piece:
            text.append(piece)
            starts += repeat(start, len(piece))
            ends += repeat(end, len(piece))
        elif ends:
            ends[-1] = end  # What vanishes belongs to the character that it stood on.
    return Folded("".join(text), starts, ends)


def _folded_clusters(text: str) -> Iterator[tuple[str, int, int]]:
    """Fold each character of *text* together with the marks that may change it."""
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and end - start <= MOST_MARKS and _attaches(text[end]):
            continue
        cluster = text[start:end]
        folded = _folded(cluster)
        if len(cluster) > 1 and folded == "".join(letters := list(map(_folded, cluster))):
            for at, letter in enumerate(letters, start):
                yield letter, at, at + 1
        else:
            # One character, or several that were composed, such as a Hangul syllable, or put into another order.
            yield folded, start, end
        start = end


@lru_cache(maxsize=4096)
def _folded(cluster: str) -> str:
    """Fold *cluster* as a part of text that is not all ASCII."""
    kept = _VANISHING.sub("", unicodedata.normalize("NFKD", cluster.translate(SIGNS)))
    return unicodedata.normalize("NFKC", kept).translate(PLAIN)


@lru_cache(maxsize=4096)
def _attaches(letter: str) -> bool:
    """Tell whether normalisation may compose *letter* with the one before it, or change their order."""
    first = unicodedata.normalize("NFKD", letter)[0]
    # Marks, the vowels and finals of Hangul, the vowel sign of Kirat Rai, and what vanishes without being a mark.
    return (
        unicodedata.category(first).startswith("M")
        or "\u1160" <= first <= "\u11ff"
        or first == "\U00016d67"
        or bool(_VANISHING.match(first))
    )
