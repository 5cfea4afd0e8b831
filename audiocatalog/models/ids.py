"""The ids of tracks: UUIDs that the application creates, in the order of time."""

from __future__ import annotations

import os
import re
import time
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem, kind_of

# The standard library accepts more texts than these, because it passes the digits to int().
_UUID_TEXT = re.compile(
    r"(?:urn:uuid:)?\{?(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.IGNORECASE | re.ASCII
)


def new_id() -> UUID:
    """
    Return a new UUID of version 7: 60 bits of Unix time, in 4,096ths of a millisecond, then random bits.

    An id that is created later sorts later, also within a millisecond. So the primary key's index grows at its end, and
    ids sort in the order of one program's saves. The layout follows RFC 9562, section 5.7, with the finer time of
    section 6.2, method 3.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    time_high = milliseconds << 16 | 0x7 << 12 | (rest << 12) // 1_000_000
    return UUID(int=time_high << 64 | 0b10 << 62 | int.from_bytes(os.urandom(8)) >> 2)


def is_id(text: str) -> bool:
    """Return whether *text* is a UUID."""
    return _UUID_TEXT.fullmatch(text) is not None


def parse_id(value: object, field: str = "id") -> UUID:
    """Return *value*, a UUID or the text of one, as a UUID, or raise InvalidInput."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and is_id(value):
        return UUID(value)
    kind = "this text" if isinstance(value, str) else kind_of(value)
    raise InvalidInput(Problem(field, f"a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057, not {kind}"))
