"""The files of an import: compressed ones, the one of refused rows, and the one that remembers the place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiocatalog import Catalog
from audiocatalog.cli.importing.input_file import DamagedFile, InputFile
from audiocatalog.cli.importing.lines import LONGEST_ROW
from audiocatalog.cli.importing.records import Plan, RefusedRow, format_of, read_records
from tests.support.command import Run, ended, forget_words, invoke, process, run_on
from tests.support.waiting import wait_until

HEADER = b"title,year,audio_path\n"


@pytest.fixture
def run(database_url: str) -> Iterator[Run]:
    yield run_on(database_url)
    forget_words(database_url)


def numbered(count: int, first: int = 1) -> bytes:
    return b"".join(b"title %d,,path %d\n" % (number, number) for number in range(first, first + count))


def in_catalogue(catalog: Catalog) -> int:
    return sum(count.tracks for count in catalog.count_by_status())


class TestGzip:
    @pytest.mark.parametrize("name", ["tracks.csv.gz", "tracks.CSV.GZ", "tracks.csv"])
    def test_it_is_known_by_its_content(self, run: Run, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.write_bytes(gzip.compress(HEADER + numbered(2)))
        result = run("import", str(file))
        assert (result.exit_code, result.stderr) == (0, "")
        assert "2 inserted" in result.stdout

    def test_a_name_without_a_format_needs_one(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "tracks.gz"
        file.write_bytes(gzip.compress(b'{"title": "a", "audio_path": "p"}\n'))
        assert run("import", str(file)).exit_code == 2
        assert "1 inserted" in run("import", str(file), "--format", "jsonl").stdout

    def test_stdin_may_be_compressed_in_parts(self, run: Run) -> None:
        data = gzip.compress(HEADER + numbered(2)) + gzip.compress(numbered(2, 3))
        assert "4 inserted" in run("import", "-", "--format", "csv", data=data).stdout

    @pytest.mark.parametrize("options", [(), ("--dry-run",)])
    def test_a_damaged_file_is_refused_before_a_row_is_saved(
        self, run: Run, tmp_path: Path, catalog: Catalog, options: tuple[str, ...]
    ) -> None:
        whole = gzip.compress(HEADER + numbered(1000))
        damaged = bytearray(whole)
        damaged[-6] ^= 1  # In the sum of all bytes.
        for name, data, what in (("a", whole[:-100], "cut off"), ("b", bytes(damaged), "damaged")):
            file = tmp_path / f"{name}.csv.gz"
            file.write_bytes(data)
            result = run("import", str(file), *options)
            assert (result.exit_code, result.stdout) == (1, "")
            assert what in result.stderr
            assert result.stderr.endswith("; nothing was saved\n")
        assert in_catalogue(catalog) == 0

    def test_a_pipe_that_is_cut_off_says_what_is_saved(self, run: Run, catalog: Catalog) -> None:
        data = gzip.compress(HEADER + numbered(5000))[:-5000]
        result = run("import", "-", "--format", "csv", "--batch", "100", data=data)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: the compressed file is cut off: its end is missing; stopped, ")
        saved = int(result.stderr.partition("stopped, ")[2].split()[0].replace(",", ""))
        assert 0 < saved == in_catalogue(catalog) < 5000

    def test_a_damaged_pipe_says_that_rows_may_be_wrong(self, run: Run) -> None:
        data = bytearray(gzip.compress(HEADER + numbered(10)))
        data[-6] ^= 1
        result = run("import", "-", "--format", "csv", data=bytes(data))
        assert result.stderr == (
            "error: the compressed file is damaged; stopped, 10 rows safely saved, but the last ones may be wrong\n"
        )

    def test_what_only_looks_like_gzip_is_refused(self) -> None:
        result = invoke("import", "-", "--format", "csv", data=b"\x1f\x8bnonsense")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1

    @pytest.mark.slow
    def test_a_line_without_end_is_read_in_constant_memory(self) -> None:
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb") as file:
            file.write(HEADER + b"a,,p\n")
            for _ in range(10):
                file.write(b"x" * LONGEST_ROW)
            file.write(b"\nb,,q\n")
        packed.seek(0)
        first, second, third = read_records(InputFile(packed).stream, "csv", Plan())
        assert isinstance(second, RefusedRow)
        assert (first.place.row, second.reason, third.place.row) == (1, "longer than 16,777,216 characters", 3)

    def test_the_position_is_that_of_the_stored_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "tracks.csv.gz"
        path.write_bytes(gzip.compress(HEADER + numbered(10_000)))
        with path.open("rb") as file:
            opened = InputFile(file)
            assert (opened.position, opened.size) == (0, path.stat().st_size)
            assert opened.stream.readline() == HEADER
            tested: list[tuple[int, int]] = []
            opened.test(lambda *done: tested.append(done))
            assert tested[-1] == (len(HEADER + numbered(10_000)), opened.size)
            assert opened.stream.read() == numbered(10_000)
            assert opened.position == opened.size
            assert not file.closed

    def test_a_file_that_cannot_be_read_says_why(self) -> None:
        class Broken(io.BytesIO):
            def read1(self, _: int | None = -1) -> bytes:
                raise OSError(5, "Input/output error")

        opened = InputFile(Broken(HEADER))
        with pytest.raises(DamagedFile, match="the file cannot be read: Input/output error"):
            opened.stream.read()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", "csv"), ("a.jsonl.gz", "jsonl"), ("a.NDJSON", "jsonl"), ("a.gz", None), (".gz", None), ("csv", None)],
)
def test_a_name_tells_a_format(name: str, expected: str | None) -> None:
    assert format_of(Path(name)) == expected


class TestRefusedFile:
    def refused(self, run: Run, folder: Path, data: bytes, *options: str, name: str = "bad.csv") -> bytes:
        """Import *data* with the format of *name*, and return the file of refused rows."""
        source, target = folder / f"source.{name}", folder / name
        source.write_bytes(data)
        result = run("import", str(source), "--refused", str(target), *options)
        assert result.exit_code == 3
        assert f"the refused rows are in {target}: correct the rows" in result.stderr
        return target.read_bytes()

    def test_rows_are_mended_and_imported_again(self, run: Run, tmp_path: Path, catalog: Catalog) -> None:
        data = 'name,year,path,mood\nJóga,nineteen,p,calm\nHunter,1997,q,wild\n"a\nb, c",1,r\n'.encode()
        options = ("--map", "title=name", "--map", "audio_path=path")
        assert self.refused(run, tmp_path, data, *options).decode() == (
            "name,year,path,mood,refused_because\n"
            'Jóga,nineteen,p,calm,"year: a whole number from 1000 to 9999, not ""nineteen"""\n'
            '"a\nb, c",1,r,,year: a whole number from 1000 to 9999\n'
        )
        mended = tmp_path / "bad.csv"
        mended.write_bytes(mended.read_bytes().replace(b"nineteen,", b"1997,").replace(b",1,r", b",1998,r"))
        result = run("import", str(mended), *options)
        assert (result.exit_code, result.stderr) == (0, 'ignored columns: "mood"\n')
        assert "2 inserted" in result.stdout
        assert in_catalogue(catalog) == 3

    def test_rows_that_are_not_mended_stay_what_they_were(self, run: Run, tmp_path: Path) -> None:
        data = HEADER + b'a,x,p\nb,1999,q,more\n"open,1999,r\nc,x,\xff\n"d\r\ne",x,"s\rt"\nf\n'
        once = self.refused(run, tmp_path, data)
        assert once.splitlines()[0] == b"title,year,audio_path,refused_because"
        assert b'"open,1999,r\n' in once
        assert b"c,x,\xff," in once
        (tmp_path / "again").mkdir()
        again = self.refused(run, tmp_path / "again", once)
        assert again.replace(b"5 cells, but the file has 4", b"4 cells, but the file has 3") == once

    def test_a_row_with_too_many_cells_is_not_taken_without_mending(self, run: Run, tmp_path: Path) -> None:
        once = self.refused(run, tmp_path, HEADER + b"b,1999,q,more\n")
        assert list(csv.reader(io.StringIO(once.decode())))[1] == [
            *("b", "1999", "q", "more"),
            "4 cells, but the file has 3 columns",
        ]
        assert run("import", str(tmp_path / "bad.csv")).exit_code == 3

    def test_json_lines_keep_their_text(self, run: Run, tmp_path: Path) -> None:
        lines = [
            b'{"title": "a", "year": 1.50, "audio_path": "p", "x": 123456789012345678901234567890.10}',
            b"{}",
            b"[1]",
            b'{"title": "b"' + b" " * 2**20 + b"!",
            b'{"title": "\xff"}',
            b'{"title": "c", "audio_path": "q"}',
        ]
        once = self.refused(run, tmp_path, b"\r\n".join(lines), name="bad.jsonl")
        bad = once.splitlines()
        reason = b'"refused_because": "year: a whole number from 1000 to 9999, not float"}'
        assert bad[0] == lines[0].removesuffix(b"}") + b", " + reason
        assert bad[1] == b'{"refused_because": "audio_path: missing"}'
        assert bad[2:4] == lines[2:4]
        assert bad[4].startswith(b'{"title": "\xff", "refused_because": "not UTF-8')
        assert len(bad) == 5
        (tmp_path / "again").mkdir()
        assert self.refused(run, tmp_path / "again", once, name="bad.jsonl") == once

    def test_a_refusal_of_the_database_is_kept_too(self, run: Run, tmp_path: Path) -> None:
        run("import", "-", "--format", "csv", data=HEADER + b"first,,p\n")
        once = self.refused(run, tmp_path, HEADER + b"second,,p\n")
        assert b'second,,p,"id: track ' in once
        assert run("import", str(tmp_path / "bad.csv"), "--replace").exit_code == 0

    def test_there_is_none_if_no_row_was_refused(self, run: Run, tmp_path: Path) -> None:
        target = tmp_path / "bad.csv"
        result = run("import", "-", "--format", "csv", "--refused", str(target), data=HEADER + b"a,,p\n")
        assert (result.exit_code, result.stderr, target.exists()) == (0, "", False)

    def test_another_file_is_not_overwritten(self, run: Run, tmp_path: Path) -> None:
        target = tmp_path / "bad.csv"
        target.write_text("precious")
        result = run("import", "-", "--format", "csv", "--refused", str(target), data=HEADER + b"a,x,p\n")
        assert result.exit_code == 2
        assert f"{target} exists" in result.stderr
        assert target.read_text() == "precious"
        target.write_text("")
        assert run("import", "-", "--format", "csv", "--refused", str(target), data=HEADER + b"a,x,p\n").exit_code == 3

    def test_what_is_no_file_is_left_alone(self, tmp_path: Path) -> None:
        pipe, empty = tmp_path / "pipe", tmp_path / "empty.csv"
        os.mkfifo(pipe)
        result = invoke("import", "-", "--format", "csv", "--dry-run", "--refused", str(pipe), data=HEADER)
        assert result.exit_code == 2
        assert f"{pipe} is not a regular file" in result.stderr
        empty.touch()
        assert (
            invoke("import", "-", "--format", "csv", "--dry-run", "--refused", str(empty), data=HEADER).exit_code == 0
        )
        assert empty.exists()

    def test_a_line_that_is_too_long_is_only_told(self, run: Run, tmp_path: Path) -> None:
        target = tmp_path / "bad.csv"
        data = HEADER + b"x" * (LONGEST_ROW + 10) + b",,q\n"
        result = run("import", "-", "--format", "csv", "--refused", str(target), data=data)
        assert result.exit_code == 3
        assert result.stderr == (
            "row 1: longer than 16,777,216 characters: also too long for the file of refused rows\n"
        )
        assert not target.exists()


class TestResume:
    def test_a_killed_import_goes_on_where_it_was(self, database_url: str, tmp_path: Path, catalog: Catalog) -> None:
        source, state, bad = tmp_path / "tracks.csv", tmp_path / "state.json", tmp_path / "bad.csv"
        rows = [b"title %d,%s,path %d\n" % (n, b"x" if n % 100 == 7 else b"1999", n) for n in range(20_000)]
        source.write_bytes(HEADER + b"".join(rows))
        command = (
            *("--url", database_url, "import", str(source), "--no-vocabulary", "--batch", "250"),
            *("--resume", str(state), "--refused", str(bad)),
        )
        program = process(*command)
        wait_until(lambda: state.exists() or program.poll() is not None)
        program.kill()
        assert ended(program)[0] == -9
        done = json.loads(state.read_text())["done"]
        assert 0 < done["inserted"] + done["refused"] < 20_000
        # What was refused behind the last batch that is remembered would stand there twice.
        with bad.open("ab") as file:
            file.write(b"half a row")
        result = invoke(*command, "--json")
        assert result.exit_code == 3
        assert result.stderr.startswith("continuing after row ")
        summary = json.loads(result.stdout)
        assert (summary["rows"], summary["refused"]) == (20_000, 200)
        assert summary["resumed_after"] == done["inserted"] + done["refused"]
        assert summary["inserted"] + summary["unchanged"] == in_catalogue(catalog) == 19_800
        with bad.open(newline="") as file:
            refused = list(csv.reader(file))
        assert [row[0] for row in refused] == ["title", *(f"title {n}" for n in range(20_000) if n % 100 == 7)]
        assert not state.exists()

    @pytest.fixture
    def stopped(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        """Give the command of an import that was interrupted after its first batch."""
        source, state = tmp_path / "tracks.csv", tmp_path / "state.json"
        source.write_bytes(HEADER + numbered(10))
        command = ("import", str(source), "--no-vocabulary", "--batch", "4", "--resume", str(state))
        genuine = Catalog.bulk_save

        def interrupted(catalog: Catalog, records: object, *, progress: object, **options: object) -> object:
            def tell(batch: object) -> None:
                progress(batch)  # type: ignore[operator]
                raise KeyboardInterrupt

            return genuine(catalog, records, progress=tell, **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(Catalog, "bulk_save", interrupted)
            result = run(*command)
        told = "interrupted, at least 4 rows safely saved: the same command continues from there"
        assert (result.exit_code, result.stderr) == (130, f"error: {told}\n")
        return command

    def test_the_rows_before_are_counted(self, run: Run, stopped: tuple[str, ...], catalog: Catalog) -> None:
        result = run(*stopped)
        assert (result.exit_code, result.stderr) == (0, "continuing after row 4\n")
        assert result.stdout.startswith("10 rows, 4 of them in earlier runs, in ")
        # The batch behind the last one that was remembered may have been saved as well.
        assert in_catalogue(catalog) == 10
        assert not Path(stopped[-1]).exists()

    def test_another_file_or_another_option_is_told(self, run: Run, stopped: tuple[str, ...], tmp_path: Path) -> None:
        result = run(*stopped, "--status", "PENDING", "--map", "artist=title")
        assert result.exit_code == 2
        assert '--map was not given and is ["artist=title"]; --status was not given and is "PENDING"' in result.stderr
        Path(stopped[1]).write_bytes(HEADER + numbered(11))
        result = run(*stopped)
        assert result.exit_code == 2
        assert "its size was" in result.stderr
        assert f"remove {tmp_path / 'state.json'} to begin this import at row 1" in result.stderr

    def test_another_catalogue_is_noticed(self, run: Run, stopped: tuple[str, ...]) -> None:
        state = Path(stopped[-1])
        remembered = json.loads(state.read_text())
        remembered["done"]["last_id"] = "01890a5d-ac96-774b-bcce-b302099a8057"
        state.write_text(json.dumps(remembered))
        result = run(*stopped)
        assert result.exit_code == 2
        assert "b302099a8057, which an earlier run saved, is not in the catalogue" in result.stderr
        result = invoke("--url", "postgresql://elsewhere/music", *stopped)
        assert result.exit_code == 2
        assert 'and is "elsewhere:5432/music"' in result.stderr

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "{}",
            "[1]",
            "title,audio_path\na,p\n",
            '{"version": 1}',
            "[" * 100_000,
            '{"version": 1, "import": {}, "done": {"refused": "x"}}',
        ],
    )
    def test_what_is_no_state_is_left_alone(self, tmp_path: Path, content: str) -> None:
        source, state = tmp_path / "tracks.csv", tmp_path / "state.json"
        source.write_bytes(HEADER + numbered(1))
        state.write_text(content)
        result = invoke("--url", "postgresql://127.0.0.1:1/none", "import", str(source), "--resume", str(state))
        assert result.exit_code == 2
        assert f"{state} is not a file that --resume wrote" in result.stderr
        assert state.read_text() == content

    def test_a_file_of_refused_rows_that_is_too_short_is_told(self, run: Run, tmp_path: Path) -> None:
        source, state, bad = tmp_path / "tracks.csv", tmp_path / "state.json", tmp_path / "bad.csv"
        source.write_bytes(HEADER + b"a,x,p\n" + numbered(10))
        command = ("import", str(source), "--resume", str(state), "--refused", str(bad), "--batch", "4")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("audiocatalog.cli.importing.checkpoint.Checkpoint.remove", lambda _: None)
            assert run(*command).exit_code == 3
        bad.write_bytes(bad.read_bytes()[:-1])
        result = run(*command)
        assert result.exit_code == 2
        assert f"{bad} is shorter than" in result.stderr


def test_rows_of_a_pipe_are_saved_while_it_is_open(database_url: str, catalog: Catalog) -> None:
    program = process(
        *("--url", database_url, "import", "-", "--format", "csv", "--batch", "2", "--no-vocabulary"),
        stdin=subprocess.PIPE,
    )
    assert program.stdin is not None
    program.stdin.write(HEADER + numbered(6))
    program.stdin.flush()
    wait_until(lambda: in_catalogue(catalog) >= 2)
    code, out, _ = ended(program)
    assert (code, in_catalogue(catalog)) == (0, 6)
    assert out.startswith("6 rows in ")
