"""The commands of workers and operators: claim, renew, complete, fail, release, stats and roles."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from rich.cells import cell_len

from audiocatalog import Catalog, TrackMetadata, TrackStatus, migrations
from audiocatalog.models.rows import TRACK_COLUMNS
from tests.support.command import Run, invoke, run_on
from tests.support.databases import libpq, temporary_database
from tests.support.roles import drop_roles


@pytest.fixture
def run(database_url: str) -> Run:
    return run_on(database_url)


@pytest.fixture
def waiting(catalog: Catalog) -> list[UUID]:
    """Save three tracks that wait."""
    ids = []
    for number in (1, 2, 3):
        # In transactions of their own, so that each waits longer than the next.
        with catalog.unit_of_work() as work:
            metadata = TrackMetadata(title=f"Take\t{number}")
            ids.append(work.save(metadata, audio_path=f"s3://music/{number}.wav", status=TrackStatus.PENDING).id)
    return ids


def expire(database_url: str, worker: str) -> None:
    """Let the leases of *worker* have run out a second ago."""
    with psycopg.connect(libpq(database_url), autocommit=True) as owner:
        owner.execute(
            "UPDATE audio_track_tasks SET expires_at = clock_timestamp() - interval '1 s' WHERE worker = %s", [worker]
        )


def claimed(run: Run, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("claim", "--json", *options).stdout.splitlines()]


class TestClaim:
    def test_it_takes_one_and_prints_what_the_others_ask_for(self, run: Run, waiting: list[UUID]) -> None:
        result = run("claim")
        assert result.exit_code == 0
        heading, line = result.stdout.splitlines()
        assert heading.split() == ["id", "token", "try", "title", "path"]
        identifier, token, *rest = line.split()
        assert (identifier, int(token) >> 32, rest) == (str(waiting[0]), 2, ["1", r"Take\t1", "s3://music/1.wav"])

    @pytest.mark.usefixtures("waiting")
    def test_a_narrow_terminal_has_the_path_on_a_line_of_its_own(self, run: Run) -> None:
        lines = run("claim", "--limit", "2", COLUMNS="80").stdout.splitlines()
        assert len(lines) == 5
        assert lines[2].strip() == "s3://music/1.wav"
        assert max(map(len, lines)) <= 80

    def test_json_tells_everything(self, run: Run, catalog: Catalog, waiting: list[UUID]) -> None:
        first, second = claimed(run, "--limit", "2", "--lease", "1h30m", "--worker", "ann", "--order", "newest")
        assert first.keys() == {*TRACK_COLUMNS, "token", "worker", "attempt", "expires_at", "last_error"}
        assert {first["id"], second["id"]} <= {str(one) for one in waiting}
        assert (first["token"] >> 32, first["attempt"], first["worker"], first["last_error"]) == (2, 1, "ann", None)
        left = datetime.fromisoformat(first["expires_at"]) - datetime.now(UTC)
        assert timedelta(minutes=88) < left < timedelta(minutes=92)
        assert catalog.history(first["id"])[-1].actor == "ann"

    def test_nothing_waits(self, run: Run) -> None:
        assert (run("claim").exit_code, run("claim").stdout) == (0, "no track is waiting\n")
        assert run("claim", "--json").stdout == ""

    def test_what_it_refuses_is_named_as_on_the_command_line(self, run: Run) -> None:
        result = run("claim", "--lease", "8d")
        assert (result.exit_code, result.stderr) == (1, "error: --lease: from 10ms to 7d\n")
        result = run("claim", "--worker", " ")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: --")


class TestEnds:
    @pytest.fixture
    def held(self, run: Run, waiting: list[UUID]) -> tuple[str, str]:
        (claim,) = claimed(run, "--worker", "ann")
        assert UUID(claim["id"]) in waiting
        return claim["id"], str(claim["token"])

    def test_complete(self, run: Run, held: tuple[str, str]) -> None:
        result = run("complete", *held)
        assert result.exit_code == 0
        assert result.stdout.startswith("PROCESSING → COMPLETED, by ann at ")
        # A lost answer can be asked for again.
        again = json.loads(run("complete", *held, "--json").stdout)
        assert (again["to_status"], again["attempt"], again["actor"]) == ("COMPLETED", 1, "ann")

    def test_complete_with_metadata(self, run: Run, catalog: Catalog, held: tuple[str, str], tmp_path: Path) -> None:
        file = tmp_path / "found.json"
        file.write_text(json.dumps({"title": "Jóga", "artist": "Björk", "year": 1997}), encoding="utf-8")
        assert run("complete", *held, "--metadata", str(file)).exit_code == 0
        assert catalog.get(held[0]).artist == "Björk"
        (other,) = claimed(run)
        assert (
            run("complete", other["id"], str(other["token"]), "--metadata", "-", data='{"title": "x"}').exit_code == 0
        )
        assert catalog.get(other["id"]).title == "x"

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "is not valid JSON"),
            ("[" * 100_000, "is not valid JSON"),
            ("[]", "must hold one JSON object"),
            ('{"year": 7}', "year: "),
            ('{"hue": 7}', "hue"),
        ],
    )
    def test_bad_metadata_ends_nothing(
        self, run: Run, catalog: Catalog, held: tuple[str, str], text: str, reason: str
    ) -> None:
        result = run("complete", *held, "--metadata", "-", data=text)
        assert (result.exit_code, result.stdout) == (1, "")
        assert reason in result.stderr
        assert catalog.get(held[0]).status is TrackStatus.PROCESSING

    def test_a_missing_file_is_told(self, run: Run, held: tuple[str, str]) -> None:
        assert run("complete", *held, "--metadata", "/nowhere/x.json").exit_code == 2

    def test_fail(self, run: Run, held: tuple[str, str]) -> None:
        result = run("fail", *held, "--error", "no\naudio")
        assert result.stdout.startswith("PROCESSING → PENDING, by ann at ")
        assert result.stdout.endswith(r": no\naudio" + "\n")
        assert run("show", held[0], "--json").stdout.find('"PENDING"') > 0

    def test_fail_for_good(self, run: Run, held: tuple[str, str]) -> None:
        change = json.loads(run("fail", *held, "--error", "no audio", "--no-retry", "--json").stdout)
        assert (change["to_status"], change["reason"], change["attempt"]) == ("FAILED", "no audio", 1)

    def test_a_long_error_is_refused(self, run: Run, held: tuple[str, str]) -> None:
        result = run("fail", *held, "--error", "x" * 1001)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: --error: at most 1,000 characters")

    def test_renew(self, run: Run, held: tuple[str, str]) -> None:
        assert run("renew", *held, "--lease", "2h").stdout.startswith("the lease ends at ")
        found = json.loads(run("renew", *held, "--lease", "3h", "--json").stdout)
        assert (found["id"], found["token"]) == (held[0], int(held[1]))
        assert datetime.fromisoformat(found["expires_at"]) > datetime.now(UTC) + timedelta(minutes=175)

    def test_release(self, run: Run, held: tuple[str, str]) -> None:
        result = run("release", *held, "--reason", "the machine is needed")
        assert result.stdout.startswith("PROCESSING → PENDING, by ann at ")
        assert {claim["attempt"] for claim in claimed(run, "--limit", "3")} == {1}

    @pytest.mark.parametrize("command", [["complete"], ["fail", "--error", "x"], ["renew"], ["release"]])
    def test_a_claim_that_is_lost_is_told(self, run: Run, held: tuple[str, str], command: list[str]) -> None:
        result = run(*command, held[0], "7")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "claim is lost" in result.stderr
        assert "claim the track again" in result.stderr
        assert result.stderr.count("\n") == 1
        unknown = run(*command, str(uuid4()), "7")
        assert unknown.exit_code == 1
        assert "no track has this id" in unknown.stderr


class TestExpired:
    @pytest.mark.usefixtures("waiting")
    def test_what_dead_workers_hold_is_taken_back(self, run: Run, database_url: str) -> None:
        assert run("release", "--expired").stdout == "no lease has expired\n"
        assert len(claimed(run, "--limit", "3", "--worker", "ann")) == 3
        expire(database_url, "ann")
        (change,) = (
            json.loads(line) for line in run("release", "--expired", "--limit", "1", "--json").stdout.splitlines()
        )
        assert (change["to_status"], change["reason"]) == ("PENDING", "the lease of ann ran out")
        assert run("release", "--expired").stdout == "released 2 tracks\n"

    @pytest.mark.usefixtures("waiting")
    def test_those_that_have_been_tried_often_enough_are_told(self, run: Run, database_url: str) -> None:
        claimed(run, "--limit", "3", "--worker", "ann")
        expire(database_url, "ann")
        result = run("release", "--expired", AUDIOCATALOG_MAX_ATTEMPTS="1")
        assert result.stdout == "released 3 tracks; 3 had no attempts left and became FAILED\n"


class TestHistory:
    @pytest.mark.usefixtures("waiting")
    def test_a_narrow_terminal_is_told_once_where_it_was(self, run: Run) -> None:
        (claim,) = claimed(run)
        lines = run("history", claim["id"], COLUMNS="80").stdout.splitlines()
        assert lines[0].split() == ["when", "(UTC)", "to", "try", "stayed", "who", "why"]
        assert max(map(cell_len, lines)) <= 80

    @pytest.mark.usefixtures("waiting")
    def test_it_tells_the_attempt(self, run: Run) -> None:
        (claim,) = claimed(run, "--worker", "ann")
        run("complete", claim["id"], str(claim["token"]))
        lines = run("history", claim["id"], COLUMNS="100").stdout.splitlines()
        assert [line.split()[5] for line in lines[2:]] == ["1", "1"]
        assert max(map(cell_len, lines)) <= 100
        changes = [json.loads(line) for line in run("history", claim["id"], "--json").stdout.splitlines()]
        assert [change["attempt"] for change in changes] == [None, 1, 1]
        assert all(change["duration"] >= 0 for change in changes[:-1])
        assert changes[-1]["duration"] is None


class TestStats:
    @pytest.fixture
    def busy(self, catalog: Catalog, database_url: str, waiting: list[UUID]) -> None:
        with catalog.unit_of_work() as work:
            for number in range(20):
                work.save(TrackMetadata(title="x"), audio_path=f"{number}", status=TrackStatus.PENDING)
        for claim in catalog.claim(8, worker="ann"):
            catalog.complete(claim)
        failed, other = catalog.claim(2, worker="ann")
        catalog.fail(failed, "a very long reason " * 10 + "\x1b[31m")
        catalog.fail(other, "broken", retry=False)
        catalog.claim(3, worker="bob\n")
        catalog.claim(2, worker="zoe")
        expire(database_url, "zoe")
        (loose,) = catalog.claim(1)
        catalog.release(loose)
        catalog.update_status(loose.track.id, TrackStatus.PROCESSING)
        assert catalog.activity().waiting > len(waiting)

    @pytest.mark.usefixtures("busy")
    def test_it_shows_what_happened_and_what_is_to_be_done(self, run: Run) -> None:
        text = run("stats").stdout
        lines = [line.split() for line in text.splitlines()]
        assert ["completed", "8", "·" * 23 + "█"] in lines
        assert ["failed", "1", "·" * 23 + "▁"] in lines
        assert "bob\\n" in text
        assert "\\x1b[31m" in text
        assert "\x1b" not in text
        assert "the leases of 2 claims have expired" in text
        assert "`audiocatalog release --expired`" in text
        assert "1 track is PROCESSING without a claim" in text
        assert all(word in text for word in ("worked on", "waiting", "waiting for a retry", "why attempts failed"))

    @pytest.mark.usefixtures("busy")
    @pytest.mark.parametrize("width", [50, 60, 80, 132])
    def test_it_fits_its_terminal(self, run: Run, width: int) -> None:
        lines = run("stats", COLUMNS=str(width)).stdout.splitlines()
        hints = [line for line in lines if "`" in line]
        assert [line for line in lines if cell_len(line) > width and line not in hints] == []

    @pytest.mark.usefixtures("busy")
    def test_colours_are_for_terminals_that_want_them(self, run: Run) -> None:
        coloured = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}
        assert "\x1b[32m" in run("stats", **coloured).stdout
        assert "\x1b[3" not in run("stats", **coloured, NO_COLOR="1").stdout

    @pytest.mark.usefixtures("busy")
    def test_json_tells_the_same(self, run: Run) -> None:
        found = json.loads(run("stats", "--since", "2h", "--json").stdout)
        assert list(found) == ["PENDING", "PROCESSING", "COMPLETED", "FAILED", "activity"]
        activity = found["activity"]
        assert (activity["claimed"], activity["expired"], activity["unclaimed"]) == (5, 2, 1)
        assert len(activity["buckets"]) == 24
        assert activity["buckets"][-1] | {"start": None} == {"start": None, "completed": 8, "failed": 1, "retried": 1}
        until, since = (datetime.fromisoformat(activity[name]) for name in ("until", "since"))
        assert until - since == timedelta(hours=2)
        assert {worker["worker"] for worker in activity["workers"]} == {"bob\n", "zoe"}
        assert activity["failures"][0]["changes"] == 1
        assert activity["time_processing"].keys() == {"tracks", "median", "p95"}
        assert isinstance(activity["time_processing"]["median"], float)

    @pytest.mark.parametrize("since", ["0s", "400d"])
    def test_too_short_or_too_long_a_time_is_refused(self, run: Run, since: str) -> None:
        result = run("stats", "--since", since)
        assert (result.exit_code, result.stderr) == (1, "error: --since: from 1s to 366d\n")

    def test_too_much_to_count_says_what_to_do(self, run: Run, database_url: str) -> None:
        with psycopg.connect(libpq(database_url)) as admin:
            admin.execute("LOCK TABLE audio_track_status_changes IN ACCESS EXCLUSIVE MODE")
            result = run("stats", AUDIOCATALOG_STATEMENT_TIMEOUT="0.2", AUDIOCATALOG_LOCK_TIMEOUT="10")
            admin.rollback()
        assert (result.exit_code, result.stdout) == (1, "")
        assert "shorten --since" in result.stderr


class TestRoles:
    def test_they_are_printed_and_applied(self, server_url: str) -> None:
        suffix = uuid4().hex[:12]
        names = {kind: f"test_{kind}_{suffix}" for kind in ("owner", "app", "search")}
        options = [part for kind, name in names.items() for part in (f"--{kind}", name)]
        with temporary_database(server_url) as url, psycopg.connect(libpq(url), autocommit=True) as admin:
            assert "audiocatalog upgrade" in invoke("--url", url, "roles").stderr
            migrations.upgrade(url)
            try:
                printed = invoke("--url", url, "roles", *options)
                assert printed.exit_code == 0
                assert printed.stdout.startswith("-- The roles of audiocatalog. Run `audiocatalog roles --apply`")
                assert f'CREATE ROLE "{names["app"]}" NOLOGIN' in printed.stdout
                found = json.loads(invoke("--url", url, "roles", *options, "--json").stdout)
                assert found == {"applied": False, **names, "sql": printed.stdout.rstrip("\n")}
                assert not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [names["app"]]).rowcount
                for _ in range(2):
                    applied = invoke("--url", url, "roles", "--apply", *options)
                    assert applied.exit_code == 0
                    assert all(name in applied.stdout for name in names.values())
                assert admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [names["app"]]).rowcount == 1
                assert json.loads(invoke("--url", url, "roles", "--apply", *options, "--json").stdout)["applied"]
            finally:
                drop_roles(admin, names["app"], names["search"], names["owner"])

    def test_a_wrong_name_is_told(self, run: Run) -> None:
        result = run("roles", "--app", "a b")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: --app: ")

    def test_its_help_says_when_to_run_it(self) -> None:
        assert "again after each upgrade" in invoke("roles", "--help").stdout
