"""The way into the command line, for `audiocatalog` and `python -m audiocatalog`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or say what it takes to have one."""
    try:
        from audiocatalog.cli import main as command  # noqa: PLC0415  # It needs what only the extra installs.
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.exit("the command needs the extra: pip install 'audiocatalog[cli]'")
    except KeyboardInterrupt:  # The libraries take most of a second to import.
        print("error: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    command(prog_name="audiocatalog")


if __name__ == "__main__":
    main()
