"""What narrows a search, and the bounds of queries and pages: checked before anything is sent."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections import deque
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum

import pytest

from audiocatalog import SearchFilters, TrackStatus, errors
from audiocatalog.search.statement import check_page, check_query

NAN, INFINITY = math.nan, math.inf
PLANTED = "planted secret"
TEXTS = ("genre", "format", "artist", "album")
#: The least and the greatest number of each range.
RANGES = {"year": (1000, 9999), "duration": (0, 31_536_000), "bitrate": (1, 2_000_000_000)}
TIMES = ("created_since", "updated_since")


def filters(**values: object) -> SearchFilters:
    return SearchFilters(**values)  # type: ignore[arg-type]


def refusal(**values: object) -> errors.InvalidInput:
    with pytest.raises(errors.InvalidInput) as caught:
        filters(**values)
    return caught.value


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        pytest.param({"status": TrackStatus.FAILED}, (TrackStatus.FAILED,), id="a status"),
        pytest.param({"status": "FAILED"}, (TrackStatus.FAILED,), id="its name"),
        pytest.param({"status": ["FAILED", TrackStatus.PENDING]}, (TrackStatus.FAILED, TrackStatus.PENDING), id="two"),
        pytest.param({"genre": "Rock"}, ("Rock",), id="one genre"),
        pytest.param({"genre": ["Rock", "Pop"]}, ("Rock", "Pop"), id="several genres"),
        pytest.param({"artist": "Bjo\u0308rk"}, ("Bj\u00f6rk",), id="NFD"),
        pytest.param({"album": ("x" * 1000,)}, ("x" * 1000,), id="the longest album"),
        pytest.param({"genre": ["x"] * 100}, ("x",) * 100, id="as many values as allowed"),
        pytest.param({"year": 1999}, (1999, 1999), id="one year"),
        pytest.param({"year": [1990, 1999]}, (1990, 1999), id="a pair as a list"),
        pytest.param({"year": (1990, None)}, (1990, None), id="no upper end"),
        pytest.param({"year": (None, 1990)}, (None, 1990), id="no lower end"),
        pytest.param({"year": (None, None)}, (None, None), id="any known year"),
        pytest.param({"year": (1000, 9999)}, (1000, 9999), id="the widest range"),
        pytest.param({"duration": 5}, (5, 5), id="whole seconds"),
        pytest.param({"duration": (0.0, 31_536_000.0)}, (0.0, 31_536_000.0), id="the longest range"),
        pytest.param({"bitrate": (320_000, 320_000)}, (320_000, 320_000), id="a range of one"),
    ],
)
def test_a_filter_is_kept_in_one_form(values: dict[str, object], kept: object) -> None:
    (field,) = values
    assert getattr(filters(**values), field) == kept


def test_any_collection_holds_several_values() -> None:
    wanted = {"Rock": 1, "Pop": 2}
    for several in (set(wanted), frozenset(wanted), tuple(wanted), list(wanted), deque(wanted), wanted.keys()):
        assert sorted(SearchFilters(genre=several).genre or ()) == ["Pop", "Rock"], type(several)


def test_no_filter_asks_for_nothing() -> None:
    assert SearchFilters() == filters(**dict.fromkeys((*TEXTS, *RANGES, *TIMES, "status")))
    assert SearchFilters().conditions() == []


def test_a_time_is_kept_with_its_zone() -> None:
    for time in (
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ):
        for field in TIMES:
            assert getattr(filters(**{field: time}), field) is time


def test_the_callers_list_is_no_part_of_the_filter() -> None:
    genres = ["Rock"]
    narrowed = SearchFilters(genre=genres)
    genres.append("Pop")
    assert narrowed.genre == ("Rock",)


def test_filters_are_frozen_equal_and_hashable() -> None:
    narrowed = SearchFilters(year=1999)
    with pytest.raises(dataclasses.FrozenInstanceError):
        narrowed.year = 2000  # type: ignore[misc]
    assert {narrowed, SearchFilters(year=(1999, 1999))} == {narrowed}


@pytest.mark.parametrize("field", TEXTS)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="no text"),
        pytest.param(" \u200b\ufeff", id="nothing visible"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("a\ud800", id="lone surrogate"),
        pytest.param("x" * 1001, id="too long"),
        pytest.param(b"Rock", id="bytes"),
        pytest.param(True, id="True"),
        pytest.param(5, id="number"),
        pytest.param({"Rock": 1}, id="mapping"),
        pytest.param([], id="no value"),
        pytest.param(["x"] * 101, id="too many values"),
        pytest.param(["Rock", None], id="None among values"),
        pytest.param(["Rock", ["Pop"]], id="list in a list"),
        pytest.param(["Rock", "\u3164"], id="nothing visible among values"),
    ],
)
def test_hostile_text_is_refused(field: str, value: object) -> None:
    error = refusal(**{field: value})
    assert (error.field, len(error.problems), error.operation) == (field, 1, "search")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("DONE", id="unknown"),
        pytest.param("failed", id="small letters"),
        pytest.param("", id="no text"),
        pytest.param("FAILED\0", id="NUL"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param(b"FAILED", id="bytes"),
        pytest.param(True, id="True"),
        pytest.param(1, id="number"),
        pytest.param([], id="no value"),
        pytest.param(["FAILED"] * 101, id="too many values"),
        pytest.param(["FAILED", None], id="None among values"),
        pytest.param([["FAILED"]], id="list in a list"),
    ],
)
def test_what_is_no_status_is_refused(value: object) -> None:
    assert refusal(status=value).field == "status"


@pytest.mark.parametrize("field", RANGES)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(True, id="True"),
        pytest.param("1999", id="text"),
        pytest.param(b"1999", id="bytes"),
        pytest.param(Decimal(1999), id="decimal"),
        pytest.param(-1, id="negative"),
        pytest.param(2**31, id="2**31"),
        pytest.param(2**63, id="2**63"),
        pytest.param(10**5000, id="10**5000"),
        pytest.param(NAN, id="NaN"),
        pytest.param(INFINITY, id="infinity"),
        pytest.param(-INFINITY, id="minus infinity"),
        pytest.param((), id="empty pair"),
        pytest.param((1999,), id="one end"),
        pytest.param((1990, 1995, 1999), id="three ends"),
        pytest.param((1999, 1990), id="ends turned round"),
        pytest.param((1990, True), id="True as an end"),
        pytest.param((1990, NAN), id="NaN as an end"),
        pytest.param((None, INFINITY), id="infinity as an end"),
        pytest.param((None, "1999"), id="text as an end"),
        pytest.param((-1, None), id="negative end"),
        pytest.param(((1990, 1999), None), id="a pair as an end"),
        pytest.param({1990, 1999}, id="set"),
        pytest.param({1990: 1999}, id="mapping"),
        pytest.param(range(1990, 1992), id="range"),
    ],
)
def test_a_hostile_range_is_refused(field: str, value: object) -> None:
    error = refusal(**{field: value})
    assert (error.field, len(error.problems), error.operation) == (field, 1, "search")


@pytest.mark.parametrize("field", RANGES)
def test_a_range_ends_at_the_fields_own_limits(field: str) -> None:
    lowest, highest = RANGES[field]
    assert getattr(filters(**{field: (lowest, highest)}), field) == (lowest, highest)
    for beyond in ((lowest - 1, highest), (lowest, highest + 1)):
        assert refusal(**{field: beyond}).limit == (lowest, highest)


@pytest.mark.parametrize("field", ["year", "bitrate"])
def test_whole_numbers_take_no_fractions(field: str) -> None:
    for value in (1999.0, 1999.5, (1999.0, None)):
        assert refusal(**{field: value}).field == field


@pytest.mark.parametrize("field", TIMES)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(datetime(2024, 1, 1), id="without a zone"),  # noqa: DTZ001  # That is the point.
        pytest.param(date(2024, 1, 1), id="date"),
        pytest.param("2024-01-01T00:00:00Z", id="text"),
        pytest.param(1_704_067_200, id="seconds"),
        pytest.param(True, id="True"),
        pytest.param([datetime(2024, 1, 1, tzinfo=UTC)], id="list"),
    ],
)
def test_what_is_no_time_with_a_zone_is_refused(field: str, value: object) -> None:
    assert refusal(**{field: value}).field == field


def test_one_error_names_every_bad_filter() -> None:
    bad = {"status": "x", "genre": 5, "format": [], "artist": "", "album": b"", "year": 0, "duration": -1}
    bad |= {"bitrate": 0, "created_since": 5, "updated_since": "x"}
    error = refusal(**bad)
    assert [problem.field for problem in error.problems] == list(bad)
    assert (error.field, len(str(error)) <= 500) == ("status", True)


@pytest.mark.parametrize("field", ["status", *TEXTS, *RANGES, *TIMES])
def test_a_refusal_never_repeats_the_filter(field: str) -> None:
    for value in (PLANTED * 1000, [PLANTED * 1000], PLANTED.encode(), {PLANTED: PLANTED}):
        error = refusal(**{field: value})
        assert PLANTED not in f"{error} {error!r} {vars(error)}"
        assert len(str(error)) <= 500
        assert error.__context__ is None


@pytest.mark.parametrize("field", ["status", *TEXTS, *RANGES, *TIMES])
def test_a_hundred_megabytes_are_refused_without_a_copy(field: str) -> None:
    value = "x" * 100_000_000
    tracemalloc.start()
    try:
        refusal(**{field: value})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("query", "limit"),
    [
        pytest.param("x" * 1001, 1000, id="1,001 characters"),
        pytest.param("x" * 100_000, 1000, id="100 kB"),
        pytest.param(" ".join("x" * 33), 32, id="33 terms"),
        pytest.param("\u3000".join("x" * 33), 32, id="33 terms parted by wide spaces"),
        pytest.param("a\0b", None, id="NUL"),
        pytest.param("a\ud800", None, id="lone surrogate"),
        pytest.param("\ud83d\ude00", None, id="a pair of surrogates"),
        pytest.param(b"radiohead", None, id="bytes"),
        pytest.param(None, None, id="None"),
        pytest.param(True, None, id="True"),
        pytest.param(5, None, id="number"),
        pytest.param(["radiohead"], None, id="list"),
    ],
)
def test_a_query_out_of_bounds_is_refused(query: object, limit: int | None) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        check_query(query)
    assert (caught.value.field, caught.value.limit, caught.value.operation) == ("query", limit, "search")


@pytest.mark.parametrize(
    ("query", "read"),
    [
        pytest.param("", "", id="no text"),
        pytest.param(" \t\n", "", id="spaces"),
        pytest.param("x" * 1000, "x" * 1000, id="1,000 characters"),
        pytest.param("\U0001f3b5" * 1000, "\U0001f3b5" * 1000, id="1,000 characters of four bytes"),
        pytest.param(" ".join("x" * 32), " ".join("x" * 32), id="32 terms"),
        pytest.param("Bjo\u0308rk", "Bj\u00f6rk", id="NFD"),
        pytest.param("' OR 1=1; -- %s :x \\", "' OR 1=1; -- %s :x \\", id="SQL"),
        pytest.param(TrackStatus.FAILED, "FAILED", id="a status"),
    ],
)
def test_a_query_within_bounds_is_read_in_nfc(query: object, read: str) -> None:
    assert check_query(query) == read


def test_a_query_that_is_a_member_of_an_enumeration_of_texts_is_its_text() -> None:
    genres = Enum("genres", {"HIP_HOP": "Hip Hop"}, type=str)
    assert check_query(genres.HIP_HOP) == "Hip Hop"


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("&".join("a" * 34), id="words joined by ampersands"),
        pytest.param("\ufdfa" * 20, id="one character that stands for four words"),
    ],
)
def test_words_that_folding_makes_count_as_terms(query: str) -> None:
    with pytest.raises(errors.InvalidInput):
        check_query(query)


def test_a_huge_query_is_refused_without_a_copy() -> None:
    query = "x " * 50_000_000
    tracemalloc.start()
    try:
        with pytest.raises(errors.InvalidInput):
            check_query(query)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_refusal_never_repeats_the_query() -> None:
    for query in (PLANTED * 100, PLANTED + "\0", PLANTED + "\ud800", " ".join([PLANTED] * 33), PLANTED.encode()):
        with pytest.raises(errors.InvalidInput) as caught:
            check_query(query)
        assert PLANTED not in f"{caught.value} {caught.value!r} {vars(caught.value)}"


@pytest.mark.parametrize(("limit", "offset"), [(1, 0), (100, 10_000), (20, 0), (1, 10_000)])
def test_a_page_within_bounds_passes(limit: int, offset: int) -> None:
    check_page(limit, offset)


@pytest.mark.parametrize("limit", [-1, 0, 101, 10**9, 2**63, True, 1.5, 20.0, "20", b"20", None, NAN, INFINITY, [20]])
def test_a_limit_out_of_bounds_is_refused(limit: object) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        check_page(limit, 0)
    assert (caught.value.field, caught.value.limit, caught.value.operation) == ("limit", (1, 100), "search")


@pytest.mark.parametrize("offset", [-1, 10_001, 10**12, 2**63, True, 1.5, 0.0, "0", b"0", None, NAN, INFINITY, [0]])
def test_an_offset_out_of_bounds_is_refused(offset: object) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        check_page(20, offset)
    assert (caught.value.field, caught.value.limit, caught.value.operation) == ("offset", (0, 10_000), "search")


def test_a_page_that_is_wrong_twice_is_told_twice() -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        check_page(0, -1)
    assert [problem.field for problem in caught.value.problems] == ["limit", "offset"]
