"""What a caller hands in is kept as it is in NFC, or refused in one error that names every bad field."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import pickle
import time
import tracemalloc
import unicodedata
from collections.abc import Callable
from datetime import UTC, date
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from audiocatalog import TrackMetadata, TrackRecord, TrackStatus, errors
from audiocatalog.errors.printing import escaped
from audiocatalog.models.metadata import LIMITS, METADATA_FIELDS
from audiocatalog.models.sql_names import FOLD_FUNCTION
from tests.support.databases import Units
from tests.support.limits import LONGEST, LONGEST_PATH, NUMBERS, WHOLE

NAN, INFINITY = math.nan, math.inf
PLANTED = "planted secret"
Made = TypeVar("Made")

#: Seconds; a year of sound.
LONGEST_DURATION = 31_536_000

#: Text in which there is nothing to see.
INVISIBLE = [
    pytest.param("", id="no text"),
    pytest.param(" ", id="space"),
    pytest.param("\t", id="tab"),
    pytest.param("\r\n", id="line's end"),
    pytest.param("\x1b\x7f\x85", id="controls"),
    pytest.param("\u00a0", id="NBSP"),
    pytest.param("\u2003", id="U+2003 em space"),
    pytest.param("\u3000", id="U+3000 wide space"),
    pytest.param("\u1680", id="U+1680 ogham space"),
    pytest.param("\u2028\u2029", id="line and paragraph separators"),
    pytest.param("\u200b", id="ZWSP"),
    pytest.param("\u200d", id="ZWJ"),
    pytest.param("\ufeff", id="BOM"),
    pytest.param("\u200f", id="U+200F right-to-left mark"),
    pytest.param("\u202e", id="U+202E right-to-left override"),
    pytest.param("\u2060", id="U+2060 word joiner"),
    pytest.param("\u180e", id="U+180E Mongolian vowel separator"),
    pytest.param("\u3164", id="U+3164 Hangul filler"),
    pytest.param("\u115f\u1160", id="Hangul jamo fillers"),
    pytest.param("\uffa0", id="half-width Hangul filler"),
    pytest.param("\u2800", id="blank Braille"),
    pytest.param("\u00ad", id="U+00AD soft hyphen"),
    pytest.param("\u034f", id="U+034F combining grapheme joiner"),
    pytest.param("\ufe0f", id="variation selector"),
    pytest.param("\U000e0001\U000e0041", id="tag characters"),
    pytest.param(" \t\u00a0\u2003\u3000\u200b\ufeff\u200f\u3164\u00ad", id="all of these together"),
    pytest.param("\u200b" * 1000, id="a thousand of one"),
]

#: What is no text, whatever str() would make of it.
NO_TEXT = [
    pytest.param(True, id="True"),
    pytest.param(1.5, id="1.5"),
    pytest.param(5, id="5"),
    pytest.param(2**31, id="2**31"),
    pytest.param(2**63, id="2**63"),
    pytest.param(-1, id="-1"),
    pytest.param(NAN, id="NaN"),
    pytest.param(INFINITY, id="infinity"),
    pytest.param(-INFINITY, id="minus infinity"),
    pytest.param(b"text", id="bytes"),
    pytest.param(bytearray(b"text"), id="bytearray"),
    pytest.param(["text"], id="list"),
    pytest.param({"text": 1}, id="mapping"),
    pytest.param(PurePosixPath("text"), id="path"),
    pytest.param(object(), id="object"),
]

#: Text that PostgreSQL cannot store.
UNSTORABLE = [
    pytest.param("\0", id="NUL alone"),
    pytest.param("a\0b", id="NUL within"),
    pytest.param("a\0", id="NUL at the end"),
    pytest.param("\ud800", id="high surrogate alone"),
    pytest.param("a\udfffb", id="low surrogate within"),
    pytest.param("\ud83d\ude00", id="a pair of surrogates"),
]

#: What is no whole number of any field's range, and nothing is made into one.
NO_WHOLE = [
    pytest.param(True, id="True"),
    pytest.param(False, id="False"),
    pytest.param(1.5, id="1.5"),
    pytest.param(1999.0, id="1999.0"),
    pytest.param("5", id="text of a number"),
    pytest.param("", id="no text"),
    pytest.param(b"5", id="bytes"),
    pytest.param([1999], id="list"),
    pytest.param((1999,), id="tuple"),
    pytest.param(1999 + 0j, id="complex"),
    pytest.param(Decimal(1999), id="decimal"),
    pytest.param(Fraction(1999), id="fraction"),
    pytest.param(date(1999, 1, 1), id="date"),
    pytest.param(NAN, id="NaN"),
    pytest.param(INFINITY, id="infinity"),
    pytest.param(-INFINITY, id="minus infinity"),
    pytest.param(-1, id="-1"),
    pytest.param(0, id="0"),
    pytest.param(2**31, id="2**31"),
    pytest.param(2**63, id="2**63"),
    pytest.param(2**64, id="2**64"),
    pytest.param(10**5000, id="10**5000"),
]

#: What is no number of seconds.
NO_DURATION = [
    pytest.param(True, id="True"),
    pytest.param(False, id="False"),
    pytest.param("5", id="text of a number"),
    pytest.param(b"5", id="bytes"),
    pytest.param([5.0], id="list"),
    pytest.param(5 + 0j, id="complex"),
    pytest.param(Decimal(5), id="decimal"),
    pytest.param(NAN, id="NaN"),
    pytest.param(INFINITY, id="infinity"),
    pytest.param(-INFINITY, id="minus infinity"),
    pytest.param(-1, id="-1"),
    pytest.param(-5e-324, id="the least below zero"),
    pytest.param(LONGEST_DURATION + 1, id="one second too long"),
    pytest.param(math.nextafter(LONGEST_DURATION, INFINITY), id="the least too long"),
    pytest.param(2**31, id="2**31"),
    pytest.param(2**63, id="2**63"),
    pytest.param(10**400, id="more than any float"),
]


def metadata_of(**values: object) -> TrackMetadata:
    return TrackMetadata(**values)  # type: ignore[arg-type]


def record_of(**values: object) -> TrackRecord:
    return TrackRecord(**({"metadata": TrackMetadata(), "audio_path": "a"} | values))  # type: ignore[arg-type]


def refusal(make: Callable[[], object]) -> errors.InvalidInput:
    with pytest.raises(errors.InvalidInput) as caught:
        make()
    return caught.value


def refused(field: str, value: object) -> errors.InvalidInput:
    """Return the error that refuses *value*, and check that it is about *field* alone."""
    make = record_of if field in LONGEST_PATH else metadata_of
    error = refusal(lambda: make(**{field: value}))
    assert [problem.field for problem in error.problems] == [field]
    assert (error.field, error.limit) == (field, error.problems[0].limit)
    assert not error.retryable
    return error


# What is accepted, and how it is kept.


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        pytest.param("title", "J\u00f3ga", "J\u00f3ga", id="NFC"),
        pytest.param("title", "Jo\u0301ga", "J\u00f3ga", id="NFD"),
        pytest.param("title", "\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m", id="the sign of a unit"),
        pytest.param("title", "\u1112\u1161\u11ab", "\ud55c", id="conjoining jamo"),
        pytest.param("title", "\ufb01n", "\ufb01n", id="a ligature stays, for NFC is not NFKC"),
        pytest.param("title", "  a  ", "  a  ", id="spaces around"),
        pytest.param("title", "a\r\nb\x1b", "a\r\nb\x1b", id="controls within"),
        pytest.param("title", "\u202ea\u200b", "\u202ea\u200b", id="bidi and zero width around"),
        pytest.param("title", "\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680", id="joined emoji"),
        pytest.param("title", "'; DROP TABLE audio_tracks; -- %s :x", "'; DROP TABLE audio_tracks; -- %s :x", id="SQL"),
        pytest.param("title", "!!!", "!!!", id="punctuation alone"),
        pytest.param("title", "0", "0", id="zero"),
        pytest.param("title", "\u0301", "\u0301", id="a mark alone"),
        pytest.param("title", "\u0600", "\u0600", id="a format that is seen"),
        pytest.param("title", "\uffff\U0010ffff", "\uffff\U0010ffff", id="noncharacters"),
        pytest.param("title", "Untitled", "Untitled", id="the default, spelt out"),
        pytest.param("title", None, "Untitled", id="no title"),
        pytest.param("format", "mp3", "mp3", id="format"),
        pytest.param("year", 1000, 1000, id="first year"),
        pytest.param("duration", 0, 0.0, id="no sound"),
        pytest.param("duration", 5, 5.0, id="whole seconds"),
        pytest.param("duration", -0.0, 0.0, id="minus zero"),
        pytest.param("duration", 5e-324, 5e-324, id="the least duration"),
        pytest.param("duration", 0.1, 0.1, id="a tenth"),
        pytest.param("duration", LONGEST_DURATION, float(LONGEST_DURATION), id="the greatest duration"),
        *(pytest.param(field, None, None, id=f"no {field}") for field in METADATA_FIELDS if field != "title"),
    ],
)
def test_a_value_is_kept_in_its_one_form(field: str, value: object, kept: object) -> None:
    found = getattr(metadata_of(**{field: value}), field)
    assert (found, type(found)) == (kept, type(kept))


def test_minus_zero_has_no_sign_left() -> None:
    assert str(TrackMetadata(duration=-0.0).duration) == "0.0"
    assert TrackMetadata(duration=-0.0) == TrackMetadata(duration=0)


def test_metadata_without_a_word_is_an_untitled_track() -> None:
    empty = TrackMetadata()
    assert empty.title == "Untitled"
    assert {getattr(empty, field) for field in METADATA_FIELDS if field != "title"} == {None}


@pytest.mark.parametrize("text", INVISIBLE)
def test_a_title_with_nothing_to_see_is_refused(text: str) -> None:
    assert "visible" in str(refused("title", text))


@pytest.mark.parametrize("text", INVISIBLE)
def test_other_text_with_nothing_to_see_is_none(text: str) -> None:
    for field in LONGEST:
        if field != "title":
            assert getattr(metadata_of(**{field: text[: LONGEST[field]]}), field) is None


def test_spaces_controls_and_formats_are_invisible_but_for_those_that_print() -> None:
    # Arabic, Syriac and Kaithi signs of numbers and verses, and what joins Egyptian hieroglyphs.
    prints = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
    for code in range(1, 0x110000):
        category = unicodedata.category(chr(code))
        if (category in {"Cc", "Cf"} or category.startswith("Z")) and code not in prints:
            assert TrackMetadata(artist=chr(code)).artist is None, hex(code)


def test_a_subclass_of_a_number_is_kept_as_the_number() -> None:
    numbers = IntEnum("numbers", {"STEREO": 2})
    kept = metadata_of(channels=numbers.STEREO, duration=numbers.STEREO)
    assert (type(kept.channels), type(kept.duration)) == (int, float)


def test_a_subclass_of_text_is_kept_as_plain_text() -> None:
    """An enumeration of texts is the common one: `str()` of its member would be its name."""
    genres = Enum("genres", {"HIP_HOP": "Hip Hop", "MUSICA": "M\u00fasica"}, type=str)
    for genre in genres:
        kept = metadata_of(genre=genre)
        assert (type(kept.genre), kept.genre) == (str, genre.value)


# Limits.


def test_the_limits_are_those_that_these_tests_know() -> None:
    assert {*LONGEST, *LONGEST_PATH, *WHOLE, *NUMBERS} == set(LIMITS)
    for field, limits in (WHOLE | NUMBERS).items():
        assert tuple(LIMITS[field]) == limits


@pytest.mark.parametrize("character", ["x", "\u00f3", "\u6b4c", "\U0001f3b5"], ids=["1", "2", "3", "4"])
@pytest.mark.parametrize(("field", "longest"), (LONGEST | LONGEST_PATH).items())
def test_text_is_counted_in_characters_whatever_their_bytes(field: str, longest: int, character: str) -> None:
    make = record_of if field in LONGEST_PATH else metadata_of
    assert getattr(make(**{field: character * longest}), field) == character * longest
    error = refused(field, character * (longest + 1))
    assert error.limit == longest
    assert f"{longest:,}" in str(error)


@pytest.mark.parametrize(
    ("composed", "parts"),
    [
        pytest.param("\u00f3", 2, id="two characters become one"),
        pytest.param("\ud55c", 3, id="three characters become one"),
        pytest.param("\u1f82", 4, id="four characters become one"),
    ],
)
@pytest.mark.parametrize(("field", "longest"), (LONGEST | LONGEST_PATH).items())
def test_text_is_counted_after_nfc(field: str, longest: int, composed: str, parts: int) -> None:
    decomposed = unicodedata.normalize("NFD", composed)
    assert len(decomposed) == parts
    make = record_of if field in LONGEST_PATH else metadata_of
    assert getattr(make(**{field: decomposed * longest}), field) == composed * longest
    assert refused(field, decomposed * (longest + 1)).limit == longest


def test_text_that_nfc_makes_longer_is_counted_after_it() -> None:
    grows = "\u0958"  # which NFC writes as two characters
    assert metadata_of(title=grows * 500).title == "\u0915\u093c" * 500
    error = refused("title", grows * 501)
    assert error.limit == 1000
    assert str(error) == "title: at most 1,000 characters, not 1,002"


@pytest.mark.parametrize(("field", "limits"), WHOLE.items())
def test_the_ends_of_a_range_are_within_it(field: str, limits: tuple[int, int]) -> None:
    lowest, highest = limits
    for value in limits:
        assert getattr(metadata_of(**{field: value}), field) == value
    for value in (lowest - 1, highest + 1):
        error = refused(field, value)
        assert error.limit == limits
        assert f"from {lowest} to {highest}" in str(error)


# What is refused.


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize("field", [*LONGEST, *LONGEST_PATH])
def test_what_is_no_text_is_refused(field: str, value: object) -> None:
    assert type(value).__name__ in str(refused(field, value))


@pytest.mark.parametrize("text", UNSTORABLE)
@pytest.mark.parametrize("field", [*LONGEST, *LONGEST_PATH])
def test_text_that_cannot_be_stored_is_refused(field: str, text: str) -> None:
    refused(field, text)


@pytest.mark.parametrize("value", NO_WHOLE)
@pytest.mark.parametrize("field", WHOLE)
def test_what_is_no_whole_number_in_range_is_refused(field: str, value: object) -> None:
    assert refused(field, value).limit == WHOLE[field]


@pytest.mark.parametrize("value", NO_DURATION)
def test_what_is_no_duration_is_refused(value: object) -> None:
    assert refused("duration", value).limit == (0.0, LONGEST_DURATION)


@pytest.mark.parametrize("kind", [str, int], ids=["text", "number"])
def test_an_object_that_poses_as_another_type_is_refused(kind: type) -> None:
    """Proxies of web frameworks tell `isinstance` that they are what they stand for."""
    poser = type("Poser", (), {"__class__": kind})()
    for field in METADATA_FIELDS:
        refused(field, poser)


def test_one_error_lists_every_bad_field_with_its_limit() -> None:
    bad: dict[str, object] = {
        "title": " ",
        "artist": 5,
        "album": "x" * 1001,
        "genre": "x" * 201,
        "year": True,
        "duration": NAN,
        "channels": 0,
        "sample_rate": 44_100.0,
        "bitrate": 2**31,
        "format": "a\0",
    }
    error = refusal(lambda: metadata_of(**bad))
    assert [(problem.field, problem.limit) for problem in error.problems] == [
        ("title", None),
        ("artist", None),
        ("album", 1000),
        ("genre", 200),
        ("year", (1000, 9999)),
        ("duration", (0.0, 31_536_000.0)),
        ("channels", (1, 256)),
        ("sample_rate", (1, 100_000_000)),
        ("bitrate", (1, 2_000_000_000)),
        ("format", None),
    ]
    assert (error.field, error.limit) == ("title", None)
    assert all(problem.rule for problem in error.problems)
    assert str(error).startswith("title: at least one visible character; artist: text, not int; album: at most 1,000")


def test_good_fields_are_not_named_beside_bad_ones() -> None:
    error = refusal(lambda: metadata_of(title="a", year=0, duration=5.0, format=b"x"))
    assert [problem.field for problem in error.problems] == ["year", "format"]
    assert (error.field, error.limit) == ("year", (1000, 9999))


def test_an_unknown_name_is_a_mistake_in_the_code() -> None:
    with pytest.raises(TypeError):
        metadata_of(tittle="a")
    with pytest.raises(TypeError):
        TrackMetadata("a")  # type: ignore[call-arg]


# Frozen.


@pytest.mark.parametrize("field", METADATA_FIELDS)
def test_metadata_cannot_be_changed(field: str) -> None:
    metadata = TrackMetadata()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(metadata, field, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(metadata, field)


def test_a_changed_copy_is_validated_again() -> None:
    metadata = TrackMetadata(title="a", year=1999)
    assert dataclasses.replace(metadata, duration=5).duration == 5.0
    assert refusal(lambda: dataclasses.replace(metadata, year=0)).field == "year"


def test_equal_content_is_equal_and_survives_copying_and_pickling() -> None:
    metadata = TrackMetadata(title="Jo\u0301ga", year=1997, duration=305)
    assert metadata == TrackMetadata(title="J\u00f3ga", year=1997, duration=305.0)
    assert {metadata, copy.deepcopy(metadata), pickle.loads(pickle.dumps(metadata))} == {metadata}  # noqa: S301


# Mappings, as an extractor gives them.


def test_a_mapping_is_read_like_keywords() -> None:
    values = {"title": "Jo\u0301ga", "artist": " ", "year": 1997, "duration": 305}
    assert TrackMetadata.from_mapping(values) == metadata_of(**values)
    assert TrackMetadata.from_mapping(MappingProxyType(values)) == metadata_of(**values)
    assert TrackMetadata.from_mapping({}) == TrackMetadata()


def test_unknown_keys_are_named_together_with_bad_fields() -> None:
    error = refusal(lambda: TrackMetadata.from_mapping({"tittle": "a", "year": "1999", "Title": "b", "format": 5}))
    assert [problem.field for problem in error.problems] == ["year", "format", "tittle", "Title"]
    assert all(field in error.problems[-1].rule for field in METADATA_FIELDS)


def test_a_name_that_is_unknown_is_named_as_it_was_written() -> None:
    assert refusal(lambda: TrackMetadata.from_mapping({"tittle": "a"})).field == "tittle"


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("", id="no text"),
        pytest.param("title ", id="a space too many"),
        pytest.param("audio_path", id="a column that is no metadata"),
        pytest.param("search_vector", id="a column that nobody writes"),
        pytest.param("self", id="self"),
        pytest.param("__class__", id="dunder"),
        pytest.param("a\n\x1b[2J\0b", id="controls"),
        pytest.param("\u202e\u200b", id="bidi"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param("x" * 10_000, id="long"),
        pytest.param("\U0001f3b5" * 10_000, id="long, outside ASCII"),
        pytest.param(b"title", id="bytes"),
        pytest.param(5, id="number"),
        pytest.param(NAN, id="NaN"),
        pytest.param(None, id="None"),
        pytest.param(("title",), id="tuple"),
        pytest.param(frozenset({"title"}), id="frozenset"),
        pytest.param(object(), id="object"),
        pytest.param(10**5000, id="a number too long to print"),
        pytest.param(type("Loud", (), {"__repr__": lambda _: "\x1b[2J\n"})(), id="controls in a repr"),
        pytest.param(type("Broken", (), {"__repr__": lambda _: 1 / 0})(), id="a repr that raises"),
    ],
)
def test_a_hostile_key_is_refused_in_a_message_fit_to_print(key: object) -> None:
    error = refusal(lambda: TrackMetadata.from_mapping({key: "value", "title": "a"}))  # type: ignore[dict-item]
    assert len(error.problems) == 1
    assert len(str(error)) <= 500
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "values",
    [None, 5, "title", b"title", [("title", "a")], {"title"}, TrackMetadata(), object()],
    ids=lambda values: type(values).__name__,
)
def test_what_is_no_mapping_is_refused(values: Any) -> None:
    assert refusal(lambda: TrackMetadata.from_mapping(values)).field == "metadata"


# What an error says, and what it takes.


HOLDERS: list[object] = [PLANTED, PLANTED.encode(), [PLANTED], {PLANTED: 1}, SimpleNamespace(secret=PLANTED)]
UNFIT: list[object] = [PLANTED * 1000, PLANTED + "\0", "\ud800" + PLANTED, *HOLDERS[1:]]

#: Every field with a value that holds a secret and is refused.
LEAKS = [
    *itertools.product([metadata_of], LONGEST, UNFIT),
    *itertools.product([record_of], LONGEST_PATH, UNFIT),
    *itertools.product([metadata_of], [*WHOLE, "duration"], HOLDERS),
    *itertools.product([record_of], ["metadata", "id", "status"], HOLDERS),
]


def assert_nothing_leaks(error: errors.InvalidInput) -> None:
    assert len(str(error)) <= 500
    assert PLANTED not in f"{error} {error!r} {error.args} {vars(error)}"
    # A chain of errors is printed too; the standard library's own would quote the value.
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize(("make", "field", "value"), LEAKS)
def test_an_error_never_repeats_what_was_handed_in(make: Callable[..., object], field: str, value: object) -> None:
    error = refusal(lambda: make(**{field: value}))
    assert error.field == field
    assert_nothing_leaks(error)


@pytest.mark.parametrize("value", HOLDERS)
def test_an_error_about_a_mapping_never_repeats_its_values(value: object) -> None:
    assert_nothing_leaks(refusal(lambda: TrackMetadata.from_mapping({"year": value, "tittle": value})))
    assert_nothing_leaks(refusal(lambda: TrackMetadata.from_mapping([value])))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [*WHOLE, "duration"])
def test_an_error_never_repeats_a_number(field: str) -> None:
    for value in (-31_337_133_713, 31_337_133_713, 31_337_133_713.5):
        assert "31337133713" not in str(refused(field, value)).replace(",", "")


def test_a_message_is_cut_and_names_the_first_of_many_unknown_fields() -> None:
    error = refusal(lambda: TrackMetadata.from_mapping({f"unknown{n}": 1 for n in range(100)}))
    assert (len(str(error)), str(error)[-1]) == (500, "\u2026")
    assert [problem.field for problem in error.problems[:20]] == [f"unknown{n}" for n in range(20)]
    (last,) = error.problems[20:]
    assert (last.field, last.rule[:27]) == ("metadata", "80 more fields are unknown;")


#: Every way in for something huge.
WAYS_IN: dict[str, Callable[[Any], object]] = {
    "title": lambda huge: metadata_of(title=huge),
    "every field": lambda huge: metadata_of(**dict.fromkeys(METADATA_FIELDS, huge)),
    "title in a mapping": lambda huge: TrackMetadata.from_mapping({"title": huge}),
    "instead of a mapping": TrackMetadata.from_mapping,
    "instead of metadata": lambda huge: record_of(metadata=huge),
    "paths": lambda huge: record_of(audio_path=huge, thumbnail_path=huge),
    "id": lambda huge: record_of(id=huge),
    "status": lambda huge: record_of(status=huge),
    "key of a mapping": lambda huge: TrackMetadata.from_mapping({huge: 1}),
}


@pytest.mark.parametrize("size", [1_000_000, 100_000_000], ids=["1 MB", "100 MB"])
@pytest.mark.parametrize("unit", ["x", "\U0001f3b5", b"x"], ids=["ASCII", "four bytes", "bytes"])
def test_huge_input_is_refused_quickly(unit: str | bytes, size: int) -> None:
    huge = unit * (size // len(unit.encode() if isinstance(unit, str) else unit))
    seconds = {}
    for name, make in WAYS_IN.items():
        began = time.thread_time()  # What the machine does besides does not count.
        refusal(functools.partial(make, huge))
        seconds[name] = time.thread_time() - began
    assert {name: taken for name, taken in seconds.items() if taken > 0.5} == {}


@pytest.mark.parametrize("name", WAYS_IN)
def test_huge_input_is_refused_without_a_copy(name: str) -> None:
    huge = "x" * 10_000_000
    tracemalloc.start()
    try:
        refusal(lambda: WAYS_IN[name](huge))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# Records.


@pytest.mark.parametrize(
    "given_id",
    [
        pytest.param(UUID("01890a5d-ac96-774b-bcce-b302099a8057"), id="UUID"),
        pytest.param("01890a5d-ac96-774b-bcce-b302099a8057", id="text"),
        pytest.param("01890A5DAC96774BBCCEB302099A8057", id="capitals without hyphens"),
    ],
)
def test_an_id_is_a_uuid_or_its_text(given_id: object) -> None:
    assert record_of(id=given_id).id == UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def test_a_record_without_an_id_gets_a_new_one() -> None:
    first, second = record_of(), record_of(id=None)
    assert first.id != second.id
    assert first.id.version == 7


@pytest.mark.parametrize("wrong", ["", "x", 5, True, b"x" * 16, ["x"]], ids=repr)
def test_what_is_no_id_is_refused(wrong: object) -> None:
    assert refusal(lambda: record_of(id=wrong)).field == "id"


@pytest.mark.parametrize("text", INVISIBLE)
def test_a_record_needs_an_audio_path_that_can_be_seen(text: str) -> None:
    assert "visible" in str(refused("audio_path", text))
    assert record_of(thumbnail_path=text).thumbnail_path is None


def test_a_record_without_an_audio_path_is_refused() -> None:
    refused("audio_path", None)
    with pytest.raises(TypeError):
        TrackRecord(TrackMetadata())  # type: ignore[call-arg]


@pytest.mark.parametrize("path", ["../../etc/passwd", "s3://b/k", "C:\\a\\b", "a\r\nb", "/dev/zero", "~", "$(x)"])
def test_paths_are_data(path: str) -> None:
    record = record_of(audio_path=path, thumbnail_path=path)
    assert (record.audio_path, record.thumbnail_path) == (path, path)


def test_paths_are_kept_in_nfc() -> None:
    record = record_of(audio_path="Jo\u0301ga.flac", thumbnail_path="Jo\u0301ga.png")
    assert (record.audio_path, record.thumbnail_path) == ("J\u00f3ga.flac", "J\u00f3ga.png")


def test_one_error_lists_everything_that_is_wrong_with_a_record() -> None:
    error = refusal(lambda: record_of(metadata={}, audio_path="", thumbnail_path=5, id="x", status="DONE"))
    assert [problem.field for problem in error.problems] == ["metadata", "audio_path", "thumbnail_path", "id", "status"]
    assert (error.field, error.operation) == ("metadata", "save")


@pytest.mark.parametrize("metadata", [None, {}, {"title": "a"}, "a", TrackMetadata], ids=repr)
def test_a_record_holds_validated_metadata(metadata: object) -> None:
    assert refusal(lambda: record_of(metadata=metadata)).field == "metadata"


@pytest.mark.parametrize("status", ["PENDING", "COMPLETED"])
def test_a_first_status_is_given_as_a_status_or_its_name(status: str) -> None:
    assert record_of(status=status).status is TrackStatus(status)
    assert record_of(status=TrackStatus(status)).status is TrackStatus(status)


def test_a_record_is_complete_unless_it_says_otherwise() -> None:
    assert record_of().status is TrackStatus.COMPLETED


@pytest.mark.parametrize("status", ["DONE", "pending", " PENDING", "", None, 0, True, b"PENDING", [], {}], ids=repr)
def test_what_is_no_status_is_refused(status: object) -> None:
    assert refusal(lambda: record_of(status=status)).field == "status"


@pytest.mark.parametrize("status", ["PROCESSING", "FAILED"])
def test_no_record_begins_in_the_middle(status: str) -> None:
    identifier = uuid4()
    for given_status in (status, TrackStatus(status)):
        with pytest.raises(errors.IllegalTransition) as caught:
            record_of(id=identifier, status=given_status)
        assert (caught.value.from_status, caught.value.to_status) == (None, TrackStatus(status))
        assert (caught.value.track_id, caught.value.retryable) == (identifier, False)


def test_a_record_cannot_be_changed() -> None:
    record = record_of()
    for field in ("metadata", "audio_path", "id", "thumbnail_path", "status"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, None)


def test_the_content_of_a_record_is_its_metadata_and_paths() -> None:
    record = record_of(metadata=TrackMetadata(title="a", year=1999), audio_path="b", thumbnail_path="c")
    known = {"title": "a", "year": 1999, "audio_path": "b", "thumbnail_path": "c"}
    assert record.content() == dict.fromkeys(METADATA_FIELDS) | known


# Whatever comes.

ANY_CHARACTER = st.one_of(
    st.characters(exclude_categories=()),
    st.sampled_from("\0\ud800\udbff\udc00\udfff\u0301\u0308\u0958\ufb2c\u200b\u200f\u202e\u2066\ufeff\u3164\uffff ax"),
)
ANY_TEXT = st.one_of(
    st.text(ANY_CHARACTER), st.builds(lambda text, times: text * times, st.text(ANY_CHARACTER), st.integers(1, 500))
)
STORABLE_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    ANY_TEXT,
    st.binary(),
    st.decimals(),
    st.uuids(),
    st.datetimes(timezones=st.none() | st.just(UTC)),
    st.lists(st.text(), max_size=2),
    st.dictionaries(st.text(), st.integers(), max_size=2),
    st.sampled_from([10**400, -(10**4000), 1j, Fraction(1, 3), (), frozenset({1}), *TrackStatus]),
    st.sampled_from([object(), object, len, ..., NotImplemented, ValueError("x"), memoryview(b"x"), bytearray(b"x")]),
    st.sampled_from([SimpleNamespace(x=1), TrackMetadata()]),
)


def hashable(value: object) -> bool:
    try:
        hash(value)
    except (TypeError, ValueError):
        return False
    return True


often = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def storable(text: str) -> bool:
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def outcome(make: Callable[[], Made]) -> Made | errors.InvalidInput:
    try:
        return make()
    except errors.InvalidInput as error:
        return error


@often
@given(title=ANY_TEXT)
@example(title="\u0301" * 1001)
@example(title="\u202e" * 10)
@example(title="\U0010ffff" * 1000)
@example(title="\u0958" * 501)
def test_any_text_is_a_title_in_nfc_or_refused_by_name(title: str) -> None:
    normal = unicodedata.normalize("NFC", title)
    made = outcome(lambda: TrackMetadata(title=title))
    if isinstance(made, errors.InvalidInput):
        assert [problem.field for problem in made.problems] == ["title"]
        reasons = (len(normal) > 1000, not storable(title))
        assert any(reasons) or all(metadata_of(artist=character).artist is None for character in normal)
    else:
        assert made.title == normal
        assert len(normal) <= 1000
        assert storable(title)


@often
@given(values=st.dictionaries(st.sampled_from(METADATA_FIELDS), ANYTHING))
def test_metadata_of_any_objects_is_valid_or_invalid_input(values: dict[str, object]) -> None:
    made = outcome(lambda: metadata_of(**values))
    if isinstance(made, errors.InvalidInput):
        assert {problem.field for problem in made.problems} <= set(values)
        assert len(str(made)) <= 500
    else:
        assert made == metadata_of(**dataclasses.asdict(made))


@often
@given(values=st.dictionaries(st.one_of(st.sampled_from(METADATA_FIELDS), ANYTHING.filter(hashable)), ANYTHING))
def test_a_mapping_of_anything_is_valid_or_invalid_input(values: dict[str, object]) -> None:
    made = outcome(lambda: TrackMetadata.from_mapping(values))
    if isinstance(made, errors.InvalidInput):
        assert len(str(made)) <= 500
        assert escaped(str(made)) == str(made)
    else:
        assert set(values) <= set(METADATA_FIELDS)


@often
@given(
    values=st.dictionaries(
        st.sampled_from(["metadata", "audio_path", "id", "thumbnail_path", "status"]), ANYTHING, min_size=1
    )
)
def test_a_record_of_any_objects_is_valid_or_refused(values: dict[str, object]) -> None:
    if values.get("status") in ("PROCESSING", "FAILED"):
        values = values | {"status": "DONE"}  # IllegalTransition has its own test.
    made = outcome(lambda: record_of(**values))
    if isinstance(made, errors.InvalidInput):
        assert {problem.field for problem in made.problems} <= set(values)
    else:
        assert made.content().keys() >= {"audio_path", *METADATA_FIELDS}


def numbers(field: str) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(*WHOLE[field]) | st.sampled_from(WHOLE[field])


def texts(field: str) -> st.SearchStrategy[str | None]:
    """Give text of every length up to the limit, in NFC or not."""
    longest = LONGEST[field]
    long = st.builds(lambda text, times: (text * times)[:longest], STORABLE_TEXT, st.integers(1, longest))
    return st.none() | STORABLE_TEXT | long


ANY_VALUES = st.fixed_dictionaries(
    {field: texts(field) for field in LONGEST}
    | {field: numbers(field) for field in WHOLE}
    | {"duration": st.none() | st.floats(0, LONGEST_DURATION, allow_subnormal=True) | st.just(-0.0)}
)
ANY_METADATA = ANY_VALUES.map(lambda values: outcome(lambda: metadata_of(**values))).filter(
    lambda made: isinstance(made, TrackMetadata)
)


@often
@given(metadata=ANY_METADATA)
@example(metadata=TrackMetadata(title="\U0010ffff" * 1000, artist="\U0001f3b5" * 1000, album="\ufdfa" * 1000))
@example(metadata=TrackMetadata(title="x" * 999 + " ", genre="'" * 200, format="\\" * 50, duration=5e-324))
@example(metadata=TrackMetadata(title="a&" * 500, artist="!@$" * 333, album="\u0301" * 1000, genre="\ufdfa" * 200))
@example(metadata=TrackMetadata(title="\uffff\ufffe\x01\x7f", artist="%s %(x)s :x {x} \\x00", album="NULL"))
def test_all_accepted_metadata_is_stored_and_reads_back_equal(units: Units, metadata: TrackMetadata) -> None:
    with units() as work:
        saved = work.save(metadata, audio_path="a")
        found = work.get(saved.id)
        # The server compares the content itself, and finds no difference either.
        assert work.save(metadata, id=saved.id, audio_path="a", replace=True).version == 1
    for track in (saved, found):
        content = {field: getattr(track, field) for field in METADATA_FIELDS}
        assert content == dataclasses.asdict(metadata)
        assert metadata_of(**content) == metadata


@pytest.mark.parametrize(("field", "longest"), (LONGEST | LONGEST_PATH).items())
def test_the_longest_text_of_the_widest_characters_is_stored(units: Units, field: str, longest: int) -> None:
    text = "\U0001f3b5" * longest
    with units() as work:
        if field in LONGEST_PATH:
            track = work.save_record(record_of(**{field: text}))
        else:
            track = work.save(metadata_of(**{field: text}), audio_path="a")
        assert getattr(work.get(track.id), field) == text


def lowered(text: str) -> bytes:
    return text.lower().encode()


def test_a_letter_that_grows_when_it_is_lowered_does_not_bring_the_server_down(units: Units) -> None:
    """
    The server's text parser looks at a word's length before it lowers it.

    Past 2,047 bytes the vector then overruns its memory, and the server ends all sessions of all clients; so lowering
    must have been done before the parser sees the text, and this asks for that before it stores such a word.
    """
    letters = [chr(code) for code in range(0x80, 0x110000) if chr(code).isalpha()]
    growing = [letter for letter in letters if len(lowered(letter)) > len(letter.encode())]
    assert {"\u023a", "\u023e"} <= set(growing)
    with units() as work:
        for letter in growing:
            folded = work.session.execute(select(getattr(func, FOLD_FUNCTION)(letter))).scalar_one()
            assert len(lowered(folded)) <= len(folded.encode()), f"{letter!r} grows after folding"
        for letter in growing:
            track = work.save(TrackMetadata(title=letter * 1000, genre=letter * 200), audio_path="a")
            assert work.get(track.id).title == letter * 1000
