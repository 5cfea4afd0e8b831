"""Ids are made by the application, in the order of time, and read from whatever text a UUID is written in."""

from __future__ import annotations

import time
from functools import reduce
from operator import and_, or_
from uuid import RFC_4122, UUID, uuid4

import pytest

from audiocatalog import errors
from audiocatalog.models.ids import new_id, parse_id

EXAMPLE = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def milliseconds(identifier: UUID) -> int:
    """Return the time in the first 48 bits of *identifier*."""
    return identifier.int >> 80


def test_a_new_id_is_of_version_7_and_the_variant_of_the_rfc() -> None:
    identifier = new_id()
    assert (identifier.version, identifier.variant) == (7, RFC_4122)


def test_a_new_id_begins_with_the_time_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    identifier = new_id()
    assert before <= milliseconds(identifier) <= time.time_ns() // 1_000_000


def test_ids_made_one_after_the_other_sort_as_uuids_and_as_text() -> None:
    made = []
    for _ in range(2000):
        made.append(new_id())
        until = time.time_ns() + 1000  # A step of the time within an id is a quarter of that.
        while time.time_ns() < until:
            pass
    assert made == sorted(made)
    assert list(map(str, made)) == sorted(map(str, made))


@pytest.mark.parametrize(("nanoseconds", "expected"), [(0, 0), (244, 0), (245, 1), (500_000, 2048), (999_999, 4095)])
def test_the_time_within_the_millisecond_stands_behind_the_version(
    monkeypatch: pytest.MonkeyPatch, nanoseconds: int, expected: int
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123 * 1_000_000 + nanoseconds)
    made = new_id()
    assert milliseconds(made) == 1_700_000_000_123
    assert made.int >> 64 & 0xFFF == expected


def test_a_hundred_thousand_ids_are_all_different_and_all_well_formed() -> None:
    made = {new_id() for _ in range(100_000)}
    assert len(made) == 100_000
    assert {(identifier.version, identifier.variant) for identifier in made} == {(7, RFC_4122)}


def test_every_bit_after_the_variant_is_random() -> None:
    made = [new_id().int for _ in range(1000)]
    random_bits = (1 << 62) - 1
    assert (reduce(or_, made) & ~reduce(and_, made)) & random_bits == random_bits


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("01890a5d-ac96-774b-bcce-b302099a8057", id="as written"),
        pytest.param("01890A5D-AC96-774B-BCCE-B302099A8057", id="capitals"),
        pytest.param("01890a5dac96774bbcceb302099a8057", id="without hyphens"),
        pytest.param("{01890a5d-ac96-774b-bcce-b302099a8057}", id="in braces"),
        pytest.param("urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057", id="as a URN"),
    ],
)
def test_the_text_of_a_uuid_is_read(text: str) -> None:
    assert parse_id(text) == EXAMPLE


def test_a_uuid_of_any_version_is_taken_as_it_is() -> None:
    for identifier in (new_id(), uuid4(), UUID(int=0), UUID(int=2**128 - 1)):
        assert parse_id(identifier) is identifier
        assert parse_id(str(identifier)) == identifier


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="no text"),
        pytest.param("not-a-uuid", id="words"),
        pytest.param("1" * 31, id="a digit short"),
        pytest.param("1" * 33, id="a digit long"),
        pytest.param("01890a5d-ac96-774b-bcce-b302099a805g", id="no hexadecimal digit"),
        pytest.param("01890a5d-ac96-774b-bcce-b302099a8057\0", id="NUL"),
        pytest.param("\ud800" * 32, id="surrogates"),
        pytest.param("{" * 1000 + "01890a5d-ac96-774b-bcce-b302099a8057", id="long"),
        pytest.param(None, id="None"),
        pytest.param(True, id="True"),
        pytest.param(5, id="whole number"),
        pytest.param(EXAMPLE.int, id="the number of a UUID"),
        pytest.param(1.5, id="fraction"),
        pytest.param(EXAMPLE.bytes, id="the bytes of a UUID"),
        pytest.param(str(EXAMPLE).encode(), id="bytes"),
        pytest.param([str(EXAMPLE)], id="list"),
    ],
)
def test_what_is_no_uuid_is_refused(value: object) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        parse_id(value)
    assert caught.value.field == "id"
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("0x" + "1" * 30, id="prefix of a hexadecimal number"),
        pytest.param("+" + "1" * 31, id="sign"),
        pytest.param(" " + "1" * 31, id="leading space"),
        pytest.param("1" * 31 + "\n", id="a digit short and a line's end"),
        pytest.param("1_" * 15 + "11", id="underscores"),
        pytest.param("\u0663" * 32, id="digits of another script"),
    ],
)
def test_thirty_two_characters_that_make_a_number_are_not_yet_a_uuid(text: str) -> None:
    with pytest.raises(errors.InvalidInput):
        parse_id(text)


def test_the_error_names_the_field_and_keeps_the_text_to_itself() -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        parse_id("planted secret", "operation_id")
    assert caught.value.field == "operation_id"
    assert "planted" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert caught.value.__context__ is None
