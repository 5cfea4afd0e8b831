"""Where tests keep the files of servers: in memory if there is room, for a copy of a database is 300 files, which cost
some disks twenty times the processor time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - every name in it is made by mkdtemp.
_ENOUGH_BYTES: Final = 4 * 2**30


def _has_room(folder: Path) -> bool:
    """Tell whether servers find room in *folder*, and their programs can be copied to it."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >= _ENOUGH_BYTES and not found.f_flag & getattr(os, "ST_NOEXEC", 0)


def _chosen() -> str:
    # Who has named a folder wants that one, and a worker has the choice of the run it belongs to.
    if folder := os.environ.get("TMPDIR"):
        return str(_MEMORY) if Path(folder) == _MEMORY else "/tmp"  # noqa: S108
    return str(_MEMORY) if _has_room(_MEMORY) else "/tmp"  # noqa: S108


#: An open folder with a short path, in which tests make theirs where a socket or a server of another user needs that.
TEMPORARY: Final = _chosen()


def use() -> None:
    """Have this process and those it starts keep their temporary files there, unless the environment names a folder."""
    os.environ.setdefault("TMPDIR", TEMPORARY)
