"""What is printed cannot act on a terminal, turn its direction or hide in it, wherever it comes from."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from pathlib import Path

import pytest

from audiocatalog import Catalog, TrackMetadata, TrackRecord, TrackStatus
from audiocatalog.cli.writing import spreadsheet_cell
from audiocatalog.errors.printing import escaped, json_text
from tests.support.command import Run, ended, invoke, process, run_on

#: Everything that a terminal may obey, and what it shows as nothing.
CONTROLS = "".join(map(chr, [*range(1, 0x20), *range(0x7F, 0xA0)]))
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
SEPARATORS = "\u2028\u2029"
HIDDEN = "\u00ad\u180e\u200b\u2060\u2064\ufeff\u3164\U0001d173" + "".join(map(chr, range(0xE0000, 0xE0080)))
ALL = CONTROLS + DIRECTIONS + SEPARATORS + HIDDEN
#: Of a command line, which cannot hold more.
NAME = f"no\x9b31m\x85\x1b]0;x\x07{DIRECTIONS}{SEPARATORS}\u200b\U000e0041.csv"


@pytest.fixture
def run(database_url: str) -> Run:
    return run_on(database_url)


def harmful(text: str, *, allowed: str = "\n") -> set[str]:
    return set(text) & set(ALL) - set(allowed)


def test_every_control_and_format_is_written_out_but_for_those_that_print() -> None:
    prints = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        if category in {"Cc", "Cf", "Cs", "Zl", "Zp"} and code not in prints:
            assert escaped(character).isascii(), hex(code)
            assert json.loads(json_text(f"a{character}b")) == f"a{character}b"
            assert character not in json_text(f"a{character}b")
        elif category[0] in "LNPS":
            assert escaped(character) == character or code in {0x115F, 0x1160, 0x3164, 0xFFA0}, hex(code)
    assert not harmful(escaped(ALL), allowed="")
    assert escaped("\udcff\ud800\t") == r"\xff\ud800\t"


@pytest.mark.parametrize(
    "text",
    [
        "Björk",
        "宇多田\u3000ヒカル",
        "a\u00a0b",
        "👩\u200d👩\u200d👧",
        "❤\ufe0f\u200d🔥",
        "می\u200cخواهم",
        "क्\u200dष",
        "葛\U000e0100",
    ],
)
def test_what_writing_needs_is_printed(text: str) -> None:
    assert escaped(text) == text


@pytest.mark.parametrize("text", ["a\u200db", "a\u200cb", "\u200d", "👩\u200d", "क\u200d\u200d\u200dक", "a\U000e0100"])
def test_joiners_and_selectors_that_only_hide_are_written_out(text: str) -> None:
    assert escaped(text).count("\\") >= 1


class TestCommands:
    """No command prints such a character raw, and JSON keeps its value."""

    @pytest.fixture
    def track(self, catalog: Catalog) -> str:
        text = f"evil {ALL}".replace("\x00", "")
        with catalog.unit_of_work() as work:
            metadata = TrackMetadata(title=text, artist=text, album=text, genre=text[:200], format="f\x9b\u202e")
            saved = work.save_record(TrackRecord(metadata, f"p/{text}", status=TrackStatus.PENDING))
        (claim,) = catalog.claim(worker=f"w\x9b\u202e{HIDDEN[:9]}")
        catalog.fail(claim, text, retry=False)
        return str(saved.id)

    def test_tables_are_harmless(self, run: Run, track: str) -> None:
        commands = (["show", track], ["history", track], ["search", "evil", "--facet", "genre"], ["stats"])
        for command in (*commands, ["explain", "evil", track], ["search", f"evil{ALL[30:]}"]):
            result = run(*command)
            assert result.exit_code == 0
            assert not harmful(result.stdout + result.stderr), command

    def test_json_is_harmless_and_equal(self, run: Run, track: str) -> None:
        commands = (["show", track], ["history", track], ["search", "evil", "--facet", "genre"], ["stats"])
        for command in (*commands, ["explain", "evil", track]):
            result = run(*command, "--json")
            assert result.exit_code == 0
            assert not harmful(result.stdout), command
        assert json.loads(run("show", track, "--json").stdout)["title"].startswith(f"evil {CONTROLS}")
        exported = run("export").stdout
        assert not harmful(exported)
        assert json.loads(exported)["title"] == json.loads(run("show", track, "--json").stdout)["title"]

    def test_a_claim_is_harmless(self, run: Run, track: str) -> None:
        assert run("status", track, "PENDING", "--reason", "again\x9b\u202e").exit_code == 0
        for options in ((), ("--json",)):
            result = run("claim", *options)
            assert not harmful(result.stdout)
            assert run("release", "--expired").exit_code == 0
            data = json.loads(run("show", track, "--json").stdout)
            assert data["status"] == "PROCESSING"
            run("status", track, "PENDING")


class TestErrors:
    """What Click itself prints of arguments and file names is escaped as well: no server is asked."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ("import", f"/nowhere/{NAME}"),
            ("import", "-", "--format", NAME),
            ("import", "-", "--format", "csv", "--map", NAME),
            ("import", "-", "--format", "csv", "--refused", f"/nowhere/{NAME}"),
            ("export", f"/nowhere/{NAME}", "--fields", NAME),
            ("export", "/", "--format", "csv"),
            ("complete", "01890a5d-ac96-774b-bcce-b302099a8057", "1", "--metadata", f"/nowhere/{NAME}"),
            (NAME,),
            (f"--{NAME}",),
            ("stats", f"--{NAME}"),
            ("stats", NAME),
            ("search", "x", "--year", NAME),
            ("search", "x", f"-{NAME}"),
            ("search", "x", "--sort", NAME),
            ("show", NAME),
            ("stats", "--since", NAME),
            ("--local", f"/nowhere/{NAME}", "stats"),
            ("--url", f"mysql://{NAME}", "stats"),
        ],
    )
    def test_they_are_harmless(self, arguments: tuple[str, ...]) -> None:
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert not harmful(result.stderr)
        assert "rror: " in result.stderr

    @pytest.mark.slow
    def test_a_file_name_that_is_no_text_is_printed(self) -> None:
        program = process("import", os.fsdecode(b"/nowhere/\xff\x1b[31m.csv"))
        code, out, err = ended(program)
        assert (code, out) == (2, "")
        assert r"\x1b[31m.csv" in err
        assert "\x1b" not in err

    def test_rows_and_columns_are_harmless(self, tmp_path: Path) -> None:
        cell = f"x{DIRECTIONS}{SEPARATORS}\x9b\u200b"
        file = tmp_path / "tracks.csv"
        file.write_text(f"title,year,audio_path,col{cell}\na,{cell},p,\nb,1999,q,\n", encoding="utf-8", newline="")
        result = invoke("import", str(file), "--dry-run", "--refused", str(tmp_path / f"r{NAME}"))
        assert result.exit_code == 3
        assert "ignored column" in result.stderr
        assert not harmful(result.stderr)


class TestSpreadsheets:
    """OWASP's list of what begins a formula, also behind what a spreadsheet skips."""

    @pytest.mark.parametrize(
        "text",
        [
            *("=1+1", "+1+1", "-1+1", "@SUM(1)", "\tx", "\rx", "\nx"),
            *(" =1", '"=1"', "'=1", "\u00a0=1", "\ufeff=1", "\u200b+1", "“=1", "＝1+1", "－1", "=cmd|' /C calc'!A0"),
        ],
    )
    def test_a_formula_becomes_text(self, run: Run, catalog: Catalog, text: str) -> None:
        with catalog.unit_of_work() as work:
            metadata = TrackMetadata(title=f"{text}!", artist=text, year=1999, duration=0.5)
            work.save_record(TrackRecord(metadata, "p"))
        options = ("export", "--format", "csv", "--fields", "artist,title,year,duration,audio_path")
        (row,) = list(csv.reader(io.StringIO(run(*options, "--safe-for-spreadsheets").stdout_bytes.decode())))[1:]
        assert row == [f"'{text}", f"'{text}!", "1999", "0.5", "p"]
        (row,) = list(csv.reader(io.StringIO(run(*options).stdout_bytes.decode())))[1:]
        assert row[0] == text

    @pytest.mark.parametrize(
        ("text", "safe"),
        [
            ("a;=1", "a;'=1"),
            ("a; =1|-2", "a;' =1|'-2"),
            ("a\t@b", "a\t'@b"),
            ("a\n=1", "a\n'=1"),
            ("\r\n=1", "'\r\n'=1"),
            ("a;b", "a;b"),
        ],
    )
    def test_no_cell_begins_behind_what_another_spreadsheet_takes_for_a_separator(self, text: str, safe: str) -> None:
        assert spreadsheet_cell(text) == safe

    @pytest.mark.parametrize("text", ["a=1", "1-1", "AC/DC", "'74", '"quoted"', "宇多田"])
    def test_other_text_stays(self, run: Run, catalog: Catalog, text: str) -> None:
        with catalog.unit_of_work() as work:
            work.save_record(TrackRecord(TrackMetadata(title=text), "p"))
        result = run("export", "--format", "csv", "--fields", "title", "--safe-for-spreadsheets")
        assert list(csv.reader(io.StringIO(result.stdout))) == [["title"], [text]]

    def test_it_is_of_csv_alone_and_said_in_the_help(self) -> None:
        result = invoke("--url", "postgresql://127.0.0.1:1/none", "export", "--safe-for-spreadsheets")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--safe-for-spreadsheets works for CSV only" in result.stderr
        assert "formula" in invoke("export", "--help").stdout
