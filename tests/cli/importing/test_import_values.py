"""What people's files hold: values in the ways in which people write them, columns by other names, other encodings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audiocatalog import Catalog
from audiocatalog.cli.importing.columns import ALIASES, FIELDS, match_columns, simplified
from audiocatalog.cli.importing.lines import LONGEST_ROW, MOST_LINES, UnusableFile
from audiocatalog.cli.importing.records import Plan, ReadRecord, RecordReader, RefusedRow
from audiocatalog.cli.importing.values import How, read_value
from audiocatalog.errors import Problem
from tests.support.command import Run, forget_words, invoke, run_on


@pytest.fixture
def run(database_url: str) -> Iterator[Run]:
    yield run_on(database_url)
    forget_words(database_url)


def value(field: str, cell: object, unit: str | None = None) -> object:
    found = read_value(field, cell, unit=unit).value
    return "refused" if isinstance(found, Problem) else found


class TestValues:
    @pytest.mark.parametrize(
        "text",
        [
            *("1997", "1997.0", "1997-05-21", "1997-05", "1997/5/21", "1997.05.21", "1997-05-21T10:00:00Z", "19970521"),
            *("1997-05-21 00:00:00", "1997-00-00", "21.05.1997", "05/21/1997", "21-05-1997", "05/1997", "21 May 1997"),
            *("May 21, 1997", "21st May 1997", "Sept. 1997", " 1997 "),
        ],
    )
    def test_the_year_of_a_date_is_kept(self, text: str) -> None:
        assert value("year", text) == 1997

    @pytest.mark.parametrize(
        "text",
        ["1997-98", "1997/98", "1997-1999", "97-05-21", "05/21/97", "1997-13-01", "1997.5", "circa 1997", "1,997"],
    )
    def test_what_may_be_another_year_is_refused(self, text: str) -> None:
        assert value("year", text) == "refused"

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            *(("3:45", 225), ("0:03:45", 225), ("1:02:03.5", 3723.5), ("75:30", 4530), ("225", 225), ("225.50", 225.5)),
            *(("225 s", 225), ("225000 ms", 225), ("3.75 min", 225), ("3 min 45 s", 225), ("3m45s", 225), ("1h", 3600)),
            *(("PT3M45S", 225), ("PT1H", 3600), ("0", 0)),
        ],
    )
    def test_durations(self, text: str, seconds: float) -> None:
        assert value("duration", text) == seconds

    @pytest.mark.parametrize("text", ["3:60", "3:5", "3,45", "3'45", "1:60:00", "3 parsecs", "PT", "min", "3:45:"])
    def test_what_is_no_duration_is_refused(self, text: str) -> None:
        assert value("duration", text) == "refused"

    @pytest.mark.parametrize(
        ("field", "text", "number"),
        [
            *(
                ("bitrate", text, 320_000)
                for text in ("320 kbps", "320kbit/s", "320 Kb/s", "320k", "320000 bps", "0.32 Mbps")
            ),
            *(("sample_rate", text, 44_100) for text in ("44.1 kHz", "44.1khz", "44100 Hz", "44100.0", "44.1k")),
            *(("channels", "Stereo", 2), ("channels", "mono", 1), ("channels", "2", 2)),
        ],
    )
    def test_a_unit_beside_a_number_counts(self, field: str, text: str, number: int) -> None:
        assert value(field, text) == number
        assert type(value(field, text)) is int

    @pytest.mark.parametrize(
        ("field", "text"),
        [
            ("bitrate", "320 kB/s"),
            ("bitrate", "V0"),
            ("bitrate", "320,5 kbps"),
            ("sample_rate", "44,100"),
            ("channels", "5.1"),
        ],
    )
    def test_what_means_two_things_is_refused(self, field: str, text: str) -> None:
        assert value(field, text) == "refused"

    @pytest.mark.parametrize("text", ["NULL", "null", "N/A", "n/a", "None", "nan", "NaN", "-", "\\N", " NULL "])
    def test_words_for_nothing_are_missing(self, text: str) -> None:
        for field in ("year", "duration", "channels", "sample_rate", "bitrate", "artist", "album", "genre", "format"):
            assert read_value(field, text) == (None, How.MISSING)
        assert read_value("artist", text, verbatim=True) == (text, None)

    def test_no_number_of_these_is_zero(self) -> None:
        for field in ("year", "channels", "sample_rate", "bitrate"):
            assert read_value(field, "0") == (None, How.MISSING)
        assert value("duration", "0") == 0

    def test_units_of_bare_numbers(self) -> None:
        assert value("duration", "305500", "ms") == 305.5
        assert value("duration", 305500, "ms") == 305.5
        assert value("duration", "3:45", "ms") == 225
        assert value("duration", "225", "s") == 225
        assert value("duration", "3.75", "min") == 225
        assert value("bitrate", "320", "kbps") == value("bitrate", 320.0, "kbps") == 320_000
        assert value("bitrate", "320000 bps", "kbps") == 320_000
        assert value("sample_rate", "44.1", "kHz") == value("sample_rate", 44.1, "kHz") == 44_100

    def test_values_of_json(self) -> None:
        assert read_value("year", 1999.0) == (1999, How.WHOLE)
        assert read_value("year", "1999-01-02") == (1999, How.DATE)
        assert read_value("year", True) == (True, None)
        assert read_value("duration", 5) == (5, None)
        assert value("duration", 1e308, "min") == 6e309 or value("duration", 1e308, "min") == float("inf")


class TestColumns:
    def test_every_field_has_its_names(self) -> None:
        names = [*map(simplified, FIELDS), *(name for known in ALIASES.values() for name in known)]
        assert len(names) == len(set(names))
        assert names == [simplified(name) for name in names]

    @pytest.mark.parametrize(
        "name", ["Audio Path", "audio-path", "AudioPath", "AUDIO_PATH", "audio.path", "Path", "location"]
    )
    def test_blanks_and_capitals_do_not_matter(self, name: str) -> None:
        assert match_columns(["Title", name], FIELDS, {}, ()).sources == {"title": "Title", "audio_path": name}

    @pytest.mark.parametrize(
        ("name", "field", "unit"),
        [
            *(("Duration (ms)", "duration", "ms"), ("duration_seconds", "duration", "s"), ("Length", "duration", None)),
            *(("bitRate", "bitrate", None), ("Bitrate (kbps)", "bitrate", "kbps"), ("samplerate", "sample_rate", None)),
            *(("Sample Rate (Hz)", "sample_rate", "Hz"), ("Release Date", "year", None), ("Track Name", "title", None)),
            *(("Artist Name(s)", "artist", None), ("Track Duration (ms)", "duration", "ms")),
        ],
    )
    def test_plain_names_of_other_programs(self, name: str, field: str, unit: str | None) -> None:
        found = match_columns([name], FIELDS, {}, ())
        assert found.sources == {field: name}
        assert found.units == ({} if unit is None else {field: unit})

    def test_a_fields_own_name_goes_first_and_of_two_others_none_is_taken(self) -> None:
        assert match_columns(["Year", "date", "year"], FIELDS, {}, ()).sources == {"year": "year"}
        assert match_columns(["Year", "date"], FIELDS, {}, ()).sources == {"year": "Year"}
        found = match_columns(["path", "file"], FIELDS, {}, ())
        assert (found.sources, found.doubtful) == ({}, {"audio_path": ("path", "file")})
        assert match_columns(["path", "file"], FIELDS, {"audio_path": "file"}, ()).sources == {"audio_path": "file"}

    def test_columns_that_are_used_otherwise_are_left_alone(self) -> None:
        found = match_columns(["path", "title"], [name for name in FIELDS if name != "audio_path"], {}, ("path",))
        assert (found.sources, found.unused) == ({"title": "title"}, ())


def read(data: bytes, file_format: Any = "csv", **options: Any) -> list[str]:
    with RecordReader(io.BytesIO(data), file_format, Plan(), **options) as reader:
        return [
            str(item) if isinstance(item, RefusedRow) else f"{item.record.metadata.title} {item.record.metadata.artist}"
            for item in reader
        ]


class TestFiles:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_the_first_line_tells_the_delimiter(self, delimiter: str) -> None:
        data = "title,artist,audio_path\na,b c,p\n".replace(",", delimiter)
        assert read(data.encode()) == ["a b c"]
        assert read(f"sep={delimiter}\r\n{data}".encode()) == ["a b c"]
        assert read(data.encode(), delimiter=delimiter) == ["a b c"]

    def test_commas_within_the_names_do_not_matter(self) -> None:
        assert read(b"title;audio_path;artist;note, or remark\na;p;b;c\n") == ["a b"]
        with pytest.raises(UnusableFile, match="the file has no column audio_path"):
            read(b"title;audio_path;artist\na;p;b\n", delimiter=",")

    @pytest.mark.parametrize("encoding", ["cp1252", "iso8859-1", "shift_jis", "utf-16", "utf-32", "utf-16-le"])
    def test_a_file_of_another_encoding_is_read(self, encoding: str) -> None:
        text = "宇多田" if encoding == "shift_jis" else "Björk"
        assert read(f"title,artist,audio_path\na,{text},p\n".encode(encoding), encoding=encoding) == [f"a {text}"]

    def test_bytes_that_are_not_of_it_refuse_their_row(self) -> None:
        data = b"title,artist,audio_path\na,b\x81,p\nb,c,q\n"
        assert read(data, encoding="cp1252") == [r"row 1: artist: not cp1252: it holds the byte \x81", "b c"]

    def test_an_unclosed_quotation_mark_refuses_what_it_spoils_and_nothing_behind_it(self) -> None:
        broken = b"title,artist,audio_path\n" + b'",u","\n' * 50
        reason = "unexpected end of data: is a quotation mark missing or not doubled?"
        assert read(broken) == [f"row {row}: {reason}" for row in range(1, 51)]
        # Each line opens a cell that the next one closes, until a sign behind that is wrong.
        found = read(broken + b'"x"y,b,p\na,b,p\n"two\nlines",b,q\n"open,b,r\nb,c,s\n')
        assert [one for one in found if not one.startswith("row ")] == ["a b", "two\nlines b", "b c"]

    def test_a_cell_of_too_many_lines_is_refused(self) -> None:
        data = b'title,artist,audio_path\n"open' + b"\n" * (MOST_LINES + 10) + b"a,b,p\n"
        assert read(data) == [
            f"row 1: longer than {MOST_LINES:,} lines: is a quotation mark missing or not doubled?",
            "a b",
        ]

    @pytest.mark.parametrize("indent", [None, 1])
    def test_an_array_is_read_element_by_element(self, indent: int | None) -> None:
        values: list[object] = [
            {"title": 'a "quoted", [x] {y} \\', "artist": "b", "audio_path": "p", "nested": [{"x": [1, "]"]}]},
            *(7, "text, with ] and \\", [], None, {}, {"title": "c", "artist": "d", "audioPath": "q"}),
        ]
        found = read(json.dumps(values, indent=indent).encode(), "jsonl")
        assert (found[0], found[-1]) == ('a "quoted", [x] {y} \\ b', "c d")
        assert [one.partition(": ")[2] for one in found[1:-1]] == [
            *(f"a JSON object was expected, not {kind}" for kind in ("int", "str", "list", "NoneType")),
            "audio_path: missing",
        ]

    def test_an_element_that_is_too_long_is_refused_alone(self) -> None:
        giant = b'{"title": "' + b"x\\\\" * (LONGEST_ROW // 2) + b'"}'
        small = b'{"title": "a", "audio_path": "p"}'
        reader = RecordReader(io.BytesIO(b"[" + b",".join([giant, *[small] * 2000]) + b"]"), "jsonl", Plan())
        with reader:
            items = list(reader)
        assert str(items[0]).endswith("longer than 16,777,216 characters")
        assert [type(item) for item in items[1:]] == [ReadRecord] * 2000

    @pytest.mark.parametrize("chunk", [1, 2, 3, 7])
    def test_an_array_may_be_cut_anywhere(self, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("audiocatalog.cli.importing.lines._PART", chunk)
        monkeypatch.setattr("audiocatalog.cli.importing.lines.LONGEST_ROW", chunk)
        values = [
            {"title": '\\"\\\\', "artist": "a\\", "audio_path": "[{,"},
            {"title": "b", "artist": '"', "audio_path": "}"},
        ]
        assert read(json.dumps(values).encode(), "jsonl") == ['\\"\\\\ a\\', 'b "']

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b'[{"title": "a", "audio_path": "p"}', "has no end"),
            (b'[{"title": "a', "has no end"),
            (b"[]\n{}", "text follows the end"),
        ],
    )
    def test_a_broken_array_is_told(self, data: bytes, reason: str) -> None:
        result = invoke("import", "-", "--format", "jsonl", "--dry-run", data=data)
        assert (result.exit_code, result.stdout) == (1, "")
        assert reason in result.stderr


class TestCommand:
    HEADER = "title,year,duration,bitrate,audio_path\n"

    def test_what_was_converted_is_told(self, run: Run, catalog: Catalog) -> None:
        data = (
            "Title;Artist;Album;Year;Length;Bit Rate;Sample Rate;Path\n"
            "a;NULL;-;1997-05-21;3:45;320 kbps;44.1 kHz;p\nb;x;N/A;1999.0;225;320000;44100;q\nNone;x;y;x;1;1;1;r\n"
        )
        result = run("import", "-", "--format", "csv", "--no-vocabulary", data=data)
        assert result.exit_code == 3
        names = (
            '"Title" is title, "Artist" is artist, "Album" is album, "Year" is year, "Length" is duration, '
            '"Sample Rate" is sample_rate, "Bit Rate" is bitrate, "Path" is audio_path'
        )
        assert result.stderr.splitlines() == [
            "the columns are separated by semicolons",
            f"columns by another name: {names}",
            'row 3: year: a whole number from 1000 to 9999, not "x"',
        ]
        summary, *ways = result.stdout.splitlines()
        assert summary.endswith(": 2 inserted, 0 updated, 0 unchanged, 1 refused")
        assert ways == [
            "artist: 1 missing, by a word such as NULL or by 0",
            "album: 2 missing, by a word such as NULL or by 0",
            "year: 1 from full dates",
            "year: 1 from numbers such as 1999.0",
            "duration: 1 from times such as 3:45",
            "sample_rate: 1 with a unit beside them",
            "bitrate: 1 with a unit beside them",
        ]
        (track,) = [hit.track for hit in catalog.search("a").hits]
        assert (track.year, track.duration, track.bitrate, track.sample_rate) == (1997, 225.0, 320_000, 44_100)
        assert (track.artist, track.album) == (None, None)
        again = json.loads(run("import", "-", "--format", "csv", "--no-vocabulary", "--json", data=data).stdout)
        assert again["unchanged"] == 2
        assert again["converted"]["year"] == {"date": 1, "whole": 1}
        assert again["converted"]["album"] == {"missing": 2}

    @pytest.mark.parametrize(
        ("column", "cells", "units"),
        [
            ("duration", ("215306", "180000", "9"), ("ms", "s")),
            ("bitrate", ("320", "128", "256000"), ("kbps", "bps")),
            ("sample_rate", ("44", "48", "96000"), ("kHz", "Hz")),
        ],
    )
    def test_a_likely_unit_is_asked_for_before_a_row_is_saved(
        self, run: Run, catalog: Catalog, column: str, cells: tuple[str, ...], units: tuple[str, str]
    ) -> None:
        likely, right = (f"{column}={unit}" for unit in units)
        data = f"title,audio_path,{column}\n" + "".join(f"a,{cell},{cell}\n" for cell in cells)
        for options in ((), ("--dry-run",), ("--json",)):
            result = run("import", "-", "--format", "csv", *options, data=data)
            assert (result.exit_code, result.stdout) == (2, "")
            assert f"--unit {likely}" in result.stderr
            assert f"--unit {right}" in result.stderr
            assert result.stderr.endswith("; nothing was saved\n")
            assert result.stderr.count("\n") == 1
        assert sum(count.tracks for count in catalog.count_by_status()) == 0

        def stored(unit: str) -> list[float]:
            result = run("import", "-", "--format", "csv", "--unit", unit, "--replace", "--no-vocabulary", data=data)
            assert (result.exit_code, result.stderr) == (0, "")
            return sorted(getattr(track, column) for track in catalog.iter_tracks())

        assert stored(right) == sorted(map(int, cells))
        scaled = sorted(int(cell) / 1000 if column == "duration" else int(cell) * 1000 for cell in cells)
        assert stored(likely) == scaled

    def test_a_unit_in_the_name_of_a_column_or_beside_a_number_settles_it(self) -> None:
        data = "title,audio_path,duration_ms,bitrate\na,p,215306,320 kbps\n"
        result = invoke("import", "-", "--format", "csv", "--dry-run", data=data)
        assert result.exit_code == 0
        assert '"duration_ms" is duration in ms' in result.stderr
        data = "title,audio_path,duration\na,p,7200\nb,q,14400\nc,r,180\n"
        assert invoke("import", "-", "--format", "csv", "--dry-run", data=data).exit_code == 0

    @pytest.mark.parametrize(
        ("data", "cause"),
        [
            ("id,title,audio_path\n1,a,p\n2,b,q\n", "--id-from COLUMN"),
            ("title,audio_path\na,p,x\nb,q,x\n", "--delimiter"),
            ("title,audio_path\na,\nb,\n", "--map audio_path=COLUMN"),
            ("title,sample_rate,audio_path\na,44.1,p\nb,48.5,q\n", "--unit sample_rate=kHz"),
            ("title,year,audio_path\na,x,p\nb,y,q\n", "--map year=COLUMN"),
            (b"title,audio_path\na\xff,p\nb\xfe,q\n", "--encoding cp1252"),
            ('title,audio_path\n"a,p\n"b,q\n"c"d,e\n', "--delimiter"),
            ("title,audio_path,status\na,p,ok\nb,q,missing\n", "as by --status completed"),
        ],
    )
    def test_one_reason_for_all_rows_is_told_once_with_its_cause(self, data: str | bytes, cause: str) -> None:
        result = invoke("import", "-", "--format", "csv", "--dry-run", data=data)
        assert (result.exit_code, result.stdout) == (2, "")
        assert cause in result.stderr
        assert "(row 1: " in result.stderr
        assert result.stderr.splitlines()[-1].endswith("; nothing was saved")

    def test_an_object_around_the_tracks_is_told_once(self) -> None:
        data = json.dumps({"items": [{"title": "a", "tags": ["x", "y"], "audio_path": "p"}]}, indent=2)
        result = invoke("import", "-", "--format", "jsonl", "--dry-run", data=data)
        assert (result.exit_code, result.stdout) == (2, "")
        (told,) = result.stderr.splitlines()
        assert "one object on each line, or one array of objects" in told

    def test_an_array_without_its_end_says_how_far_it_was_checked(self) -> None:
        data = '[{"title": "a", "audio_path": "p"}, {"title"'
        result = invoke("import", "-", "--format", "jsonl", "--dry-run", data=data)
        assert result.exit_code == 1
        assert result.stderr.endswith("; the damage follows 1 checked row\n")

    def test_rows_that_are_kept_may_all_be_refused(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.csv"
        data = "title;year;audio_path\na;x;p\nb;é;q\n".encode("cp1252")
        options = ("--format", "csv", "--dry-run", "--encoding", "cp1252", "--refused", str(bad))
        assert invoke("import", "-", *options, data=data).exit_code == 3
        rows = list(csv.reader(io.StringIO(bad.read_text(encoding="cp1252")), delimiter=";"))
        assert [row[:3] for row in rows] == [["title", "year", "audio_path"], ["a", "x", "p"], ["b", "é", "q"]]
        bad.write_text(bad.read_text("cp1252").replace("x", "1999").replace("é", "2000"), "cp1252")
        assert invoke("import", str(bad), "--dry-run", "--encoding", "cp1252").exit_code == 0

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
    def test_refused_rows_keep_the_encoding(self, tmp_path: Path, encoding: str) -> None:
        bad, again = tmp_path / "bad.csv", tmp_path / "again.csv"
        data = "title\tyear\taudio_path\nJóga\tx\tp\nb\ty\tq\n".encode(encoding)
        options = ("--format", "csv", "--dry-run", "--encoding", encoding, "--refused")
        assert invoke("import", "-", *options, str(bad), data=data).exit_code == 3
        assert invoke("import", str(bad), *options, str(again)).exit_code == 3
        assert again.read_bytes() == bad.read_bytes()
        assert "Jóga\tx\tp" in bad.read_bytes().decode(encoding)

    def test_refused_elements_of_an_array_are_lines(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.jsonl"
        data = json.dumps([{"title": "a", "year": "x", "audio_path": "p"}, 7], indent=2)
        file = tmp_path / "tracks.json"
        file.write_text(data)
        assert invoke("import", str(file), "--dry-run", "--refused", str(bad)).exit_code == 3
        first, second = bad.read_text().splitlines()
        assert json.loads(first)["year"] == "x"
        assert second == "7"

    def test_bytes_of_another_encoding_are_told_at_the_end(self) -> None:
        data = b"title,audio_path\na,p\nb\xf6,q\n"
        result = invoke("import", "-", "--format", "csv", "--dry-run", data=data)
        assert result.exit_code == 3
        assert result.stderr.splitlines()[-1].startswith("1 row refused for bytes that are not UTF-8: ")
        assert "--encoding cp1252" in result.stderr

    def test_unknown_columns_are_counted_and_the_first_named(self) -> None:
        names = [f"x{number}" for number in range(10**5)]
        table = f"title,audio_path,{','.join(names)}\na,p\n"
        lines = json.dumps({"title": "a", "audio_path": "p", **dict.fromkeys(names, 1)})
        for file_format, data in (("csv", table), ("jsonl", lines)):
            result = invoke("import", "-", "--format", file_format, "--dry-run", data=data)
            assert result.exit_code == 0
            assert result.stderr == (
                "ignored columns: " + ", ".join(f'"{name}"' for name in names[:10]) + " and 99,990 more\n"
            )

    def test_stdin_needs_a_format(self) -> None:
        result = invoke("import", "-", "--dry-run", data=self.HEADER)
        assert result.exit_code == 2
        assert "stdin has no name: give the format by --format" in result.stderr

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (("--unit", "duration=parsec"), '"parsec" is not a unit of duration: use s, ms, min'),
            (("--unit", "year=s"), "is not of the form FIELD=UNIT"),
            (("--unit", "duration=s", "--unit", "duration=ms"), "has two units"),
            (("--delimiter", "::"), "is neither one character"),
            (("--encoding", "klingon"), 'there is no encoding "klingon"'),
            (("--encoding", "hex"), "there is no encoding"),
            (("--encoding", "punycode"), "there is no encoding"),
            (("--format", "jsonl", "--delimiter", ";"), "this file is JSON"),
        ],
    )
    def test_wrong_options_are_told(self, options: tuple[str, ...], reason: str) -> None:
        result = invoke("import", "-", "--format", "csv", "--dry-run", *options, data=self.HEADER)
        assert (result.exit_code, result.stdout) == (2, "")
        assert reason in result.stderr
