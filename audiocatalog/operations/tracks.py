"""Reads of tracks by id, and saves.

The function that inserts a track also writes the first row of its history: alembic/functions/content_v1.sql.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem, SaveConflict, TrackNotFound, kind_of
from audiocatalog.models.arguments import is_between
from audiocatalog.models.ids import parse_id
from audiocatalog.models.limits import clean_reason
from audiocatalog.models.metadata import CONTENT_COLUMNS, CONTENT_VERSION, TrackRecord
from audiocatalog.models.rows import TRACK_COLUMNS, new_track, track_of
from audiocatalog.models.tables import SaveOutcome, Track
from audiocatalog.operations.operation import TRANSACTION_MARK, Operation, Statement, placeholders

#: One call takes at most this many ids, and one statement reads at most this many tracks.
MAX_TRACKS: Final = 10_000
# The maximum number of tries of a save with *replace* while other callers write the same track.
_REPLACE_TRIES: Final = 5

_COLUMNS: Final = ", ".join(TRACK_COLUMNS)
FIND: Final = Statement(f"SELECT {_COLUMNS} FROM audio_tracks WHERE id = $1")
FIND_MANY: Final = Statement(f"SELECT {_COLUMNS} FROM audio_tracks WHERE id = ANY ($1)")
_INSERT_ARGUMENTS: Final = ("id", "status", *CONTENT_COLUMNS, "actor", "reason", "notify")
#: Insert a new track and the first row of its history. The statement returns the time of creation, or null if the id
#: exists.
INSERT: Final = Statement(
    f"SELECT audiocatalog_save_v{CONTENT_VERSION}({placeholders(_INSERT_ARGUMENTS)}), {TRANSACTION_MARK}", writes=True
)
_REPLACE_ARGUMENTS: Final = ("id", "expected_version", *CONTENT_COLUMNS, "actor", "reason")
#: Replace other content; if the expected version is not null, replace only that version. No row is returned if nothing
#: was changed.
REPLACE: Final = Statement(
    f"SELECT {_COLUMNS}, {TRANSACTION_MARK} "
    f"FROM audiocatalog_replace_v{CONTENT_VERSION}({placeholders(_REPLACE_ARGUMENTS)})",
    writes=True,
)


def get(id: UUID | str) -> Operation[Track]:  # noqa: A002  # The public methods use this name, also below.
    """Return the track with *id*, or raise TrackNotFound, or InvalidInput if *id* is not a UUID."""
    track_id = parse_id(id)
    rows = yield FIND, (track_id,)
    if not rows:
        raise TrackNotFound(track_id, operation="get")
    return track_of(rows[0])


def find(id: UUID | str) -> Operation[Track | None]:  # noqa: A002
    """Return the track with *id*, None if no track has this id, or raise InvalidInput if *id* is not a UUID."""
    return (yield from _find(parse_id(id)))


def get_many(ids: Iterable[UUID | str]) -> Operation[dict[UUID, Track]]:
    """Return the tracks with *ids* in the order of the ids, each once, or raise InvalidInput; omit missing tracks."""
    track_ids = parse_ids(ids, "get_many")
    rows = (yield FIND_MANY, (track_ids,)) if track_ids else ()
    found = {row[0]: track_of(row) for row in rows}
    return {track_id: track for track_id in track_ids if (track := found.get(track_id)) is not None}


def save(
    record: TrackRecord,
    *,
    replace: bool,
    expected_version: int | None,
    actor: str,
    reason: str | None,
    notify: bool,
) -> Operation[Track]:
    """Store *record* and return its track, or raise SaveConflict, TrackNotFound or InvalidInput."""
    if not isinstance(record, TrackRecord):
        raise InvalidInput(Problem("record", f"a TrackRecord, not {kind_of(record)}"), operation="save")
    _check_expected_version(expected_version, replace=replace)
    why = clean_reason(reason)
    if expected_version is None:
        ((created_at,),) = yield (
            INSERT,
            (record.id, str(record.status), *record.content().values(), actor, why, notify),
        )
        if created_at is not None:
            return new_track(record, created_at)
    for _ in range(_REPLACE_TRIES):
        if replace:
            rows = yield REPLACE, (record.id, expected_version, *record.content().values(), actor, why)
            if rows:
                return track_of(rows[0], SaveOutcome.UPDATED)
        existing = yield from _find(record.id)
        # Between the two statements, another writer may have replaced content that was the same a moment ago.
        if not replace or expected_version is not None or existing is None or record.is_content_of(existing):
            break
    return _unchanged_or_conflict(existing, record, expected_version=expected_version)


def parse_ids(values: Iterable[UUID | str], operation: str) -> list[UUID]:
    """Return *values*, a collection of at most 10,000 ids, as UUIDs, each once, or raise InvalidInput."""
    # A text is also iterable, but a caller that passes a text forgot the brackets.
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInput(Problem("ids", f"a collection of ids, not {kind_of(values)}"), operation=operation)
    identifiers: dict[UUID, None] = {}
    for place, value in enumerate(values):
        try:
            identifiers[parse_id(value)] = None
        except InvalidInput as error:
            ((field, rule, _),) = error.problems
            raise InvalidInput(Problem(field, f"{rule}, at position {place}"), operation=operation) from None
        if len(identifiers) > MAX_TRACKS:
            raise InvalidInput(Problem("ids", f"at most {MAX_TRACKS:,} ids", MAX_TRACKS), operation=operation)
    return list(identifiers)


def _find(track_id: UUID) -> Operation[Track | None]:
    rows = yield FIND, (track_id,)
    return track_of(rows[0]) if rows else None


def _check_expected_version(expected_version: object, *, replace: bool) -> None:
    """Raise InvalidInput if *replace* or *expected_version*, which requires *replace*, breaks its rule."""
    if not isinstance(replace, bool):
        raise InvalidInput(Problem("replace", "True or False"), operation="save")
    if expected_version is None:
        return
    if not is_between(expected_version, 1, 2**31 - 1, whole=True):
        raise InvalidInput(Problem("expected_version", "a whole number from 1", 1), operation="save")
    if not replace:
        raise InvalidInput(Problem("expected_version", "only together with replace=True"), operation="save")


def _unchanged_or_conflict(existing: Track | None, record: TrackRecord, *, expected_version: int | None) -> Track:
    """Return *existing* if it has the content of *record*, or raise SaveConflict, or TrackNotFound for None."""
    if existing is None:
        raise TrackNotFound(record.id, operation="save")
    if not record.is_content_of(existing):
        raise SaveConflict(record.id, actual=existing.version, expected=expected_version)
    existing.__dict__["_outcome"] = SaveOutcome.UNCHANGED
    return existing
