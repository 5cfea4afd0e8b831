"""What a contestant can do; each module of one opens it on a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from benchmarks.performance.rows import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """
    Hold the ways in which one system reads and saves a track, each by the name that it has in the tables.

    *get* and *get_many* return whole tracks, as objects where the system makes objects. *save* stores a new track and
    the first row of its history, committed.
    """

    get: Mapping[str, Callable[[UUID], object]] = field(default_factory=dict)
    get_many: Mapping[str, Callable[[Sequence[UUID]], object]] = field(default_factory=dict)
    save: Mapping[str, Callable[[Values], object]] = field(default_factory=dict)


#: Open a system on the database of a URL.
Opener = Callable[[str], AbstractContextManager[Contestant]]
#: Connect to the database of a URL, store tracks that are all new, with their history, and commit.
Loader = Callable[[str, Iterator[Values]], Any]
