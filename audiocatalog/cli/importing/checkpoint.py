"""The state of an import, kept in a file so that the same command can continue the import."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audiocatalog.cli.importing.lines import UnusableFile
from audiocatalog.cli.importing.saving import Tally
from audiocatalog.cli.writing import json_line, replaced
from audiocatalog.errors.printing import json_text

_VERSION: Final = 1
_LONGEST: Final = 2**20


@dataclass(slots=True, kw_only=True)
class Done(Tally):
    """
    The numbers of committed and refused rows at the beginning of a file.

    *last_id* is the id of the last saved row. *refused_bytes* is the length of the file of refused rows.
    """

    last_id: str | None = None
    refused_bytes: int | None = None


class Checkpoint:
    """
    A file at *path* with the progress of an import, as ``Done``. *identity*: the facts that identify the import.

    Raises:
        UnusableFile: the file belongs to another import, or is not a checkpoint.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        # JSON changes some values, so the identity is stored as JSON returns it.
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        #: What an interrupted import has done, or None if this import begins at the first row.
        self.done = self._read()

    def write(self, done: Done) -> None:
        """Store *done* in one step. If the process is interrupted, the file keeps the earlier state."""
        state = {"version": _VERSION, "import": self._identity, "done": dataclasses.asdict(done)}
        with replaced(self.path) as file:
            file.write(json_line(state).encode())

    def remove(self) -> None:
        """Remove the file, because the import is complete."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> Done | None:
        try:
            with self.path.open("rb") as file:
                text = file.read(_LONGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnusableFile(f"{self.path}: {error.strerror}") from None
        try:
            state = json.loads(text)
            version, identity, done = state["version"], dict(state["import"]), Done(**state["done"])
            is_sound = isinstance(done.rows, int)
        except (ValueError, LookupError, TypeError, RecursionError):
            is_sound = False
        if not is_sound:
            raise UnusableFile(f"{self.path} is not a file that --resume wrote: name another file") from None
        if version != _VERSION:
            raise UnusableFile(f"another version of audiocatalog wrote {self.path}. {self.how_to_go_on}")
        self._compare(identity)
        return done

    def _compare(self, identity: Mapping[str, Any]) -> None:
        different = [
            f"{name} was {_shown(identity.get(name))} and is {_shown(self._identity.get(name))}"
            for name in {**identity, **self._identity}
            if identity.get(name) != self._identity.get(name)
        ]
        if different:
            raise UnusableFile(f"{self.path} belongs to another import: {'; '.join(different)}. {self.how_to_go_on}")

    @property
    def how_to_go_on(self) -> str:
        """What the user can do if the file belongs to another import."""
        return (
            f"Repeat the command of that import to continue it, or remove {self.path} to begin this import at row 1. "
            "Saved rows stay as they are"
        )


def _shown(value: object) -> str:
    return "not given" if value in (None, []) else json_text(value)
