"""Every text means something: words, phrases, exclusions, alternatives, fields, ranges or an id."""

from __future__ import annotations

import doctest
import time
import unicodedata
from dataclasses import FrozenInstanceError, replace
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audiocatalog import SearchFilters, TrackStatus, errors
from audiocatalog.models.limits import VISIBLE
from audiocatalog.search import query as query_module
from audiocatalog.search.query import MAX_CHARACTERS, TERM_FIELDS, Query, Range, Term, parse_query
from audiocatalog.search.results import MAX_TERMS


def meaning(typed: str) -> list[str]:
    """
    Return what *typed* means, one string for each thing asked.

    ``side…`` may go on, ``[dark side]`` is a phrase, ``artist=cher`` is bound to its field, ``mono | stereo`` are
    alternatives, ``¬live`` is unwanted, ``year∈1990..1999`` is a range.
    """
    query = parse_query(typed)
    asked = [" | ".join(map(written, group)) for group in query.groups]
    asked += [f"¬{written(term)}" for term in query.excluded]
    for field, limits in (("year", query.year), ("duration", query.duration)):
        if limits:
            asked.append(f"{field}∈{'..'.join('' if end is None else str(end) for end in limits)}")
    return asked + ([f"id {query.id}"] if query.id else [])


def written(term: Term) -> str:
    text = f"[{term.text}]" if term.is_phrase else term.text
    return (f"{term.field}=" if term.field else "") + text + ("…" if term.is_prefix else "")


def terms_of(query: Query) -> list[Term]:
    return [*chain(*query.groups), *query.excluded]


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        # words; the last may go on, unless white space follows it
        ("radiohead", ["radiohead…"]),
        ("dark side ", ["dark", "side"]),
        ("  Dark\tSIDE\n of", ["Dark", "SIDE", "of…"]),
        ("宇多田\u3000ヒカル", ["宇多田", "ヒカル…"]),
        ("a\u00a0b\u2003c\u2028d\x1fe\x85f", ["a", "b", "c", "d", "e", "f…"]),
        ("the the", ["the", "the…"]),
        ("AC/DC P!nk R.E.M. ", ["AC/DC", "P!nk", "R.E.M."]),
        ("Bjo\u0308rk", ["Bj\u00f6rk…"]),
        ("!!! + ÷ ", ["!!!", "+", "÷"]),
        ("&|!():*<-> %s \\", ["&|!():*<->", "%s", "\\…"]),
        # what nobody sees asks nothing
        ("", []),
        (" \t\u200b\ufeff ", []),
        ("a \u200b b \u2800", ["a", "b…"]),
        # phrases
        ('"dark side"', ["[dark side]"]),
        ('"dark side" of', ["[dark side]", "of…"]),
        ('" dark   side\t" ', ["[dark side]"]),
        ('"one" "two" three ', ["[one]", "[two]", "three"]),
        ("“dark side” „zwei Wörter“ „dwa słowa” ", ["[dark side]", "[zwei Wörter]", "[dwa słowa]"]),
        (
            "«deux mots» »zwei Wörter« »kaksi sanaa» ”två ord” ",
            ["[deux mots]", "[zwei Wörter]", "[kaksi sanaa]", "[två ord]"],
        ),
        ('"AC/DC" - "Back in Black"', ["[AC/DC]", "-", "[Back in Black]"]),
        ('"the 7" mix" x', ["[the 7]", 'mix"', "x…"]),
        ('"the 7"mix" x', ['[the 7"mix]', "x…"]),
        ('"a OR b -c year:1990"', ["[a OR b -c year:1990]"]),
        ('"!!!"', ["[!!!]"]),
        # quotes that are letters of a word
        ('7" mix', ['7"', "mix…"]),
        ('12" version 7"', ['12"', "version", '7"']),
        ('"unbalanced words', ['"unbalanced', "words…"]),
        ('“wrong end" ', ["“wrong", 'end"']),
        ("“wrong end„", ["“wrong", "end„"]),
        ('""', ['""']),
        ('"" x" ', ['""', 'x"']),
        ('" "', ['"', '"']),
        ('"\u200b"', ['"\u200b"']),
        ('say"this thing" ', ['say"this', 'thing"']),
        ("rock 'n' roll 'n'", ["rock", "'n'", "roll", "'n'…"]),
        # exclusions
        ("creep -live", ["creep", "¬live"]),
        ('-"radio edit" creep -(live) ', ["creep", "¬[radio edit]", "¬(live)"]),
        ("believe -artist:cher -title:“oh no”", ["believe", "¬artist=cher", "¬title=[oh no]"]),
        ("creep -5 -宇 -½ ", ["creep", "¬5", "¬宇", "¬½"]),
        ("creep -OR -year:1990", ["creep", "¬OR", "¬year:1990"]),
        ("creep -artist: -artist:!!!", ["creep", "¬artist:", "¬artist=!!!"]),
        ("year:1999 -live", ["¬live", "year∈1999..1999"]),
        # hyphens that are none
        ("blink-182 alt‐J a-ha ", ["blink-182", "alt‐J", "a-ha"]),
        ("Artist - Title", ["Artist", "-", "Title…"]),
        ("a -- b -! -\u0301 -🙂 ", ["a", "--", "b", "-!", "-\u0301", "-🙂"]),
        ('a -"! ?" ', ["a", '-"!', '?"']),
        ("a –b —c −d ‐e －f ", ["a", "–b", "—c", "−d", "‐e", "－f"]),
        # nothing to exclude from
        ("-live", ["-live…"]),
        ("-182 -a ", ["-182", "-a"]),
        ('-"radio edit"', ['-"radio', 'edit"']),
        ("-artist:cher -b \u200b ", ["-artist:cher", "-b"]),
        # alternatives
        ("mono OR stereo mix", ["mono | stereo", "mix…"]),
        ("a OR b OR c d OR e", ["a | b | c", "d | e…"]),
        ('"a b" OR artist:c OR d ', ["[a b] | artist=c | d"]),
        ("a or b Or c ", ["a", "or", "b", "Or", "c"]),
        ("OR a", ["OR", "a…"]),
        ("a OR", ["a", "OR"]),
        ("OR", ["OR"]),
        ("a OR OR b ", ["a", "OR", "OR", "b"]),
        ("a OR OR OR b ", ["a", "OR", "OR", "OR", "b"]),
        ("a OR -b ", ["a", "OR", "¬b"]),
        ("a OR year:1990 OR b ", ["a", "OR", "OR", "b", "year∈1990..1990"]),
        ('a "OR" b artist:OR OR c ', ["a", "[OR]", "b", "artist=OR | c"]),
        ("a -x OR b ", ["a", "OR", "b", "¬x"]),
        # fields
        ("artist:radioh", ["artist=radioh…"]),
        ("ARTIST:cher Title:believe album:x genre:pop ", ["artist=cher", "title=believe", "album=x", "genre=pop"]),
        ('artist:"the the" this', ["artist=[the the]", "this…"]),
        ("artist:guns n roses ", ["artist=guns", "n", "roses"]),
        ("artist:!!! album:+ ", ["artist=!!!", "album=+"]),
        ('artist:"the', ['artist="the…']),
        ('artist:""', ['artist=""']),
        ("artist:title:x artist:-x artist:year:1990 ", ["artist=title:x", "artist=-x", "artist=year:1990"]),
        # colons that are none
        ("Title: Something", ["Title:", "Something…"]),
        ("artist:", ["artist:…"]),
        ("artist:\u200b x ", ["artist:\u200b", "x"]),
        ("foo:bar status:PENDING http://x ", ["foo:bar", "status:PENDING", "http://x"]),
        (":artist xartist:a artiſt:a artist：a ", [":artist", "xartist:a", "artiſt:a", "artist：a"]),
        # ranges
        ("year:1990", ["year∈1990..1990"]),
        ("abba YEAR:1970..1979", ["abba", "year∈1970..1979"]),
        ("year:1990.. abba", ["abba…", "year∈1990.."]),
        ("year:..1999", ["year∈..1999"]),
        ("year:1000..9999", ["year∈1000..9999"]),
        ("duration:270", ["duration∈270.0..270.0"]),
        ("duration:4:30", ["duration∈270.0..270.0"]),
        ("duration:..4:30", ["duration∈..270.0"]),
        ("duration:3:00..4:30", ["duration∈180.0..270.0"]),
        ("duration:1:02:03..", ["duration∈3723.0.."]),
        ("duration:4.5..10", ["duration∈4.5..10.0"]),
        ("duration:0..0:59.75", ["duration∈0.0..59.75"]),
        ("duration:90:00 year:1990", ["year∈1990..1990", "duration∈5400.0..5400.0"]),
        # of two ranges, what they have in common; a word where that is nothing
        ("year:1990.. year:..1999", ["year∈1990..1999"]),
        ("year:1980..1995 year:1990..2000 year:1992", ["year∈1992..1992"]),
        ("year:1990 year:1991 ", ["year:1991", "year∈1990..1990"]),
        # ranges that are none
        ("year: 1990 ", ["year:", "1990"]),
        ("year:.. duration:.. year:... ", ["year:..", "duration:..", "year:..."]),
        ("year:1999..1990 ", ["year:1999..1990"]),
        ("year:999 year:10000 year:0..1990 ", ["year:999", "year:10000", "year:0..1990"]),
        (
            "year:1990s year:19.90 year:-1990 year:1990-1999 ",
            ["year:1990s", "year:19.90", "year:-1990", "year:1990-1999"],
        ),
        ("year:1990..x year:x..1990 year:1..2..3 ", ["year:1990..x", "year:x..1990", "year:1..2..3"]),
        ("year:²⁰⁰⁰ year:１９９０ ", ["year:²⁰⁰⁰", "year:１９９０"]),
        ("duration:4:60 duration:4:5 duration:1:2:3:4 ", ["duration:4:60", "duration:4:5", "duration:1:2:3:4"]),
        ("duration:nan duration:inf duration:1e3 ", ["duration:nan", "duration:inf", "duration:1e3"]),
        ("duration:31536001 duration:.5 duration:5. ", ["duration:31536001", "duration:.5", "duration:5."]),
        ("duration:1...5 xyear:1990 ", ["duration:1...5", "xyear:1990"]),
        ('year:"1990" "year:1990" ', ['year:"1990"', "[year:1990]"]),
        # ids
        ("01890a5d-ac96-774b-bcce-b302099a8057", ["id 01890a5d-ac96-774b-bcce-b302099a8057"]),
        (" 01890A5DAC96774BBCCEB302099A8057\n", ["id 01890a5d-ac96-774b-bcce-b302099a8057"]),
        ("urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057", ["id 01890a5d-ac96-774b-bcce-b302099a8057"]),
        ("x 01890a5d-ac96-774b-bcce-b302099a8057", ["x", "01890a5d-ac96-774b-bcce-b302099a8057…"]),
        ("01890a5d-ac96-774b-bcce-b302099a805", ["01890a5d-ac96-774b-bcce-b302099a805…"]),
    ],
)
def test_every_text_means_something(typed: str, asked: list[str]) -> None:
    assert meaning(typed) == asked


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("Dark Side", True),
        ("Artist - Title", True),
        ("Title: Something ", True),
        ("-182", True),
        ("OR", True),
        ("", False),
        ('"Heroes"', False),
        ("artist:cher", False),
        ("a OR b", False),
        ("a -b", False),
        ("a year:1990", False),
        ("duration:270", False),
        (str(uuid4()), False),
    ],
)
def test_a_query_of_words_alone_is_plain(typed: str, *, plain: bool) -> None:
    assert parse_query(typed).is_plain is plain


@pytest.mark.parametrize(
    ("typed", "text"),
    [("", ""), (" \u200b ", ""), ("  Dark  Side ", "Dark  Side"), ("Bjo\u0308rk\u3000", "Bj\u00f6rk")],
)
def test_the_text_is_kept_in_nfc_and_trimmed(typed: str, text: str) -> None:
    assert parse_query(typed).text == text


def test_a_query_is_a_value() -> None:
    query = parse_query('a "b c" -d year:1990')
    assert query == parse_query('a "b c" -d year:1990')
    assert len({query, parse_query('a "b c" -d year:1990')}) == 1
    with pytest.raises(FrozenInstanceError):
        query.text = "x"  # type: ignore[misc]


def test_ranges_fit_search_filters() -> None:
    query = parse_query("year:1990..1999 duration:..4:30")
    assert query.year == Range(1990, 1999)
    filters = SearchFilters(year=query.year, duration=query.duration)
    assert (filters.year, filters.duration) == ((1990, 1999), (None, 270.0))


def test_a_member_of_an_enumeration_of_texts_is_its_text() -> None:
    assert meaning(TrackStatus.FAILED) == ["FAILED…"]


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(query_module).failed == 0


# Limits


@pytest.mark.parametrize(
    ("typed", "limit"),
    [
        pytest.param("x" * 1001, MAX_CHARACTERS, id="1,001 characters"),
        pytest.param("x" * 100_000, MAX_CHARACTERS, id="100 kB"),
        pytest.param("a\0b", None, id="NUL"),
        pytest.param("a\ud800", None, id="lone surrogate"),
        pytest.param("\ud83d\ude00", None, id="a pair of surrogates"),
        pytest.param(b"radiohead", None, id="bytes"),
        pytest.param(None, None, id="None"),
        pytest.param(True, None, id="True"),
        pytest.param(["radiohead"], None, id="list"),
        pytest.param(UUID(int=0), None, id="UUID"),
    ],
)
def test_a_text_out_of_bounds_is_refused_with_the_limit(typed: object, limit: int | None) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        parse_query(typed)
    assert (caught.value.field, caught.value.limit, caught.value.operation) == ("query", limit, "search")
    assert limit is None or f"at most {limit:,}" in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param("x" * 1000, id="1,000 characters"),
        pytest.param("\U0001f3b5" * 1000, id="1,000 characters of four bytes"),
        pytest.param(" " * 999 + "x", id="1,000 characters, most of them spaces"),
        pytest.param("".join(map(chr, range(0x4E00, 0x4E00 + 1000))), id="1,000 ideographs"),
        pytest.param("x " * 32, id="32 words"),
        pytest.param(" OR ".join("x" * 32), id="32 alternatives"),
        pytest.param('"' + "x " * 32 + '"', id="a phrase of 32 words"),
        pytest.param("x" + " -x" * 31, id="a word and 31 exclusions"),
        pytest.param("year:1990 " * 32, id="32 ranges"),
        pytest.param("-&x " * 10, id="10 exclusions of two words, read as three"),
        pytest.param("x " * 32 + "\u200b " * 100, id="32 words and some that nobody sees"),
    ],
)
def test_a_text_at_the_bounds_is_read(typed: str) -> None:
    query = parse_query(typed)
    assert query.groups or query.year


@pytest.mark.parametrize(
    ("typed", "asked", "ignored"),
    [
        pytest.param("x " * 33, ["x"] * 32, 1, id="33 words"),
        pytest.param("\u3000".join("x" * 40), ["x"] * 32, 8, id="40 words parted by wide spaces"),
        pytest.param("y " * 30 + '"a b c d"', [*["y"] * 30, '"a b"'], 2, id="a phrase that goes on behind the limit"),
        pytest.param('"' + "x " * 33 + '"', ['"' + " ".join("x" * 32) + '"'], 1, id="a phrase of 33 words"),
        pytest.param(" OR ".join("x" * 33), ["x|" * 31 + "x"], 1, id="33 alternatives"),
        pytest.param("x" + " -x" * 32, ["x", *["-x"] * 31], 1, id="a word and 32 exclusions"),
        pytest.param("x" + " -x" * 31 + " y OR z", ["x", *["-x"] * 31], 2, id="alternatives behind the limit"),
        pytest.param("-x " * 33, ["-x"] * 32, 1, id="33 exclusions alone, which are words"),
        pytest.param("x " * 32 + "year:1990", ["x"] * 32, 1, id="32 words and a range"),
        pytest.param("year:1990 " * 100, ["year"], 68, id="100 ranges"),
        pytest.param("OR " * 333, ["OR"] * 32, 301, id="333 OR"),
        pytest.param("&".join("a" * 17), ["&".join("a" * 16) + "&"], 1, id="words joined by ampersands"),
        pytest.param("\ufdfa" * 11, ["\ufdfa" * 10], 3, id="characters that stand for four words"),
    ],
)
def test_the_first_32_terms_count(typed: str, asked: list[str], ignored: int) -> None:
    query = parse_query(typed)
    assert query.ignored == ignored
    written = ["|".join(f'"{term.text}"' if term.is_phrase else term.text for term in group) for group in query.groups]
    written += [f"-{term.text}" for term in query.excluded]
    assert written + ["year"] * bool(query.year) == asked
    # What is not the end of the text is no beginning of a word either.
    assert not any(term.is_prefix for group in query.groups for term in group)


def test_within_the_limit_nothing_is_ignored() -> None:
    assert parse_query("x " * 31 + "x").ignored == 0
    assert parse_query("x " * 31 + "x").groups[-1][0].is_prefix


@pytest.mark.parametrize(
    "piece",
    [
        *("a ", '"a ', '""', '" ', '-"! ', '-"a ', "“„”«»", "artist:", '-artist:" ', "OR ", "a OR ", "-a ", "-", ":"),
        *("..", "&", "year:1990 ", "duration:1:11..", "1:11", "\u200b ", "\u3000-", "\ufdfa", "artist:\u200b"),
    ],
)
def test_the_time_to_read_grows_with_the_length_alone(piece: str) -> None:
    for head in ("", '"', "duration:", "year:", "-"):
        for tail in ("", '"', "!", " x"):
            typed = head + (piece * 1000)[: 1000 - len(head) - len(tail)] + tail
            start = time.process_time()
            parse_query(typed)
            # Under a millisecond where nothing else runs; a pattern that goes back and forth takes seconds.
            assert time.process_time() - start < 2


# Any text at all

#: What could be mistaken for one another, in any order.
PIECES = st.sampled_from(
    [
        *(" ", " ", " ", "\u3000", '"', '"', "“", "”", "„", "«", "»", "-", "-", "OR", " OR ", "or", ":", ".."),
        *("artist:", "TITLE:", "album:", "genre:", "year:", "duration:", "1990", "1999", "4:30", "0.5", "..10"),
        *("a", "b", "Björk", "o\u0308", "!!!", "&", "'", "\u200b", "\ufdfa", "½", "宇多田", "🙂", "\0", "\ud800"),
    ]
)
TYPED = st.one_of(
    st.text(st.characters(codec=None), max_size=100),
    st.lists(PIECES, max_size=40).map("".join),
    st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=60).map("".join),
)
#: Nothing in here is an operator: no quote, no colon, no hyphen and no capital O.
OPERATORLESS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\0"“”„«»:-O'), max_size=80)


def read(typed: str) -> Query | None:
    """Return the query, or None if it is refused, which it must be by name."""
    try:
        return parse_query(typed)
    except errors.InvalidInput as error:
        assert (error.field, error.operation) == ("query", "search")  # noqa: PT017
        return None


def visible(text: str) -> str:
    return "".join(word for word in text.split() if VISIBLE.search(word))


@settings(max_examples=1000, deadline=None)
@given(typed=TYPED)
@example(typed='-"a" OR -artist:"b" year:..')
def test_any_text_is_read_within_the_limits_or_refused(typed: str) -> None:
    query = read(typed)
    if query is None:
        assert "\0" in typed or any("\ud800" <= sign <= "\udfff" for sign in typed)
        return
    terms = terms_of(query)
    assert query.text == unicodedata.normalize("NFC", query.text).strip()
    # Whatever can be seen asks for something, and there is always something to exclude from.
    assert bool(query.text) == bool(query.groups or query.year or query.duration or query.id)
    assert all(query.groups)
    assert sum(len(term.text.split()) for term in terms) <= MAX_TERMS
    for term in terms:
        assert term.text == unicodedata.normalize("NFC", term.text).strip()
        assert visible(term.text)
        assert term.is_phrase or len(term.text.split()) == 1
        assert term.field is None or term.field in TERM_FIELDS
    # Only the last term that is wanted may go on, if it is a word and nothing follows it.
    assert not any(term.is_prefix for term in terms if term is not (query.groups and query.groups[-1][-1]))
    assert not any(term.is_prefix and (term.is_phrase or typed[-1].isspace()) for term in terms)
    for limits in (query.year, query.duration):
        assert limits is None or any(end is not None for end in limits)
    SearchFilters(year=query.year, duration=query.duration)


@settings(max_examples=500, deadline=None)
@given(typed=TYPED)
def test_what_was_read_is_read_again_as_the_same(typed: str) -> None:
    query = read(typed)
    if query is None:
        return

    def finished(again: str) -> Query:
        read = parse_query(again)
        return replace(
            read, groups=tuple(tuple(replace(term, is_prefix=False) for term in group) for group in read.groups)
        )

    assert finished(query.text) == finished(typed)
    assert read(query.text + " ") == finished(typed)


@settings(max_examples=500, deadline=None)
@given(typed=TYPED)
def test_each_term_stands_in_the_text_in_the_order_typed(typed: str) -> None:
    query = read(typed)
    if query is None:
        return
    text = " ".join(word for word in query.text.split() if visible(word))
    for terms in (chain(*query.groups), query.excluded):
        place = 0
        for term in terms:
            place = text.index(term.text, place) + len(term.text)


@settings(max_examples=500, deadline=None)
@given(typed=OPERATORLESS)
def test_nothing_is_lost_of_a_text_without_operators(typed: str) -> None:
    query = read(typed)
    if query is None or query.id:
        return
    assert [term.text for term in terms_of(query)] == [word for word in query.text.split() if visible(word)]
    assert query.is_plain == bool(query.text)


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.from_regex(r"[a-nè宇0-9'/!]{1,8}", fullmatch=True), min_size=1, max_size=8), data=st.data())
def test_what_is_composed_by_the_rules_is_read_by_them(words: list[str], data: Any) -> None:
    typed: list[str] = []
    wanted: list[Term] = []
    unwanted: list[Term] = []
    for word in words:
        field = data.draw(st.sampled_from([None, *TERM_FIELDS]))
        phrase, excluded = data.draw(st.booleans()), data.draw(st.booleans())
        term = Term(f"x{word} {word}" if phrase else f"x{word}", field, is_phrase=phrase)
        (unwanted if excluded else wanted).append(term)
        text = f'"{term.text}"' if phrase else term.text
        typed.append(f"{'-' if excluded else ''}{f'{field}:' if field else ''}{text}")
    if wanted:
        query = parse_query(" ".join(typed) + " ")
        assert query == Query(query.text, tuple((term,) for term in wanted), tuple(unwanted))
