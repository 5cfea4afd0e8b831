"""Reprs without values, because logs must contain no data; ``AUDIOCATALOG_DEBUG`` makes reprs show the values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

_LAST_DIGITS: Final = 8
#: Whether reprs show values, and causes of errors show the server's text. The variable is read once, at the import.
DEBUGGING: Final = os.environ.get("AUDIOCATALOG_DEBUG", "").lower() in {"1", "true", "yes", "on"}

Repr = Callable[[Any], str]


def discreetly(show: Repr) -> Repr:
    """Return *show*, a class's ``__repr__``; with ``AUDIOCATALOG_DEBUG``, return a function that shows the values."""
    return _shown if DEBUGGING else show


def _shown(self: Any) -> str:  # noqa: ANN401  # Dataclasses, named tuples and mapped classes use it.
    """Return the fields of *self* that are set, with their values."""
    values = ((name, getattr(self, name)) for name in _names_of(self))
    return f"<{type(self).__name__} {', '.join(f'{name}={value!r}' for name, value in values if _is_set(value))}>"


@discreetly
def discreet(self: Any) -> str:  # noqa: ANN401  # The same classes use it.
    """Return the names of the fields of *self* that are set, without their values."""
    return f"<{type(self).__name__}: {', '.join(name for name in _names_of(self) if _is_set(getattr(self, name)))}>"


def _names_of(one: Any) -> list[str]:  # noqa: ANN401  # The objects have the same classes.
    if dataclasses.is_dataclass(one):
        return [field.name for field in dataclasses.fields(one)]
    return [*(getattr(one, "_fields", None) or (name for name in vars(one) if not name.startswith("_")))]


def _is_set(value: object) -> bool:
    return value not in (None, (), {})


def short(identifier: UUID | None) -> str:
    """Return the last digits of *identifier*: enough to distinguish tracks in a log, too few to find one."""
    return "no id" if identifier is None else f"…{identifier.hex[-_LAST_DIGITS:]}"
