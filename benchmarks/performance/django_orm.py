"""Django's ORM, on models of the same two tables, with the settings that it comes with."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy import make_url

from benchmarks.performance.contestant import Contestant
from benchmarks.performance.rows import ACTOR, COLUMNS, Values, batches

GET: Final = "Django ORM: objects.get"
GET_MANY: Final = "Django ORM: objects.in_bulk"
SAVE: Final = "Django ORM: create twice, atomic"
LOAD: Final = "Django ORM: bulk_create, 1,000 a transaction"
NEEDS: Final = "django"
_BATCH: Final = 1000


class _Django(NamedTuple):
    track: Any
    change: Any
    transaction: Any
    connection: Any


@contextmanager
def opened(url: str) -> Iterator[Contestant]:
    """Open Django's connection, which is kept."""
    with _connected(url) as django:
        tracks = django.track.objects

        def save(values: Values) -> None:
            with django.transaction.atomic():
                tracks.create(**dict(zip(COLUMNS, values, strict=True)))
                django.change.objects.create(**_change(values))

        yield Contestant(
            get={GET: lambda id_: tracks.get(pk=id_)}, get_many={GET_MANY: tracks.in_bulk}, save={SAVE: save}
        )


def load(url: str, rows: Iterator[Values]) -> None:
    """Create a thousand tracks and their history in a transaction, and so on."""
    with _connected(url) as django:
        for batch in batches(rows, _BATCH):
            with django.transaction.atomic():
                django.track.objects.bulk_create(
                    [django.track(**dict(zip(COLUMNS, values, strict=True))) for values in batch]
                )
                django.change.objects.bulk_create([django.change(**_change(values)) for values in batch])


def _change(values: Values) -> dict[str, Any]:
    return {"track_id": values[0], "version": 1, "to_status": values[-1], "actor": ACTOR}


@contextmanager
def _connected(url: str) -> Iterator[_Django]:
    django = _set_up()
    target = make_url(url)
    django.connection.settings_dict.update(
        NAME=target.database,
        USER=target.username or "",
        PASSWORD=target.password or "",
        HOST=target.host or target.query.get("host", ""),
        PORT=str(target.port or target.query.get("port", "")),
    )
    try:
        yield django
    finally:
        django.connection.close()


@functools.cache
def _set_up() -> _Django:
    """Configure Django, which can be done once in a process, and declare the models."""
    conf: Any = importlib.import_module("django.conf")
    conf.settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": ""}}, USE_TZ=True, INSTALLED_APPS=[]
    )
    importlib.import_module("django").setup()
    database: Any = importlib.import_module("django.db")
    models: Any = importlib.import_module("django.db.models")
    now: Any = importlib.import_module("django.db.models.functions").Now

    class Meta:
        app_label = "performance"
        managed = False
        db_table = "audio_tracks"

    text, number = (functools.partial(kind, null=True) for kind in (models.TextField, models.IntegerField))
    columns = {
        "id": models.UUIDField(primary_key=True),
        "status": models.TextField(),
        "artist": text(),
        "title": models.TextField(),
        "album": text(),
        "genre": text(),
        "year": number(),
        "duration": models.FloatField(null=True),
        "channels": number(),
        "sample_rate": number(),
        "bitrate": number(),
        "format": text(),
        "audio_path": models.TextField(),
        "thumbnail_path": text(),
        "created_at": models.DateTimeField(db_default=now()),
        "updated_at": models.DateTimeField(db_default=now()),
        "version": models.IntegerField(db_default=1),
    }
    track: Any = type("Track", (models.Model,), {"__module__": __name__, "Meta": Meta, **columns})

    class ChangeMeta(Meta):
        db_table = "audio_track_status_changes"

    change_columns = {
        "track_id": models.UUIDField(),
        "version": models.IntegerField(),
        "pk": models.CompositePrimaryKey("track_id", "version"),
        "to_status": models.TextField(),
        "actor": models.TextField(),
        "at": models.DateTimeField(db_default=now()),
    }
    change: Any = type("Change", (models.Model,), {"__module__": __name__, "Meta": ChangeMeta, **change_columns})
    return _Django(track, change, database.transaction, database.connection)
