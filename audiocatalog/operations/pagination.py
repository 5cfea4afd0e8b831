"""Cursors: positions in a list, as texts that callers keep and pass back."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

_MOST_DIGITS: Final = 20


def write_cursor(parts: Sequence[Any]) -> str:
    """Return the text of a cursor with *parts*, which must be JSON values."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(value: object) -> Any:  # noqa: ANN401  # A caller may pass any text.
    """Return the content of a cursor, which is any JSON value, or raise ValueError if *value* is not a cursor."""
    try:
        text = str.encode(value + "=" * (-len(value) % 4))  # type: ignore[arg-type]
        return json.loads(base64.b64decode(text, altchars=b"-_", validate=True), parse_int=_whole_number)
    except (TypeError, AttributeError, RecursionError):
        raise ValueError from None


def _whole_number(digits: str) -> int:
    """Return the number in *digits*, or raise ValueError for a long number, which Python parses in quadratic time."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError
    return int(digits)
