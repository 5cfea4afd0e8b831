"""The commands for tracks: search, show, status and history."""

from __future__ import annotations

import getpass
import json
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from click.testing import Result

from audiocatalog import Catalog, Hit, SearchPage, TrackMetadata, TrackStatus
from audiocatalog.cli import output
from tests.command import Run, invoke, run_on

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
