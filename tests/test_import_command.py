"""The command `import`: what it saves, refuses and prints, and that no row takes another one down."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import Result

from audiocatalog import Catalog, TrackMetadata, TrackRecord, TrackStatus, migrations
from audiocatalog.cli import import_command
from audiocatalog.cli.import_command import Tally
from audiocatalog.cli.importing import ReadRecord, Refusal
from audiocatalog.cli.rows import Place
from audiocatalog.errors import PermissionDenied
from tests.command import ROOT, Run, ended, forget_words, invoke, locked, process, run_on
from tests.conftest import libpq


@pytest.fixture
def run(database_url: str) -> Iterator[Run]:
    yield run_on(database_url)
    forget_words(database_url)


class TestImport:
    HEADER = "title,artist,year,audio_path\n"

    def test_a_file_is_imported_once(self, run: Run, tmp_path: Path, catalog: Catalog) -> None:
        file = tmp_path / "tracks.CSV"
        file.write_text(self.HEADER + "Jóga,Björk,1997,p\nHunter,Björk,1997,q\n", encoding="utf-8")
        first, second = run("import", str(file)), run("import", str(file))
        assert (first.exit_code, first.stderr) == (second.exit_code, second.stderr) == (0, "")
        rows, words = first.stdout.splitlines()
        assert rows.startswith("2 rows in ")
        assert rows.endswith(": 2 inserted, 0 updated, 0 unchanged, 0 refused")
        assert words.startswith("counted 4 words of 2 tracks in ")
        assert second.stdout.endswith(": 0 inserted, 0 updated, 2 unchanged, 0 refused\n")
        (hit,) = catalog.search("joga")
        with catalog.unit_of_work() as work:
            assert work.history(hit.track.id)[0].actor == "tester"

    def test_the_examples_are_imported(self, run: Run) -> None:
        result = run("import", str(ROOT / "examples" / "tracks.csv"), "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        summary = json.loads(result.stdout)
        assert summary["rows"] == summary["inserted"] > 500
        assert summary["rows_per_second"] > 0

    def test_bad_rows_are_told_and_all_others_saved(self, run: Run) -> None:
        data = self.HEADER + 'a,b,1999,p\nb,c,"19\x1b99",q\n"two\nlines",c,1999,r\nd,d,x,s\n'
        result = run("import", "-", "--format", "csv", data=data)
        assert result.exit_code == 3
        assert result.stderr.splitlines() == [
            r'row 2: year: a whole number from 1000 to 9999, not "19\x1b99"',
            'row 4 (line 6): year: a whole number from 1000 to 9999, not "x"',
        ]
        assert result.stdout.splitlines()[0].endswith(": 2 inserted, 0 updated, 0 unchanged, 2 refused")
        assert "words of 2 tracks" in result.stdout

    def test_other_content_is_refused_or_replaces(self, run: Run, catalog: Catalog) -> None:
        def save(title: str, *options: str) -> Result:
            data = json.dumps({"title": title, "audio_path": "p"})
            return run("import", "-", "--format", "jsonl", "--json", *options, data=data)

        assert json.loads(save("first").stdout)["inserted"] == 1
        refused = save("second")
        assert refused.exit_code == 3
        assert refused.stderr.startswith("row 1: id: track ")
        assert "--replace" in refused.stderr
        assert json.loads(save("second", "--replace").stdout)["updated"] == 1
        assert [hit.track.title for hit in catalog.search("second")] == ["second"]

    def test_options_say_what_the_columns_are(self, run: Run, catalog: Catalog) -> None:
        data = "id,name,secs,mood\nk1,Jóga,305,calm\n"
        options = ["--map", "title=name", "--map", "duration=secs", "--id-from", "id", "--audio-path", "m/{id}.mp3"]
        result = run("import", "-", "--format", "csv", *options, "--status", "pending", data=data)
        assert (result.exit_code, result.stderr) == (0, 'ignored columns: "mood"\n')
        (hit,) = catalog.search("joga")
        assert (hit.track.duration, hit.track.audio_path, hit.track.status) == (305.0, "m/k1.mp3", TrackStatus.PENDING)

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ((), "say what it is by --format"),
            (("--format", "csv", "--map", "title"), "FIELD=COLUMN"),
            (("--format", "csv", "--map", "title="), "FIELD=COLUMN"),
            (("--format", "csv", "--map", "titel=x"), 'no field "titel"'),
            (("--format", "csv", "--map", "title=a", "--map", "title=b"), "mapped twice"),
            (("--format", "csv", "--map", "title=nowhere"), 'no column "nowhere"'),
            (("--format", "csv", "--audio-path", "{nowhere}"), 'no column "nowhere"'),
            (("--format", "csv", "--audio-path", "{"), "single brace"),
            (("--format", "csv", "--id-from", "nowhere"), 'no column "nowhere"'),
            (("--format", "csv", "--status", "FAILED"), "FAILED"),
        ],
    )
    def test_wrong_options_are_told_before_any_server_is_asked(self, options: tuple[str, ...], reason: str) -> None:
        result = invoke("--url", "postgresql://127.0.0.1:1/none", "import", "-", *options, data=self.HEADER)
        assert (result.exit_code, result.stdout) == (2, "")
        assert reason in result.stderr

    def test_a_file_that_cannot_be_opened_ends_with_2(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.csv", tmp_path):
            result = invoke("--url", "postgresql://127.0.0.1:1/none", "import", str(path))
            assert (result.exit_code, result.stdout) == (2, "")
            assert str(path) in result.stderr

    def test_what_stops_it_says_what_is_safe(
        self, empty_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = empty_database()
        migrations.upgrade(url)
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute(
                "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE insufficient_privilege; END'"
            )
            admin.execute(
                "CREATE TRIGGER trap BEFORE INSERT ON audio_tracks FOR EACH ROW"
                " WHEN (NEW.title = 'forbidden') EXECUTE FUNCTION trap()"
            )
        monkeypatch.setattr(import_command, "BATCH", 2)
        data = "title,audio_path\n" + "".join(f"{title},{title}\n" for title in ("a", "b", "c", "forbidden"))
        result = invoke("--url", url, "import", "-", "--format", "csv", data=data)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "error: save: the database role lacks a privilege for this; "
            "after an upgrade, `audiocatalog roles --apply` grants what is new; "
            "stopped, 2 rows safely saved: the same command can be run again\n"
        )

    def test_a_file_without_rows_is_fine(self, run: Run) -> None:
        result = run("import", "-", "--format", "csv", data=self.HEADER)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("0 rows in ")

    def test_an_import_can_be_interrupted(self, database_url: str, catalog: Catalog) -> None:
        program = process("--url", database_url, "import", "-", "--format", "csv", stdin=subprocess.PIPE)
        assert program.stdin is not None
        program.stdin.write(b"title,audio_path\n" + b"".join(b"a,%d\n" % number for number in range(5000)))
        program.stdin.flush()
        deadline = time.monotonic() + 30
        while not catalog.stats()[2].tracks and time.monotonic() < deadline:
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        code, out, err = ended(program)
        assert (code, out) == (130, "")
        saved = int(err.removeprefix("error: interrupted, ").split()[0].replace(",", ""))
        assert err.endswith(" rows safely saved: the same command can be run again\n")
        assert 0 < saved <= catalog.stats()[2].tracks


class TestVocabulary:
    """The import counts the words at its end, where it changed any."""

    def save(self, run: Run, title: str, *options: str, **environment: str) -> Result:
        data = json.dumps({"title": title, "audio_path": "p"})
        return run("import", "-", "--format", "jsonl", *options, data=data, **environment)

    def test_what_was_imported_is_found_by_a_slip(self, run: Run) -> None:
        assert self.save(run, "Hyperballad").exit_code == 0
        assert 'did you mean "hyperballad"?' in run("search", "hyperbalad").stdout

    def test_it_is_counted_where_something_changed(self, run: Run) -> None:
        def counted(result: Result) -> object:
            assert result.exit_code in {0, 3}
            return (json.loads(result.stdout)["vocabulary"] or {}).get("words")

        assert counted(self.save(run, "one", "--json")) == 1
        assert counted(self.save(run, "one", "--json")) is None
        assert counted(self.save(run, "one two", "--json")) is None
        assert counted(self.save(run, "one two", "--json", "--replace")) == 2
        assert counted(self.save(run, "three", "--json", "--replace", "--no-vocabulary")) is None

    def test_it_can_be_left_out(self, run: Run) -> None:
        result = self.save(run, "Hyperballad", "--no-vocabulary")
        assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (0, "", 1)
        assert "did you mean" not in run("search", "hyperbalad").stdout

    def test_a_terminal_shows_that_it_is_under_way(self, run: Run) -> None:
        result = self.save(run, "Hyperballad", FORCE_COLOR="1", TERM="xterm")
        assert "counting the words of all tracks ..." in result.stderr

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_its_failure_is_a_warning(self, run: Run, database_url: str, options: tuple[str, ...]) -> None:
        with locked(database_url, "audio_search_words"):
            result = self.save(run, "Hyperballad", *options, AUDIOCATALOG_LOCK_TIMEOUT="0.1")
        assert result.exit_code == 0
        assert result.stderr.startswith("warning: ")
        assert result.stderr.endswith(
            "; the import is complete, but its words are not counted yet: run `audiocatalog vocabulary refresh`\n"
        )
        assert result.stdout.count("\n") == 1
        if options:
            assert json.loads(result.stdout)["inserted"] == 1
            assert json.loads(result.stdout)["vocabulary"] is None
        else:
            assert "1 inserted" in result.stdout

    def test_an_interruption_says_that_all_is_saved(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(_: Catalog) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Catalog, "refresh_vocabulary", interrupt)
        result = self.save(run, "Hyperballad")
        assert result.exit_code == 130
        assert "1 inserted" in result.stdout
        assert result.stderr.startswith("error: interrupted; the import is complete, ")


@pytest.fixture
def trapped(empty_database: Callable[[], str]) -> Iterator[Catalog]:
    """Give a catalogue in whose database a trigger of the host raises an error for some titles."""
    url = empty_database()
    migrations.upgrade(url)
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.title = 'refused' THEN RAISE EXCEPTION 'not this one'; END IF;"
            " IF NEW.title = 'forbidden' THEN RAISE insufficient_privilege; END IF;"
            " RETURN NEW; END $$"
        )
        admin.execute("CREATE TRIGGER trap BEFORE INSERT ON audio_tracks FOR EACH ROW EXECUTE FUNCTION trap()")
        admin.execute("ALTER TABLE audio_tracks ADD CONSTRAINT ck_audio_tracks_genre_known CHECK (genre <> 'polka')")
    with Catalog(url, actor="tester") as catalog:
        yield catalog


class TestSaving:
    """The database refuses what no reader could know of."""

    def records(self, *titles: str) -> list[ReadRecord | Refusal]:
        return [
            ReadRecord(Place(number), TrackRecord(TrackMetadata(title=title, genre=title), f"s3://{number}"))
            for number, title in enumerate(titles, 1)
        ]

    def save(self, catalog: Catalog, records: list[ReadRecord | Refusal]) -> tuple[Tally, list[str]]:
        tally = Tally()
        refused: list[str] = []
        import_command.save_records(
            catalog, records, replace=False, tally=tally, refused=lambda refusal: refused.append(str(refusal))
        )
        return tally, refused

    def test_a_row_that_breaks_its_batch_is_refused_alone(self, trapped: Catalog) -> None:
        read = Refusal(Place(2), "read as nonsense")
        first, *others = self.records("a", "refused", "b", "polka", "c")
        tally, refused = self.save(trapped, [first, read, *others])
        assert (tally.inserted, tally.refused, tally.saved, tally.rows) == (3, 3, 3, 6)
        assert refused == [
            "row 2: read as nonsense",
            "row 2: save: an unexpected database error; its cause says more (SQLSTATE P0001)",
            "row 4: genre: the database refused the value",
        ]
        assert trapped.stats()[2].tracks == 3

    def test_an_error_that_is_no_rows_fault_stops(self, trapped: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(import_command, "BATCH", 2)
        tally = Tally()
        with pytest.raises(PermissionDenied):
            import_command.save_records(
                trapped,
                self.records("a", "b", "c", "forbidden", "d"),
                replace=False,
                tally=tally,
                refused=lambda _: None,
            )
        assert (tally.saved, trapped.stats()[2].tracks) == (2, 2)

    def test_batches_are_committed_one_by_one(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(import_command, "BATCH", 2)
        seen: list[int] = []
        tally = Tally()
        import_command.save_records(
            catalog,
            self.records("a", "b", "c"),
            replace=False,
            tally=tally,
            refused=lambda _: None,
            saved=lambda: seen.append(catalog.stats()[2].tracks),
        )
        assert seen == [2, 3]


class TestProgress:
    def test_lines_are_printed_now_and_then(self, capsys: pytest.CaptureFixture[str]) -> None:
        now = 0.0
        tally = Tally(inserted=400, refused=100)
        with import_command.progress_reporter(tally, 1000, lambda: now) as report:
            report.update(100)
            now = 10.0
            report.update(500)
            report.update(600)
            report.say("row 7: bad")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines() == [
            "importing: 50 %, 500 rows, 100 refused, 50 rows/s, 10 s left",
            "row 7: bad",
        ]

    def test_a_pipe_has_no_end_in_sight(self, capsys: pytest.CaptureFixture[str]) -> None:
        now = 0.0
        with import_command.progress_reporter(Tally(inserted=2000), None, lambda: now) as report:
            now = 20.0
            report.update(None)
        assert capsys.readouterr().err == "importing: 2,000 rows, 100 rows/s\n"

    def test_a_bar_is_drawn_for_somebody(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        with import_command.progress_reporter(Tally(inserted=400), 1000) as report:
            report.say("row 7: " + "bad " * 50)
            report.update(500)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "importing" in captured.err
        assert "400 rows" in captured.err
        assert "row 7: " + "bad " * 50 + "\n" in captured.err
