"""Records in batches and the progress of it: what is committed, refused and told, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from audiocatalog import Catalog, OnConflict, TrackMetadata, TrackRecord
from audiocatalog.cli.importing import saving
from audiocatalog.cli.importing.input_file import DamagedFile
from audiocatalog.cli.importing.records import ReadRecord, RefusedRow
from audiocatalog.cli.importing.rows import Place
from audiocatalog.cli.importing.saving import Tally, save_records
from audiocatalog.cli.progress import progress_reporter
from audiocatalog.errors import PermissionDenied
from tests.support.databases import libpq


@pytest.fixture
def trapped(migrated_database: Callable[[], str]) -> Iterator[Catalog]:
    """Give a catalogue in whose database a trigger of the host raises an error for some titles."""
    url = migrated_database()
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.title = 'refused' THEN RAISE EXCEPTION 'not this one'; END IF;"
            " IF NEW.title = 'forbidden' THEN RAISE insufficient_privilege; END IF;"
            " IF NEW.title = 'slow' THEN PERFORM pg_sleep(60); END IF;"
            " RETURN NEW; END $$"
        )
        admin.execute("CREATE TRIGGER trap BEFORE INSERT ON audio_tracks FOR EACH ROW EXECUTE FUNCTION trap()")
        admin.execute("ALTER TABLE audio_tracks ADD CONSTRAINT ck_audio_tracks_genre_known CHECK (genre <> 'polka')")
    with Catalog(url, actor="tester") as catalog:
        yield catalog


def records(*titles: str, length: int = 0) -> list[ReadRecord | RefusedRow]:
    return [
        ReadRecord(Place(number), TrackRecord(TrackMetadata(title=title, genre=title), f"s3://{number}"), None, length)
        for number, title in enumerate(titles, 1)
    ]


class Told:
    """Save records, and keep what is reported about them."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.tally = Tally()
        self.refused: list[str] = []
        #: The tracks that are there, and those that are counted, whenever a batch is committed.
        self.committed: list[tuple[int, int]] = []

    def save(self, items: Iterator[ReadRecord | RefusedRow] | list[ReadRecord | RefusedRow], batch: int = 500) -> None:
        save_records(
            self.catalog,
            items,
            on_conflict=OnConflict.ERROR,
            batch=batch,
            tally=self.tally,
            refused=lambda refusal: self.refused.append(str(refusal)),
            committed=lambda _: self.committed.append((self.catalog.count_by_status()[2].tracks, self.tally.saved)),
        )


class TestSaving:
    """The database refuses what no reader could know of."""

    def test_a_row_that_breaks_its_batch_is_refused_alone(self, trapped: Catalog) -> None:
        read = RefusedRow(Place(2), "read as nonsense")
        first, *others = records("a", "refused", "b", "polka", "c")
        told = Told(trapped)
        told.save([first, read, *others])
        assert (told.tally.inserted, told.tally.refused, told.tally.saved, told.tally.rows) == (3, 3, 3, 6)
        assert told.refused == [
            "row 2: read as nonsense",
            "row 2: bulk_save: an unexpected error of the database; see the cause of this error (SQLSTATE P0001)",
            "row 4: genre: the database refused the value",
        ]
        assert trapped.count_by_status()[2].tracks == 3

    def test_a_row_that_is_too_slow_is_refused_alone_and_the_import_goes_on(
        self, trapped: Catalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("audiocatalog.operations.bulk._PART_SECONDS", 0.1)
        monkeypatch.setattr("audiocatalog.operations.bulk._STATEMENT_SECONDS", 0.1)
        with Catalog(trapped._database.url, actor="tester", statement_timeout=0.3) as hasty:
            told = Told(hasty)
            told.save(records("a", "slow", "b", "c", "d", "e"), batch=3)
            assert (told.tally.inserted, told.tally.refused) == (5, 1)
            assert [saved for _, saved in told.committed] == [2, 5, 5]
            (refused,) = told.refused
            assert refused.startswith("row 2: bulk_save: this record alone took longer than statement_timeout")

    def test_an_error_that_is_no_rows_fault_stops(self, trapped: Catalog) -> None:
        told = Told(trapped)
        with pytest.raises(PermissionDenied):
            told.save(records("a", "b", "c", "forbidden", "d"), batch=2)
        assert (told.tally.saved, trapped.count_by_status()[2].tracks) == (2, 2)

    def test_batches_are_committed_one_by_one(self, catalog: Catalog) -> None:
        told = Told(catalog)
        told.save(records("a", "b", "c"), batch=2)
        assert [saved for _, saved in told.committed] == [2, 3, 3]
        assert all(there >= saved for there, saved in told.committed)

    def test_what_cannot_be_read_on_is_told_when_all_before_it_is_saved(self, catalog: Catalog) -> None:
        def read() -> Iterator[ReadRecord | RefusedRow]:
            yield from records("a", "b", "c")
            raise DamagedFile("cut off")

        told = Told(catalog)
        with pytest.raises(DamagedFile, match="cut off"):
            told.save(read(), batch=2)
        assert (told.tally.saved, catalog.count_by_status()[2].tracks) == (3, 3)

    def test_refusals_are_told_in_the_order_of_the_rows(self, catalog: Catalog) -> None:
        items: list[ReadRecord | RefusedRow] = []
        for place, record in enumerate(records(*"abcdef")):
            items += [record, RefusedRow(Place(place), "bad")]
        told = Told(catalog)
        told.save([RefusedRow(Place(9), "first"), *items], batch=4)
        assert told.refused == ["row 9: first", *(f"row {place}: bad" for place in range(6))]
        assert (told.tally.inserted, told.tally.refused) == (6, 7)

    def test_refusals_do_not_pile_up_behind_a_record(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(saving, "_MOST_REFUSALS", 3)
        told = Told(catalog)
        most = 0

        def read() -> Iterator[ReadRecord | RefusedRow]:
            nonlocal most
            yield from records("a")
            for number in range(20):
                most = max(most, number - len(told.refused))
                yield RefusedRow(Place(number), "bad")

        told.save(read())
        assert most <= 3
        assert (told.tally.inserted, told.tally.refused) == (1, 20)

    def test_what_waits_in_memory_is_bounded_by_its_length(
        self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saving, "_MOST_CHARACTERS", 100)
        told = Told(catalog)
        told.save(records(*"abcdefgh", length=40))
        assert [saved for _, saved in told.committed] == [3, 3, 6, 6, 8, 8]


class TestProgress:
    def test_lines_are_printed_now_and_then(self, capsys: pytest.CaptureFixture[str]) -> None:
        now = 0.0
        with progress_reporter("importing", "row", 1000, lambda: now) as report:
            report.update(100, 100)
            now = 10.0
            report.update(500, 500, 100)
            report.update(600, 600, 100)
            report.say("row 7: bad")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines() == [
            "importing: 50 %, 500 rows, 100 refused, 50 rows/s, 10 s left",
            "row 7: bad",
        ]

    def test_what_was_done_before_does_not_count_for_the_speed(self, capsys: pytest.CaptureFixture[str]) -> None:
        now = 0.0
        with progress_reporter("skipping", "row", 1000, lambda: now) as report:
            now = 5.0
            report.begin("importing", 800, 800)
            now = 15.0
            report.update(900, 900)
        assert capsys.readouterr().err == "importing: 90 %, 900 rows, 10 rows/s, 10 s left\n"

    def test_a_pipe_has_no_end_in_sight(self, capsys: pytest.CaptureFixture[str]) -> None:
        now = 0.0
        with progress_reporter("importing", "row", None, lambda: now) as report:
            now = 20.0
            report.update(2000, None)
        assert capsys.readouterr().err == "importing: 2,000 rows, 100 rows/s\n"

    def test_a_bar_is_drawn_for_somebody(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        with progress_reporter("importing", "row", 1000) as report:
            report.say("row 7: " + "bad " * 50)
            report.update(400, 500)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "importing" in captured.err
        assert "400 rows" in captured.err
        assert "row 7: " + "bad " * 50 + "\n" in captured.err
