"""The ids of tracks: UUIDs made by the application, in the order of time."""

from __future__ import annotations

import os
import time
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem


def new_id() -> UUID:
    """
    Return a new UUID of version 7 (RFC 9562, 5.7): 48 bits of Unix time in milliseconds, then randomness.

    Ids made later sort later, so that the primary key's index grows at its end.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = (value & ~(0xF << 76)) | (0x7 << 76)  # the version
    value = (value & ~(0x3 << 62)) | (0x2 << 62)  # the variant
    return UUID(int=value)


def parse_id(value: object, field: str = "id") -> UUID:
    """
    Return *value*, a UUID or the text of one, as a UUID.

    Raises:
        InvalidInput: *value* is neither; the error names *field*.
    """
    if isinstance(value, UUID):
        return value
    # The longest spelling that the standard library takes, urn:uuid:{...}, has 47 characters.
    if isinstance(value, str) and len(value) <= 47:  # noqa: PLR2004
        try:
            return UUID(value)
        except ValueError:
            pass
    raise InvalidInput(Problem(field, f"a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057, not {_kind(value)}"))


def _kind(value: object) -> str:
    return "this text" if isinstance(value, str) else type(value).__name__
