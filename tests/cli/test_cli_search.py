"""The commands search and explain: what is found, in which words it is told, and how to go on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from click.testing import Result

from audiocatalog import Catalog, Facet, FacetValue, Hit, SearchPage, TrackMetadata
from audiocatalog.cli import pages
from audiocatalog.models.rows import TRACK_COLUMNS
from tests.support.command import Run, forget_words, locked, run_on

UNKNOWN = "01920000-0000-7000-8000-00000001d107"


@pytest.fixture
def run(database_url: str) -> Iterator[Run]:
    yield run_on(database_url)
    forget_words(database_url)


@pytest.fixture
def music(catalog: Catalog) -> None:
    tracks = [
        ("Jóga", "Björk", "Homogenic", "Electronic", 1997, 305.5, "flac", 900_000),
        ("Hunter", "Björk", "Homogenic", "Electronic", 1997, 255.0, "mp3", 320_000),
        ("Army of Me", "Björk", "Post", "Electronic", 1995, None, "mp3", 192_000),
        ("Minus -7", None, None, None, None, 7205.0, None, None),
    ]
    for number, (title, artist, album, genre, year, duration, form, bitrate) in enumerate(tracks):
        metadata = TrackMetadata(
            title=title,
            artist=artist,
            album=album,
            genre=genre,
            year=year,
            duration=duration,
            format=form,
            bitrate=bitrate,
        )
        # In transactions of their own, so that each is newer than the one before.
        with catalog.unit_of_work() as work:
            work.save(metadata, audio_path=f"{number}")


def document(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def titles(result: Result) -> list[str]:
    return [hit["title"] for hit in document(result)["hits"]]


def printed(page: SearchPage, capsys: pytest.CaptureFixture[str], offset: int | None = 0) -> list[str]:
    pages.print_page(page, offset)
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("music")
class TestSearch:
    def test_a_hit_is_a_line_with_its_id(self, run: Run) -> None:
        lines = run("search", "JOGA", "bjork").stdout.splitlines()
        assert lines[0].split() == ["artist", "title", "album", "year", "length", "status", "id"]
        assert lines[1].split()[:6] == ["Björk", "Jóga", "Homogenic", "1997", "5:06", "COMPLETED"]
        UUID(lines[1].split()[6])
        assert lines[2:] == ["", "1 hit"]

    def test_what_is_unknown_is_a_dash(self, run: Run) -> None:
        assert run("search", "minus").stdout.splitlines()[1].split()[:7] == [
            *("-", "Minus", "-7", "-", "-", "2:00:05", "COMPLETED")
        ]

    def test_a_narrow_terminal_has_two_lines_for_a_hit(self, run: Run) -> None:
        lines = run("search", "joga", COLUMNS="80").stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[1].split() == ["Björk", "Jóga", "1997", "5:06", "COMPLETED"]
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

    def test_a_genre_is_shown_where_it_is_what_matched(self, run: Run) -> None:
        assert "Homogenic (Electronic)" in run("search", "hunter", "electronic").stdout
        assert "Electronic" not in run("search", "hunter").stdout
        assert "\x1b[1;2;4mElectr\x1b[0m" in run("search", "electr", FORCE_COLOR="1", TERM="xterm").stdout

    def test_nothing_is_no_hits(self, run: Run) -> None:
        result = run("search", "nothing")
        assert (result.exit_code, result.stdout) == (0, "no hits\n")

    def test_json_is_one_document(self, run: Run) -> None:
        result = run("search", "joga", "--json")
        assert result.stdout.count("\n") == 1
        page = document(result)
        (hit,) = page.pop("hits")
        assert page == {
            "total": 1,
            "is_total_exact": True,
            "next_cursor": None,
            "suggestion": None,
            "facets": {},
            "is_partial": False,
            "ignored_terms": 0,
        }
        assert hit.keys() == {*TRACK_COLUMNS, "score", "highlights"}
        assert (hit["artist"], hit["duration"], hit["channels"]) == ("Björk", 305.5, None)
        assert hit["highlights"] == {"title": [[0, 4]]}
        assert datetime.fromisoformat(hit["created_at"]).utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (("--year", "1996..1999"), {"Jóga", "Hunter"}),
            (("--year", "1996.."), {"Jóga", "Hunter"}),
            (("--year", "..1996"), {"Army of Me"}),
            (("--year", "1995"), {"Army of Me"}),
            (("--duration", "255..300.5"), {"Hunter"}),
            (("--duration", "255"), {"Hunter"}),
            (("--duration", "0.."), {"Jóga", "Hunter"}),
            (("--duration", "4:15..5:00"), {"Hunter"}),
            (("--duration", "..5:05"), {"Jóga", "Hunter"}),
            (("--duration", "5:05"), {"Jóga"}),
            (("--duration", "..5:05.4"), {"Hunter"}),
            (("--duration", "0:04:15..1:00:00"), {"Jóga", "Hunter"}),
            (("--bitrate", "192000..320000"), {"Hunter", "Army of Me"}),
            (("--bitrate", "321k.."), {"Jóga"}),
            (("--created-since", "2024-05-31"), {"Jóga", "Hunter", "Army of Me"}),
            (("--created-since", "2024-05-31 14:30:00 UTC", "--year", "1995"), {"Army of Me"}),
            (("--updated-since", "2999-01-01T00:00+02:00"), set()),
            (("--format", "flac"), {"Jóga"}),
            (("--format", "flac", "--format", "mp3"), {"Jóga", "Hunter", "Army of Me"}),
            (("--album", "post"), {"Army of Me"}),
            (("--artist", "bjork", "--genre", "ELECTRONIC", "--status", "completed"), {"Jóga", "Hunter", "Army of Me"}),
            (("--status", "FAILED"), set()),
        ],
    )
    def test_filters_narrow_it(self, run: Run, options: tuple[str, ...], expected: set[str]) -> None:
        assert set(titles(run("search", "björk", "--json", *options))) == expected

    def test_filters_alone_list_what_they_leave(self, run: Run) -> None:
        assert titles(run("search", "--album", "homogenic", "--json", "--sort", "title")) == ["Hunter", "Jóga"]

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            ("title", ["Army of Me", "Hunter", "Jóga"]),
            ("year", [{"Hunter", "Jóga"}, "Army of Me"]),
            ("NEWEST", ["Army of Me", "Hunter", "Jóga"]),
        ],
    )
    def test_hits_have_an_order(self, run: Run, sort: Any, expected: list[Any]) -> None:
        found = titles(run("search", "björk", "--sort", sort, "--json"))
        assert ([set(found[:2]), found[2]] if sort == "year" else found) == expected

    def test_the_last_word_is_a_beginning_or_whole(self, run: Run) -> None:
        assert titles(run("search", "hun", "--json")) == ["Hunter"]
        assert titles(run("search", "hun", "--whole", "--json")) == []
        assert titles(run("search", "hun ", "--json")) == []

    def test_a_word_may_begin_with_a_dash(self, run: Run) -> None:
        assert titles(run("search", "--json", "--", "-7")) == ["Minus -7"]

    def test_an_id_is_looked_up(self, run: Run, catalog: Catalog) -> None:
        (hit,) = catalog.search("joga")
        assert titles(run("search", str(hit.track.id), "--json")) == ["Jóga"]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("artist:björk -jóga", {"Hunter", "Army of Me"}),
            ("artist:bjork year:1997", {"Jóga", "Hunter"}),
            ('"army of me"', {"Army of Me"}),
            ("joga OR hunter", {"Jóga", "Hunter"}),
        ],
    )
    def test_a_query_in_quotes_keeps_its_language(
        self, run: Run, catalog: Catalog, query: str, expected: set[str]
    ) -> None:
        catalog.refresh_vocabulary()
        assert set(titles(run("search", query, "--json"))) == expected

    @pytest.mark.parametrize("query", ['"', "'", "&|!():*<->", "\\", "%s", "{}", "a & (b"])
    def test_no_query_is_an_error(self, run: Run, query: str) -> None:
        assert run("search", "--", query).exit_code == 0


@pytest.mark.usefixtures("music")
class TestPages:
    def test_they_say_where_they_are_and_how_to_go_on(self, run: Run) -> None:
        found, options = [], ["--limit", "2"]
        for place in ("1 to 2 of 3 hits", "1 more of 3 hits"):
            lines = run("search", "björk", "--sort", "title", *options).stdout.splitlines()
            assert place in lines
            found += re.findall("Army of Me|Hunter|Jóga", "\n".join(lines))
            way = lines[-1].removeprefix("next page: ")
            options = ["--limit", "2", *way.split()]
        assert found == ["Army of Me", "Hunter", "Jóga"]
        assert way == "1 more of 3 hits"

    def test_the_cursor_of_a_document_goes_on_too(self, run: Run) -> None:
        first = document(run("search", "björk", "--limit", "1", "--json"))
        second = document(run("search", "björk", "--limit", "2", "--json", "--after", first["next_cursor"]))
        assert (len(first["hits"]), len(second["hits"]), second["next_cursor"]) == (1, 2, None)
        assert first["hits"][0]["id"] not in {hit["id"] for hit in second["hits"]}

    def test_an_offset_goes_on_by_a_cursor(self, run: Run) -> None:
        lines = [
            run("search", "björk", "--limit", "1", "--offset", str(offset)).stdout.splitlines() for offset in range(4)
        ]
        assert [line[3] for line in lines[:3]] == ["1 of 3 hits", "2 of 3 hits", "3 of 3 hits"]
        assert lines[0][4].startswith("next page: --after ")
        assert lines[1][4].endswith(" (without --offset)")
        assert lines[3] == ["3 hits"]

    @pytest.mark.parametrize("after", ["nonsense", ""])
    def test_a_cursor_that_is_none_is_refused(self, run: Run, after: str) -> None:
        result = run("search", "björk", "--after", after)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: --after: the cursor belongs to another search: repeat the QUERY")

    @pytest.mark.parametrize(
        "other", [("joga",), ("björk", "--sort", "title"), ("björk", "--year", "1997"), ("björk ",)]
    )
    def test_a_cursor_of_another_search_is_refused(self, run: Run, other: tuple[str, ...]) -> None:
        after = document(run("search", "björk", "--limit", "1", "--json"))["next_cursor"]
        assert run("search", *other, "--after", after).exit_code == 1

    def test_a_terminal_gets_the_cursor_in_one_piece(self, run: Run) -> None:
        after = document(run("search", "björk", "--limit", "1", "--json"))["next_cursor"]
        assert f"--after {after}" in run("search", "björk", "--limit", "1", COLUMNS="80").stdout

    def test_a_total_may_be_an_estimate(self, capsys: pytest.CaptureFixture[str], catalog: Catalog) -> None:
        page = SearchPage(catalog.search("joga").hits, 15_704, is_total_exact=False, next_cursor="abc")
        assert printed(page, capsys)[-2:] == ["1 of about 15,700 hits", "next page: --after abc"]
        assert printed(page, capsys, None)[-2] == "1 more of about 15,700 hits"
        assert printed(SearchPage((), 15_704, is_total_exact=False), capsys) == ["about 15,700 hits"]

    def test_a_long_artist_cuts_nothing_off_a_narrow_terminal(self, run: Run, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="Zyx", artist="Orchestra of the Age " * 3, duration=60.0), audio_path="zyx")
        lines = run("search", "zyx", COLUMNS="80").stdout.splitlines()
        assert lines[0].split()[-3:] == ["year", "length", "status"]
        assert lines[1].split()[-3:] == ["-", "1:00", "COMPLETED"]
        assert max(map(len, lines[:4])) <= 80

    def test_a_count_that_ended_at_its_bound_is_the_least(self, capsys: pytest.CaptureFixture[str]) -> None:
        facet = Facet((FacetValue("K-pop", 1190),), is_exact=False, is_complete=True)
        page = SearchPage((), 10_000, is_total_exact=False, facets={"genre": facet})
        assert printed(page, capsys) == ["at least 10,000 hits", "", "genre            hits", "K-pop  at least 1,190"]
        assert printed(SearchPage((), 10_000, is_total_exact=True), capsys) == ["10,000 hits"]

    def test_a_partial_page_says_so(self, capsys: pytest.CaptureFixture[str], catalog: Catalog) -> None:
        hits: tuple[Hit, ...] = catalog.search("joga").hits
        page = SearchPage(hits, 1, is_total_exact=False, is_partial=True)
        (note,) = [line for line in printed(page, capsys) if line.startswith("the search timed out")]
        assert note.endswith("AUDIOCATALOG_SEARCH_TIMEOUT")

    def test_words_that_were_not_looked_for_are_told_of(self, run: Run) -> None:
        pasted = "hunter " + "björk " * 39
        note = "the search used the first 32 words and ignored 8"
        assert note in run("search", pasted).stdout
        assert document(run("search", pasted, "--json"))["ignored_terms"] == 8
        assert "the search used" not in run("search", "hunter björk").stdout

    def test_an_empty_query_lists_everything(self, run: Run) -> None:
        listed = document(run("search", "", "--facet", "status", "--json"))
        assert listed["total"] == len(listed["hits"]) > 1
        assert listed["facets"]["status"]["values"] == [{"value": "COMPLETED", "tracks": listed["total"]}]


@pytest.mark.usefixtures("music")
class TestFacets:
    def test_they_are_tables_in_their_order(self, run: Run) -> None:
        text = run("search", "björk", "--facet", "decade", "--facet", "format").stdout
        assert text.endswith("3 hits\n\nformat  hits\nmp3        2\nflac       1\n\ndecade  hits\n1990s      3\n")

    def test_a_document_holds_them(self, run: Run) -> None:
        page = document(run("search", "björk", "--facet", "STATUS", "--json"))
        assert page["facets"] == {
            "status": {"values": [{"value": "COMPLETED", "tracks": 3}], "is_exact": True, "is_complete": True}
        }

    def test_nothing_has_none(self, run: Run) -> None:
        assert run("search", "minus", "--facet", "genre").stdout.endswith("genre  hits\nnone\n")

    def test_they_may_be_estimates_and_incomplete(self, capsys: pytest.CaptureFixture[str]) -> None:
        values = (FacetValue("Ro\x1bck", 15_704), FacetValue("Pop", 1200))
        facet = Facet(values, is_exact=False, is_complete=False)
        page = SearchPage((), 20_000, is_total_exact=False, facets={"genre": facet})
        assert printed(page, capsys)[2:] == [
            *("genre               hits", "Ro\\x1bck    about 16,000", "Pop          about 1,200", "and others")
        ]


@pytest.mark.usefixtures("music")
class TestSlips:
    def test_it_is_told_what_may_have_been_meant(self, run: Run, catalog: Catalog) -> None:
        catalog.refresh_vocabulary()
        assert run("search", "huntre").stdout.startswith('did you mean "hunter"?\n\nartist')
        page = document(run("search", "huntre", "--json"))
        assert (page["suggestion"], page["hits"][0]["title"]) == ("hunter", "Hunter")
        assert '"\x1b[1mhunter\x1b[0m"?' in run("search", "huntre", FORCE_COLOR="1", TERM="xterm").stdout
        assert "did you mean" not in run("search", "hunter").stdout


@pytest.mark.usefixtures("music")
class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("a" * 1001,), "QUERY: at most 1,000 characters"),
            (("x", "--year", "99"), "--year: a number"),
            (
                ("x", "--year", "2000..1990", "--duration", "999999999"),
                "--year: a lowest number that is not above the highest; --d",
            ),
            (("x", "--artist", " "), "--artist: at least one visible character"),
            (("x", "--bitrate", "0"), "--bitrate: a number"),
        ],
    )
    def test_they_name_the_option(self, run: Run, arguments: tuple[str, ...], reason: str) -> None:
        result = run("search", *arguments)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith(f"error: {reason}")

    def test_nothing_to_look_for_ends_with_2(self, run: Run) -> None:
        result = run("search", "--sort", "title")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Missing argument 'QUERY...'" in result.stderr
        assert "--status" in result.stderr

    def test_a_search_that_takes_too_long_says_what_to_do(self, run: Run, database_url: str) -> None:
        with locked(database_url, "audio_tracks"):
            result = run("search", "björk", AUDIOCATALOG_SEARCH_TIMEOUT="0.2", AUDIOCATALOG_LOCK_TIMEOUT="10")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: the search took too long: add a filter")
        assert result.stderr.endswith("AUDIOCATALOG_SEARCH_TIMEOUT\n")


@pytest.mark.usefixtures("music")
class TestExplain:
    @pytest.fixture
    def joga(self, catalog: Catalog) -> UUID:
        (hit,) = catalog.search("joga")
        return hit.track.id

    def test_it_says_why_a_track_is_found(self, run: Run, joga: UUID, catalog: Catalog) -> None:
        result = run("explain", "björk", "jóga", str(joga))
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{catalog.explain('björk jóga', joga)}\n"
        assert result.stdout.startswith("hit 1 of 1: ")
        assert result.stdout.splitlines()[1:] == ["  'björk' in artist", "  'jóga' in title"]

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("björk", "--year", "1995"), "not found: the track does not meet these conditions: year"),
            (
                ("björk", "--format", "mp3", "--artist", "nobody"),
                "not found: the track does not meet these conditions: format, artist",
            ),
            (("artist:björk -jóga",), "not found: the track contains words that the query excludes: 'jóga'"),
            (("hunter",), "not found: the track does not contain 'hunter'"),
        ],
    )
    def test_it_says_why_a_track_is_not_found(
        self, run: Run, catalog: Catalog, joga: UUID, arguments: tuple[str, ...], reason: str
    ) -> None:
        catalog.refresh_vocabulary()
        result = run("explain", *arguments, str(joga))
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, reason)

    def test_json_holds_all_of_it(self, run: Run, joga: UUID) -> None:
        explanation = document(run("explain", "björk", str(joga), "--year", "1995", "--json"))
        assert explanation == {
            "id": str(joga),
            "position": None,
            "score": None,
            "reason": "not found: the track does not meet these conditions: year",
            "terms": [{"term": "björk", "fields": ["artist"], "excluded": False}],
            "unmet": ["year"],
            "ignored_terms": 0,
        }
        assert document(run("explain", "jog", str(joga), "--json"))["position"] == 1

    def test_the_last_word_may_be_whole(self, run: Run, joga: UUID) -> None:
        assert "'jog' in title" in run("explain", "jog", str(joga)).stdout
        assert "'jog' in nowhere" in run("explain", "jog", str(joga), "--whole").stdout

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("x", UNKNOWN), f"track {UNKNOWN}: no track has this id"),
            (("year:1997", UNKNOWN), "QUERY: at least one word to explain"),
            (("x", UNKNOWN, "--year", "99"), "--year: a number"),
        ],
    )
    def test_a_refusal_is_one_line(self, run: Run, arguments: tuple[str, ...], reason: str) -> None:
        result = run("explain", *arguments)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith(f"error: {reason}")
