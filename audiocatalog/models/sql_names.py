"""Names in the schema: its revision, its version table, its functions."""

from __future__ import annotations

from typing import Final

#: The newest revision in alembic/versions; a catalogue refuses a database with an older revision.
SCHEMA_REVISION: Final = "0001"
#: The name of Alembic's table. The name is not Alembic's default, because a host may run Alembic in the same database.
VERSION_TABLE: Final = "audiocatalog_version"
#: The SQL functions of alembic/functions/search_v1.sql, which fold the text of tracks and of queries.
SEARCH_VECTOR_FUNCTION: Final = "audiocatalog_search_vector_v1"
#: The function of the vector column that is not in use.
NO_VECTOR_FUNCTION: Final = "audiocatalog_no_vector"
FOLD_FUNCTION: Final = "audiocatalog_fold_v1"
WORDS_FUNCTION: Final = "audiocatalog_words_v1"
NAME_FUNCTION: Final = "audiocatalog_name_v1"
SPELL_FUNCTION: Final = "audiocatalog_spell_v1"
SLIPS_FUNCTION: Final = "audiocatalog_slips_v1"
#: Sampling factors: partial indexes cover 1 in 4096, 512, 64 and 8 tracks, chosen by a hash of the id.
SAMPLES: Final = (4096, 512, 64, 8)
#: The SQL function of alembic/functions/visible_v1.sql, made from ``characters.INVISIBLE``.
VISIBLE_FUNCTION: Final = "audiocatalog_visible_v1"
#: The SQL function of alembic/functions/legal_move_v1.sql, which allows the moves of ``status.TRANSITIONS``.
LEGAL_MOVE_FUNCTION: Final = "audiocatalog_legal_move_v1"
#: The SQL function of alembic/functions/legal_task_v1.sql, which checks the columns of a task against its status.
LEGAL_TASK_FUNCTION: Final = "audiocatalog_legal_task_v1"
