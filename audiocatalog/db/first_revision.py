"""
The checksum of the text of revision 0001 that created a database.

Until the first release, revision 0001 is edited in place, so two databases at revision 0001 may have different schemas.
An upgrade stores a checksum of the revision and its SQL files as the comment of the version table. Each new pool
compares the comment with the checksum of this package. This module is removed with the first release.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any, Final

import psycopg

from audiocatalog.db.schema_check import config_path
from audiocatalog.errors import SchemaMismatch
from audiocatalog.models.characters import CHARACTERS
from audiocatalog.models.sql_names import VERSION_TABLE

#: The revision that is edited in place.
FIRST_REVISION: Final = "0001"
_READ_MARK: Final = "SELECT obj_description(oid, 'pg_class') FROM to_regclass(%s) AS oid WHERE oid IS NOT NULL"
_FILE_OF_FUNCTIONS: Final = re.compile(r'"(\w+\.sql)"')


def mark_database() -> str:
    """Return the statement that stores the checksum; revision 0001 executes this statement in its transaction."""
    return f"COMMENT ON TABLE {VERSION_TABLE} IS '{_mark()}'"


def check_first_revision(connection: psycopg.Connection[Any]) -> None:
    """
    Check that this package's text of revision 0001 created the database.

    Raises:
        SchemaMismatch: the checksum differs or is missing. The message says what to do.
    """
    expected = _mark()
    row = connection.execute(_READ_MARK, [VERSION_TABLE]).fetchone()
    if row is not None and expected is not None and row[0] != expected:
        raise SchemaMismatch(
            f"this database was created by an earlier text of revision {FIRST_REVISION}, which is edited in place "
            "until the first release. Export the tracks with the code that created the database (`audiocatalog export "
            "--all`), drop the database, run `audiocatalog upgrade`, and import the tracks. From the first release on, "
            "upgrades keep the data"
        )


@functools.cache
def _mark() -> str | None:
    """
    Return the checksum of revision 0001 and its SQL files, which is the same in a wheel and in a checkout.

    Return None if the files cannot be read, for example in a package that is frozen into one file.
    """
    folder = config_path().parent / "alembic"
    try:
        (revision,) = (folder / "versions").glob(f"{FIRST_REVISION}_*.py")
        source = revision.read_text(encoding="utf-8")
        files = sorted(set(_FILE_OF_FUNCTIONS.findall(source)))
        texts = [source, *((folder / "functions" / name).read_text(encoding="utf-8") for name in files)]
        texts += CHARACTERS.values()  # The functions contain these characters.
    except (OSError, ValueError):
        return None
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return f"revision {FIRST_REVISION}, sha256 {digest[:32]}"
