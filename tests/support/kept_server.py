"""A local server whose data are kept, for trying things by hand: ``make db``."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path

from audiocatalog import migrations
from audiocatalog.embedded import EmbeddedPostgres

FOLDER = Path(".postgres")


def main() -> None:
    with EmbeddedPostgres(FOLDER) as server:
        url = server.url("postgres")
        migrations.upgrade(url)
        sys.stdout.write(
            f"export AUDIOCATALOG_DATABASE_URL='{url}'\n"
            f"The server runs until you press Ctrl-C. {FOLDER} keeps its data.\n"
        )
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
