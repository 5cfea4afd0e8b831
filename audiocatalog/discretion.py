"""How objects show themselves: a log line must not spill what the catalogue holds."""

from __future__ import annotations

import dataclasses
from typing import Any, Final
from uuid import UUID

_LAST_DIGITS: Final = 8


def discreet(self: Any) -> str:  # noqa: ANN401  # The __repr__ of dataclasses and named tuples.
    """Return which fields of *self* hold something, and none of what they hold."""
    names = getattr(self, "_fields", None) or [field.name for field in dataclasses.fields(self)]
    return f"<{type(self).__name__}: {', '.join(name for name in names if getattr(self, name) not in (None, (), {}))}>"


def short(identifier: UUID | None) -> str:
    """Return the last digits of *identifier*: enough to tell two tracks in a log apart, too little to find one."""
    return "no id" if identifier is None else f"…{identifier.hex[-_LAST_DIGITS:]}"
