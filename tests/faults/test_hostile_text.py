"""Whatever text there is: stored and read back as it was, or refused by name; searched for, or refused by name."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from audiocatalog import BulkOutcome, Catalog, TrackMetadata, TrackRecord, errors, migrations
from audiocatalog.models.ids import new_id
from tests.support.databases import temporary_database
from tests.support.hostile import HOSTILE, PIECES

#: The number of texts, unless the environment gives another one. Every run of the tests has a thousand titles, and a
#: few queries beside the many of `test_search_hostile.py`.
MANY: Final = pytest.param(int(os.environ.get("AUDIOCATALOG_TEST_TEXTS", "50000")), marks=pytest.mark.faults)
#: One text is saved alone for each batch of this many that are saved together: both ways take the same texts.
ALONE: Final = 50

COMBINING = "\u0300\u0301\u0327\u0338\u0345\u05b0\u0e31\u0f71\u3099\U0001d165"
DIRECTIONS = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = (
    "\u00a0\u00ad\u034f\u115f\u180e\u200b\u200c\u200d\u2028\u2060\u2800\u3164\ufe0f\ufeff\ufff9\U000e0001\U000e0061"
)
GROWING = "ßŉǰΐﬃﷺİıſKÅΩ\u1e9e가ᄀ\u1161\u11a8\ufb1d\U0002f800"
CONTROLS = "\0\x01\t\n\r\x1b\x7f\x85\u2029\ufffe\uffff\U0010ffff"
LETTERS = "aé\u0416\u05d0\u0627\u0e01\u5b87\u3042\U0001f600\U00010400\U0001d400"

#: Text of every plane, of what is special, and of both; a few of it longer than what is allowed.
WILD = st.text(st.characters(), max_size=40)
SURROGATES = st.text(st.characters(categories=["Cs", "Co", "Cn", "Cc", "Cf"]), max_size=12)
SPECIAL = st.text(st.sampled_from(LETTERS + COMBINING + DIRECTIONS + INVISIBLE + GROWING + CONTROLS), max_size=40)
LONG = st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=9), st.integers(50, 500))
TEXTS = st.one_of(WILD, WILD, WILD, SURROGATES, SPECIAL, SPECIAL, LONG)
QUERIES = st.one_of(TEXTS, st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map(" ".join))


def generated(texts: st.SearchStrategy[str], count: int) -> list[str]:
    """Return *count* of *texts*."""
    found: list[str] = []

    @settings(
        max_examples=count, phases=[Phase.generate], database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(texts)
    def collect(text: str) -> None:
        found.append(text)

    collect()
    return found


@pytest.fixture(scope="module")
def catalog(server_url: str) -> Iterator[Catalog]:
    with temporary_database(server_url) as url:
        migrations.upgrade(url)
        with Catalog(url, statement_timeout=60, search_timeout=20, pool_size=4) as catalog:
            yield catalog


def is_a_title(text: str) -> bool:
    """Tell whether *text* may be a title; if not, the error names it."""
    try:
        metadata = TrackMetadata(title=text)
    except errors.InvalidInput as error:
        assert error.field == "title", ascii(text)  # noqa: PT017
        return False
    assert metadata.title == unicodedata.normalize("NFC", text), ascii(text)
    return True


@pytest.mark.parametrize("count", [1000, MANY])
def test_every_title_is_stored_as_it_was_or_refused_by_name(catalog: Catalog, count: int) -> None:
    titles = generated(TEXTS, count)
    good = sum(map(is_a_title, titles))
    assert 0 < good < len(titles)
    for start in range(0, len(titles), 1000):
        part = {new_id(): title for title in titles[start : start + 1000]}
        result = catalog.bulk_save({"id": one, "title": title, "audio_path": "a"} for one, title in part.items())
        refused = {refusal.position: refusal.error for refusal in result.refusals}
        stored = catalog.get_many(part)
        for position, (one, title) in enumerate(part.items()):
            if is_a_title(title):
                assert result.outcomes[position] == BulkOutcome.INSERTED, ascii(title)
                assert stored[one].title == unicodedata.normalize("NFC", title), ascii(title)
            else:
                assert isinstance(refused[position], errors.InvalidInput), ascii(title)
                assert (refused[position].field, one in stored) == ("title", False), ascii(title)
    for title in filter(is_a_title, titles[::ALONE]):
        with catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title=title, artist=title, album=title), audio_path="a")
        kept = catalog.get(track.id)
        assert {kept.title, kept.artist, kept.album} == {unicodedata.normalize("NFC", title)}, ascii(title)


@pytest.mark.parametrize("count", [200, MANY])
def test_every_query_gives_a_page_or_is_refused_by_name(catalog: Catalog, count: int) -> None:
    queries = [*HOSTILE, *generated(QUERIES, count - len(HOSTILE))]
    names = [title for title in queries[:: max(1, count // 300)] if is_a_title(title)]
    catalog.bulk_save(TrackRecord(TrackMetadata(title=name, artist="The Band"), "a") for name in names)
    catalog.refresh_vocabulary()
    known = {"InvalidInput": 0, "page": 0}

    def ask(query: str) -> str:
        try:
            page = catalog.search(query, limit=5)
        except errors.InvalidInput as error:
            assert error.field == "query", ascii(query)  # noqa: PT017
            return "InvalidInput"
        except errors.CatalogError as error:
            raise AssertionError(f"{type(error).__name__} {error.sqlstate}: {query!a}") from error
        assert (len(page) <= 5, page.total >= len(page), page.is_partial) == (True, True, False), ascii(query)
        return "page"

    with ThreadPoolExecutor(2) as threads:
        for answer in threads.map(ask, queries):
            known[answer] += 1
    assert sum(known.values()) == len(queries)
    assert all(known.values())
