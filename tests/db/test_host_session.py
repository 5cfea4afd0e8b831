"""The session of a unit of work reads the catalogue, links to its tracks, and does not write past its verbs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import (
    ForeignKey,
    MetaData,
    Table,
    column,
    delete,
    exists,
    insert,
    literal_column,
    select,
    table,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    aliased,
    attributes,
    mapped_column,
    object_session,
    relationship,
)

from audiocatalog import Catalog, StatusChange, Track, TrackMetadata, TrackRecord, TrackStatus, UnitOfWork, errors
from audiocatalog.models.ids import new_id
from audiocatalog.models.rows import TRACKS
from audiocatalog.models.tables import SearchWord, Task
from tests.support.databases import libpq

pytestmark = pytest.mark.both_sides

PENDING, FAILED = TrackStatus.PENDING, TrackStatus.FAILED


class Base(DeclarativeBase):
    pass


class Item(Base):
    """A row of the host's that belongs to a track."""

    __tablename__ = "host_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    track_id: Mapped[UUID | None] = mapped_column(ForeignKey(Track.id))
    title: Mapped[str | None]
    track: Mapped[Track | None] = relationship(Track)


ITEMS: Any = Item.__table__
ALIASED: Any = TRACKS.alias("t")
NAMED_ALONE: Any = table("audio_tracks", column("title"))


@pytest.fixture
def catalog(database_url: str) -> Iterator[Catalog]:
    """Give a catalogue beside which the host has a table of its own, and another one of a name of ours."""
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute(
            "CREATE TABLE host_items (id integer PRIMARY KEY, track_id uuid REFERENCES audio_tracks, title text)"
        )
        admin.execute("CREATE SCHEMA host CREATE TABLE audio_tracks (id uuid PRIMARY KEY, title text)")
        admin.execute("GRANT ALL ON host_items, host.audio_tracks TO public")
        admin.execute("GRANT USAGE ON SCHEMA host TO public")
        try:
            with Catalog(database_url, actor="tester") as catalog:
                yield catalog
        finally:
            admin.execute("DROP TABLE host_items")
            admin.execute("DROP SCHEMA host CASCADE")


@pytest.fixture
def track(catalog: Catalog) -> Track:
    return catalog.run(lambda work: work.save(TrackMetadata(title="Kept"), audio_path="a", status=PENDING))


def reflected(work: UnitOfWork, schema: str | None = None) -> Table:
    return Table("audio_tracks", MetaData(), schema=schema, autoload_with=work.session.connection())


def flush(work: UnitOfWork, one: object) -> None:
    work.session.add(one)
    work.session.flush()


def change_behind_its_back(work: UnitOfWork, track: Track) -> None:
    loaded = work.session.get_one(Track, track.id)
    attributes.set_attribute(loaded, "title", "Changed")
    work.session.flush()


def delete_as_an_object(work: UnitOfWork, track: Track) -> None:
    work.session.delete(work.session.get_one(Track, track.id))
    work.session.flush()


def before_a_call(work: UnitOfWork, track: Track) -> None:
    work.session.add(Track(**NEW))
    work.get(track.id)


NEW: dict[str, Any] = {"id": new_id(), "status": "PENDING", "title": "New", "audio_path": "a"}
#: What writes a table of ours by accident, and what the error names instead.
WRITES: dict[str, tuple[Callable[[UnitOfWork, Track], object], str]] = {
    "an object": (lambda work, _: flush(work, Track(**NEW)), r"save\(\)"),
    "an object at the end": (lambda work, _: work.session.add(Track(**NEW)), r"save\(\)"),
    "an object before a call of ours": (
        before_a_call,
        r"save\(\)",
    ),
    "an object of the host's relationship": (lambda work, _: flush(work, Item(id=1, track=Track(**NEW))), r"save\(\)"),
    "a changed object": (change_behind_its_back, r"replace=True"),
    "a deleted object": (delete_as_an_object, "delete"),
    "an insert": (lambda work, _: work.session.execute(insert(Track).values(**NEW)), r"save\(\)"),
    "many inserts": (lambda work, _: work.session.execute(insert(Track), [NEW, NEW | {"id": new_id()}]), r"bulk_save"),
    "an upsert": (
        lambda work, _: work.session.execute(upsert(TRACKS).values(**NEW).on_conflict_do_nothing()),
        r"save\(\)",
    ),
    "an insert from a select": (
        lambda work, _: work.session.execute(insert(Track).from_select(["id"], select(ITEMS.c.track_id))),
        r"save\(\)",
    ),
    "an update": (
        lambda work, track: work.session.execute(update(Track).where(Track.id == track.id).values(title="x")),
        r"replace=True\) for its content and update_status\(\)",
    ),
    "an update by objects": (
        lambda work, track: work.session.execute(update(Track), [{"id": track.id, "title": "x"}]),
        "replace=True",
    ),
    "an update of the table": (
        lambda work, _: work.session.execute(TRACKS.update().values(status="COMPLETED")),
        "update_status",
    ),
    "an update of an alias": (
        lambda work, _: work.session.execute(update(ALIASED).values(title="x")),
        "replace=True",
    ),
    "an update by the connection": (
        lambda work, _: work.session.connection().execute(update(TRACKS).values(title="x")),
        "replace=True",
    ),
    "an update of a reflected table": (
        lambda work, _: work.session.execute(reflected(work).update().values(title="x")),
        "replace=True",
    ),
    "an update of a reflected table in its schema": (
        lambda work, _: work.session.execute(reflected(work, "public").update().values(title="x")),
        "replace=True",
    ),
    "an update of a table without metadata": (
        lambda work, _: work.session.execute(update(NAMED_ALONE).values(title="x")),
        "replace=True",
    ),
    "a delete of a table without metadata in its schema": (
        lambda work, _: work.session.execute(delete(table("audio_tracks", column("title"), schema="public"))),
        "delete a track",
    ),
    "a delete": (lambda work, _: work.session.execute(delete(Track)), "delete a track"),
    "a delete of a query": (lambda work, _: work.session.query(Track).delete(), "delete a track"),
    "an update of a query": (lambda work, _: work.session.query(Track).update({"title": "x"}), "replace=True"),
    "bulk inserts": (lambda work, _: work.session.bulk_insert_mappings(Track.__mapper__, [NEW]), r"save\(\)"),
    "bulk updates": (
        lambda work, track: work.session.bulk_update_mappings(Track.__mapper__, [{"id": track.id, "title": "x"}]),
        "replace=True",
    ),
    "bulk objects": (lambda work, _: work.session.bulk_save_objects([Track(**NEW)]), r"save\(\)"),
    "a CTE": (
        lambda work, _: work.session.execute(select(delete(TRACKS).returning(TRACKS.c.id).cte("gone"))),
        "delete a track",
    ),
    "a CTE within a write of the host's": (
        lambda work, _: work.session.execute(
            insert(ITEMS).from_select(
                ["id", "track_id"],
                select(literal_column("1"), update(TRACKS).values(title="x").returning(TRACKS.c.id).cte("c").c.id),
            )
        ),
        "replace=True",
    ),
    "the history": (lambda work, _: work.session.execute(delete(StatusChange)), "audio_track_status_changes"),
    "the tasks": (lambda work, _: work.session.execute(update(Task).values(attempts=0)), "audio_track_tasks"),
    "the words": (lambda work, _: flush(work, SearchWord(word="x", tracks=1)), "audio_search_words"),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_past_the_verbs_is_refused(catalog: Catalog, track: Track, name: str) -> None:
    act, instead = WRITES[name]
    with pytest.raises(errors.WriteRefused, match=instead) as caught, catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Rolled back"), audio_path="b")
        act(work, track)
    assert not caught.value.retryable
    assert catalog.get(track.id) == track
    assert [one.tracks for one in catalog.count_by_status()] == [1, 0, 0, 0]
    assert catalog.history(track.id)[-1].to_status == PENDING


def test_what_was_refused_was_not_sent(catalog: Catalog, track: Track) -> None:
    with catalog.unit_of_work() as work:
        with pytest.raises(errors.WriteRefused):
            work.session.execute(delete(Track))
        work.update_status(track.id, FAILED)
    assert catalog.get(track.id).status == FAILED


def test_a_flush_that_was_refused_has_sent_nothing_and_the_unit_goes_on(catalog: Catalog, track: Track) -> None:
    with catalog.unit_of_work() as work:
        written = Track(**NEW)
        work.session.add_all([Item(id=1, track_id=track.id), written])
        with pytest.raises(errors.WriteRefused):
            work.session.flush()
        work.session.expunge(written)
        work.update_status(track.id, FAILED)
    assert catalog.get(track.id).status == FAILED
    with catalog.unit_of_work() as work:
        assert work.session.scalars(select(Item.track_id)).all() == [track.id]


def copied(work: UnitOfWork) -> None:
    """Fill the host's table from ours."""
    found = select(Track.title).where(Track.id == ITEMS.c.track_id).scalar_subquery()
    newest = select(Track.id, Track.title).where(Track.title == "Kept").cte("newest")
    work.session.execute(insert(ITEMS).from_select(["id", "track_id"], select(literal_column("7"), newest.c.id)))
    work.session.execute(update(ITEMS).where(exists().where(Track.id == ITEMS.c.track_id)).values(title=found))
    work.session.execute(update(ITEMS).where(ITEMS.c.track_id == TRACKS.c.id).values(title=TRACKS.c.title + "!"))
    assert work.session.scalars(select(Item.title)).all() == ["Kept!"]
    work.session.execute(delete(ITEMS).where(ITEMS.c.track_id == TRACKS.c.id))


def other_names(work: UnitOfWork) -> None:
    """Write a table of the host's that has a name of ours."""
    other = reflected(work, "host")
    work.session.execute(insert(other).values(id=new_id(), title="x"))
    work.session.execute(update(other).values(title="y"))
    assert work.session.scalars(select(other.c.title)).all() == ["y"]


def reading(work: UnitOfWork) -> None:
    other = aliased(Track)
    work.session.scalars(select(Track).join(other, other.id == Track.id)).all()


def the_same_value(work: UnitOfWork) -> None:
    """Set a track's title to what it is: SQLAlchemy looks at the track when it flushes, and has nothing to write."""
    (found,) = work.session.scalars(select(Track)).all()
    attributes.set_attribute(found, "title", found.title)
    assert found in work.session.dirty


def by_text(work: UnitOfWork) -> None:
    """A text is the host's own risk."""
    work.session.execute(text("UPDATE host_items SET title = 'x' FROM audio_tracks AS t WHERE t.id = track_id"))


@pytest.mark.parametrize("act", [copied, other_names, reading, the_same_value, by_text])
def test_the_hosts_own_tables_are_left_alone(catalog: Catalog, track: Track, act: Callable[[UnitOfWork], None]) -> None:
    with catalog.unit_of_work() as work:
        act(work)
    assert catalog.get(track.id) == track


# Tracks in relationships of the host's.


def ways_to_a_track(catalog: Catalog, track: Track) -> Iterator[Track]:
    """Give the same track as each of the calls that return one gives it."""
    yield track
    yield catalog.get(track.id)
    yield catalog.search("kept").hits[0].track
    yield next(catalog.iter_tracks())
    yield catalog.changes().tracks[0]
    yield catalog.get_many([track.id])[track.id]
    yield pickle.loads(pickle.dumps(track))  # noqa: S301


def test_a_track_links_by_its_id_in_a_relationship(catalog: Catalog, track: Track) -> None:
    ways = list(ways_to_a_track(catalog, track))
    with catalog.unit_of_work() as work:
        loaded = work.session.get_one(Track, track.id)
        items = [Item(id=number, track=way) for number, way in enumerate([*ways, loaded])]
        work.session.add_all(items)
    assert {item.track_id for item in items} == {track.id}
    assert [object_session(way) for way in ways] == [None] * len(ways)
    with catalog.unit_of_work() as work:
        assert work.session.scalars(select(Item.track_id)).all() == [track.id] * len(items)
        found = work.session.scalars(select(Item).limit(1)).one()
        assert found.track == track
        found.track = catalog.run(lambda other: other.save(TrackMetadata(title="Other"), audio_path="o"))
        work.session.flush()
        assert found.track_id == found.track.id != track.id
        found.track = None
    assert catalog.get(track.id) == track


def test_a_track_that_is_linked_stays_readable_whatever_becomes_of_the_session(catalog: Catalog, track: Track) -> None:
    with catalog.unit_of_work() as one, catalog.unit_of_work() as other:
        one.session.add(Item(id=1, track=track))
        other.session.add(Item(id=2, track=track))
        one.session.flush()
        one.session.rollback()
    assert track.title == "Kept"
    assert track == catalog.get(track.id)
    with catalog.unit_of_work() as work:
        assert work.session.scalars(select(Item.id)).all() == [2]


def test_a_track_of_the_same_unit_can_be_linked(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        saved = work.save(TrackMetadata(title="Both"), audio_path="a", status=PENDING)
        work.session.add(Item(id=1, track=saved))
        (claim,) = work.claim(1)
        work.session.add(Item(id=2, track=claim.track))
    assert catalog.get(saved.id).status == TrackStatus.PROCESSING


# Equal by value.


def test_tracks_are_equal_by_value_and_have_the_hash_of_their_id(catalog: Catalog, track: Track) -> None:
    for way in ways_to_a_track(catalog, track):
        assert way == track
        assert hash(way) == hash(track.id)
    with catalog.unit_of_work() as work:
        assert work.session.get_one(Track, track.id) == track
    assert len({*ways_to_a_track(catalog, track)}) == 1


def test_other_states_ids_and_classes_are_unequal(catalog: Catalog, track: Track) -> None:
    record = TrackRecord(TrackMetadata(title="Kept"), "a", status=PENDING)
    twin = catalog.run(lambda work: work.save_record(record))
    catalog.update_status(track.id, FAILED)
    moved = catalog.get(track.id)
    assert track != twin
    assert track != moved
    assert hash(track) == hash(moved)
    assert track != track.id
    assert track != object()


def test_changes_and_claims_are_equal_by_value(catalog: Catalog, track: Track) -> None:
    (claim,) = catalog.claim(1)
    assert claim == pickle.loads(pickle.dumps(claim))  # noqa: S301
    change = catalog.complete(claim)
    assert change == catalog.complete(claim) == catalog.history(track.id)[-1]
    assert hash(change) == hash(catalog.history(track.id)[-1])
    assert change != catalog.history(track.id)[0]


def test_the_search_vector_is_unread_on_every_track(catalog: Catalog, track: Track) -> None:
    with catalog.unit_of_work() as work:
        ways = [*ways_to_a_track(catalog, track), work.session.get_one(Track, track.id), Track(id=track.id)]
        for way in ways:
            with pytest.raises(sqlalchemy.exc.InvalidRequestError, match="raiseload"):
                _ = way.search_vector
        asked = select(Track.search_vector).where(Track.id == track.id)
        assert work.session.scalars(asked).one().startswith("'")


def test_a_session_that_is_kept_can_do_nothing_after_its_unit(catalog: Catalog) -> None:
    """Otherwise the session would begin a transaction on a connection that is never returned."""
    with catalog.unit_of_work() as work:
        session = work.session
    with pytest.raises(sqlalchemy.exc.InvalidRequestError, match="closed"):
        session.execute(text("SELECT 1"))
    assert catalog.pool_stats().in_use == 0
