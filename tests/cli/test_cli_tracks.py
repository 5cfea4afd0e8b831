"""The commands for one track: show, status and history."""

from __future__ import annotations

import getpass
import json
from uuid import UUID, uuid4

import pytest

from audiocatalog import Catalog, TrackMetadata, TrackStatus
from audiocatalog.models.rows import TRACK_COLUMNS
from tests.support.command import Run, invoke, run_on

IDIOTEQUE = UUID("01920000-0000-7000-8000-00000001d107")


@pytest.fixture
def run(database_url: str) -> Run:
    return run_on(database_url)


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


class TestTrack:
    def test_it_is_shown_in_units_that_people_use(self, run: Run, idioteque: UUID) -> None:
        lines = dict(line.split(None, 1) for line in run("show", str(idioteque)).stdout.splitlines())
        assert lines["duration"] == "5:09 (309.25 s)"
        assert lines["bitrate"] == "320 kbit/s"
        assert lines["sample_rate"] == "44.1 kHz"
        assert lines["channels"] == "2 (stereo)"
        assert lines["thumbnail_path"] == "-"
        assert lines["created_at"].endswith(" UTC")
        assert lines.keys() == set(TRACK_COLUMNS)

    def test_it_is_raw_in_json(self, run: Run, idioteque: UUID) -> None:
        track = json.loads(run("show", str(idioteque), "--json").stdout)
        assert (track["id"], track["sample_rate"], track["status"]) == (str(idioteque), 44_100, "PENDING")
        assert track.keys() == set(TRACK_COLUMNS)

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
        assert lines[0].split() == ["when", "(UTC)", "from", "to", "try", "stayed", "who", "why"]
        assert len(lines) == 3
        assert "(new)" in lines[1]
        assert "so far" in lines[2]
        assert lines[2].endswith("tester  a worker")
        changes = [json.loads(line) for line in run("history", str(idioteque), "--json").stdout.splitlines()]
        assert [(change["from_status"], change["to_status"]) for change in changes] == [
            (None, "PENDING"),
            ("PENDING", "PROCESSING"),
        ]
        assert [change["attempt"] for change in changes] == [None, None]
        assert changes[0]["duration"] > 0
        assert changes[1]["duration"] is None

    def test_an_unknown_track_is_told(self, run: Run) -> None:
        for command in (["show"], ["history"]):
            result = run(*command, str(IDIOTEQUE))
            assert (result.exit_code, result.stderr) == (1, f"error: track {IDIOTEQUE}: no track has this id\n")
        assert run("status", str(IDIOTEQUE), "PENDING").exit_code == 1

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
