"""From files to records: every row is read or refused with its reason, and none takes another one down."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pytest

from audiocatalog import TrackMetadata, TrackRecord, TrackStatus
from audiocatalog.cli.importing.columns import FIELDS
from audiocatalog.cli.importing.lines import LONGEST_ROW, UnusableFile
from audiocatalog.cli.importing.records import (
    ID_NAMESPACE,
    Format,
    Plan,
    ReadRecord,
    RecordReader,
    RefusedRow,
    Template,
    read_records,
)
from audiocatalog.cli.importing.rows import Place
from audiocatalog.models.limits import Limit, TextLimit
from audiocatalog.models.metadata import LIMITS, METADATA_FIELDS

HEADER = b"title,artist,year,duration,audio_path\n"


def read(data: bytes, file_format: Format = "csv", **plan: Any) -> list[ReadRecord | RefusedRow]:
    return list(read_records(io.BytesIO(data), file_format, Plan(**plan)))


def records(data: bytes, file_format: Format = "csv", **plan: Any) -> list[TrackRecord]:
    found = read(data, file_format, **plan)
    assert [item for item in found if isinstance(item, RefusedRow)] == []
    return [item.record for item in found if isinstance(item, ReadRecord)]


def refusals(data: bytes, file_format: Format = "csv", **plan: Any) -> list[str]:
    return [str(item) for item in read(data, file_format, **plan) if isinstance(item, RefusedRow)]


def titles(data: bytes, file_format: Format = "csv", **plan: Any) -> list[str]:
    return [item.record.metadata.title for item in read(data, file_format, **plan) if isinstance(item, ReadRecord)]


def ignored(data: bytes, file_format: Format = "csv", **plan: Any) -> list[list[str]]:
    told: list[list[str]] = []
    reader = RecordReader(io.BytesIO(data), file_format, Plan(**plan), ignored=lambda names: told.append(list(names)))
    with reader:
        assert len(list(reader)) > 0 or not told
    return told


def json_lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def value_of(limit: Limit) -> Any:
    return "x" * limit.characters if isinstance(limit, TextLimit) else limit.highest


class TestCsv:
    def test_every_field_is_read(self) -> None:
        values: dict[str, str] = {
            "title": "Jóga",
            "artist": "Björk",
            "album": "Homogenic",
            "genre": "Electronic",
            "year": "1997",
            "duration": "305.5",
            "channels": "2",
            "sample_rate": "44100",
            "bitrate": "320000",
            "format": "flac",
            "audio_path": "s3://music/joga.flac",
            "thumbnail_path": "s3://music/joga.png",
            "id": "01890a5d-ac96-774b-bcce-b302099a8057",
            "status": "PENDING",
            "created_at": "2001-02-03T04:05:06+00:00",
        }
        # Of a field that is not above, the longest text or the greatest number.
        others = {name: value_of(LIMITS[name]) for name in METADATA_FIELDS if name not in values}
        values |= {name: str(value) for name, value in others.items()}
        assert values.keys() == set(FIELDS)
        (item,) = read(f"{','.join(values)}\n{','.join(values.values())}\n".encode(), restores=True)
        assert isinstance(item, ReadRecord)
        assert item.exported is not None
        assert item.exported.created_at == datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
        record = item.record
        assert record.metadata == TrackMetadata(
            title="Jóga",
            artist="Björk",
            album="Homogenic",
            genre="Electronic",
            year=1997,
            duration=305.5,
            channels=2,
            sample_rate=44_100,
            bitrate=320_000,
            format="flac",
            **others,
        )
        assert (record.audio_path, record.thumbnail_path) == (values["audio_path"], values["thumbnail_path"])
        assert record.id == UUID(values["id"])
        assert record.status is TrackStatus.PENDING

    def test_an_empty_or_missing_cell_is_unknown(self) -> None:
        first, second = records(b"audio_path,title,year,artist\na,,,\nb\n")
        for record in (first, second):
            assert record.metadata == TrackMetadata()

    def test_a_blank_number_is_unknown_and_blanks_around_one_do_not_matter(self) -> None:
        first, second = records(HEADER + b"a,, , ,p\nb,, 1999 , 2.5 ,q\n")
        assert (first.metadata.year, first.metadata.duration) == (None, None)
        assert (second.metadata.year, second.metadata.duration) == (1999, 2.5)

    @pytest.mark.parametrize(
        "text",
        [
            "1999.5",
            "97-05-01",
            "1e3",
            "MCM",
            "1997-98",
            "1997/98",
            "1997-1999",
            "1,997",
            "1_999",
            "１９９９",
            "0x7cf",
            "9" * 5000,
            "true",
            "+1999",
            "19 99",
        ],
    )
    def test_what_may_not_be_a_year_is_refused(self, text: str) -> None:
        (reason,) = refusals(HEADER + f'a,b,"{text}",,p\n'.encode())
        assert reason.startswith('row 1: year: a whole number from 1000 to 9999, not "')
        assert len(reason) < 120

    @pytest.mark.parametrize(
        "text",
        ["inf", "-inf", "1e400", "Infinity", "1,5", "3:5", "3:75", ":45", "1_0", "-1", "3 kg", "4'05"],
    )
    def test_a_duration_is_a_number(self, text: str) -> None:
        (reason,) = refusals(HEADER + f'a,b,,"{text}",p\n'.encode())
        assert reason.startswith("row 1: duration: a number from 0 to 31536000")

    @pytest.mark.parametrize(
        ("text", "value"), [("0", 0.0), ("215", 215.0), (".5", 0.5), ("2.", 2.0), ("1.5e2", 150.0)]
    )
    def test_a_duration_is_read(self, text: str, value: float) -> None:
        assert records(HEADER + f"a,b,,{text},p\n".encode())[0].metadata.duration == value

    def test_every_bad_field_is_named_in_order(self) -> None:
        (reason,) = refusals(HEADER + b"\xff,b,99,inf,\n")
        assert [part.partition(":")[0] for part in reason.removeprefix("row 1: ").split("; ")] == [
            "title",
            "year",
            "duration",
            "audio_path",
        ]

    def test_control_characters_are_written_out(self) -> None:
        (reason,) = refusals(HEADER + 'a,b,"\x1b[31m\n\u202e",,p\n'.encode())
        assert reason.endswith(r'not "\x1b[31m\n\u202e"')

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self) -> None:
        assert titles(b"\xef\xbb\xbf" + HEADER + b"a,b,,,p\n") == ["a"]
        assert titles(b'\xef\xbb\xbf"title",audio_path\na,p\n') == ["a"]

    def test_bytes_that_are_not_utf8_refuse_their_row_alone(self) -> None:
        data = HEADER + b"a,b,,,p\nb,Bj\xf6rk,,,q\nc,d,,,r\n"
        assert titles(data) == ["a", "c"]
        assert refusals(data) == [r"row 2: artist: not UTF-8: it holds the byte \xf6"]

    def test_bytes_in_an_ignored_column_do_no_harm(self) -> None:
        assert titles(b"title,audio_path,note\na,p,\xff\n") == ["a"]

    def test_a_nul_refuses_its_row_alone(self) -> None:
        data = HEADER + b"a,b,,,p\nb\0,b,,,q\nc,d,,,r\n"
        assert titles(data) == ["a", "c"]
        assert refusals(data) == ["row 2: title: no NUL character"]

    def test_too_many_cells_refuse_the_row(self) -> None:
        data = HEADER + b"a,b,,,p,more\nb,c,,,q\n"
        assert titles(data) == ["b"]
        assert refusals(data) == ["row 1: 6 cells, but the file has 5 columns"]

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_lines_end_as_they_like(self, end: bytes) -> None:
        assert titles((HEADER + b"a,b,,,p\nb,c,,,q\n").replace(b"\n", end)) == ["a", "b"]

    def test_empty_lines_are_no_rows(self) -> None:
        assert titles(HEADER + b"\na,b,,,p\n\n\nb,c,,,q\n\n") == ["a", "b"]

    def test_the_line_is_told_where_it_does_not_follow_from_the_row(self) -> None:
        data = HEADER + b'a,b,x,,p\n"two\nlines",b,x,,q\nc,b,x,,r\n\nd,b,x,,s\n'
        assert [reason.partition(": ")[0] for reason in refusals(data)] == [
            "row 1",
            "row 2",
            "row 3 (line 5)",
            "row 4 (line 7)",
        ]

    def test_a_cell_may_hold_several_lines(self) -> None:
        assert titles(HEADER + b'"one\ntwo",b,,,p\n') == ["one\ntwo"]

    def test_a_giant_cell_refuses_its_row_alone(self) -> None:
        giant = b"x" * 300_000  # The csv module gives up at 131,072 characters unless it is told otherwise.
        data = HEADER + b"a,b,,,p\n" + giant + b",b,,,q\nc,d,,,r\n"
        assert titles(data) == ["a", "c"]
        assert refusals(data) == ["row 2: title: at most 1,000 characters, not 300,000"]

    def test_reading_leaves_the_limit_of_the_csv_module_alone(self) -> None:
        before = csv.field_size_limit()
        titles(HEADER + b"a,b,,,p\n")
        assert csv.field_size_limit() == before

    def test_a_line_without_end_refuses_its_row_alone(self) -> None:
        data = HEADER + b"a,b,,,p\n" + b"x" * (LONGEST_ROW + 10) + b",b,,,q\nc,d,,,r\n"
        assert titles(data) == ["a", "c"]
        assert refusals(data) == ["row 2: longer than 16,777,216 characters"]

    def test_a_quotation_mark_that_nobody_closed_costs_one_row(self) -> None:
        data = HEADER + b'a,b,,,p\n"open,b,,,q\nc,d,,,r\nd,e,,,s\n'
        assert titles(data) == ["a", "c", "d"]
        assert refusals(data) == ["row 2: unexpected end of data: is a quotation mark missing or not doubled?"]

    def test_a_quotation_mark_that_the_next_row_closes_costs_one_row(self) -> None:
        data = HEADER + b'"open,b,,,q\nc,d,,,r\nd,"e",,,s\n"f",g,,,t\n'
        assert titles(data) == ["c", "d", "f"]
        assert [reason.partition(":")[0] for reason in refusals(data)] == ["row 1"]

    def test_a_quotation_mark_that_swallows_more_than_a_row_can_be_costs_one_row(self) -> None:
        data = HEADER + b'"open,b,,,q\n' + b"c,d,,,r\n" * 3 + b"x" * LONGEST_ROW + b",b,,,q\nd,e,,,s\n"
        assert titles(data) == ["c", "c", "c", "d"]
        assert [reason.partition(":")[0] for reason in refusals(data)] == ["row 1", "row 5"]

    def test_a_quotation_mark_inside_a_cell_is_a_character(self) -> None:
        assert titles(HEADER + b'12" mix,b,,,p\n"12"" mix",b,,,q\n') == ['12" mix', '12" mix']


class TestColumns:
    def test_what_is_no_field_is_named_once(self) -> None:
        assert ignored(b"title,audio_path,popularity,\na,p,1,2\nb,q,3,4\n") == [["popularity", ""]]
        assert ignored(b"title,audio_path\na,p\n") == []

    def test_a_mapped_column_is_read_instead_of_its_namesake(self) -> None:
        data = b"title,name,secs,audio_path\nwrong,right,12,p\n"
        columns = {"title": "name", "duration": "secs"}
        (record,) = records(data, columns=columns)
        assert (record.metadata.title, record.metadata.duration) == ("right", 12.0)
        assert ignored(data, columns=columns) == [["title"]]

    def test_a_template_makes_paths(self) -> None:
        template = Template.parse("s3://{{x}}/{artist}/{key}.mp3")
        (record,) = records(b"title,artist,key\nJ\xc3\xb3ga,Bj\xc3\xb6rk,7\n", audio_path=template)
        assert record.audio_path == "s3://{x}/Björk/7.mp3"
        assert ignored(b"title,key,artist,audio_path\na,1,b,c\n", audio_path=template) == [["audio_path"]]

    def test_a_template_needs_its_cells(self) -> None:
        template = Template.parse("{key}.mp3")
        assert refusals(b"title,key\na,\nb\nc,\xff\n", audio_path=template) == [
            'row 1: audio_path: the column "key" is empty',
            'row 2: audio_path: the column "key" is empty',
            'row 3: audio_path: the column "key" is not UTF-8',
        ]

    @pytest.mark.parametrize("text", ["{", "}", "a{b", "{}", "{a{b}", "a}b{c}"])
    def test_a_template_with_a_single_brace_is_refused(self, text: str) -> None:
        with pytest.raises(UnusableFile, match="single brace"):
            Template.parse(text)

    @pytest.mark.parametrize(
        ("data", "plan", "reason"),
        [
            (b"", {}, "the file is empty"),
            (b"title,year\na,1\n", {}, "the file has no column audio_path: .* its columns are"),
            (b"audio_path,name\na,b\n", {}, "no column of the file holds metadata"),
            (b"title+audio_path\na+b\n", {}, 'its only column is "title.audio_path"; if another .* --delimiter'),
            (b"title,title,audio_path\n", {}, 'several columns "title"'),
            (HEADER, {"columns": {"album": "record"}}, 'no column "record"'),
            (HEADER, {"id_from": "key"}, 'no column "key"'),
            (HEADER, {"audio_path": Template.parse("{key}")}, 'no column "key"'),
            (b'"title\n', {}, "the first line, .* cannot be read"),
            ("title,audio_path\n".encode("utf-16"), {}, "UTF-16"),
            (gzip.compress(HEADER), {}, "compressed twice"),
            (bz2.compress(HEADER), {}, "not by gzip"),
            (lzma.compress(HEADER), {}, "not by gzip"),
            (b"PK\x03\x04...", {}, "spreadsheet"),
        ],
    )
    def test_a_file_that_does_not_fit_is_refused_before_its_first_row(
        self, data: bytes, plan: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(UnusableFile, match=reason):
            next(read_records(io.BytesIO(data), "csv", Plan(**plan)), None)

    def test_columns_that_are_not_needed_may_be_double(self) -> None:
        assert titles(b"title,x,x,audio_path\na,1,2,p\n") == ["a"]

    def test_a_path_comes_from_one_place_and_so_does_an_id(self) -> None:
        with pytest.raises(UnusableFile, match="both give the path"):
            Plan(columns={"audio_path": "x"}, audio_path=Template.parse("{x}"))
        with pytest.raises(UnusableFile, match="both give the id"):
            Plan(columns={"id": "x"}, id_from="y")


class TestIds:
    def test_an_id_column_holds_uuids(self) -> None:
        data = b"id,title,audio_path\n01890a5d-ac96-774b-bcce-b302099a8057,a,p\nseven,b,q\n,c,r\n"
        assert titles(data) == ["a"]
        assert refusals(data) == [
            "row 2: id: a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057, not this text",
            "row 3: id: missing",
        ]

    def test_without_one_the_path_makes_the_id_in_the_form_that_is_stored(self) -> None:
        (composed,) = records("title,audio_path\na,Bj\u00f6rk\n".encode())
        (decomposed,) = records("title,audio_path\na,Bjo\u0308rk\n".encode())
        assert composed.id == decomposed.id == uuid5(ID_NAMESPACE, "Bj\u00f6rk")

    def test_a_column_can_make_the_id(self) -> None:
        (record,) = records(b"id,title,audio_path\nk-7,a,p\n", id_from="id")
        assert record.id == uuid5(ID_NAMESPACE, "k-7")
        assert refusals(b"key,title,audio_path\n,a,p\n", id_from="key") == ['row 1: id: the column "key" is empty']

    def test_the_namespace_never_changes(self) -> None:
        assert UUID("a3d0c9f4-3b8f-4c8e-9a55-6a1f0d6c2e71") == ID_NAMESPACE


class TestJsonLines:
    def test_values_are_what_they_are(self) -> None:
        values = {"title": "Jóga", "year": 1997, "duration": 305, "audio_path": "p", "thumbnail_path": None, "id": None}
        del values["id"]
        (record,) = records(json_lines(values), "jsonl", status=TrackStatus.PENDING)
        assert record.metadata == TrackMetadata(title="Jóga", year=1997, duration=305.0)
        assert (record.id, record.status) == (uuid5(ID_NAMESPACE, "p"), TrackStatus.PENDING)

    def test_not_every_value_is_a_number(self) -> None:
        data = json_lines({"title": "a", "year": [1999], "duration": True, "audio_path": "p"})
        assert refusals(data, "jsonl") == [
            "row 1: year: a whole number from 1000 to 9999, not list; duration: a number from 0 to 31536000, not bool"
        ]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"nope", "not readable as JSON: Expecting value at character 1"),
            (b'{"title": "a"', "not readable as JSON"),
            (b"[1]", "a JSON object was expected, not list"),
            (b"null", "a JSON object was expected, not NoneType"),
            (b'{"duration": NaN}', "not readable as JSON: NaN is not a JSON number"),
            (b'{"duration": -Infinity}', "not readable as JSON: -Infinity is not a JSON number"),
            (b'{"duration": 1e400, "audio_path": "p"}', "duration: a number from 0 to 31536000"),
            (b'{"year": ' + b"9" * 50 + b', "audio_path": "p"}', "year: a whole number from 1000 to 9999"),
            (b'{"year": ' + b"9" * 5000 + b"}", "not readable as JSON: a number of more than 100 digits"),
            (b'{"x": ' + b"[" * 100_000, "not readable as JSON: nested too deeply"),
            (b'{"a:b": 1, "a:b": 2}', 'not readable as JSON: the key "a:b" is repeated'),
            (b'{"title": "\xff", "audio_path": "p"}', r'not UTF-8: it holds the byte "\xff"'),
            (b'{"title": "\\udc80", "audio_path": "p"}', "title: no lone surrogates"),
            (b'{"title": "\\u0000", "audio_path": "p"}', "title: no NUL character"),
            (b'{"title": "a"}', "audio_path: missing"),
            (b'{"title": "a", "audio_path": 7}', "audio_path: text, not int"),
            (b'{"title": "a", "audio_path": "p", "id": null}', "id: missing"),
            (b'{"title": "a", "audio_path": "p", "id": 7}', "id: a UUID such as"),
            (b"x" * (LONGEST_ROW + 10), "longer than 16,777,216 characters"),
        ],
    )
    def test_a_bad_line_refuses_itself_alone(self, line: bytes, reason: str) -> None:
        data = (
            json_lines({"title": "a", "audio_path": "p"}) + line + b"\n" + json_lines({"title": "b", "audio_path": "q"})
        )
        assert titles(data, "jsonl") == ["a", "b"]
        (refusal,) = refusals(data, "jsonl")
        assert refusal.startswith(f"row 2: {reason}")

    def test_unknown_keys_are_named_once(self) -> None:
        track = {"title": "a", "audio_path": "p"}
        data = json_lines({**track, "mood": 1}, {**track, "mood": 2}, {**track, "key": "c", "mood": 3})
        assert ignored(data, "jsonl") == [["mood"], ["key"]]

    def test_the_names_that_are_remembered_are_bounded(self) -> None:
        data = json_lines(*({"title": "a", "audio_path": "p", f"key{number}": 1} for number in range(1000)))
        assert len(ignored(data, "jsonl")) == 100

    def test_empty_lines_are_no_rows_but_count_as_lines(self) -> None:
        assert refusals(b"\n\n1\n{}\n", "jsonl")[0].startswith("row 1 (line 3): ")

    def test_numbers_may_make_paths_and_ids(self) -> None:
        data = json_lines(
            {"title": "a", "key": 7}, {"title": "b", "key": 7.5}, {"title": "c", "key": True}, {"title": "d"}
        )
        template = Template.parse("{key}")
        assert [
            item.record.audio_path
            for item in read(data, "jsonl", audio_path=template, id_from="key")
            if isinstance(item, ReadRecord)
        ] == ["7"]
        assert refusals(data, "jsonl", audio_path=template) == [
            'row 2: audio_path: the column "key" must be text or a whole number, not float',
            'row 3: audio_path: the column "key" must be text or a whole number, not bool',
            'row 4: audio_path: the column "key" is empty',
        ]

    def test_an_empty_file_holds_nothing(self) -> None:
        assert read(b"", "jsonl") == []


def test_reading_is_lazy_and_leaves_the_file_open() -> None:
    file = io.BytesIO(HEADER + b"a,b,,,p\n" * 100_000)
    reader = read_records(file, "csv", Plan())
    next(reader)
    assert file.tell() < 100_000
    reader.close()  # type: ignore[attr-defined]  # It is a generator.
    assert not file.closed


def test_a_place_is_said_in_words() -> None:
    assert [str(Place(17)), str(Place(17, 23))] == ["row 17", "row 17 (line 23)"]
