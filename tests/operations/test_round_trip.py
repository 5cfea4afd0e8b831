"""Export from one catalogue, import into another: what can be kept is kept, and what cannot be is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from audiocatalog import Catalog, SearchFilters, Track, TrackStatus
from audiocatalog.migrations.roles import RoleNames, apply_roles
from audiocatalog.models.rows import TRACK_COLUMNS
from tests.support.command import run_on
from tests.support.databases import libpq
from tests.support.factories import TrackRecordFactory

pytestmark = pytest.mark.both_sides

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
#: What no export keeps: how often and when the track was written.
OWN = {"version", "updated_at"}


@pytest.fixture
def other_url(migrated_database: Callable[[], str]) -> str:
    return migrated_database()


@pytest.fixture
def filled(catalog: Catalog) -> list[Track]:
    """Save tracks in every status, with every field, and return them."""
    records = TrackRecordFactory.build_batch(8, status=PENDING, thumbnail_path="./cover.png")
    bare = TrackRecordFactory.build_batch(2, status=COMPLETED)
    catalog.bulk_save([*records, *bare])
    for record in records[:4]:
        catalog.update_status(record.id, PROCESSING)
    for record in records[1:3]:
        catalog.update_status(record.id, FAILED, reason="no sound")
    catalog.update_status(records[3].id, COMPLETED)
    tracks = list(catalog.iter_tracks())
    assert {track.status for track in tracks} == {PENDING, PROCESSING, COMPLETED, FAILED}
    return tracks


def kept(track: Track, *without: str) -> dict[str, Any]:
    """Return what is to come back: a track that was being worked on waits again."""
    values = {name: getattr(track, name) for name in TRACK_COLUMNS if name not in {*OWN, *without}}
    return values | {"status": PENDING if track.status is PROCESSING else track.status}


def exported(database_url: str, file: Path, *options: str) -> None:
    result = run_on(database_url)("export", str(file), *options)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("name", ["tracks.csv", "tracks.jsonl.gz"])
def test_ids_content_and_statuses_are_kept(
    filled: list[Track], database_url: str, other_url: str, tmp_path: Path, name: str
) -> None:
    exported(database_url, tmp_path / name)
    result = run_on(other_url)("import", str(tmp_path / name), "--no-vocabulary")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "10 inserted" in result.stdout
    assert "status: 1 PENDING instead of PROCESSING" in result.stdout
    with Catalog(other_url) as other:
        found = {track.id: track for track in other.iter_tracks()}
        expected = [kept(track, "created_at") for track in filled]
        assert [kept(found[track.id], "created_at") for track in filled] == expected
        assert all(found[track.id].created_at > track.created_at for track in filled)
        for track in filled:
            moves = [(change.from_status, change.to_status, change.reason) for change in other.history(track.id)]
            first = COMPLETED if track.status is COMPLETED else PENDING
            failed = [(PENDING, FAILED, "imported")] if track.status is FAILED else []
            assert moves == [(None, first, "imported"), *failed]
        waiting = {track.id for track in filled if track.status in {PENDING, PROCESSING}}
        assert {claim.track.id for claim in other.claim(100, worker="w")} == waiting
    again = run_on(other_url)("import", str(tmp_path / name), "--no-vocabulary")
    assert "10 unchanged" in again.stdout


@pytest.mark.parametrize("name", ["tracks.csv.gz", "tracks.jsonl"])
def test_the_owner_can_keep_the_times_of_creation(
    filled: list[Track], database_url: str, other_url: str, tmp_path: Path, name: str
) -> None:
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute("UPDATE audio_tracks SET created_at = created_at - random() * interval '900 days'")
    with Catalog(database_url) as catalog:
        filled = list(catalog.iter_tracks())
    exported(database_url, tmp_path / name, "--all")
    result = run_on(other_url)("import", str(tmp_path / name), "--restore", "--no-vocabulary")
    assert result.exit_code == 0, result.output
    assert 'ignored columns: "updated_at", "version"' in result.stderr
    with Catalog(other_url) as other:
        found = {track.id: track for track in other.iter_tracks()}
        assert [kept(found[track.id]) for track in filled] == [kept(track) for track in filled]
        completed = SearchFilters(status=COMPLETED)
        newest = [hit.track.id for hit in other.search("", filters=completed, order_by="newest").hits]
        assert newest == [
            track.id
            for track in sorted(filled, key=lambda track: (track.created_at, track.id), reverse=True)
            if track.status is COMPLETED
        ]


def test_another_role_is_told_that_only_the_owner_can(
    filled: list[Track], database_url: str, other_url: str, tmp_path: Path
) -> None:
    assert filled
    exported(database_url, tmp_path / "tracks.csv", "--all")
    names = RoleNames(*(f"restore_{name}" for name in ("owner", "app", "search")))
    with psycopg.connect(libpq(other_url), autocommit=True) as admin:
        try:
            apply_roles(other_url, names)
            admin.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(names.app)))
            url = other_url.replace("postgres@", f"{names.app}@", 1)
            result = run_on(url)("import", str(tmp_path / "tracks.csv"), "--restore", "--no-vocabulary")
            assert result.exit_code == 1
            assert "only the owner of the schema may set the time of creation" in result.stderr
            assert "0 rows safely saved" in result.stderr
            plain = run_on(url)("import", str(tmp_path / "tracks.csv"), "--no-vocabulary")
            assert "10 inserted" in plain.stdout
        finally:
            everything = sql.SQL(", ").join(map(sql.Identifier, (names.owner, names.app, names.search)))
            admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(everything))
            admin.execute(sql.SQL("DROP ROLE {}").format(everything))


@pytest.mark.parametrize(
    ("line", "options", "reason"),
    [
        ("a,active,", (), 'status: one of PENDING, PROCESSING, COMPLETED, FAILED, not "active"; or give one'),
        ("a,pending,yesterday", ("--restore",), "created_at: a time with its offset from UTC such as"),
        ("a,pending,2026-11-30T17:45:00", ("--restore",), "created_at: a time with its offset from UTC such as"),
    ],
)
def test_what_is_no_status_or_no_time_is_refused_with_the_row(
    database_url: str, tmp_path: Path, line: str, options: tuple[str, ...], reason: str
) -> None:
    file = tmp_path / "tracks.csv"
    file.write_text(f"title,audio_path,status,created_at\nx,{line}\ny,b,failed ,2001-02-03T04:05:06Z\nz,c,,\n")
    result = run_on(database_url)("import", str(file), "--no-vocabulary", *options)
    assert reason in result.stderr
    assert "2 inserted" in result.stdout
    with Catalog(database_url) as catalog:
        assert {track.title: track.status for track in catalog.iter_tracks()} == {"y": FAILED, "z": COMPLETED}


def test_an_option_says_the_status_whatever_the_file_says(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "tracks.jsonl"
    file.write_text(json.dumps({"title": "x", "audio_path": "a", "status": "active"}))
    result = run_on(database_url)("import", str(file), "--status", "PENDING", "--no-vocabulary")
    assert (result.exit_code, result.stderr) == (0, 'ignored columns: "status"\n')
    with Catalog(database_url) as catalog:
        assert [track.status for track in catalog.iter_tracks()] == [PENDING]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--restore",), 'the file has no column "created_at"'),
        (("--map", "created_at=b"), "only --restore keeps"),
        (("--map", "status=b", "--status", "PENDING"), "both give the status"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    database_url: str, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "tracks.csv").write_text("title,audio_path,b\nx,a,c\n")
    result = run_on(database_url)("import", str(tmp_path / "tracks.csv"), *options)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_a_lease_says_nothing_of_another_catalogue(
    catalog: Catalog, database_url: str, other_url: str, tmp_path: Path
) -> None:
    record = TrackRecordFactory.build(status=PENDING)
    catalog.bulk_save([record])
    (claim,) = catalog.claim(1, worker="w", lease=timedelta(hours=1))
    exported(database_url, tmp_path / "tracks.csv")
    run_on(other_url)("import", str(tmp_path / "tracks.csv"), "--no-vocabulary")
    with Catalog(other_url) as other:
        (again,) = other.claim(1, worker="v")
        assert (again.track.id, again.attempt, claim.attempt) == (record.id, 1, 1)
