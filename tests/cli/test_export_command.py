"""The command `export`: what it writes is what `import` reads, in constant memory, and never half a file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from audiocatalog import Catalog, Track, TrackMetadata, TrackRecord, TrackStatus
from audiocatalog.cli import export_command
from audiocatalog.models.metadata import METADATA_FIELDS
from audiocatalog.models.rows import TRACK_COLUMNS
from tests.support.command import Run, ended, invoke, process, run_on

IMPORTED = ("id", *METADATA_FIELDS, "audio_path", "thumbnail_path", "status")
#: Texts that have a meaning to some reader of the file.
NASTY = (
    *(
        ' "',
        '"""',
        "a,b",
        "a;b\tc",
        "two\nlines",
        "two\r\nlines",
        "old\rline",
        "\n",
        "  blanks  ",
        "=cmd|' /C calc'!A0",
    ),
    *("@SUM(1)", "+1", "-1", "null", "NULL", "\\N", "\\", "'", "{}", "refused_because", "#", "\ufefftitle", "\x1b[31m"),
    *("\x0b\x0c\x1c\x85\u2028\u2029x", "🎵👩‍👩‍👧", "宇多田ヒカル", "किशोर", "\U0010ffff", "0", "1e400", "x" * 999),
)


@pytest.fixture
def run(database_url: str) -> Run:
    return run_on(database_url)


def save(catalog: Catalog, *metadata: TrackMetadata) -> list[Track]:
    with catalog.unit_of_work() as work:
        return [
            work.save_record(TrackRecord(one, f"path {number}", UUID(int=number)))
            for number, one in enumerate(metadata)
        ]


def content(catalog: Catalog) -> list[dict[str, Any]]:
    return [{name: getattr(track, name) for name in IMPORTED} for track in catalog.iter_tracks()]


@pytest.fixture
def nasty(catalog: Catalog) -> list[dict[str, Any]]:
    """Save tracks that are hard to write down, and give their content."""
    texts = [TrackMetadata(title=f"{text}!", artist=text, album=text) for text in NASTY]
    texts += [TrackMetadata(genre=text[:200], format=text[:50]) for text in NASTY]
    numbers = [0.1 + 0.2, 1e-7, 5e-324, 31_535_999.999999996, 0.0, 123456.789]
    texts += [TrackMetadata(duration=number, year=1000, channels=1, bitrate=2_000_000_000) for number in numbers]
    with catalog.unit_of_work() as work:
        for number, text in enumerate(NASTY):
            work.save(TrackMetadata(), audio_path=f"{text}/{number}.mp3", thumbnail_path=f"./{text}")
    save(catalog, *texts)
    return content(catalog)


@pytest.mark.parametrize("name", ["tracks.csv", "tracks.jsonl", "tracks.csv.gz", "tracks.JSONL.gz"])
def test_what_is_written_is_read_back(
    run: Run, catalog: Catalog, nasty: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    result = run("export", str(file))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{len(nasty)} tracks in ")
    assert file.read_bytes()[:2] == b"\x1f\x8b" or not name.endswith("gz")
    before = run("import", str(file), "--no-vocabulary")
    assert (before.exit_code, before.stderr) == (0, "")
    assert f"0 inserted, 0 updated, {len(nasty)} unchanged" in before.stdout
    with catalog.unit_of_work() as work:
        for table in ("audio_track_tasks", "audio_track_status_changes", "audio_tracks"):
            work.session.connection().exec_driver_sql(f"DELETE FROM {table}")
    assert run("import", str(file), "--no-vocabulary").exit_code == 0
    assert content(catalog) == nasty


def test_stdout_is_json_lines_unless_it_is_said(run: Run, catalog: Catalog) -> None:
    save(catalog, TrackMetadata(title="Jóga", artist="Björk", year=1997, duration=305.5))
    told = {"title": "Jóga", "artist": "Björk", "year": 1997, "duration": 305.5}
    stored = {"id": str(UUID(int=0)), "audio_path": "path 0", "status": "COMPLETED"}
    expected: dict[str, object] = {**dict.fromkeys(IMPORTED), **told, **stored}
    result = run("export")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == expected
    assert list(json.loads(result.stdout)) == list(IMPORTED)
    cells = ["" if expected[name] is None else str(expected[name]) for name in IMPORTED]
    assert run("export", "-", "--format", "csv").stdout_bytes.decode() == f"{','.join(IMPORTED)}\n{','.join(cells)}\n"


def test_all_fields_or_some_of_them(run: Run, catalog: Catalog) -> None:
    (track,) = save(catalog, TrackMetadata(title="Jóga"))
    everything = json.loads(run("export", "--all").stdout)
    assert list(everything) == [*IMPORTED, "created_at", "updated_at", "version"]
    assert set(everything) == set(TRACK_COLUMNS)
    assert everything["created_at"] == track.created_at.isoformat()
    assert (everything["status"], everything["version"]) == ("COMPLETED", 1)
    assert run("export", "--fields", "version, title", "--format", "csv").stdout == "version,title\n1,Jóga\n"
    assert run("export", "--fields", "album", "--format", "csv").stdout == 'album\n""\n'


def test_filters_are_those_of_a_search(run: Run, catalog: Catalog) -> None:
    save(
        catalog,
        TrackMetadata(title="a", artist="Björk", year=1995, format="flac"),
        TrackMetadata(title="b", artist="Björk", year=1999, format="mp3"),
        TrackMetadata(title="c", artist="Radiohead", year=1997, format="mp3"),
    )
    catalog.update_status(UUID(int=2), TrackStatus.PENDING)

    def found(*options: str) -> list[str]:
        return run("export", "--fields", "title", "--format", "csv", *options).stdout.splitlines()[1:]

    assert found() == ["a", "b", "c"]
    assert found("--artist", "bjork") == ["a", "b"]
    assert found("--year", "1996..") == ["b", "c"]
    assert found("--audio-format", "mp3", "--status", "COMPLETED") == ["b"]
    assert found("--updated-since", "2999-01-01") == []


def test_more_than_a_page_is_written(run: Run, catalog: Catalog, tmp_path: Path) -> None:
    count = 2 * 1000 + 7
    catalog.bulk_save(TrackRecord(TrackMetadata(), str(number)) for number in range(count))
    file = tmp_path / "tracks.csv"
    assert run("export", str(file)).stdout.startswith(f"{count:,} tracks in ")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert sorted(int(row["audio_path"]) for row in rows) == list(range(count))
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)


def test_an_empty_catalogue_is_an_empty_file(run: Run, tmp_path: Path, catalog: Catalog) -> None:
    assert run("export").stdout == ""
    assert run("export", str(tmp_path / "tracks.csv")).stdout.startswith("0 tracks in ")
    assert (tmp_path / "tracks.csv").read_text() == f"{','.join(IMPORTED)}\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("tracks",), "give the format by --format"),
        (("tracks.gz",), "give the format by --format"),
        (("--fields", "titel"), 'there is no field "titel"'),
        (("--fields", "id,id"), "twice"),
        (("--fields", ""), "a name is empty"),
        (("--fields", "title,"), "a name is empty: remove the extra comma"),
        (("--audio-format", ""), "--audio-format: at least one visible character"),
        (("--year", "2000..1990"), "--year: a lowest number that is not above the highest"),
        (("--fields", "id", "--all"), "leave one of them out"),
        (("--format", "flac"), "--format"),
        (("/",), "is a directory"),
    ],
)
def test_wrong_options_are_told_before_any_server_is_asked(options: tuple[str, ...], reason: str) -> None:
    result = invoke("--url", "postgresql://127.0.0.1:1/none", "export", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr


@pytest.mark.slow
def test_a_closed_stdout_is_told() -> None:
    program = process("--url", "postgresql://127.0.0.1:1/none", "export", preexec_fn=partial(os.close, 1))
    assert ended(program) == (1, "", "error: stdout is closed\n")


class TestFile:
    """A file is there when it is complete, and only then."""

    @pytest.fixture(autouse=True)
    def track(self, catalog: Catalog) -> None:
        save(catalog, TrackMetadata(title="Jóga"))

    @pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError(28, "No space left"), 1)])
    def test_an_interruption_leaves_what_was_there(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
    ) -> None:
        def stop(*_: object) -> Iterator[bytes]:
            raise error

        file = tmp_path / "tracks.csv"
        file.write_text("before")
        monkeypatch.setattr(export_command._Rows, "_line", stop)
        result = run("export", str(file))
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith("error: ")
        assert [path.name for path in tmp_path.iterdir()] == ["tracks.csv"]
        assert file.read_text() == "before"

    def test_it_has_the_permissions_of_any_new_file_or_of_the_one_before(self, run: Run, tmp_path: Path) -> None:
        usual, file, old = tmp_path / "usual", tmp_path / "new.csv", tmp_path / "old.csv"
        usual.touch()
        old.touch(mode=0o640)
        for path in (file, old):
            assert run("export", str(path)).exit_code == 0
        assert file.stat().st_mode == usual.stat().st_mode
        assert stat.S_IMODE(old.stat().st_mode) == 0o640

    def test_a_link_stays_one(self, run: Run, tmp_path: Path) -> None:
        link, file = tmp_path / "link.csv", tmp_path / "file.csv"
        link.symlink_to(file)
        assert run("export", str(link)).exit_code == 0
        assert link.is_symlink()
        assert "Jóga" in file.read_text(encoding="utf-8")

    def test_a_pipe_is_written_to_as_it_is(self, database_url: str, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        program = process("--url", database_url, "export", str(pipe), "--format", "csv", "--fields", "title")
        assert pipe.read_bytes().decode() == "title\nJóga\n"
        assert ended(program)[0] == 0
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_the_same_tracks_make_the_same_compressed_file(self, run: Run, tmp_path: Path) -> None:
        first, second = tmp_path / "first.csv.gz", tmp_path / "second.csv.gz"
        for path in (first, second):
            assert run("export", str(path)).exit_code == 0
        assert first.read_bytes() == second.read_bytes()
        assert list(csv.reader(io.StringIO(gzip.decompress(first.read_bytes()).decode())))[1][1] == "Jóga"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
    def test_a_full_disk_is_named(self, run: Run) -> None:
        result = run("export", "/dev/full", "--format", "csv")
        assert (result.exit_code, result.stderr) == (1, "error: /dev/full: No space left on device\n")

    def test_a_folder_that_is_not_there_is_told(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "none" / "tracks.csv"
        result = run("export", str(file))
        assert (result.exit_code, result.stderr) == (1, f"error: {file}: No such file or directory\n")


def test_a_reader_that_has_enough_ends_it_with_141(database_url: str, catalog: Catalog) -> None:
    catalog.bulk_save(TrackRecord(TrackMetadata(title="x" * 1000), str(number)) for number in range(2000))
    program = process("--url", database_url, "export")
    head = subprocess.run(["head", "-n", "1"], stdin=program.stdout, capture_output=True, check=True)
    assert program.stdout is not None
    program.stdout.close()
    program.stdout = None
    code, _, err = ended(program)
    assert (code, err) == (141, "")
    assert json.loads(head.stdout)["title"] == "x" * 1000
