"""
The state of revision 0001 that made a database: until the first release, that revision is edited in place.

A database that was made before such an edit has the same revision number and another schema. So an upgrade leaves a
checksum of the revision and its SQL files with the version table, and a connection compares it with this package's.
With the first release, revision 0001 no longer changes, and this module goes.
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
    """Return the statement by which revision 0001, in its own transaction, says which text of it was run."""
    return f"COMMENT ON TABLE {VERSION_TABLE} IS '{_mark()}'"


def check_first_revision(connection: psycopg.Connection[Any]) -> None:
    """
    Refuse a database that another text of revision 0001 has made.

    Raises:
        SchemaMismatch: the mark differs or is missing. The message says what to do.
    """
    expected = _mark()
    row = connection.execute(_READ_MARK, [VERSION_TABLE]).fetchone()
    if row is not None and expected is not None and row[0] != expected:
        raise SchemaMismatch(
            f"another state of revision {FIRST_REVISION} made this database than the one of this code: until the first "
            "release, that revision is edited in place. Make the database anew: export it with the code that made it, "
            "by `audiocatalog export --all`, drop it, run `audiocatalog upgrade`, and import again. From the first "
            "release on, upgrades keep the data"
        )


@functools.cache
def _mark() -> str | None:
    """
    Return a checksum of revision 0001 and the SQL files it names, the same in a wheel and a checkout.

    It is None where the files cannot be read: in a package that was frozen into one file, nothing can be compared.
    """
    folder = config_path().parent / "alembic"
    try:
        (revision,) = (folder / "versions").glob(f"{FIRST_REVISION}_*.py")
        # Line ends are read alike everywhere.
        source = revision.read_text(encoding="utf-8")
        files = sorted(set(_FILE_OF_FUNCTIONS.findall(source)))
        texts = [source, *((folder / "functions" / name).read_text(encoding="utf-8") for name in files)]
        texts += CHARACTERS.values()  # They are a part of the functions.
    except (OSError, ValueError):
        return None
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return f"revision {FIRST_REVISION}, sha256 {digest[:32]}"
