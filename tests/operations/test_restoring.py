"""Records that another catalogue has exported: they end in the status that they had there, by legal moves alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from audiocatalog import Catalog, ExportedRecord, OnConflict, TrackMetadata, TrackRecord, TrackStatus, errors
from tests.support.databases import libpq

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
LONG_AGO = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)


def exported(number: int, status: TrackStatus, created_at: datetime | None = None) -> ExportedRecord:
    metadata = TrackMetadata(title=f"Take {number}")
    return ExportedRecord.of(metadata, f"s3://music/{number}", None, None, status=status, created_at=created_at)


def moves(catalog: Catalog, record: ExportedRecord) -> list[tuple[TrackStatus | None, TrackStatus, str | None]]:
    return [(change.from_status, change.to_status, change.reason) for change in catalog.history(record.id)]


def test_each_status_is_reached_by_legal_moves(catalog: Catalog) -> None:
    records = {status: exported(number, status) for number, status in enumerate(TrackStatus)}
    result = catalog.bulk_save(records.values(), reason="imported")
    assert (result.inserted, result.refused) == (4, 0)
    assert moves(catalog, records[PENDING]) == [(None, PENDING, "imported")]
    assert moves(catalog, records[PROCESSING]) == [(None, PENDING, "imported")]
    assert moves(catalog, records[COMPLETED]) == [(None, COMPLETED, "imported")]
    assert moves(catalog, records[FAILED]) == [(None, PENDING, "imported"), (PENDING, FAILED, "imported")]
    assert {status: catalog.get(record.id).status for status, record in records.items()} == {
        PENDING: PENDING,
        PROCESSING: PENDING,
        COMPLETED: COMPLETED,
        FAILED: FAILED,
    }
    claimed = catalog.claim(10, worker="w")
    assert {claim.track.id for claim in claimed} == {records[PENDING].id, records[PROCESSING].id}


def test_a_track_that_is_there_keeps_its_status_and_its_time(catalog: Catalog) -> None:
    before = exported(1, COMPLETED)
    catalog.bulk_save([before])
    there = catalog.get(before.id)
    metadata = TrackMetadata(title="Another take")
    again = ExportedRecord.of(metadata, "s3://music/1", before.id, None, status=FAILED, created_at=LONG_AGO)
    result = catalog.bulk_save([again], on_conflict=OnConflict.REPLACE)
    assert (result.inserted, result.updated) == (0, 1)
    found = catalog.get(before.id)
    assert (found.title, found.status, found.created_at) == ("Another take", COMPLETED, there.created_at)


def test_the_time_of_creation_is_kept_and_is_never_in_the_future(catalog: Catalog) -> None:
    old, new = exported(1, FAILED, LONG_AGO), exported(2, PENDING, datetime.now(UTC) + timedelta(days=400))
    catalog.bulk_save([old, new])
    assert catalog.get(old.id).created_at == LONG_AGO
    assert catalog.get(new.id).created_at <= datetime.now(UTC) + timedelta(minutes=1)


def test_records_of_both_kinds_may_stand_in_one_batch_and_the_bad_one_is_refused_alone(catalog: Catalog) -> None:
    plain = TrackRecord(TrackMetadata(title="Plain"), "s3://music/plain")
    failed = exported(1, FAILED)
    result = catalog.bulk_save([plain, {"title": "no path"}, failed])
    assert (result.inserted, result.refused) == (2, 1)
    assert catalog.get(plain.id).status is COMPLETED
    assert catalog.get(failed.id).status is FAILED


def test_only_what_the_same_transaction_has_saved_can_be_given_a_time(catalog: Catalog, database_url: str) -> None:
    there = exported(1, COMPLETED)
    catalog.bulk_save([there])
    created_at = catalog.get(there.id).created_at
    with psycopg.connect(libpq(database_url), autocommit=True) as owner:
        row = owner.execute("SELECT audiocatalog_restore_v1(%s, %s)", ([there.id], [LONG_AGO])).fetchone()
    assert row == (0,)
    assert catalog.get(there.id).created_at == created_at


def test_a_role_without_the_owners_rights_cannot_give_times(catalog: Catalog, database_url: str) -> None:
    there = exported(1, COMPLETED)
    catalog.bulk_save([there])
    with psycopg.connect(libpq(database_url)) as connection:
        role = "restorer_without_rights"
        connection.execute(f"CREATE ROLE {role}")
        connection.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT audiocatalog_restore_v1(%s, %s)", ([there.id], [LONG_AGO]))
        connection.rollback()


def test_a_status_that_is_none_is_refused(catalog: Catalog) -> None:
    with pytest.raises(errors.InvalidInput, match="status"):
        ExportedRecord.of(TrackMetadata(), "s3://music/1", None, None, status="LOST")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "created_at",
    [LONG_AGO.replace(tzinfo=None), LONG_AGO.isoformat(), LONG_AGO.date()],
    ids=["naive", "text", "date"],
)
def test_a_time_of_creation_that_is_no_moment_is_refused(created_at: Any) -> None:
    """A naive time would be read in the time zone of the session, which is another one elsewhere."""
    with pytest.raises(errors.InvalidInput) as caught:
        ExportedRecord(exported(1, COMPLETED).record, created_at=created_at)
    assert caught.value.field == "created_at"


def test_what_the_types_of_an_exported_record_cannot_say_is_refused() -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        ExportedRecord({"title": "no record"}, created_at=datetime(2001, 2, 3))  # type: ignore[arg-type]  # noqa: DTZ001
    assert [problem.field for problem in caught.value.problems] == ["record", "created_at"]
    with pytest.raises(errors.InvalidInput) as caught:
        ExportedRecord(exported(1, COMPLETED).record, has_failed=True)
    assert caught.value.field == "has_failed"
