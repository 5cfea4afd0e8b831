"""Many tracks at once: what becomes of each, and what is in the database in the end."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiocatalog import (
    BulkBatch,
    BulkOutcome,
    BulkResult,
    Catalog,
    OnConflict,
    SaveOutcome,
    Track,
    TrackMetadata,
    TrackRecord,
    TrackStatus,
    UnitOfWork,
    errors,
)
from audiocatalog.db.bulk_load import save_in_batches
from audiocatalog.db.commit_outcome import find_outcome
from audiocatalog.operations.bulk import BatchStore, Record, RecordOutcome
from audiocatalog.operations.bulk_result import MOST_REFUSALS, ConflictRule
from audiocatalog.operations.operation import Operation, Statement
from tests.support.databases import TABLES, libpq
from tests.support.factories import TrackRecordFactory
from tests.support.lifecycle import DISAGREEMENTS, Owner
from tests.support.programs import next_line, program
from tests.support.proxy import proxied
from tests.support.threads import in_threads

pytestmark = pytest.mark.both_sides

INSERTED, UPDATED, UNCHANGED, REFUSED = BulkOutcome
PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus


def records(count: int, **values: Any) -> list[TrackRecord]:
    made: list[TrackRecord] = TrackRecordFactory.build_batch(count, **values)
    return made


def retitled(record: TrackRecord, title: str) -> TrackRecord:
    metadata = dataclasses.replace(record.metadata, title=title)
    return TrackRecord(metadata, record.audio_path, record.id, record.thumbnail_path, record.status)


def counts(result: BulkResult) -> tuple[int, ...]:
    return result.inserted, result.updated, result.unchanged, result.refused, result.skipped


def content(track: Track) -> dict[str, Any]:
    return {name: getattr(track, name) for name in TrackRecordFactory().content()}


def rows(owner: Owner, table: str) -> list[Any]:
    return owner.execute(f"SELECT * FROM {table}").fetchall()


def assert_sound(owner: Owner) -> None:
    """Every track has one first row in the history, every later version a row of its own, and the task it needs."""
    assert owner.execute(DISAGREEMENTS).fetchall() == []
    wrong = owner.execute(
        """
        SELECT t.id, t.version, array_agg(w.version ORDER BY w.version) AS written FROM audio_tracks AS t
        LEFT JOIN (SELECT track_id, version FROM audio_track_status_changes
                   UNION ALL SELECT track_id, version FROM audio_track_edits) AS w ON w.track_id = t.id
        GROUP BY t.id HAVING array_agg(w.version ORDER BY w.version) IS DISTINCT FROM
          (SELECT array_agg(n::audiocatalog_count) FROM generate_series(1, t.version) AS n)
        """
    ).fetchall()
    assert wrong == []


class TestOutcomes:
    def test_new_tracks_are_inserted_with_their_history(self, catalog: Catalog, owner: Owner) -> None:
        many = records(25)
        result = catalog.bulk_save(many, batch=10, actor="loader", reason="first import")
        assert counts(result) == (25, 0, 0, 0, 0)
        assert list(result.outcomes) == [INSERTED] * 25
        assert result.refusals == []
        for record in many:
            track = catalog.get(record.id)
            assert content(track) == record.content()
            assert (track.status, track.version) == (COMPLETED, 1)
            (change,) = catalog.history(record.id)
            assert (change.from_status, change.to_status, change.version) == (None, COMPLETED, 1)
            assert (change.actor, change.reason) == ("loader", "first import")
        assert_sound(owner)

    def test_they_are_found_by_their_words(self, catalog: Catalog) -> None:
        catalog.bulk_save([TrackRecord(TrackMetadata(title="Hyperballad", artist="Björk"), "a")])
        assert [hit.track.title for hit in catalog.search("bjork hyperballad").hits] == ["Hyperballad"]

    def test_a_bulk_save_stores_what_a_save_stores(self, catalog: Catalog, owner: Owner) -> None:
        values = TrackMetadata(
            title="Ágætis “byrjun” \\N \t, 日本", artist="=cmd|'", year=1999, duration=0.1 + 0.2, channels=2
        )
        one = TrackRecord(values, "s3://a/ b.mp3", thumbnail_path="t\nn", status=PENDING)
        two = TrackRecord(values, "s3://a/ b.mp3", thumbnail_path="t\nn", status=PENDING)
        with catalog.unit_of_work() as work:
            work.save_record(one, reason="r")
        catalog.bulk_save([two], reason="r")
        stored = []
        for record in (one, two):
            row = owner.execute("SELECT * FROM audio_tracks WHERE id = %s", [record.id]).fetchone()
            change = owner.execute(
                "SELECT * FROM audio_track_status_changes WHERE track_id = %s", [record.id]
            ).fetchone()
            task = owner.execute("SELECT * FROM audio_track_tasks WHERE track_id = %s", [record.id]).fetchone()
            assert row is not None
            assert change is not None
            assert task is not None
            assert row["created_at"] == row["updated_at"] == task["ready_at"]
            its_own = {"id", "track_id", "created_at", "updated_at", "at", "xact_id", "since", "ready_at"}
            stored.append([{name: one[name] for name in one.keys() - its_own} for one in (row, change, task)])
        assert stored[0] == stored[1]

    def test_the_same_again_changes_nothing(self, catalog: Catalog, owner: Owner) -> None:
        many = records(20, status=PENDING)
        catalog.bulk_save(many)
        before = {table: rows(owner, table) for table in TABLES}
        places = owner.execute("SELECT ctid, xmin, xmax FROM audio_tracks ORDER BY id").fetchall()
        for on_conflict in OnConflict:
            result = catalog.bulk_save(many, on_conflict=on_conflict, batch=7)
            assert counts(result) == (0, 0, 20, 0, 0)
            assert set(result.outcomes) == {UNCHANGED}
        assert {table: rows(owner, table) for table in TABLES} == before
        # Not even a lock was taken.
        assert owner.execute("SELECT ctid, xmin, xmax FROM audio_tracks ORDER BY id").fetchall() == places

    def test_other_content_is_skipped_unless_something_else_is_asked_for(self, catalog: Catalog) -> None:
        (old, same) = records(2)
        catalog.bulk_save([old, same])
        result = catalog.bulk_save([retitled(old, "New"), same, *records(1)])
        assert counts(result) == (1, 0, 2, 0, 1)
        assert list(result.outcomes) == [UNCHANGED, UNCHANGED, INSERTED]
        assert catalog.get(old.id).title == old.metadata.title

    def test_other_content_is_replaced_where_that_is_asked_for(self, catalog: Catalog, owner: Owner) -> None:
        (old, same) = records(2)
        catalog.bulk_save([old, same])
        catalog.update_status(old.id, PENDING)
        changed = TrackRecord(TrackMetadata(title="New"), "elsewhere", old.id, status=COMPLETED)
        result = catalog.bulk_save(
            [changed, same, *records(1)], on_conflict="replace", actor="tagger", reason="better tags"
        )
        assert counts(result) == (1, 1, 1, 0, 0)
        assert list(result.outcomes) == [UPDATED, UNCHANGED, INSERTED]
        track = catalog.get(old.id)
        assert content(track) == changed.content()
        assert (track.status, track.version) == (PENDING, 3)
        (edit,) = rows(owner, "audio_track_edits")
        assert (edit["track_id"], edit["version"], edit["actor"], edit["reason"]) == (
            *(old.id, 3, "tagger"),
            "better tags",
        )
        assert_sound(owner)

    def test_other_content_is_an_error_where_that_is_asked_for(self, catalog: Catalog) -> None:
        (old, same) = records(2)
        catalog.bulk_save([old, same])
        catalog.update_status(old.id, PENDING)
        changed = retitled(old, "New")
        result = catalog.bulk_save([same, changed, *records(1)], on_conflict=OnConflict.ERROR)
        assert counts(result) == (1, 0, 1, 1, 0)
        (refusal,) = result.refusals
        assert (refusal.position, refusal.record) == (1, changed)
        assert isinstance(refusal.error, errors.SaveConflict)
        assert (refusal.error.track_id, refusal.error.actual) == (old.id, 2)
        assert catalog.get(old.id).title == old.metadata.title

    @pytest.mark.parametrize(
        ("on_conflict", "outcomes", "title"),
        [
            ("skip", [INSERTED, UNCHANGED, UNCHANGED, UNCHANGED], "1"),
            ("replace", [INSERTED, UPDATED, UNCHANGED, UPDATED], "1"),
            ("error", [INSERTED, REFUSED, REFUSED, UNCHANGED], "1"),
        ],
    )
    def test_records_of_one_id_are_stored_one_after_the_other(
        self, catalog: Catalog, owner: Owner, on_conflict: ConflictRule, outcomes: list[BulkOutcome], title: str
    ) -> None:
        (first,) = records(1)
        series = [retitled(first, text) for text in ("1", "2", "2", "1")]
        result = catalog.bulk_save(series, on_conflict=on_conflict)
        assert list(result.outcomes) == outcomes
        assert catalog.get(first.id).title == title
        assert_sound(owner)

    def test_a_track_that_waits_can_be_claimed(self, catalog: Catalog, owner: Owner) -> None:
        many = records(3, status=PENDING)
        catalog.bulk_save([*many, *records(2)])
        assert {claim.track.id for claim in catalog.claim(10)} == {record.id for record in many}
        assert_sound(owner)

    def test_those_who_listen_hear_of_tracks_that_wait(self, database_url: str) -> None:
        with (
            Catalog(database_url, notify=True) as catalog,
            psycopg.connect(libpq(database_url), autocommit=True) as listener,
        ):
            listener.execute("LISTEN audiocatalog_pending")
            catalog.bulk_save(records(2))
            listener.execute("NOTIFY audiocatalog_pending, 'of the test'")  # Notifications come in their order.
            catalog.bulk_save(records(2, status=PENDING))
            heard = [message.payload for message in listener.notifies(timeout=60, stop_after=2)]
            assert heard == ["of the test", ""]

    def test_nothing_to_save_is_no_error(self, catalog: Catalog) -> None:
        told: list[BulkBatch] = []
        assert counts(catalog.bulk_save([], progress=told.append)) == (0, 0, 0, 0, 0)
        assert told == []


class TestRefusals:
    def test_a_bad_record_is_refused_and_its_neighbours_are_stored(self, catalog: Catalog) -> None:
        good = records(4)
        given: list[Any] = [
            *(good[0], {"title": "x" * 1001, "audio_path": "a"}, good[1], 17, None, {"year": 1999}),
            *(good[2], {"title": "x", "audio_path": "a", "titel": "y"}, good[3]),
            {"title": "x", "audio_path": "a", "status": "FAILED"},
        ]
        result = catalog.bulk_save(given, batch=3)
        assert counts(result) == (4, 0, 0, 6, 0)
        assert [refusal.position for refusal in result.refusals] == [1, 3, 4, 5, 7, 9]
        assert [refusal.record for refusal in result.refusals] == [given[at] for at in (1, 3, 4, 5, 7, 9)]
        told = [str(refusal.error) for refusal in result.refusals]
        assert told[0] == "title: at most 1,000 characters, not 1,001"
        assert told[1] == "record: a TrackRecord or a mapping of its fields, not int"
        assert told[2] == "record: a TrackRecord or a mapping of its fields, not NoneType"
        assert told[3] == "audio_path: missing"
        assert told[4].startswith("titel: no such field; the fields are title,")
        assert isinstance(result.refusals[5].error, errors.IllegalTransition)
        assert all(refusal.error.retryable is False for refusal in result.refusals)
        assert all(catalog.find(record.id) for record in good)

    def test_mappings_are_records(self, catalog: Catalog) -> None:
        identifier = uuid4()
        given = {
            "title": "Jóga",
            "artist": "Björk",
            "year": 1997,
            "audio_path": "s3://music/joga.flac",
            "id": str(identifier),
            "status": "PENDING",
            "thumbnail_path": None,
        }
        catalog.bulk_save([given])
        track = catalog.get(identifier)
        assert (track.title, track.artist, track.year, track.status) == ("Jóga", "Björk", 1997, PENDING)

    def test_all_refusals_are_told_of_and_the_first_are_kept(self, catalog: Catalog) -> None:
        told: list[BulkBatch] = []
        result = catalog.bulk_save(({"year": 1} for _ in range(MOST_REFUSALS + 50)), batch=100, progress=told.append)
        assert result.refused == MOST_REFUSALS + 50
        assert [refusal.position for refusal in result.refusals] == list(range(MOST_REFUSALS))
        assert [refusal.position for batch in told for refusal in batch.refusals] == list(range(MOST_REFUSALS + 50))

    @pytest.fixture
    def strict(self, catalog: Catalog, owner: Owner) -> Iterator[Catalog]:
        """Give a database that refuses more than this code does, as after the next upgrade."""
        rule = "ALTER TABLE audio_tracks ADD CONSTRAINT ck_audio_tracks_year_range CHECK (year <> 1984)"
        owner.execute(rule)
        yield catalog
        owner.execute("ALTER TABLE audio_tracks DROP CONSTRAINT ck_audio_tracks_year_range")

    @pytest.mark.parametrize("bad", [[0], [9], [3, 4], [0, 5, 9], range(10)])
    def test_what_the_database_refuses_does_not_cost_its_neighbours(
        self, strict: Catalog, owner: Owner, bad: Sequence[int]
    ) -> None:
        many = [TrackRecord(TrackMetadata(year=1984 if at in bad else 1985), "a") for at in range(10)]
        told: list[BulkBatch] = []
        result = strict.bulk_save(many, progress=told.append)
        assert [refusal.position for refusal in result.refusals] == list(bad)
        for refusal in result.refusals:
            assert isinstance(refusal.error, errors.InvalidInput)
            assert refusal.error.field == "year"
        assert len(rows(owner, "audio_tracks")) == 10 - len(bad)
        assert len(told) == 1
        assert_sound(owner)

    def test_nor_in_a_unit_of_work(self, strict: Catalog, owner: Owner) -> None:
        with strict.unit_of_work() as work:
            before = work.save_record(*records(1))
            result = work.bulk_save([TrackRecord(TrackMetadata(year=1984), "a"), *records(2)])
            after = work.save_record(*records(1))
        assert counts(result) == (2, 0, 0, 1, 0)
        assert strict.find(before.id)
        assert strict.find(after.id)
        assert_sound(owner)

    @pytest.mark.parametrize("on_conflict", list(OnConflict))
    def test_a_batch_may_hold_one_id_alone(self, catalog: Catalog, owner: Owner, on_conflict: OnConflict) -> None:
        (record,) = records(1)
        series = [retitled(record, str(number)) for number in range(1500)]
        result = catalog.bulk_save(series, on_conflict=on_conflict)
        assert result.inserted == 1
        others = {"skip": result.skipped, "replace": result.updated, "error": result.refused}
        assert others[on_conflict] == 1499
        assert catalog.get(record.id).title == ("1499" if on_conflict is OnConflict.REPLACE else "0")
        assert_sound(owner)

    def test_an_error_that_no_record_has_caused_is_raised(self, catalog: Catalog, owner: Owner) -> None:
        owner.execute(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF new.year < 2000 THEN RAISE EXCEPTION 'broken' USING ERRCODE = 'internal_error'; END IF;"
            " RETURN new; END $$"
        )
        try:
            owner.execute("CREATE TRIGGER broken BEFORE INSERT ON audio_tracks FOR EACH ROW EXECUTE FUNCTION broken()")
            with pytest.raises(errors.CatalogInternalError):
                catalog.bulk_save(records(9))
            # Where others can be stored, the records are to blame after all.
            sound = TrackRecord(TrackMetadata(year=2001), "a")
            result = catalog.bulk_save([*records(4), sound, *records(4)])
            assert (result.inserted, result.refused) == (1, 8)
            assert isinstance(result.refusals[0].error, errors.CatalogInternalError)
        finally:
            owner.execute("DROP FUNCTION broken CASCADE")

    def test_refusals_of_the_database_do_not_keep_their_batches(self, strict: Catalog) -> None:
        many = [TrackRecord(TrackMetadata(year=1984 if at % 50 == 0 else 1985), "a") for at in range(500)]
        result = strict.bulk_save(iter(many), batch=50)
        assert result.refused == 10
        del many
        gc.collect()
        assert sum(type(one) is TrackRecord for one in gc.get_objects()) <= 20

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"batch": 0}, "batch"),
            ({"batch": 100_001}, "batch"),
            ({"batch": True}, "batch"),
            ({"batch": 2.0}, "batch"),
            ({"connections": 0}, "connections"),
            ({"connections": 9}, "connections"),
            ({"connections": "2"}, "connections"),
            ({"on_conflict": "overwrite"}, "on_conflict"),
            ({"on_conflict": None}, "on_conflict"),
            ({"progress": 3}, "progress"),
            ({"actor": " "}, "actor"),
            ({"reason": "x" * 1001}, "reason"),
            ({"records": "abc"}, "records"),
            ({"records": {"title": "x"}}, "records"),
            ({"records": 3}, "records"),
        ],
    )
    def test_arguments_are_checked_before_anything_is_read(
        self, catalog: Catalog, arguments: dict[str, Any], field: str
    ) -> None:
        def never() -> Iterator[TrackRecord]:
            pytest.fail("a record was read")
            yield

        with pytest.raises(errors.InvalidInput) as caught:
            catalog.bulk_save(**({"records": never()} | arguments))
        assert caught.value.field == field


class TestProgress:
    @pytest.mark.sync_only
    def test_batches_are_told_of_in_order_after_they_are_committed(self, catalog: Catalog) -> None:
        many = records(23)
        starts, there, main = [], [], threading.get_ident()

        def told(batch: BulkBatch) -> None:
            assert threading.get_ident() == main
            starts.append((batch.start, len(batch.outcomes), batch.result.records))
            there.append(all(catalog.find(record.id) for record in many[batch.start : batch.start + 10]))

        catalog.bulk_save(iter(many), batch=10, progress=told)
        assert starts == [(0, 10, 10), (10, 10, 20), (20, 3, 23)]
        assert there == [True] * 3

    def test_what_stops_the_reading_leaves_whole_batches(self, catalog: Catalog, owner: Owner) -> None:
        told: list[BulkBatch] = []

        def broken() -> Iterator[TrackRecord]:
            yield from records(25)
            raise ValueError("the file ends here")

        with pytest.raises(ValueError, match="the file ends here"):
            catalog.bulk_save(broken(), batch=10, progress=told.append)
        assert [batch.start for batch in told] == [0, 10]
        assert len(rows(owner, "audio_tracks")) == 20
        assert_sound(owner)

    @pytest.mark.sync_only
    def test_an_interrupt_is_not_hidden_by_an_error_of_the_batch_under_way(self, catalog: Catalog) -> None:
        def interrupted() -> Iterator[TrackRecord]:
            yield from records(10)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt) as caught:
            patch.setattr(
                "audiocatalog.operations.bulk.LOAD", Statement("SELECT * FROM nothing WHERE $1 AND $2 = $3 AND $4")
            )
            catalog.bulk_save(interrupted(), batch=10)
        assert isinstance(caught.value.__cause__, errors.SchemaMismatch)

    def test_an_error_of_the_callers_own_function_ends_it(self, catalog: Catalog) -> None:
        def stop(_: BulkBatch) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            catalog.bulk_save(records(30), batch=10, progress=stop)
        # The pool has all its connections again.
        with catalog.unit_of_work() as work:
            assert work.find(uuid4()) is None

    @pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError])
    def test_an_interrupt_alone_stops_what_is_under_way(self, ending: type[BaseException]) -> None:
        """Ctrl-C does not wait for a server that may be gone; after a caller's error, the other batches are stored."""
        second, is_over, stopped = threading.Event(), threading.Event(), []

        def store(batch: Sequence[Any]) -> list[RecordOutcome]:
            if batch[0] is many[0]:
                assert second.wait(60)
            if batch[0] is many[1]:
                second.set()
                assert is_over.wait(60)
            return [RecordOutcome(BulkOutcome.INSERTED)]

        def stop() -> None:
            stopped.append(is_over.is_set())
            is_over.set()

        def ended() -> Iterator[TrackRecord]:
            yield from many
            if ending is ValueError:
                is_over.set()  # Or the error would wait for the second batch.
            raise ending

        def interrupt(_: BulkBatch) -> None:
            if ending is KeyboardInterrupt:
                raise ending

        many = records(3)
        with pytest.raises(ending):
            save_in_batches(ended(), store, batch=1, progress=interrupt, connections=2, stop=stop)
        assert stopped == ([False] if ending is KeyboardInterrupt else [])

    def test_records_are_let_go_batch_by_batch(self, catalog: Catalog) -> None:
        alive = Counter[str]()

        class Counted(dict[str, Any]):
            def __init__(self, number: int) -> None:
                super().__init__(title=str(number), audio_path="a")
                alive["now"] += 1
                alive["most"] = max(alive["most"], alive["now"])

            def __del__(self) -> None:
                alive["now"] -= 1

        result = catalog.bulk_save((Counted(number) for number in range(600)), batch=50)
        assert result.inserted == 600
        assert alive["most"] <= 200

    def test_outcomes_can_be_looked_at_like_a_list(self, catalog: Catalog) -> None:
        many = records(5)
        catalog.bulk_save(many[:2])
        outcomes = catalog.bulk_save(many, batch=2).outcomes
        expected = [UNCHANGED, UNCHANGED, INSERTED, INSERTED, INSERTED]
        assert list(outcomes) == expected
        assert [outcomes[at] for at in range(-5, 5)] == expected * 2
        assert outcomes[1:4] == expected[1:4]
        assert len(outcomes) == 5
        with pytest.raises(IndexError):
            outcomes[5]


class TestUnitOfWork:
    def test_it_is_kept_or_not_with_the_rest(self, catalog: Catalog, owner: Owner) -> None:
        many = records(12)
        with pytest.raises(ValueError, match="no"), catalog.unit_of_work() as work:
            assert counts(work.bulk_save(many, batch=5)) == (12, 0, 0, 0, 0)
            assert work.get(many[7].id).title == many[7].metadata.title
            raise ValueError("no")
        assert rows(owner, "audio_tracks") == []
        with catalog.unit_of_work() as work:
            work.bulk_save(many, batch=5)
            work.update_status(many[0].id, PENDING)
        assert len(rows(owner, "audio_tracks")) == 12
        assert_sound(owner)

    def test_it_leaves_the_time_limits_as_they_were(self, catalog: Catalog) -> None:
        asked = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
        with catalog.unit_of_work() as work:
            connection = work.session.connection()
            connection.exec_driver_sql("SET LOCAL statement_timeout = '3s'")
            before = connection.exec_driver_sql(asked).one()
            work.bulk_save(records(3))
            assert connection.exec_driver_sql(asked).one() == before

    @pytest.mark.sync_only
    def test_the_records_may_come_from_the_same_unit_of_work(self, work: UnitOfWork) -> None:
        first = [work.save_record(record) for record in records(30)]
        copies = ({"title": work.get(track.id).title, "audio_path": track.audio_path, "id": uuid4()} for track in first)
        assert work.bulk_save(copies, batch=7).inserted == 30

    def test_it_can_be_called_again_and_again(self, work: UnitOfWork) -> None:
        many = records(4)
        assert [work.bulk_save(many).inserted for _ in range(3)] == [4, 0, 0]

    def test_it_does_not_use_up_the_locks_of_the_server(self, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            held = []
            for _ in range(60):
                work.bulk_save(records(2), batch=1)
                (count,) = (
                    work.session.connection()
                    .exec_driver_sql("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()")
                    .one()
                )
                held.append(count)
        assert held[-1] == held[1]

    def test_behind_a_pooler(self, database_url: str, owner: Owner) -> None:
        with Catalog(database_url, pooler=True) as catalog:
            many = records(25)
            assert catalog.bulk_save(many, batch=10).inserted == 25
            assert catalog.bulk_save(many, batch=10).unchanged == 25
        assert_sound(owner)


TITLES = st.sampled_from(["a", "b", "c"])
SERIES = st.lists(st.tuples(st.integers(0, 5), TITLES), max_size=24)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(stored=SERIES, series=SERIES, size=st.integers(1, 8), on_conflict=st.sampled_from(OnConflict))
def test_it_is_as_if_one_were_saved_after_the_other(
    units: Callable[[], UnitOfWork],
    stored: list[tuple[int, str]],
    series: list[tuple[int, str]],
    size: int,
    on_conflict: OnConflict,
) -> None:
    bulk_ids, single_ids = ([uuid4() for _ in range(6)] for _ in range(2))

    def made(ids: list[UUID], pairs: list[tuple[int, str]]) -> list[TrackRecord]:
        return [TrackRecord(TrackMetadata(title=title), "a", ids[number]) for number, title in pairs]

    with units() as work:
        for ids in (bulk_ids, single_ids):
            for record in made(ids, stored):
                work.save_record(record, replace=True)
        expected = []
        for record in made(single_ids, series):
            try:
                outcome = work.save_record(record, replace=on_conflict is OnConflict.REPLACE).outcome
                assert outcome is not None
                expected.append(str(outcome))
            except errors.SaveConflict:
                expected.append("unchanged" if on_conflict is OnConflict.SKIP else "refused")
        result = work.bulk_save(made(bulk_ids, series), batch=size, on_conflict=on_conflict)
        assert [str(outcome) for outcome in result.outcomes] == expected
        for bulk, single in zip(bulk_ids, single_ids, strict=True):
            pair = [work.find(bulk), work.find(single)]
            assert [track and (track.title, track.version) for track in pair] == [
                pair[1] and (pair[1].title, pair[1].version)
            ] * 2
            if pair[0] is not None:
                assert len(work.history(bulk)) == len(work.history(single))


class TestBesideOthers:
    @pytest.mark.parametrize("on_conflict", list(OnConflict))
    def test_loads_of_the_same_tracks_do_not_stand_in_each_others_way(
        self, catalog: Catalog, owner: Owner, on_conflict: OnConflict
    ) -> None:
        many = records(100)
        results: dict[int, BulkResult] = {}

        def load(number: int) -> None:
            # Everyone begins elsewhere, and has titles of its own.
            turned = many[number * 20 :] + many[: number * 20]
            mine = [retitled(record, f"{record.metadata.title} by {number}") for record in turned]
            results[number] = catalog.bulk_save(mine, batch=15, on_conflict=on_conflict)

        in_threads(5, load)
        assert sum(result.inserted for result in results.values()) == 100
        assert all(len(result.outcomes) == 100 for result in results.values())
        if on_conflict is OnConflict.REPLACE:
            assert sum(result.updated for result in results.values()) == 4 * 100
        else:
            assert sum(result.skipped + result.refused for result in results.values()) == 4 * 100
        assert_sound(owner)

    def test_loads_and_saves_and_moves_at_once(self, catalog: Catalog, owner: Owner) -> None:
        many = records(60, status=PENDING)
        done = threading.Event()

        def load(number: int) -> None:
            try:
                for turn in range(3):
                    changed = [retitled(record, f"{number} {turn}") for record in many]
                    catalog.bulk_save(changed, batch=15, on_conflict="replace")
            finally:
                done.set()

        def save(_: int) -> None:
            while not done.is_set():
                for record in reversed(many):
                    catalog.run(lambda work, record=record: work.save_record(record, replace=True))  # type: ignore[misc]

        def work_on(_: int) -> None:
            while not done.is_set():
                for claim in catalog.claim(10):
                    catalog.complete(claim)

        in_threads(4, lambda number: (load, load, save, work_on)[number](number))
        assert_sound(owner)

    @pytest.mark.parametrize("connections", [1, 2, 4])
    def test_over_several_connections_records_of_one_id_keep_their_order(
        self, catalog: Catalog, owner: Owner, connections: int
    ) -> None:
        ids = [uuid4() for _ in range(40)]
        series = [TrackRecord(TrackMetadata(title=str(turn)), "a", one) for turn in range(6) for one in ids]
        told: list[int] = []
        result = catalog.bulk_save(
            series,
            batch=13,
            connections=connections,
            on_conflict="replace",
            progress=lambda batch: told.append(batch.start),
        )
        assert list(result.outcomes) == [INSERTED] * 40 + [UPDATED] * 200
        assert told == list(range(0, 240, 13))
        assert {(track.title, track.version) for track in catalog.iter_tracks()} == {("5", 6)}
        assert_sound(owner)

    def test_several_connections_store_at_the_same_time(self, catalog: Catalog) -> None:
        (first, *others) = records(30)
        with catalog.unit_of_work() as blocking:
            blocking.save_record(first)
            told: list[int] = []
            loading = threading.Thread(
                target=catalog.bulk_save,
                args=[[*others, first]],
                kwargs={"batch": 10, "connections": 2, "progress": lambda batch: told.append(batch.start)},
            )
            loading.start()
            # The last batch waits for the one who saves its track; those before it do not.
            while len(told) < 2:
                loading.join(0.01)
            assert all(catalog.find(record.id) for record in others[:20])
            assert loading.is_alive()
        loading.join(30)
        assert told == [0, 10, 20]

    def test_a_track_that_somebody_else_is_saving_is_waited_for(self, catalog: Catalog) -> None:
        many = records(6)
        theirs = retitled(many[3], "Theirs")
        with catalog.unit_of_work() as other:
            other.save_record(theirs)
            finished: list[BulkResult] = []
            loading = threading.Thread(
                target=lambda: finished.append(catalog.bulk_save(many, on_conflict=OnConflict.ERROR))
            )
            loading.start()
            loading.join(0.3)
            assert finished == []
        loading.join(30)
        assert counts(finished[0]) == (5, 0, 0, 1, 0)
        assert finished[0].refusals[0].position == 3

    def test_lost_connections_cost_nothing(self, catalog: Catalog, owner: Owner) -> None:
        ours = """
            SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
        """
        ended = Counter[str]()

        def some() -> Iterator[TrackRecord]:
            for number, record in enumerate(records(1000)):
                if number % 120 == 119:
                    row = owner.execute(ours).fetchone()
                    assert row is not None
                    ended["of us"] += row["ended"]
                yield record

        result = catalog.bulk_save(some(), batch=70)
        assert ended["of us"] >= 3
        # A batch that was committed without an answer is found there when it is sent again.
        assert result.inserted + result.unchanged == 1000
        assert len(rows(owner, "audio_tracks")) == 1000
        assert_sound(owner)

    @pytest.mark.parametrize("on_conflict", ["skip", "replace"])
    def test_a_batch_is_stored_once_whatever_becomes_of_its_commit(
        self, catalog: Catalog, owner: Owner, on_conflict: ConflictRule
    ) -> None:
        many = records(80)
        catalog.bulk_save([retitled(record, "Old") for record in many[:40]])
        expected = [UPDATED if on_conflict == "replace" else UNCHANGED] * 40 + [INSERTED] * 40
        with proxied(catalog._database.url) as proxy, Catalog(proxy.url) as distant:
            assert distant.find(many[0].id)
            proxy.losses = ["its answer", None, "COMMIT", "its answer", "COMMIT", "COMMIT", "its answer", None, None]
            result = distant.bulk_save(many, batch=10, on_conflict=on_conflict)
            assert proxy.lost == 6
        assert list(result.outcomes) == expected
        assert {track.version for track in catalog.iter_tracks()} == ({1, 2} if on_conflict == "replace" else {1})
        assert_sound(owner)

    @pytest.mark.sync_only
    def test_what_somebody_else_writes_after_a_commit_without_an_answer_stays(self, catalog: Catalog) -> None:
        (record,) = records(1)
        catalog.bulk_save([retitled(record, "Old")])
        with (
            proxied(catalog._database.url) as proxy,
            Catalog(proxy.url) as distant,
            pytest.MonkeyPatch.context() as patch,
        ):
            assert distant.find(record.id)

            def write_then_ask(*arguments: Any) -> Operation[Any]:
                with catalog.unit_of_work() as work:
                    work.save_record(retitled(record, "Theirs"), replace=True)
                return find_outcome(*arguments)

            patch.setattr("audiocatalog.db.retry.find_outcome", write_then_ask)
            proxy.losses = ["its answer"]
            assert distant.bulk_save([record], on_conflict="replace").updated == 1
        assert (catalog.get(record.id).title, catalog.get(record.id).version) == ("Theirs", 3)

    @pytest.mark.sync_only
    def test_who_waits_too_long_for_others_tries_again(self, catalog: Catalog) -> None:
        (record,) = records(1)
        with pytest.MonkeyPatch.context() as patch, catalog.unit_of_work() as other:
            patch.setattr("audiocatalog.operations.bulk._LOCK_SECONDS", 0.05)
            patch.setattr("audiocatalog.db.retry._RETRY_SECONDS", 0.0)
            with Catalog(catalog._database.url, lock_timeout=0.01) as hasty:
                other.save_record(record)
                with pytest.raises(errors.TransientConflict):
                    hasty.bulk_save([record])

    def test_a_pool_without_room_is_tried_again(self, database_url: str) -> None:
        with Catalog(database_url, pool_size=1, pool_timeout=0.05) as catalog:
            catalog.warm_up(timeout=60)
            results: list[BulkResult] = []
            with catalog.unit_of_work() as busy:
                assert busy.find(uuid4()) is None
                loading = threading.Thread(target=lambda: results.append(catalog.bulk_save(records(3))))
                loading.start()
                loading.join(0.3)
                assert loading.is_alive()
            loading.join(30)
            assert results[0].inserted == 3

    def test_a_limit_that_strikes_before_anything_is_stored_is_told_as_such(self, catalog: Catalog) -> None:
        """The server has given up the whole transaction, so that no smaller part of the batch can be tried in it."""
        with pytest.MonkeyPatch.context() as patch, Catalog(catalog._database.url, statement_timeout=0.05) as hasty:
            patch.setattr("audiocatalog.operations.bulk.READ_LIMITS", Statement("SELECT pg_sleep(60)::text, ''"))
            with pytest.raises(errors.QueryTimeout, match=r"^bulk_save: "):
                hasty.bulk_save(records(2))

    @pytest.fixture
    def slowed(self, catalog: Catalog, owner: Owner) -> Iterator[Catalog]:
        """Give a catalogue in which a record with the title "slow" never ends, and one with "late" takes a while."""
        owner.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF new.title = 'slow' THEN PERFORM pg_sleep(60);"
            " ELSIF new.title = 'late' THEN PERFORM pg_sleep(0.1); END IF;"
            " RETURN new; END $$"
        )
        try:
            owner.execute("CREATE TRIGGER slow BEFORE INSERT ON audio_tracks FOR EACH ROW EXECUTE FUNCTION slow()")
            with pytest.MonkeyPatch.context() as patch, Catalog(catalog._database.url, statement_timeout=0.3) as hasty:
                patch.setattr("audiocatalog.operations.bulk._PART_SECONDS", 0.1)
                # Of 100 records, that is 0.3 seconds.
                patch.setattr("audiocatalog.operations.bulk._STATEMENT_SECONDS", 15.0)
                yield hasty
        finally:
            owner.execute("DROP FUNCTION slow CASCADE")

    @pytest.mark.parametrize("slow", [[0], [99], [7, 8, 70]])
    @pytest.mark.sync_only
    def test_a_slow_record_costs_itself_alone(self, slowed: Catalog, owner: Owner, slow: Sequence[int]) -> None:
        many = [retitled(one, "slow") if at in slow else one for at, one in enumerate(records(150))]
        told: list[BulkBatch] = []
        result = slowed.bulk_save(many, batch=100, progress=told.append)
        assert [refusal.position for refusal in result.refusals] == list(slow)
        for refusal in result.refusals:
            assert isinstance(refusal.error, errors.QueryTimeout)
            assert "this record alone" in str(refusal.error)
            assert refusal.error.operation == "bulk_save"
        assert (result.inserted, len(told)) == (150 - len(slow), 2)
        assert {row["id"] for row in rows(owner, "audio_tracks")} == {
            one.id for one in many if one.metadata.title != "slow"
        }
        assert_sound(owner)
        # Who starts again comes as far as this.
        assert counts(slowed.bulk_save(many, batch=100)) == (0, 0, 150 - len(slow), len(slow), 0)

    def test_nor_in_a_unit_of_work(self, slowed: Catalog, owner: Owner) -> None:
        with slowed.unit_of_work() as work:
            before = work.save_record(*records(1))
            result = work.bulk_save([*records(3), *records(1, metadata__title="slow"), *records(2)])
            after = work.save_record(*records(1))
        assert counts(result) == (5, 0, 0, 1, 0)
        assert slowed.find(before.id)
        assert slowed.find(after.id)
        assert_sound(owner)

    def test_what_is_slow_together_but_not_alone_is_stored(self, slowed: Catalog, owner: Owner) -> None:
        result = slowed.bulk_save([retitled(one, "late") for one in records(8)])
        assert counts(result) == (8, 0, 0, 0, 0)
        assert_sound(owner)

    def test_a_server_that_is_too_slow_for_every_record_ends_the_load(self, slowed: Catalog, owner: Owner) -> None:
        alone: list[Record] = []
        store = BatchStore._store

        def note(batches: BatchStore, part: Sequence[Record], *rest: Any) -> Any:
            alone.extend(part if len(part) == 1 else ())
            return store(batches, part, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("audiocatalog.operations.bulk._MAX_SLOW", 3)
            patch.setattr(BatchStore, "_store", note)
            with pytest.raises(errors.QueryTimeout, match=r"^bulk_save: the statement exceeded its timeout"):
                slowed.bulk_save([retitled(one, "slow") for one in records(8)])
            assert len(alone) == 3
            assert rows(owner, "audio_tracks") == []
            # Where one could be stored, the others are to blame, however many they are.
            result = slowed.bulk_save([*records(1), *(retitled(one, "slow") for one in records(4))])
        assert counts(result) == (1, 0, 0, 4, 0)

    @pytest.mark.sync_only
    def test_a_slow_load_takes_a_time_that_is_bounded_by_its_slow_records(self, slowed: Catalog) -> None:
        """The time of each try is counted, as the limit that it was given, not measured."""
        many = [retitled(one, "slow") if at % 25 == 3 else one for at, one in enumerate(records(100))]
        limits: list[float] = []
        store = BatchStore._store

        def note(batches: BatchStore, part: Sequence[Record], seconds: float, *rest: Any) -> Any:
            try:
                return (yield from store(batches, part, seconds, *rest))
            except errors.QueryTimeout:
                limits.append(seconds)
                raise

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BatchStore, "_store", note)
            assert slowed.bulk_save(many).refused == 4
        # The batch, then seven halvings for each at most, and each alone.
        assert limits[0] == pytest.approx(0.3)
        assert len(limits) <= 1 + 4 * 7
        assert sum(limits) <= 0.3 + 4 * (6 * 0.16 + 0.3)


LOADER = """
import json, sys
from uuid import UUID
from audiocatalog import Catalog, TrackMetadata, TrackRecord
def some():
    for number in range(100_000):
        yield TrackRecord(TrackMetadata(title=str(number)), "a", UUID(int=number))
with Catalog(sys.argv[1], actor="loader") as catalog:
    catalog.bulk_save(some(), batch=100, progress=lambda batch: print(batch.result.records, flush=True))
"""


def test_a_load_that_is_killed_goes_on_where_it_was(database_url: str, catalog: Catalog, owner: Owner) -> None:
    with program(LOADER, database_url) as running:
        told = [int(next_line(running)) for _ in range(5)][-1]
        running.kill()
    # What it had sent before it died may still be under way.
    with owner.transaction():
        owner.execute("LOCK TABLE audio_tracks IN EXCLUSIVE MODE")
    there = len(rows(owner, "audio_tracks"))
    assert there >= told
    assert there % 100 == 0
    assert_sound(owner)
    again = (TrackRecord(TrackMetadata(title=str(number)), "a", UUID(int=number)) for number in range(there + 250))
    assert counts(catalog.bulk_save(again, batch=100)) == (250, 0, there, 0, 0)
    assert_sound(owner)


def test_a_result_can_be_printed_without_the_data(catalog: Catalog) -> None:
    told: list[BulkBatch] = []
    result = catalog.bulk_save([{"title": "secret", "audio_path": "secret", "year": 1}], progress=told.append)
    assert "secret" not in repr(result) + repr(told) + repr(result.refusals)
    assert repr(result.refusals) == "[<Refusal 0 InvalidInput>]"
    assert repr(result) == "BulkResult(inserted=0, updated=0, unchanged=0, refused=1, skipped=0)"


def test_outcomes_are_those_of_a_save() -> None:
    assert [str(outcome) for outcome in SaveOutcome] == [str(outcome) for outcome in BulkOutcome][:3]


def test_a_record_can_be_read_from_a_mapping() -> None:
    with pytest.raises(errors.IllegalTransition, match="a new track cannot become FAILED, only COMPLETED or PENDING"):
        TrackRecord.from_mapping({"audio_path": "a", "status": "FAILED"})
    with pytest.raises(errors.InvalidInput, match=r"^title: text, not int$"):
        TrackRecord.from_mapping({"title": 5, "audio_path": "a", "status": "FAILED"})
    assert TrackRecord.from_mapping({"audio_path": "a", "status": None, "id": None}).status is COMPLETED
    with pytest.raises(errors.InvalidInput) as caught:
        TrackRecord.from_mapping({"title": "\0", "year": math.nan, "id": "7", "audio_path": 3, "path": 1})
    assert [problem.field for problem in caught.value.problems] == ["title", "year", "audio_path", "id", "path"]
    with pytest.raises(errors.InvalidInput, match="a mapping of field names to values, not list"):
        TrackRecord.from_mapping([])  # type: ignore[arg-type]
    made: Mapping[str, Any] = json.loads('{"title": "x", "audio_path": "y", "duration": 3}')
    assert TrackRecord.from_mapping(made).content()["duration"] == 3.0
