"""What narrows a search, and the bounds of queries and pages: checked before anything is sent."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections import deque
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from audiocatalog import SearchFilters, TrackStatus, errors
from audiocatalog.search.results import check_page

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
    assert SearchFilters().conditions() == ((), {})


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
    bad = {"genre": 5, "format": [], "artist": "", "album": b"", "year": 0, "duration": -1, "bitrate": 0}
    bad |= {"status": "x", "created_since": 5, "updated_since": "x"}
    error = refusal(**bad)
    assert [problem.field for problem in error.problems] == list(bad)
    assert (error.field, len(str(error)) <= 500) == ("genre", True)


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
    ("values", "conditions", "parameters"),
    [
        ({}, 0, {}),
        ({"status": "FAILED"}, 1, {"only_status": ["FAILED"]}),
        ({"genre": ("Rock", "Pop")}, 1, {"only_genre": ["Rock", "Pop"]}),
        ({"year": 1999}, 1, {"only_year_from": 1999, "only_year_to": 1999}),
        ({"year": (None, 1999)}, 1, {"only_year_to": 1999}),
        ({"duration": (None, None)}, 1, {}),
        ({"artist": "x", "bitrate": (1, None)}, 2, {"only_artist": ["x"], "only_bitrate_from": 1}),
    ],
)
def test_values_are_bound_and_never_written_into_a_condition(
    values: dict[str, object], conditions: int, parameters: dict[str, object]
) -> None:
    written, bound = filters(**values).conditions()
    assert (len(written), bound) == (conditions, parameters)
    for condition in written:
        assert not any(str(value) in condition for value in ("FAILED", "Rock", "1999"))


def test_the_filters_that_are_given_are_named_as_their_conditions_stand() -> None:
    given = filters(updated_since=datetime(2024, 1, 1, tzinfo=UTC), genre="x", year=1999)
    assert given.given == ("genre", "year", "updated_since")
    assert len(given.conditions()[0]) == 3
    assert filters().given == ()


@pytest.mark.parametrize("field", TEXTS)
def test_text_cannot_leave_its_place_in_a_condition(field: str) -> None:
    (condition,), parameters = filters(**{field: "' OR 1=1; -- %s"}).conditions()
    assert parameters == {f"only_{field}": ["' OR 1=1; -- %s"]}
    assert "1=1" not in condition


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
