"""No text breaks a search, and no search breaks what it is a part of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, get_args

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiocatalog import Catalog, SearchFilters, SearchPage, TrackMetadata, UnitOfWork, errors
from audiocatalog.db.execute import send
from audiocatalog.db.transaction import driver_connection
from audiocatalog.operations.operation import GENERIC_PLAN_SETTINGS, PlannedStatement, Rows
from audiocatalog.search.results import FACETS, SearchOrder
from tests.support.databases import libpq, temporary_database
from tests.support.frozen import outcome_of
from tests.support.hostile import COMMON, HOSTILE, PIECES
from tests.support.searches import what_is_asked


@pytest.fixture(scope="module")
def library(server_url: str, migrated_template: str) -> Iterator[Catalog]:
    """Give a catalogue of a few hundred tracks, whose names are as odd as the queries."""
    chance = random.Random(20_26)  # noqa: S311
    with (
        temporary_database(server_url, template=migrated_template) as url,
        Catalog(url, search_timeout=20) as catalog,
    ):
        with catalog.unit_of_work() as work:
            for _ in range(400):
                words = [chance.choice(PIECES).replace("\0", "") for _ in range(chance.randint(1, 6))]
                values: dict[str, Any] = {
                    "artist": chance.choice([None, "The Band", "AC/DC", "P!nk", "宇多田ヒカル", "Love"]),
                    "genre": chance.choice([None, "Rock", "=genre:rock", "C:\\'x"]),
                    "year": chance.choice([None, 1990, 2001]),
                }
                title = " ".join([*words, chance.choice(COMMON)])
                work.save(TrackMetadata(title=title, **values), audio_path="a")
        catalog.refresh_vocabulary()
        yield catalog


def checked(catalog: Catalog | UnitOfWork, query: str, **options: Any) -> SearchPage | None:
    """Search, and return the page after a look at whether it can be true; None if the query was refused."""
    try:
        page = catalog.search(query, **options)
    except errors.InvalidInput as error:
        assert error.field == "query"  # noqa: PT017
        return None
    assert len(page) <= options.get("limit", 20)
    assert page.total >= len(page)
    assert (page.is_partial, len({hit.track.id for hit in page})) == (False, len(page))
    for hit in page:
        for field, spans in hit.highlights.items():
            assert all(0 <= start < end <= len(getattr(hit.track, field)) for start, end in spans)
    return page


def test_thousands_of_random_queries_give_pages(library: Catalog) -> None:
    chance = random.Random(7)  # noqa: S311
    for _ in range(400):
        pieces = [chance.choice(PIECES) for _ in range(chance.randint(1, 12))]
        query = chance.choice([" ", "", " "]).join(pieces)[:1000]
        options: dict[str, Any] = {"limit": chance.choice([1, 20, 100])}
        if chance.random() < 0.2:
            options["order_by"] = chance.choice(list(get_args(SearchOrder)))
        if chance.random() < 0.1:
            options |= {"facets": FACETS, "filters": SearchFilters(year=(1980, None))}
        checked(library, query, **options)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    query=st.one_of(
        st.text(max_size=60), st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)
    )
)
def test_any_text_gives_a_page_or_is_refused_by_name(library: Catalog, query: str) -> None:
    page = checked(library, query)
    if page is not None and page.next_cursor is not None:
        rest = library.search(query, after=page.next_cursor)
        assert not {hit.track.id for hit in page} & {hit.track.id for hit in rest}


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_the_worst_queries_give_pages_too(library: Catalog, query: str) -> None:
    for sort in get_args(SearchOrder):
        checked(library, query[:1000], order_by=sort)


@pytest.mark.parametrize("query", ["\0", "a\0b", "\ud800", "a\udfff", "\ud83d\ude00"])
def test_what_cannot_be_stored_is_refused(library: Catalog, query: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        library.search(query)
    assert (caught.value.field, caught.value.operation) == ("query", "search")


@pytest.mark.parametrize(
    ("query", "other"),
    [
        ("a:*", "a *"),
        ("lov:*", "lov *"),
        ("love & | the", "love the"),
        ("!love", "love"),
        ("=initials:tb", "initials tb"),
    ],
)
def test_what_the_server_would_read_as_an_operator_is_text(library: Catalog, query: str, other: str) -> None:
    assert library.search(f"{query} ", order_by="title").total <= library.search(f"{other} ", order_by="title").total


def test_what_is_kept_beside_the_words_cannot_be_typed(library: Catalog) -> None:
    with library.unit_of_work() as work:
        track = work.save(TrackMetadata(title="Hidden", artist="Zebra Yak Xylo", genre="Gabber"), audio_path="a").id
        for query in ("=genre:gabber", "=initials:zyx", "'=genre:gabber'", '"=genre:gabber"', "=genre:g"):
            assert track not in [hit.track.id for hit in work.search(f"{query} ", order_by="title")], query
        work.session.rollback()


def test_nothing_that_was_typed_was_run(library: Catalog) -> None:
    for query in (
        "'; DROP TABLE audio_tracks; --",
        "') OR 1=1 --",
        "$$; DELETE FROM audio_tracks; $$",
        "%(id)s",
        "{0}",
    ):
        checked(library, query)
        checked(library, query, filters=SearchFilters(genre=query, artist=query, album=query, format=query))
    assert sum(count.tracks for count in library.count_by_status()) >= 400


# Round trips


@pytest.mark.parametrize(
    "query", [*COMMON[:3], "lvoe", "xyzzy qwertz", "the love of it all", "宇多田", '"love me"', "the -love", ""]
)
@pytest.mark.parametrize("sort", ["relevance", "title"])
def test_a_search_takes_two_round_trips_at_most(library: Catalog, query: str, sort: Any) -> None:
    filters = SearchFilters(status="COMPLETED")
    with what_is_asked() as asked:
        page = library.search(query, order_by=sort, filters=filters, facets=FACETS)
    assert 1 <= len(asked) <= (2 if sort == "relevance" and query else 1)
    if page.suggestion is None and query in COMMON:
        assert len(asked) == 1


# Inside a unit of work

SETTINGS = ["plan_cache_mode", "enable_seqscan", "enable_sort", "jit", "work_mem", "statement_timeout"]


def settings_of(work: UnitOfWork) -> dict[str, str]:
    driver = driver_connection(work.session.connection())
    rows = driver.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [SETTINGS]).fetchall()
    return dict(rows)


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("query", ["love", "lvoe qwertz", ""])
def test_a_search_leaves_the_unit_of_work_as_it_was(library: Catalog, query: str, *, pooler: bool) -> None:
    with Catalog(library._database.url, pooler=pooler) as catalog, catalog.unit_of_work() as work:
        driver = driver_connection(work.session.connection())
        driver.execute("SET LOCAL enable_sort = off; SET LOCAL work_mem = '7MB'")
        before = settings_of(work)
        snapshot = driver.execute("SELECT pg_current_xact_id()").fetchone()
        track = work.save(TrackMetadata(title="Love in a Unit"), audio_path="a").id
        for sort in ("relevance", "title"):
            page = work.search(query, order_by=sort, filters=SearchFilters(status="COMPLETED"), limit=100)
            assert query == "lvoe qwertz" or track in [hit.track.id for hit in page] or page.next_cursor
        assert settings_of(work) == before
        assert driver.execute("SELECT pg_current_xact_id()").fetchone() == snapshot
        assert work.get(track).title == "Love in a Unit"
        work.session.rollback()


@pytest.mark.parametrize("pooler", [False, True])
def test_a_search_alone_leaves_the_connection_as_it_was(library: Catalog, *, pooler: bool) -> None:
    with Catalog(library._database.url, pooler=pooler, pool_size=1) as catalog:
        with catalog.unit_of_work() as work:
            before = settings_of(work)
        for query in ("love", "lvoe qwertz", "x" * 1001):
            for sort in ("relevance", "title"):
                if len(query) <= 1000:
                    catalog.search(query, order_by=sort)
        with catalog.unit_of_work() as work:
            assert settings_of(work) == before


# Too little time


@pytest.fixture(scope="module")
def heavy(server_url: str, migrated_template: str) -> Iterator[str]:
    """Give the URL of a database in which a search of common words takes longer than a moment."""
    with temporary_database(server_url, template=migrated_template) as url:
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute(
                "INSERT INTO audio_tracks (id, status, title, artist, audio_path)"
                " SELECT gen_random_uuid(), 'COMPLETED', 'love me ' || n, 'the ' || repeat('la ', 100), 'a'"
                " FROM generate_series(1, 4000) AS n"
            )
        yield url


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("sort", ["relevance", "title"])
def test_a_search_that_runs_out_of_time_leaves_the_unit_of_work_going_on(
    heavy: str, sort: Any, *, pooler: bool
) -> None:
    with Catalog(heavy, search_timeout=0.001, pooler=pooler) as catalog, catalog.unit_of_work() as work:
        driver = driver_connection(work.session.connection())
        driver.execute("SET LOCAL enable_sort = off")
        before = settings_of(work)
        track = work.save(TrackMetadata(title="Kept"), audio_path="a").id
        late = 0
        for query in ('"love la"', "the la love me", "la la la la", "zzz la lo"):
            try:
                page = work.search(query, order_by=sort)
            except errors.QueryTimeout as error:
                assert error.operation == "search"  # noqa: PT017
                late += 1
            else:
                late += page.is_partial
                assert page.is_partial is False or not page.is_total_exact
            assert settings_of(work) == before
            assert work.get(track).title == "Kept"
        assert late, "a millisecond was enough"
        work.session.rollback()


def test_a_search_alone_that_runs_out_of_time_says_so_and_frees_its_connection(heavy: str) -> None:
    with Catalog(heavy, search_timeout=0.001, pool_size=1) as catalog:
        for _ in range(5):
            try:
                page = catalog.search('"love la" lo', order_by="title")
            except errors.QueryTimeout as error:
                assert (error.operation, error.retryable) == ("search", False)  # noqa: PT017
            else:
                assert page.total >= 0
        assert catalog.health().pool.connections == 1
        assert catalog.find("01890a5d-ac96-774b-bcce-b302099a8057") is None


@pytest.mark.parametrize("timeout", [0.005, 0.01, 0.02, 0.05])
def test_a_page_that_is_not_whole_says_so(heavy: str, timeout: float) -> None:
    with Catalog(heavy, search_timeout=timeout) as catalog:
        for query in ("the la love me", '"love la"', "love"):
            try:
                page = catalog.search(query)
            except errors.QueryTimeout:
                continue
            assert page.is_partial or page.total > 1000 or page.is_total_exact
            if page.is_partial:
                assert not page.is_total_exact


def ask(driver: psycopg.Connection[Any], sql: str, **values: Any) -> Rows:
    return send(driver, (PlannedStatement(sql, GENERIC_PLAN_SETTINGS, 1.0), values), "search")


@pytest.mark.parametrize("isolation", ["AUTOCOMMIT", "READ COMMITTED"])
def test_an_error_after_the_last_statement_leaves_the_connection_usable(library: Catalog, isolation: str) -> None:
    # A time limit may strike while the transaction is ended; a deferred constraint always does.
    with library.unit_of_work() as work:
        engine = work.session.connection().engine
    with engine.execution_options(isolation_level=isolation).connect() as connection:
        driver = driver_connection(connection)
        with driver.transaction():
            driver.execute(
                "CREATE TEMP TABLE pressed (n int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DELETE ROWS"
            )
        twice = "INSERT INTO pressed VALUES (1), (1) RETURNING n"
        if isolation == "AUTOCOMMIT":
            # psycopg drops the error where it arrives together with the answers before it.
            with pytest.raises((errors.ConstraintViolation, errors.QueryTimeout)):
                ask(driver, twice)
        else:
            assert ask(driver, twice) == [(1,), (1,)]
        assert driver.pgconn.pipeline_status == psycopg.pq.PipelineStatus.OFF
        assert ask(driver, "SELECT %(n)s::int", n=2) == [(2,)]
        driver.execute("DROP TABLE pressed")


def test_a_lock_does_not_hold_a_search_up_for_ever(heavy: str) -> None:
    with (
        psycopg.connect(libpq(heavy)) as other,
        Catalog(heavy, search_timeout=0.2, lock_timeout=600, statement_timeout=600) as catalog,
    ):
        other.execute("LOCK TABLE audio_tracks IN ACCESS EXCLUSIVE MODE")
        with catalog.unit_of_work() as work:
            before = settings_of(work)
            error, _ = outcome_of(lambda: work.search("love"))
            assert isinstance(error, errors.QueryTimeout)
            assert settings_of(work) == before
            other.rollback()
            assert work.search("love", limit=1).hits
