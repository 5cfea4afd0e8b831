"""Each kind of search is answered by its indexes, and common words cost what rare ones do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from audiocatalog import Catalog, SearchFilters
from audiocatalog.operations.operation import GENERIC_PLAN_SETTINGS
from audiocatalog.search.request import Request
from audiocatalog.search.results import FACETS
from audiocatalog.search.sorted_sql import COUNTED, bounded_sql
from tests.support.databases import libpq, temporary_database
from tests.support.plans import Node, nodes, plan_of, prepare, rows_read, whole_reads
from tests.support.searches import Asked, what_is_asked

TRACKS = 20_000
VECTOR = "ix_audio_tracks_search_vector"
TITLE, ARTIST = "ix_audio_tracks_title_name", "ix_audio_tracks_artist_name"


@pytest.fixture(scope="module")
def library(server_url: str, migrated_template: str) -> Iterator[Catalog]:
    """Give a catalogue that is large enough for its plans to matter."""
    with temporary_database(server_url, template=migrated_template) as url:
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute(
                "INSERT INTO audio_tracks"
                " (id, status, title, artist, album, genre, year, duration, audio_path, created_at)"
                " SELECT gen_random_uuid(), CASE WHEN n % 100 = 0 THEN 'PENDING' ELSE 'COMPLETED' END,"
                " 'common frequent ' || substr(md5(n::text), 1, 5), 'the band' || n % 300, 'album' || n % 2000,"
                " 'genre' || n % 50, 1950 + n % 70, 60 + n % 600, 'a', now() - n * interval '1 minute'"
                f" FROM generate_series(1, {TRACKS}) AS n"
            )
            admin.execute("VACUUM ANALYZE audio_tracks")
        with Catalog(url, search_timeout=20) as catalog:
            catalog.refresh_vocabulary()
            with psycopg.connect(libpq(url), autocommit=True) as admin:
                admin.execute("VACUUM ANALYZE audio_search_words")
            yield catalog


@pytest.fixture
def explainer(library: Catalog) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq(library._database.url), autocommit=True, prepare_threshold=None) as connection:
        yield connection


def asked(library: Catalog, query: str, **options: Any) -> list[Asked]:
    """Return the statements that a search sends."""
    with what_is_asked() as statements:
        library.search(query, **options)
    return statements


def table(plan: Node, name: str) -> Node:
    """Return the part of a plan that makes the common table expression *name*."""
    return next(node for node in nodes(plan) if node.get("Subplan Name") == f"CTE {name}")


def indexes(plan: Node, *, used: bool = False) -> set[str]:
    """Return the names of the indexes in a plan, or of those that were *used*."""
    return {
        node["Index Name"] for node in nodes(plan) if "Index Name" in node and (not used or node["Actual Loops"] > 0)
    }


def blocks_read(plan: Node) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


SAMPLES = {f"{VECTOR}_{share}" for share in (4096, 512, 64, 8)}

# What is typed, and the indexes that must be in the plan of its first statement.
KINDS = [
    pytest.param("common ", {}, {VECTOR, TITLE, ARTIST} | SAMPLES, id="a common word"),
    pytest.param("c4ca4 ", {}, {VECTOR, TITLE, ARTIST}, id="a rare word"),
    pytest.param("common frequent ", {}, {VECTOR} | SAMPLES, id="two common words"),
    pytest.param("common c4ca4 ", {}, {VECTOR}, id="a common and a rare word"),
    pytest.param("c", {}, {VECTOR, TITLE, ARTIST} | SAMPLES, id="one letter"),
    pytest.param("commo", {}, {VECTOR, TITLE} | SAMPLES, id="the beginning of a word"),
    pytest.param("common fr", {}, {VECTOR} | SAMPLES, id="a word and a beginning"),
    pytest.param('"common frequent"', {}, {VECTOR} | SAMPLES, id="a phrase"),
    pytest.param("common -band7 ", {}, {VECTOR} | SAMPLES, id="an exclusion"),
    pytest.param("the band1 common frequent c4ca4", {}, {VECTOR, TITLE, ARTIST}, id="artist and title"),
    pytest.param("artist:band7 title:common ", {}, {VECTOR}, id="fields"),
    pytest.param("band7 OR band8 ", {}, {VECTOR}, id="alternatives"),
    pytest.param("common ", {"filters": SearchFilters(genre="genre7")}, {VECTOR} | SAMPLES, id="a word and a genre"),
    pytest.param("common ", {"filters": SearchFilters(year=(1960, 1969))}, {VECTOR} | SAMPLES, id="a word and years"),
    pytest.param("common ", {"filters": SearchFilters(status="PENDING")}, {VECTOR} | SAMPLES, id="a word and a status"),
    pytest.param("common year:1960 ", {}, {VECTOR} | SAMPLES, id="a word and a typed year"),
    pytest.param("common ", {"order_by": "title"}, {VECTOR, TITLE}, id="by title"),
    pytest.param("common ", {"order_by": "artist"}, {VECTOR, ARTIST}, id="by artist"),
    pytest.param("common ", {"order_by": "year"}, {VECTOR, "ix_audio_tracks_year"}, id="by year"),
    pytest.param("common ", {"order_by": "newest"}, {VECTOR, "ix_audio_tracks_created_at"}, id="the newest"),
    pytest.param("band7 ", {"order_by": "newest"}, {VECTOR, "ix_audio_tracks_created_at"}, id="the newest of few"),
    pytest.param("common", {"facets": ["genre", "decade", "artist"]}, {VECTOR} | SAMPLES, id="facets"),
]


@pytest.mark.parametrize(("query", "options", "expected"), KINDS)
def test_a_search_reads_no_table_as_a_whole(
    library: Catalog,
    explainer: psycopg.Connection[Any],
    query: str,
    options: dict[str, Any],
    expected: set[str],
) -> None:
    (one,) = asked(library, query, **options)
    plan = plan_of(explainer, one)
    assert whole_reads(plan) == []
    assert expected <= indexes(plan)


@pytest.mark.parametrize(
    ("filters", "query", "index"),
    [
        (SearchFilters(genre="genre7"), "", VECTOR),
        (SearchFilters(artist="the band7"), "", ARTIST),
        (SearchFilters(year=1960), "", "ix_audio_tracks_year"),
        (None, "year:1960..1961", "ix_audio_tracks_year"),
    ],
)
def test_a_list_by_filters_uses_their_index(
    library: Catalog, explainer: psycopg.Connection[Any], filters: SearchFilters | None, query: str, index: str
) -> None:
    (one,) = asked(library, query, filters=filters)
    plan = plan_of(explainer, one)
    assert index in indexes(plan, used=True)


def test_a_list_by_a_status_reads_its_page_from_the_order(library: Catalog, explainer: psycopg.Connection[Any]) -> None:
    (one,) = asked(library, "", filters=SearchFilters(status="COMPLETED"))
    assert "ix_audio_tracks_created_at" in indexes(plan_of(explainer, one), used=True)


@pytest.mark.parametrize("facets", [(), FACETS])
@pytest.mark.parametrize("sort", ["newest", "title"])
def test_a_list_of_everything_reads_what_it_counts(
    library: Catalog, explainer: psycopg.Connection[Any], sort: Any, facets: tuple[str, ...]
) -> None:
    (one,) = asked(library, "", order_by=sort, facets=facets)
    # One in a hundred is not completed.
    assert COUNTED < rows_read(plan_of(explainer, one)) <= COUNTED * 1.02 + 100


@pytest.mark.parametrize("sort", ["newest", "title", "artist", "year"])
@pytest.mark.parametrize("query", ["c4ca4 OR common ", ""])
def test_a_list_that_ran_out_of_time_reads_the_beginning_of_its_order(
    library: Catalog, explainer: psycopg.Connection[Any], sort: Any, query: str
) -> None:
    (one,) = asked(library, query, order_by=sort, facets=FACETS)
    shape = Request.make(query, order_by=sort, facets=FACETS, timeout=1).shape
    beginning = bounded_sql(shape, sort, has_words=bool(query))
    plan = plan_of(explainer, Asked(beginning, one.parameters, GENERIC_PLAN_SETTINGS))
    assert whole_reads(plan) == []
    assert rows_read(plan) <= COUNTED


@pytest.mark.parametrize(
    "query", ["comon frequent ", "xyzzy qwertz ", "c4ca4 band999 ", "frequentcommon ", "the bamd1"]
)
def test_a_widened_search_reads_no_table_as_a_whole(
    library: Catalog, explainer: psycopg.Connection[Any], query: str
) -> None:
    first, second = asked(library, query)
    for one in (first, second):
        assert whole_reads(plan_of(explainer, one)) == []
    assert "ix_audio_search_words_slips" in indexes(plan_of(explainer, first), used=True)
    plan = plan_of(explainer, second)
    assert {VECTOR, TITLE, ARTIST} <= indexes(plan)


@pytest.mark.parametrize("query", ["comon frequent ", "common frequnt ", "xyzzy qwertz ", "common frequent xyzzy "])
def test_a_widened_search_for_common_words_looks_at_few_rows(
    library: Catalog, explainer: psycopg.Connection[Any], query: str
) -> None:
    _, second = asked(library, query)
    assert rows_read(plan_of(explainer, second)) < TRACKS / 8


def test_what_was_found_looks_up_no_like_words(library: Catalog, explainer: psycopg.Connection[Any]) -> None:
    (one,) = asked(library, "common ")
    assert "ix_audio_search_words_slips" not in indexes(plan_of(explainer, one), used=True)


# What common words cost


def sample_loops(plan: Node) -> dict[int, bool]:
    """Tell which samples of the tracks were read."""
    return {
        share: any(node["Actual Loops"] > 0 for node in nodes(table(plan, f"sample_{share}")) if "Index Name" in node)
        for share in (4096, 512, 64, 8, 1)
    }


@pytest.mark.parametrize("query", ["common ", "common frequent ", '"common frequent"', "c", "common -band7 "])
def test_denser_samples_are_never_read_where_a_sparse_one_is_rich(
    library: Catalog, explainer: psycopg.Connection[Any], query: str
) -> None:
    (one,) = asked(library, query)
    # 20,000 tracks are 312 in one of 64.
    assert sample_loops(plan_of(explainer, one)) == {4096: True, 512: True, 64: True, 8: False, 1: False}


@pytest.mark.parametrize("query", ["c4ca4 ", "band7 ", "common c4ca4 "])
def test_all_samples_are_read_where_none_is_rich(
    library: Catalog, explainer: psycopg.Connection[Any], query: str
) -> None:
    (one,) = asked(library, query)
    assert all(sample_loops(plan_of(explainer, one)).values())


@pytest.mark.parametrize("query", ["common ", "common frequent ", '"common frequent"', "c", "commo", "common fr"])
def test_a_common_word_looks_at_few_rows(library: Catalog, explainer: psycopg.Connection[Any], query: str) -> None:
    (one,) = asked(library, query)
    plan = plan_of(explainer, one)
    assert rows_read(plan) < TRACKS / 8
    assert blocks_read(plan) < TRACKS / 2


@pytest.mark.parametrize("query", ["c4ca4 ", "common c4ca4 ", "the band1 common frequent c4ca4"])
def test_a_rare_word_looks_at_next_to_nothing(library: Catalog, explainer: psycopg.Connection[Any], query: str) -> None:
    (one,) = asked(library, query)
    assert rows_read(plan_of(explainer, one)) < 500


@pytest.mark.parametrize("sort", ["title", "artist", "year", "newest"])
def test_another_order_of_a_common_word_soon_has_enough(
    library: Catalog, explainer: psycopg.Connection[Any], sort: Any
) -> None:
    (one,) = asked(library, "common ", order_by=sort)
    assert rows_read(plan_of(explainer, one)) < 2000


# One plan


@pytest.mark.parametrize(
    ("options", "queries"),
    [
        ({}, ["common ", "c4ca4", "the band7", "c", '"common frequent"', "common -band7", "zzz"]),
        ({"order_by": "title"}, ["common ", "c4ca4", "c", "band7 "]),
        ({"filters": SearchFilters(year=(1960, 1969))}, ["common ", "c4ca4"]),
    ],
)
def test_the_plan_is_one_for_the_first_and_the_hundredth_query_and_for_all_queries(
    library: Catalog, explainer: psycopg.Connection[Any], options: dict[str, Any], queries: list[str]
) -> None:
    statements = [asked(library, query, **options)[0] for query in queries]
    assert len({one.statement for one in statements}) == 1

    def shown(execute: sql.Composed) -> str:
        return "\n".join(line for (line,) in explainer.execute(sql.SQL("EXPLAIN (COSTS OFF) ") + execute))

    execute = prepare(explainer, statements[0])
    first = shown(execute)
    for _ in range(20):
        explainer.execute(execute).fetchall()
    assert shown(execute) == first
    for one in statements[1:]:
        assert shown(prepare(explainer, one)) == first
