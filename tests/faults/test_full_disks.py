"""A disk that is full, of the tables or of the log: writes say so, reads go on, and space is all it takes to go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from audiocatalog import Catalog, OnConflict, TrackMetadata, errors, migrations
from tests.support.factories import TrackRecordFactory
from tests.support.frozen import fill
from tests.support.servers import Server, cluster, own, temporary_folder
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

_DATABASE = "music"


class SmallDisk:
    """A file system in memory, of the given size in megabytes."""

    def __init__(self, stack: ExitStack, megabytes: int) -> None:
        self.folder = temporary_folder(stack)
        options = f"size={megabytes}m,mode=0755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True, capture_output=True)
        stack.callback(unmount, self.folder)
        own(self.folder)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no free page, for as long as the block lasts."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        try:
            yield
        finally:
            ballast.unlink()


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("making a small file system takes root and the program `mount`")
    with ExitStack() as stack:
        try:
            SmallDisk(stack, 1)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no file system can be mounted here: {error.stderr.decode().strip()}")
        yield stack


def migrated(server: Server) -> None:
    server.start()
    with server.admin() as admin:
        admin.execute(f"CREATE DATABASE {_DATABASE}")
    migrations.upgrade(server.url(_DATABASE))


def test_a_disk_of_tables_that_is_full_refuses_writes_and_nothing_else(stack: ExitStack) -> None:
    disk = SmallDisk(stack, 32)
    server = stack.enter_context(cluster())
    migrated(server)
    with server.admin(_DATABASE) as admin:
        # A file system's own top folder belongs to it; a tablespace wants one that is empty.
        space = disk.folder / "space"
        space.mkdir(mode=0o700)
        own(space)
        admin.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    with server.admin() as admin:
        admin.execute(f"ALTER DATABASE {_DATABASE} SET TABLESPACE small")
    records = TrackRecordFactory.build_batch(500)
    with Catalog(server.url(_DATABASE), pool_size=2) as catalog:
        assert catalog.bulk_save(records).inserted == 500
        with disk.full():
            for _ in range(3):
                with pytest.raises(errors.DatabaseUnavailable) as caught, catalog.unit_of_work() as work:
                    work.bulk_save(TrackRecordFactory.build_batch(2000))
                assert caught.value.sqlstate == "53100"
                assert caught.value.retryable
            assert catalog.get(records[7].id).title == records[7].metadata.title
            assert catalog.search(records[7].metadata.title).total >= 1
            assert len(catalog.get_many(record.id for record in records)) == 500
            assert sum(count.tracks for count in catalog.count_by_status()) == 500
            assert catalog.health().server_encoding == "UTF8"
        more = TrackRecordFactory.build_batch(100)
        assert catalog.bulk_save(more, on_conflict=OnConflict.ERROR).inserted == 100
        assert sum(count.tracks for count in catalog.count_by_status()) == 600
        fill(catalog, 2)


def test_a_disk_of_the_log_that_is_full_stops_the_server_and_loses_nothing(stack: ExitStack) -> None:
    """PostgreSQL ends rather than acknowledge what it cannot write down; started with room, it has all it promised."""
    disk = SmallDisk(stack, 64)
    server = stack.enter_context(cluster())
    wal = server.data / "pg_wal"
    shutil.copytree(wal, disk.folder / "wal", symlinks=True)
    for path in (disk.folder / "wal", *(disk.folder / "wal").rglob("*")):
        own(path)
    (disk.folder / "wal").chmod(0o700)
    shutil.rmtree(wal)
    wal.symlink_to(disk.folder / "wal")
    server.settings |= {"wal_keep_size": "0", "max_wal_size": "32MB", "min_wal_size": "32MB", "wal_recycle": "off"}
    migrated(server)
    with Catalog(server.url(_DATABASE), pool_size=2, pool_timeout=1) as catalog:
        acknowledged = [save(catalog, f"Before {number}") for number in range(20)]
        with disk.full(), pytest.raises(errors.DatabaseUnavailable):
            for _ in range(200):
                records = TrackRecordFactory.build_batch(500)
                with catalog.unit_of_work() as work:
                    work.bulk_save(records)
                acknowledged += [record.id for record in records]
        server.stop("kill")
        with pytest.raises(errors.DatabaseUnavailable):
            catalog.find(acknowledged[0])
        server.start()
        wait_until(lambda: succeeds(catalog), within=5)
        assert len(catalog.get_many(acknowledged[:10_000])) == len(acknowledged[:10_000])
        fill(catalog, 2)


def save(catalog: Catalog, title: str) -> UUID:
    return catalog.run(lambda work: work.save(TrackMetadata(title=title), audio_path="a")).id


def succeeds(catalog: Catalog) -> bool:
    try:
        save(catalog, "After")
    except errors.CatalogError:
        return False
    return True


def test_a_query_that_needs_more_room_than_it_may_have_is_told_so(database_url: str) -> None:
    """It is the query that is too large, not the server that is unwell: to run it again does not help."""
    with Catalog(database_url, pool_size=1) as catalog:
        with pytest.raises(errors.QueryTimeout) as caught, catalog.unit_of_work() as work:
            work.session.execute(text("SET LOCAL temp_file_limit = '64kB'"))
            work.session.execute(text("SET LOCAL work_mem = '64kB'"))
            work.session.execute(text("SELECT n FROM generate_series(1, 100000) AS n ORDER BY -n"))
        assert caught.value.sqlstate == "53400"
        assert not caught.value.retryable
        fill(catalog, 1)
