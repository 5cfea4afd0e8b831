"""The ids of tracks: UUIDs made by the application, in the order of time."""

from __future__ import annotations

import os
import re
import time
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem, kind_of

# The standard library reads more than this, for it hands what is left of the text to int().
_UUID_TEXT = re.compile(
    r"(?:urn:uuid:)?\{?(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.IGNORECASE | re.ASCII
)


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
    if isinstance(value, str) and _UUID_TEXT.fullmatch(value):
        return UUID(value)
    kind = "this text" if isinstance(value, str) else kind_of(value)
    raise InvalidInput(Problem(field, f"a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057, not {kind}"))
