"""A unit of work keeps all of it or nothing; saves can be repeated."""

from __future__ import annotations

import threading
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import Connection, select, text

from audiocatalog import Catalog, SaveOutcome, Track, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.models.ids import new_id
from audiocatalog.models.rows import CHANGES, TRACKS
from tests.support.databases import Units
from tests.support.factories import TrackMetadataFactory, TrackRecordFactory
from tests.support.searches import insert_many

pytestmark = pytest.mark.both_sides


def test_a_saved_track_reads_back_as_it_was_saved(work: UnitOfWork) -> None:
    record = TrackRecordFactory(thumbnail_path="s3://thumbs/1.png")
    saved = work.save_record(record)
    found = work.get(record.id)
    assert {name: getattr(found, name) for name in record.content()} == record.content()
    assert (saved.id, saved.status, saved.version) == (record.id, TrackStatus.COMPLETED, 1)
    assert saved.outcome is SaveOutcome.INSERTED
    assert found.outcome is None
    assert found.created_at == found.updated_at
    assert found.created_at.utcoffset() is not None


def test_a_save_without_an_id_makes_a_new_one_each_time(work: UnitOfWork) -> None:
    metadata = TrackMetadataFactory()
    assert work.save(metadata, audio_path="a").id != work.save(metadata, audio_path="a").id


def test_an_id_may_be_given_as_text(work: UnitOfWork) -> None:
    identifier = new_id()
    assert work.save(TrackMetadata(), id=str(identifier), audio_path="a").id == identifier
    assert work.get(str(identifier)).title == "Untitled"


def test_the_same_content_again_is_unchanged(work: UnitOfWork) -> None:
    record = TrackRecordFactory()
    work.save_record(record)
    again = work.save_record(record)
    assert (again.outcome, again.version) == (SaveOutcome.UNCHANGED, 1)
    assert work.save_record(record, replace=True).outcome is SaveOutcome.UNCHANGED
    assert len(work.history(record.id)) == 1


def test_a_repeated_save_does_not_mind_that_the_track_has_moved_on(work: UnitOfWork) -> None:
    record = TrackRecordFactory(status=TrackStatus.PENDING)
    work.save_record(record)
    work.update_status(record.id, TrackStatus.PROCESSING)
    again = work.save_record(record)
    assert (again.outcome, again.status) == (SaveOutcome.UNCHANGED, TrackStatus.PROCESSING)


def test_other_content_is_a_conflict_and_changes_nothing(work: UnitOfWork) -> None:
    record = TrackRecordFactory()
    work.save_record(record)
    with pytest.raises(errors.SaveConflict) as caught:
        work.save(TrackMetadata(title="Other"), id=record.id, audio_path=record.audio_path)
    assert (caught.value.track_id, caught.value.actual, caught.value.expected) == (record.id, 1, None)
    assert work.get(record.id).title == record.metadata.title


def test_other_content_replaces_when_asked_to(work: UnitOfWork) -> None:
    record = TrackRecordFactory()
    work.save_record(record)
    replaced = work.save(TrackMetadata(title="Other"), id=record.id, audio_path="b", replace=True)
    assert (replaced.outcome, replaced.version, replaced.title, replaced.artist) == ("updated", 2, "Other", None)
    assert replaced.status is record.status
    assert work.search("other").total == 1


def test_an_expected_version_that_has_passed_is_a_conflict(work: UnitOfWork) -> None:
    record = TrackRecordFactory()
    work.save_record(record)
    work.save(TrackMetadata(title="Two"), id=record.id, audio_path="b", replace=True, expected_version=1)
    with pytest.raises(errors.SaveConflict) as caught:
        work.save(TrackMetadata(title="Three"), id=record.id, audio_path="b", replace=True, expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert work.get(record.id).title == "Two"


def test_the_same_content_is_a_success_whatever_version_is_expected(work: UnitOfWork) -> None:
    record = TrackRecordFactory()
    work.save_record(record)
    work.save(TrackMetadata(title="Two"), id=record.id, audio_path="b", replace=True)
    again = work.save(TrackMetadata(title="Two"), id=record.id, audio_path="b", replace=True, expected_version=1)
    assert (again.outcome, again.version) == (SaveOutcome.UNCHANGED, 2)


def test_a_version_of_a_track_that_is_not_there_cannot_be_expected(work: UnitOfWork) -> None:
    with pytest.raises(errors.TrackNotFound):
        work.save(TrackMetadata(), id=new_id(), audio_path="a", replace=True, expected_version=1)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", 2**31])
def test_an_expected_version_is_a_whole_number(work: UnitOfWork, version: object) -> None:
    with pytest.raises(errors.InvalidInput, match="expected_version"):
        work.save(TrackMetadata(), audio_path="a", replace=True, expected_version=version)  # type: ignore[arg-type]


def test_an_expected_version_without_replace_is_a_mistake(work: UnitOfWork) -> None:
    with pytest.raises(errors.InvalidInput, match="replace=True"):
        work.save(TrackMetadata(), audio_path="a", expected_version=1)


def test_the_first_status_is_recorded_with_actor_and_reason(work: UnitOfWork) -> None:
    track = work.save(
        TrackMetadata(), audio_path="a", status=TrackStatus.PENDING, actor="upload-api", reason="first upload"
    )
    (first,) = work.history(track.id)
    assert (first.from_status, first.to_status, first.actor, first.reason, first.version) == (
        None,
        TrackStatus.PENDING,
        "upload-api",
        "first upload",
        1,
    )


@pytest.mark.parametrize("status", [TrackStatus.PROCESSING, TrackStatus.FAILED])
def test_no_track_begins_in_the_middle(work: UnitOfWork, status: TrackStatus) -> None:
    with pytest.raises(errors.IllegalTransition) as caught:
        work.save(TrackMetadata(), audio_path="a", status=status)
    assert (caught.value.from_status, caught.value.to_status) == (None, status)


def test_find_gives_none_and_get_raises_for_an_unknown_id(work: UnitOfWork) -> None:
    unknown = uuid4()
    assert work.find(unknown) is None
    for ask in (work.get, work.history):
        with pytest.raises(errors.TrackNotFound) as caught:
            ask(unknown)
        assert caught.value.track_id == unknown
        assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("wrong", ["not-a-uuid", "", 5, None, b"x", "0" * 10_000])
def test_what_is_no_id_is_refused_before_the_server_sees_it(work: UnitOfWork, wrong: object) -> None:
    for ask in (work.get, work.find, work.history):
        with pytest.raises(errors.InvalidInput) as caught:
            ask(wrong)  # type: ignore[arg-type]
        assert caught.value.field == "id"


@pytest.mark.parametrize("field", ["actor", "reason"])
@pytest.mark.parametrize("wrong", [5, "a\0b", "\ud800", "x" * 1001])
def test_actor_and_reason_are_checked(work: UnitOfWork, field: str, wrong: object) -> None:
    track = work.save(TrackMetadata(), audio_path="a")
    with pytest.raises(errors.InvalidInput) as caught:
        work.update_status(track.id, TrackStatus.PENDING, **{field: wrong})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert work.get(track.id).status is TrackStatus.COMPLETED


def test_objects_stay_readable_after_the_end(units: Units) -> None:
    with units() as work:
        track = work.save(TrackMetadata(title="Still here"), audio_path="a")
        change = work.update_status(track.id, TrackStatus.PENDING)
    assert (track.title, change.to_status) == ("Still here", TrackStatus.PENDING)


def test_the_session_joins_in_the_same_transaction(units: Units) -> None:
    with units() as work:
        track = work.save(TrackMetadata(title="Joined"), audio_path="a")
        loaded = work.session.scalars(select(Track).where(Track.title == "Joined")).one()
        assert loaded.id == track.id
        with pytest.raises(AttributeError, match="update_status"):
            loaded.status = TrackStatus.FAILED
        with pytest.raises(sqlalchemy.exc.InvalidRequestError):
            _ = loaded.search_vector  # Never loaded by accident: it is as long as the row.


def test_rows_that_the_owner_wrote_by_hand_are_read_like_any_other(connection: Connection, work: UnitOfWork) -> None:
    insert_many(connection, 1, title="'By hand'")
    (hit,) = work.search("by hand")
    assert work.get(hit.track.id).title == "By hand"
    assert work.history(hit.track.id) == []


# From here on with real commits.


def count(catalog: Catalog) -> tuple[int, int]:
    with catalog.unit_of_work() as work:
        tracks = work.session.execute(select(TRACKS.c.id)).all()
        return len(tracks), len(work.session.execute(select(CHANGES.c.track_id)).all())


def test_a_clean_exit_commits(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="Kept"), audio_path="a")
    assert catalog.get(track.id).title == "Kept"
    assert count(catalog) == (1, 1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, errors.SaveConflict])
def test_any_exception_rolls_back(catalog: Catalog, error: type[BaseException]) -> None:
    raised = errors.SaveConflict(uuid4(), actual=1) if error is errors.SaveConflict else error("on purpose")
    with pytest.raises(error), catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(), audio_path="a")
        work.update_status(track.id, TrackStatus.PENDING)
        raise raised
    assert count(catalog) == (0, 0)


def swallow_by_core(work: UnitOfWork) -> None:
    with pytest.raises(sqlalchemy.exc.DataError):
        work.session.connection().execute(text("SELECT 1 / 0"))


def swallow_by_orm(work: UnitOfWork) -> None:
    with pytest.raises(sqlalchemy.exc.DataError):
        work.session.scalars(select(Track).where(text("1 / 0 = 1"))).all()


def swallow_by_driver(work: UnitOfWork) -> None:
    driver = work.session.connection().connection.driver_connection
    assert driver is not None
    with pytest.raises(psycopg.errors.DivisionByZero):
        driver.execute("SELECT 1 / 0")


@pytest.mark.parametrize("swallow", [swallow_by_core, swallow_by_orm, swallow_by_driver])
@pytest.mark.sync_only
def test_a_swallowed_error_raises_at_the_end(catalog: Catalog, swallow: object) -> None:
    with pytest.raises(errors.TransactionAborted), catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Lost"), audio_path="a")
        swallow(work)  # type: ignore[operator]
    assert count(catalog) == (0, 0)


def test_a_commit_by_the_host_cannot_hide_a_swallowed_error(catalog: Catalog) -> None:
    with pytest.raises(errors.TransactionAborted), catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Lost"), audio_path="a")
        swallow_by_core(work)
        work.session.commit()
    assert count(catalog) == (0, 0)


@pytest.mark.sync_only
def test_an_error_inside_a_savepoint_can_be_survived(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Kept"), audio_path="a")
        with pytest.raises(sqlalchemy.exc.DataError), work.session.begin_nested():
            work.session.execute(text("SELECT 1 / 0"))
    assert count(catalog) == (1, 1)


def test_an_error_of_sqlalchemy_that_is_none_of_the_database_stays_as_it_is(catalog: Catalog) -> None:
    with pytest.raises(sqlalchemy.exc.NoResultFound), catalog.unit_of_work() as work:
        work.session.scalars(select(Track)).one()


def test_tracks_of_the_hosts_session_stay_readable_after_a_rollback(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Readable"), audio_path="a")
    with pytest.raises(RuntimeError), catalog.unit_of_work() as work:
        loaded = work.session.scalars(select(Track)).one()
        raise RuntimeError
    assert loaded.title == "Readable"


def test_a_save_that_may_replace_prevails_over_others(catalog: Catalog) -> None:
    record = TrackRecordFactory()
    catalog.run(lambda work: work.save_record(record))
    failures: list[errors.CatalogError] = []

    def replace(number: int) -> None:
        try:
            for turn in range(10):
                metadata = TrackMetadata(title=f"{number} {turn % 2}")
                with catalog.unit_of_work() as work:
                    work.save(metadata, id=record.id, audio_path="a", replace=True)
        except errors.CatalogError as error:
            failures.append(error)

    threads = [threading.Thread(target=replace, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_unit_of_work_lives_once(catalog: Catalog) -> None:
    unit = catalog.unit_of_work()
    with pytest.raises(errors.UnitOfWorkEnded):
        unit.find(uuid4())
    with unit as work:
        pass
    with pytest.raises(errors.UnitOfWorkEnded):
        work.find(uuid4())
    with pytest.raises(errors.UnitOfWorkEnded), unit:
        pass


def test_a_refusal_of_ours_does_not_spoil_the_unit(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="Kept"), audio_path="a")
        with pytest.raises(errors.SaveConflict):
            work.save(TrackMetadata(title="Other"), id=track.id, audio_path="a")
        with pytest.raises(errors.IllegalTransition):
            work.update_status(track.id, TrackStatus.FAILED)
    assert count(catalog) == (1, 1)
