"""The entry point of the command line, for `audiocatalog` and `python -m audiocatalog`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or name the extra that installs its libraries."""
    try:
        from audiocatalog.cli import main as command  # noqa: PLC0415  # The command needs the extra's libraries.
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.exit("the libraries of the command are missing: run pip install 'audiocatalog[cli]'")
    except KeyboardInterrupt:  # The import takes most of a second.
        print("error: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    command(prog_name="audiocatalog")


if __name__ == "__main__":
    main()
