"""The command `import`: what it saves, refuses and prints, and that no row takes another one down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from click.testing import Result

from audiocatalog import Catalog, TrackStatus
from tests.support.command import Run, ended, forget_words, invoke, locked, process, run_on
from tests.support.databases import libpq
from tests.support.repository import ROOT
from tests.support.waiting import wait_until


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
        assert refused.stderr.endswith(" exists with other content, which --replace would overwrite\n")
        assert json.loads(save("second", "--replace").stdout)["updated"] == 1
        assert [hit.track.title for hit in catalog.search("second")] == ["second"]

    def test_options_say_what_the_columns_are(self, run: Run, catalog: Catalog) -> None:
        data = "id,name,secs,mood\nk1,Jóga,305,calm\n"
        options = ["--map", "title=name", "--map", "duration=secs", "--id-from", "id", "--audio-path", "m/{id}.mp3"]
        result = run("import", "-", "--format", "csv", *options, "--status", "pending", data=data)
        assert (result.exit_code, result.stderr) == (0, 'ignored columns: "mood"\n')
        (hit,) = catalog.search("joga")
        assert (hit.track.duration, hit.track.audio_path, hit.track.status) == (305.0, "m/k1.mp3", TrackStatus.PENDING)

    def test_what_is_there_may_be_left_as_it_is(self, run: Run, catalog: Catalog) -> None:
        run("import", "-", "--format", "csv", data=self.HEADER + "first,,,p\n")
        result = run("import", "-", "--format", "csv", "--skip-existing", data=self.HEADER + "second,,,p\nnew,,,q\n")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines()[0].endswith(": 1 inserted, 0 updated, 1 unchanged, 0 refused")
        assert [len(catalog.search(title).hits) for title in ("first", "second", "new")] == [1, 0, 1]

    def test_a_dry_run_needs_no_database(self) -> None:
        data = self.HEADER + "a,,1999,p\nb,,x,q\nc,,,r\n"
        result = invoke("import", "-", "--format", "csv", "--dry-run", data=data)
        assert result.exit_code == 3
        assert result.stderr == 'row 2: year: a whole number from 1000 to 9999, not "x"\n'
        assert result.stdout.startswith("3 rows checked in ")
        assert result.stdout.endswith(": 2 could be saved, 1 refused\n")
        summary = json.loads(invoke("import", "-", "--format", "csv", "--dry-run", "--json", data=data).stdout)
        assert (summary["rows"], summary["valid"], summary["refused"], summary["dry_run"]) == (3, 2, 1, True)

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (("--format", "csv", "--replace", "--skip-existing"), "leave one of them out"),
            (("--format", "csv", "--dry-run", "--resume", "state"), "leave one of them out"),
            (("--format", "csv", "--resume", "state"), "cannot read a pipe again"),
            (("--format", "csv", "--resume", "same", "--refused", "same"), "the same file"),
            (("--format", "csv", "--refused", "rows.jsonl"), "the rows are csv, not jsonl: name it .csv"),
            (("--format", "csv", "--refused", "rows.csv.gz"), "leave .gz out"),
            (("--format", "csv", "--audio-path", " "), "--audio-path is empty"),
            (("--format", "csv", "--refused", "none/rows.csv"), "No such file"),
            (("--format", "csv", "--batch", "0"), "--batch"),
            ((), "give the format by --format"),
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

    def test_what_stops_it_says_what_is_safe(self, migrated_database: Callable[[], str]) -> None:
        url = migrated_database()
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute(
                "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE insufficient_privilege; END'"
            )
            admin.execute(
                "CREATE TRIGGER trap BEFORE INSERT ON audio_tracks FOR EACH ROW"
                " WHEN (NEW.title = 'forbidden') EXECUTE FUNCTION trap()"
            )
        data = "title,audio_path\n" + "".join(f"{title},{title}\n" for title in ("a", "b", "c", "forbidden"))
        result = invoke("--url", url, "import", "-", "--format", "csv", "--batch", "2", data=data)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "error: bulk_save: the database role lacks a privilege for this call; as the owner of the tables, run "
            "`audiocatalog roles --grant ROLE` for the role of a service, or repeat `audiocatalog roles --apply` after "
            "an upgrade; stopped, 2 rows safely saved: the same command can be repeated\n"
        )

    def test_a_file_without_rows_is_fine(self, run: Run) -> None:
        result = run("import", "-", "--format", "csv", data=self.HEADER)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("0 rows in ")

    def test_an_import_can_be_interrupted(self, database_url: str, catalog: Catalog) -> None:
        program = process(
            *("--url", database_url, "import", "-", "--format", "csv", "--batch", "500"), stdin=subprocess.PIPE
        )
        assert program.stdin is not None
        program.stdin.write(b"title,audio_path\n" + b"".join(b"a,%d\n" % number for number in range(5000)))
        program.stdin.flush()
        # The first batch is counted before the second one is committed.
        wait_until(lambda: catalog.count_by_status()[2].tracks > 500)
        program.send_signal(signal.SIGINT)
        code, out, err = ended(program)
        assert (code, out) == (130, "")
        saved = int(err.removeprefix("error: interrupted, at least ").split()[0].replace(",", ""))
        assert err.endswith(" rows safely saved: the same command can be repeated\n")
        assert 0 < saved <= catalog.count_by_status()[2].tracks


class TestMistakes:
    """What can go wrong without a server is told without one."""

    @pytest.mark.parametrize(
        ("data", "absent"),
        [
            ('{"titel": "x", "audio_path": "p"}\n{"jahr": 1999, "audio_path": "q"}\n', ["title=titl"]),
            ('{"titl": null, "audio_path": "p"}\n', ["year=jahr"]),
            ('{"audio_path": "p"}\n', ["title=titl", "year=jahr"]),
            ("", []),
        ],
    )
    def test_a_key_that_no_row_has_is_told_at_the_end(self, data: str, absent: list[str]) -> None:
        options = ("--dry-run", "--map", "title=titl", "--map", "year=jahr")
        result = invoke("import", "-", "--format", "jsonl", *options, data=data)
        assert result.exit_code == 0
        assert [line for line in result.stderr.splitlines() if not line.startswith("ignored")] == [
            f'warning: no row has a key "{pair.partition("=")[2]}": check the name in --map {pair}' for pair in absent
        ]

    @pytest.mark.slow
    def test_a_closed_stdin_is_told(self) -> None:
        program = process("import", "-", "--dry-run", "--format", "csv", preexec_fn=partial(os.close, 0))
        assert ended(program) == (1, "", "error: stdin is closed\n")

    @pytest.mark.parametrize("name", ["tracks.csv", "tracks.csv.gz"])
    def test_the_file_itself_does_not_take_its_refused_rows(self, tmp_path: Path, name: str) -> None:
        file, link = tmp_path / name, tmp_path / "link.csv"
        file.write_text("title,audio_path\n,\n")
        link.symlink_to(file)
        for refused in (file, link):
            result = invoke("import", str(file), "--dry-run", "--refused", str(refused))
            assert result.exit_code == 2
            assert "--refused names the imported file: give another name" in result.stderr

    @pytest.mark.parametrize(
        ("name", "options", "hint"),
        [
            ("bad.csv", (), "the same options, but"),
            ("bad", (), "the same options and --format csv, but"),
            ("bad", ("--format", "csv"), "the same options, but"),
        ],
    )
    def test_the_refused_rows_are_imported_as_it_is_said(
        self, tmp_path: Path, name: str, options: tuple[str, ...], hint: str
    ) -> None:
        source, bad = tmp_path / "tracks.csv", tmp_path / name
        source.write_text("title,year,audio_path\na,x,p\n")
        result = invoke("import", str(source), "--dry-run", "--refused", str(bad), *options)
        assert result.exit_code == 3
        assert result.stderr.splitlines()[-1] == (
            f"the refused rows are in {bad}: correct the rows, "
            f"and import this file with {hint} another file for --refused"
        )
        bad.write_text(bad.read_text().replace("a,x,", "a,1999,"))
        result = invoke("import", str(bad), "--dry-run", "--refused", f"{bad}2", "--format", "csv")
        assert (result.exit_code, result.stderr) == (0, "")


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
            "; the import is complete, but its words are not counted: run `audiocatalog vocabulary refresh`\n"
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
