"""The summary of an import: the numbers of rows by outcome and of converted values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from audiocatalog.cli.importing.columns import FIELDS
from audiocatalog.cli.importing.saving import Tally
from audiocatalog.cli.importing.values import How
from audiocatalog.cli.text import counted
from audiocatalog.cli.vocabulary_command import Count

_WAYS: Final[Mapping[How, str]] = {
    How.DATE: "from full dates",
    How.CLOCK: "from times such as 3:45",
    How.OWN_UNIT: "with a unit beside them",
    How.UNIT: "from another unit",
    How.WHOLE: "from numbers such as 1999.0",
    How.WORD: "from words such as stereo",
    How.MISSING: "missing, by a word such as NULL or by 0",
    How.WAITING: "PENDING instead of PROCESSING",
}


@dataclass(slots=True)
class Summary:
    """
    The outcome of an import.

    - *seconds*: the time that this run took
    - *converted*: the number of values stored in another form, by field and way of conversion
    - *rows_before*: the number of rows that earlier runs committed or refused
    - *is_dry*: whether the import only checked the rows
    - *words*: the count of words, if there was one
    """

    tally: Tally
    seconds: float
    converted: Mapping[tuple[str, How], int] = field(default_factory=dict)
    rows_before: int = 0
    is_dry: bool = False
    words: Count | None = None

    @property
    def rate(self) -> float:
        """The number of rows per second."""
        return (self.tally.rows - self.rows_before) / max(self.seconds, 0.001)

    def __str__(self) -> str:
        rows = counted(self.tally.rows, "row")
        if self.rows_before:
            rows += f", {self.rows_before:,} of them in earlier runs,"
        time = f"in {self.seconds:.1f} s ({self.rate:,.0f} rows/s)"
        if self.is_dry:
            done = f"{rows} checked {time}: {self.tally.inserted:,} could be saved, {self.tally.refused:,} refused"
        else:
            done = f"{rows} {time}: {', '.join(f'{count:,} {name}' for name, count in self._counts().items())}"
        ways = [f"{name}: {count:,} {_WAYS[how]}" for (name, how), count in self._ways()]
        return "\n".join([done, *ways])

    def json(self) -> dict[str, Any]:
        """Return the summary, ready for JSON."""
        counts = {"valid": self.tally.inserted, "refused": self.tally.refused} if self.is_dry else self._counts()
        return {
            "rows": self.tally.rows,
            **counts,
            "converted": self._converted(),
            "dry_run": self.is_dry,
            "resumed_after": self.rows_before or None,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rate, 1),
            "vocabulary": self.words and self.words.json(),
        }

    def _counts(self) -> dict[str, int]:
        return dataclasses.asdict(self.tally)

    def _ways(self) -> list[tuple[tuple[str, How], int]]:
        return sorted(self.converted.items(), key=lambda item: (FIELDS.index(item[0][0]), item[0][1]))

    def _converted(self) -> dict[str, dict[str, int]]:
        """Return the number of conversions, by field and way."""
        found: dict[str, dict[str, int]] = {}
        for (name, how), count in self._ways():
            found.setdefault(name, {})[how] = count
        return found
