"""Draw the state diagram of the tracks anew, from the table in audiocatalog/status.py, into the documents that show it.

make diagram
"""

from __future__ import annotations

import re
from pathlib import Path

from audiocatalog.status import diagram

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Replace the diagram in each document."""
    for name in ("README.md", "docs/lifecycle.md"):
        document = ROOT / name
        text = document.read_text(encoding="utf-8")
        drawn = re.sub(
            r"^```mermaid\n.*?\n```$", lambda _: f"```mermaid\n{diagram()}\n```", text, flags=re.MULTILINE | re.DOTALL
        )
        document.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
