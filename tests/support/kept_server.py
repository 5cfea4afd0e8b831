"""A local server whose data are kept, for trying things by hand: ``make db``."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

from audiocatalog import migrations
from audiocatalog.embedded import EmbeddedPostgres

FOLDER = Path(".postgres")


def main() -> None:
    with EmbeddedPostgres(FOLDER) as server:
        url = server.url("postgres")
        migrations.upgrade(url)
        print(f"export AUDIOCATALOG_DATABASE_URL='{url}'")
        print("The server stops at Ctrl-C, and keeps its data in .postgres.", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
