"""The command that counts the words of all tracks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from audiocatalog import Catalog, TrackMetadata
from tests.support.command import Run, forget_words, invoke, locked, run_on


@pytest.fixture
def run(database_url: str) -> Iterator[Run]:
    yield run_on(database_url)
    forget_words(database_url)


@pytest.fixture
def music(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Hyperballad", artist="Björk"), audio_path="p")
        work.save(TrackMetadata(title="Army of Me", artist="Björk"), audio_path="q")


@pytest.mark.usefixtures("music")
class TestRefresh:
    def test_it_lets_slips_be_understood(self, run: Run) -> None:
        assert run("search", "hyperbalad").stdout == "no hits\n"
        result = run("vocabulary", "refresh")
        assert (result.exit_code, result.stderr) == (0, "counting the words of all tracks ...\n")
        assert result.stdout.startswith("counted 5 words of 2 tracks in ")
        assert result.stdout.endswith(" s\n")
        assert run("search", "hyperbalad").stdout.startswith('did you mean "hyperballad"?\n\n')

    def test_json_tells_the_same(self, run: Run) -> None:
        count = json.loads(run("vocabulary", "refresh", "--json").stdout)
        assert count.keys() == {"at", "tracks", "words", "seconds"}
        assert (count["tracks"], count["words"]) == (2, 5)
        assert datetime.fromisoformat(count["at"]).tzinfo
        assert count["seconds"] >= 0

    def test_a_terminal_shows_that_it_is_under_way(self, run: Run) -> None:
        result = run("vocabulary", "refresh", FORCE_COLOR="1", TERM="xterm")
        assert "counting the words of all tracks ..." in result.stderr
        assert "\x1b" in result.stderr
        assert result.stdout.startswith("counted 5 words")

    def test_it_gives_up_after_a_time(self, run: Run, database_url: str) -> None:
        with locked(database_url, "audio_search_words"):
            result = run("vocabulary", "refresh", "--timeout", "0.2", AUDIOCATALOG_LOCK_TIMEOUT="10")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.splitlines()[1:] == [
            "error: counting was stopped after 0.2 s, and nothing was changed: allow more time by --timeout"
        ]

    def test_its_failure_is_one_line(self, run: Run, database_url: str) -> None:
        with locked(database_url, "audio_search_words"):
            result = run("vocabulary", "refresh", AUDIOCATALOG_LOCK_TIMEOUT="0.1")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.splitlines()[1].startswith("error: ")


def test_it_needs_a_schema(empty_database: Callable[[], str]) -> None:
    result = invoke("--url", empty_database(), "vocabulary", "refresh")
    assert result.exit_code == 1
    assert "audiocatalog upgrade" in result.stderr
