"""Give each parser hostile input of n and of 4 n signs, and count the work: the program behind test_parser_growth.py.

    valgrind --tool=cachegrind --cache-sim=no --log-file=DIR/%p.log python -m tests.support.growth instructions
    python -m tests.support.growth steps --full

Instructions of the processor are what counts: work within C, such as ``list.count`` or growing text, is seen as well.
Valgrind counts them for a whole process, so that each parser runs in a child of its own, which only begins with what
its parent had counted. Where there is no valgrind, steps of Python are counted instead: only loops in Python are seen.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import mul
from typing import Any, Final, NamedTuple

import click

from audiocatalog import SearchFilters, TrackMetadata, TrackRecord
from audiocatalog.cli import options
from audiocatalog.cli.importing.columns import FIELDS, match_columns
from audiocatalog.cli.importing.input_file import DamagedFile, InputFile
from audiocatalog.cli.importing.records import Plan, Template, read_records
from audiocatalog.cli.importing.refused_file import _object_with_reason
from audiocatalog.cli.importing.values import read_value
from audiocatalog.db.settings import parse_url
from audiocatalog.errors import ConfigurationError, InvalidInput
from audiocatalog.errors.printing import escaped, json_text
from audiocatalog.models.ids import parse_id
from audiocatalog.models.limits import clean_actor
from audiocatalog.operations.changes import FeedPosition
from audiocatalog.search.folding import tokenize
from audiocatalog.search.query import parse_query
from audiocatalog.search.results import Cursor

#: How much more signs the larger input has.
TIMES: Final = 4
# After this many cases, a child does nothing, which tells how far the parent is.
_BETWEEN_MARKS: Final = 8
_REFUSALS: Final = (InvalidInput, ConfigurationError, DamagedFile, ValueError, click.ClickException)


class Parser(NamedTuple):
    """Something that reads what others have written: what *parse* does with text that is made of *signs*."""

    name: str
    parse: Callable[[str], object]
    #: The first of them is the one that costs most.
    signs: Sequence[str]
    #: The signs of the smaller input.
    number: int = 248
    #: How often each text is parsed, where once is little work.
    rounds: int = 1
    #: What opens, and what closes it.
    nested: Sequence[tuple[str, str]] = ()


def _rows(file_format: Any, before: str = "") -> Callable[[str], object]:
    def parse(text: str) -> object:
        file = io.BytesIO((before + text).encode("utf-8", "surrogateescape"))
        return sum(1 for _ in read_records(file, file_format, Plan()))

    return parse


def _unpacked(text: str) -> object:
    return InputFile(io.BytesIO(text.encode("latin-1"))).stream.read()


def _cursor(parse: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: parse(base64.urlsafe_b64encode(text.encode()).decode().rstrip("="))


def _snapshot(text: str) -> object:
    return FeedPosition.parse(
        base64.urlsafe_b64encode(json.dumps([1, f"5:99:{text}", None, None, 5]).encode()).decode()
    )


_MEMBER: Final = gzip.compress(b"", mtime=0).decode("latin-1")
_MARKS: Final = ("\u0301\u0316", "\u0301", "\u0344", "a", "\u1161", "\u0f73")
_TEXT: Final = ("a", " ", "-", "'", "$", "/", "&", "é", "\u0301", "\u0e01", "\u200b", "が", "ß", "@", "!")

PARSERS: Final = (
    Parser(
        "CSV",
        _rows("csv", "title,audio_path,x,y\n"),
        (
            '",u","\n',
            '"',
            '"\n',
            '"a,p\n',
            '""',
            ",",
            "\n",
            "\r",
            "\r\n",
            "\0",
            '"x"y\n',
            "a,p\n",
            "\udcff",
            '"\na,p\n"',
        ),
        nested=(('",u","\n', '"'), ('"\n', "a,p\n"), ('"x', '"y\n')),
    ),
    Parser(
        "the first line of CSV", _rows("csv"), ("a,", "title,", "path,", ";", "a;", "|", '"', "\t", "Audio Path,", "\r")
    ),
    Parser(
        "JSON Lines",
        _rows("jsonl"),
        (
            '{"a":1}\n',
            '{"title":"a","audio_path":"p"}\n',
            "[",
            "{",
            '{"a":',
            '"',
            "\\",
            "\n",
            "1",
            "1e",
            "-",
            "\u2028",
            "\udcff",
        ),
        nested=(("[", "]"), ('{"a":', "}"), ('"', "\\")),
    ),
    Parser(
        "an object",
        _rows("jsonl", '{"title":"a","audio_path":"p"'),
        (
            ',"k":1',
            ',"k":[{"k":1,"k":2}]',
            ',"\\u0041":""',
            ',"x":"\\\\"',
            ',"title":"a"',
            ',"refused_because":""',
            ',"y":[[]]',
        ),
    ),
    Parser(
        "a JSON array",
        _rows("jsonl", '[{"title":"a","audio_path":"p"},'),
        ('{"a":1},', "[", "]", "{", "}", ",", '"', "\\", '"\\"",', "1,", "{}", "\n", '{"title":"a","audio_path":"p"},'),
        nested=(("[", "]"), ('{"a":', "}"), ('"', "\\"), ("\\", '"')),
    ),
    Parser(
        "gzip",
        _unpacked,
        (_MEMBER, "\0", "\x1f\x8b", "\x1f\x8b\x08\x08\0\0\0\0\0\0a", _MEMBER[:10], _MEMBER + "\0"),
        100,
    ),
    Parser(
        "a search",
        parse_query,
        (
            '"',
            "“",
            "„a",
            "-",
            '-"',
            " OR ",
            "artist:",
            "year:1..",
            "..",
            ":",
            " ",
            "\u200b ",
            "a ",
            "&",
            "é",
            "“\u200b ",
            "5:",
        ),
        200,
        20,
        (("“ ", "” "), ('"', "-"), ("artist:", '"')),
    ),
    Parser("an id", parse_id, ("0", "-", "{", "urn:uuid:", "}", "00000000-"), 1000, 20),
    Parser(
        "a URL",
        lambda text: parse_url(f"postgresql://{text}"),
        ("@", ",", ":", "/", "?a=b&", "[", "]", "%41", "a@", ";", "a,", "&", "=", "+"),
        1000,
    ),
    Parser(
        "a URL of several hosts",
        lambda text: parse_url(f"postgresql://a:b@c,{text}@"),
        (",", "a,", ":1,", "[", "%"),
        1000,
    ),
    Parser(
        "a cursor of a search",
        _cursor(lambda text: Cursor.parse(text, "x")),
        ("[", "[1,", "1", '{"a":', '"', "1,", "\\"),
        1000,
        nested=(("[", "]"), ('{"a":', "}")),
    ),
    Parser(
        "a cursor of updates",
        _cursor(FeedPosition.parse),
        ("[", "[1,", "1", '{"a":', '"', "1,", "\\"),
        1000,
        nested=(("[", "]"), ('{"a":', "}")),
    ),
    Parser("a snapshot", _snapshot, ("7,", "1", ",", ":", "9999999999999999999,", "6,7,"), 1000),
    Parser("base64", FeedPosition.parse, ("A", "=", "-", "_", "é"), 1000, 5),
    Parser(
        "metadata", lambda text: TrackMetadata(title=text, artist=text), (*_MARKS, " ", "\u200b", "\0", "\ud800"), 800
    ),
    Parser(
        "a mapping",
        lambda text: TrackMetadata.from_mapping(dict.fromkeys(map(str, enumerate(text)))),
        ("a", "title"),
        1000,
    ),
    Parser(
        "keys",
        lambda text: TrackRecord.from_mapping({f"{at}{text[:50]}": 1 for at in range(len(text))}),
        ("a", "\n"),
        500,
    ),
    Parser("an actor", clean_actor, _MARKS, 200, 5),
    Parser(
        "filters",
        lambda text: SearchFilters(genre=list(text), status=list(text), artist=text),
        ("a", "\u0301\u0316"),
        500,
    ),
    Parser(
        "a template", Template.parse, ("{{", "}}", "{", "}", "{a}", "a", "{{}}"), 500, 5, (("{{", "}}"), ("{", "}"))
    ),
    Parser(
        "columns",
        lambda text: match_columns(text.split("\n"), FIELDS, {}, ()),
        ("a\n", "path\n", "Title\n", " _-\n", "\n"),
        500,
    ),
    *(
        Parser(
            f"a cell of {field}",
            lambda text, field=field: read_value(field, text),  # type: ignore[misc]
            ("1", ".", "1.", ":", "1:", "0", "3 min ", "kbps", " ", "PT", "-", "1997-", "May "),
            1000,
            20,
        )
        for field in ("year", "duration", "bitrate")
    ),
    Parser("a path", _rows("csv", "title,audio_path\na,"), (*_MARKS, "{", " "), 2000),
    Parser(
        "a refused line",
        lambda text: _object_with_reason(text, "x"),
        ('"refused_because": "', '"refused_because": ""}', "}", '\\"', '"', "{", ' "refused_because"'),
        500,
    ),
    Parser("a time", lambda text: options.read_span(None, None, text), ("1", "1h", " ", "1m ", "ms", "1.", "d"), 500),  # type: ignore[arg-type]
    Parser(
        "a range",
        lambda text: options.range_reader("duration")(None, None, text),
        ("1", ":", "..", ".", "1:11"),
        500,
        5,
    ),
    Parser("printable text", escaped, ("\u200d", "क\u200d", "\x9b", "\u202e", "\U000e0100", "\udcff", "a", "葛"), 1000),
    Parser("printable JSON", json_text, ("\u200d", "\x9b", "\u202e", '"', "\\", "\ud800", "a"), 1000),
    Parser("highlights", lambda text: tokenize(text[:1000]), _TEXT, 250),
)


def _listed_quadratically(text: str) -> object:
    """Do what a parser must not do, within C: if this is not noticed, nothing is."""
    letters = [f"{at}" for at in range(len(text))]
    return [letter for letter in letters if letters.count(letter) > 1]


CONTROL: Final = Parser("control", _listed_quadratically, ("a",), 500)


class Case(NamedTuple):
    """A parser, and the texts of one kind that it is given: the larger one has four times the signs."""

    parser: Parser
    kind: str
    texts: tuple[str, str]

    def run(self, which: int) -> None:
        """Parse one of the two texts."""
        for _ in range(self.parser.rounds):
            with suppress(*_REFUSALS):
                self.parser.parse(self.texts[which])


def cases(*, full: bool) -> Iterator[Case]:
    """Give each parser all kinds of texts of its signs, or the hardest alone: its first sign, and nested ones."""
    for parser in (*PARSERS, CONTROL):
        kinds = list(_kinds(parser))
        for kind, make in kinds if full else [*kinds[:1], *kinds[len(parser.signs) : -1]]:
            yield Case(parser, kind, (make(parser.number), make(parser.number * TIMES)))


def _kinds(parser: Parser) -> Iterator[tuple[str, Callable[[int], str]]]:
    """Give each kind of text, repeated, nested and mixed: its name, and a function that makes one of a given length."""
    signs = parser.signs
    for sign in signs:
        yield f"{sign!r} again and again", partial(mul, sign)
    for pair in parser.nested:
        yield f"{pair[0]!r} and as many {pair[1]!r}", partial(_nested, pair)
    yield "mixed", lambda number: "".join(random.Random(number).choices(signs, k=number))  # noqa: S311


def _nested(pair: tuple[str, str], number: int) -> str:
    return pair[0] * (number // 2) + pair[1] * (number // 2)


def _steps(*, full: bool) -> None:
    """Count the steps of Python."""
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        count += 1
        return trace

    for case in cases(full=full):
        for which in (0, 1):
            count = 0
            sys.settrace(trace)
            try:
                case.run(which)
            finally:
                sys.settrace(None)
            print(json.dumps([count, [case.parser.name, case.kind], which]))  # noqa: T201


def _instructions(*, full: bool) -> None:
    """Run each case in a child, and tell which: valgrind writes what it counted into a file of that process."""
    for at, case in enumerate(list(cases(full=full))):
        if at % _BETWEEN_MARKS == 0:
            _in_child(None, 0)
        for which in (0, 1):
            _in_child(case, which)
    _in_child(None, 0)


def _in_child(case: Case | None, which: int) -> None:
    """Run *case*; without one, only tell how far the parent is."""
    child = os.fork()
    if not child:
        if case is not None:
            case.run(which)
        os._exit(0)
    os.waitpid(child, 0)
    print(json.dumps([child, None if case is None else [case.parser.name, case.kind], which]))  # noqa: T201


if __name__ == "__main__":
    {"steps": _steps, "instructions": _instructions}[sys.argv[1]](full="--full" in sys.argv)
