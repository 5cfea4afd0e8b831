"""The databases that are measured on: fresh for each load, and one that holds tracks for reads and saves."""

from __future__ import annotations

from typing import Final

from sqlalchemy import URL

from audiocatalog import migrations
from audiocatalog.db.settings import Settings
from benchmarks.lifecycle.server import LifecycleServer
from benchmarks.performance import bare
from benchmarks.performance.rows import Tracks
from benchmarks.performance.timing import say, watched
from benchmarks.search.server import connected

_EMPTY: Final = "performance_empty"
_FILLED: Final = "performance_filled"


class Databases:
    """Make databases on one server, of which *is_here* says whether it runs on this machine."""

    def __init__(self, server: LifecycleServer, tracks: Tracks, filled_count: int, *, is_here: bool) -> None:
        self.server = server
        self.tracks = tracks
        self.filled_count = filled_count
        self.is_here = is_here
        self._filled: str | None = None
        self._has_template = False

    def fresh(self) -> str:
        """
        Return the URL of a database with empty tables, in place of the last one.

        A checkpoint comes after, so that the dirty pages of one contestant are not written in the time of the next.
        """
        self._make_template()
        return _text(self.server.fresh(_EMPTY))

    def named(self, name: str) -> str:
        """Return the URL of a further database with empty tables."""
        self._make_template()
        return _text(self.server.create_from(_EMPTY, name))

    def filled(self) -> str:
        """Return the URL of the database that holds the first *filled_count* tracks."""
        if self._filled is None:
            url = self.named(_FILLED)
            with watched() as watch:
                bare.copy_binary(url, self.tracks.values(self.filled_count))
            say(f"{self.filled_count:,} tracks to be read: loaded in {watch.seconds:.1f} s")
            settle(url)
            give_settings(url)
            self._filled = url
        return self._filled

    def _make_template(self) -> None:
        if not self._has_template:
            migrations.upgrade(self.server.create(_EMPTY))
            self._has_template = True


def settle(url: str) -> None:
    """Vacuum a filled database and write it to the disk."""
    with connected(url) as connection:
        connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '512MB'")
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def give_settings(url: str) -> None:
    """
    Give all who connect from now on the settings that a catalogue sets for each of its sessions.

    A time limit, for one, costs each statement a timer.
    """
    with connected(url) as connection:
        for name, value in Settings().of_the_session().items():
            connection.execute(f"ALTER DATABASE \"{connection.info.dbname}\" SET {name} = '{value}'".encode())


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)
