"""Create the tables of tracks and their history.

Revision ID: 0001
Revises:
Create Date: 2026-11-22
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: The transaction that writes a row. The system column xmin may be a savepoint's id, which no snapshot contains.
XACT_ID = "pg_current_xact_id()::text::bigint"
FUNCTIONS = Path(__file__).parents[1] / "functions"
#: The rule of a text: it has a visible character.
VISIBLE = "audiocatalog_visible_v1(VALUE)"
#: The metadata of a track: name, type and rule of each column. The type limits the length of a text, because types are
#: checked before the search vector is computed. NaN sorts above infinity, so an upper bound refuses both.
METADATA = (
    ("title", "varchar(1000)", VISIBLE),
    ("artist", "varchar(1000)", VISIBLE),
    ("album", "varchar(1000)", VISIBLE),
    ("genre", "varchar(200)", VISIBLE),
    ("year", "integer", "VALUE BETWEEN 1000 AND 9999"),
    ("duration", "double precision", "VALUE BETWEEN 0 AND 31536000"),
    ("channels", "integer", "VALUE BETWEEN 1 AND 256"),
    ("sample_rate", "integer", "VALUE BETWEEN 1 AND 100000000"),
    ("bitrate", "integer", "VALUE BETWEEN 1 AND 2000000000"),
    ("format", "varchar(50)", VISIBLE),
)
PATHS = (("audio_path", "varchar(4096)", VISIBLE), ("thumbnail_path", "varchar(4096)", VISIBLE))
#: The types of the same columns in the functions, which leave lengths to the domains.
TYPES = {name: "text" if kind.startswith("varchar") else kind for name, kind, _ in METADATA}
COLUMNS = {"metadata": TYPES, "content": TYPES | {name: "text" for name, *_ in PATHS}}
#: The domains of columns: name, type, and name and expression of the CHECK. PostgreSQL would parse constraints of the
#: tables for every statement that writes a row, and caches those of domains.
DOMAINS = (
    ("status", "text", "ck_audio_tracks_status_known", "VALUE IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED')"),
    *(
        (name, kind, f"ck_audio_tracks_{name}_{'range' if 'BETWEEN' in rule else 'visible'}", rule)
        for name, kind, rule in (*METADATA, *PATHS)
    ),
    ("actor", "varchar(200)", "ck_audio_track_status_changes_actor_visible", "audiocatalog_visible_v1(VALUE)"),
    ("reason", "varchar(1000)", "ck_audio_track_status_changes_reason_visible", "audiocatalog_visible_v1(VALUE)"),
    ("count", "integer", "ck_audiocatalog_count_range", "VALUE >= 1"),
    ("time", "timestamp with time zone", "ck_audiocatalog_time_finite", "isfinite(VALUE)"),
)


class Domain(sa.types.UserDefinedType[object]):
    """A column type that names a domain."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        """Return the type as SQL."""
        return f"audiocatalog_{self.name}"


def upgrade() -> None:
    op.create_functions(FUNCTIONS / "visible_v1.sql")
    op.create_functions(FUNCTIONS / "legal_move_v1.sql")
    op.create_functions(FUNCTIONS / "legal_task_v1.sql")
    op.create_functions(FUNCTIONS / "search_v1.sql")
    for name, data_type, constraint, rule in DOMAINS:
        op.execute(f"CREATE DOMAIN audiocatalog_{name} AS {data_type} CONSTRAINT {constraint} CHECK ({rule})")
    op.create_table(
        "audio_tracks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("status", Domain("status"), nullable=False),
        *(sa.Column(name, Domain(name), nullable=name != "title") for name, *_ in METADATA),
        sa.Column("audio_path", Domain("audio_path"), nullable=False),
        sa.Column("thumbnail_path", Domain("thumbnail_path")),
        sa.Column("created_at", Domain("time"), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", Domain("time"), server_default=sa.func.now(), nullable=False),
        sa.Column("version", Domain("count"), server_default="1", nullable=False),
        sa.Column(
            "search_vector",
            postgresql.TSVECTOR(),
            sa.Computed("audiocatalog_search_vector_v1(title, artist, album, genre, year)", persisted=True),
            nullable=False,
        ),
        # This column will hold the next version of the vectors, beside the current one; until then it is empty.
        sa.Column(
            "search_vector_b",
            postgresql.TSVECTOR(),
            sa.Computed("audiocatalog_no_vector(title, artist, album, genre, year)", persisted=True),
        ),
        sa.Column(
            "title_name",
            sa.String(200, collation="C"),
            sa.Computed("audiocatalog_name_v1(audiocatalog_fold_v1(title))", persisted=True),
            nullable=False,
        ),
        sa.Column(
            "artist_name",
            sa.String(200, collation="C"),
            sa.Computed("coalesce(audiocatalog_name_v1(audiocatalog_fold_v1(artist)), '')", persisted=True),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audio_tracks")),
        # A change of status writes no index if the new row version fits on the same page. A worker claims many rows of
        # a page at once, so the page needs much free room.
        postgresql_with={"fillfactor": 60},
    )
    # These indexes serve searches by words: the first all words, the partial ones samples of tracks for common words.
    op.create_index(
        "ix_audio_tracks_search_vector",
        "audio_tracks",
        ["search_vector"],
        postgresql_using="gin",
        # Every search reads the pending list, so it is kept short.
        postgresql_with={"gin_pending_list_limit": 128},
    )
    for share in (8, 64, 512, 4096):
        op.create_index(
            f"ix_audio_tracks_search_vector_{share}",
            "audio_tracks",
            ["search_vector"],
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 128},
            postgresql_where=sa.text(f"(uuid_hash(id) & {share - 1}) = 0"),
        )
    # These serve exact names, a name and the prefix of the other one, and sorting by name.
    op.create_index("ix_audio_tracks_title_name", "audio_tracks", ["title_name", "artist_name", "id"])
    op.create_index("ix_audio_tracks_artist_name", "audio_tracks", ["artist_name", "title_name", "id"])
    # These serve sorting and filters by ranges. The status has no index, because moves must not write any index.
    op.create_index("ix_audio_tracks_year", "audio_tracks", ["year", "id"])
    op.create_index("ix_audio_tracks_created_at", "audio_tracks", ["created_at", "id"])
    # The words of all tracks, counted at intervals, to correct misspelled queries.
    op.create_table(
        "audio_search_words",
        sa.Column("word", sa.String(200, collation="C"), nullable=False),
        sa.Column("tracks", sa.Integer(), nullable=False),
        sa.Column(
            "slips",
            postgresql.ARRAY(sa.Text()),
            sa.Computed("audiocatalog_slips_v1(word)", persisted=True),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("word", name=op.f("pk_audio_search_words")),
        sa.CheckConstraint("tracks >= 1", name=op.f("ck_audio_search_words_tracks_range")),
    )
    op.create_index(
        "ix_audio_search_words_slips",
        "audio_search_words",
        ["slips"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.create_table(
        "audio_search_counts",
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("tracks", sa.BigInteger(), nullable=False),
        sa.Column("words", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("at", name=op.f("pk_audio_search_counts")),
    )
    op.create_table(
        "audio_track_status_changes",
        sa.Column("track_id", sa.Uuid(), nullable=False),
        sa.Column("version", Domain("count"), nullable=False),
        sa.Column("from_status", sa.Text()),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("actor", Domain("actor"), nullable=False),
        sa.Column("reason", Domain("reason")),
        sa.Column("operation_id", sa.Uuid()),
        sa.Column("attempt", sa.Integer()),
        sa.Column("at", Domain("time"), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("xact_id", sa.BigInteger(), server_default=sa.text(XACT_ID), nullable=False),
        # The version is that of the track after the move. It orders the history, independent of clocks.
        sa.PrimaryKeyConstraint("track_id", "version", name=op.f("pk_audio_track_status_changes")),
        sa.ForeignKeyConstraint(["track_id"], ["audio_tracks.id"], name=op.f("fk_audio_track_status_changes_track_id")),
        # A repeated operation finds its first result by this key.
        sa.UniqueConstraint(
            "track_id", "operation_id", name=op.f("uq_audio_track_status_changes_track_id_operation_id")
        ),
        sa.CheckConstraint(
            "audiocatalog_legal_move_v1(from_status, to_status)",
            name=op.f("ck_audio_track_status_changes_legal_transition"),
        ),
    )
    # A row for each replacement of a track's content.
    op.create_table(
        "audio_track_edits",
        sa.Column("track_id", sa.Uuid(), nullable=False),
        sa.Column("version", Domain("count"), nullable=False),
        sa.Column("actor", Domain("actor"), nullable=False),
        sa.Column("reason", Domain("reason")),
        sa.Column("at", Domain("time"), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.Column("xact_id", sa.BigInteger(), server_default=sa.text(XACT_ID), nullable=False),
        sa.PrimaryKeyConstraint("track_id", "version", name=op.f("pk_audio_track_edits")),
        sa.ForeignKeyConstraint(["track_id"], ["audio_tracks.id"], name=op.f("fk_audio_track_edits_track_id")),
    )
    # These serve recent rows and the rows of a transaction. Rows are inserted in this order, so BRIN suffices.
    for table in ("audio_track_status_changes", "audio_track_edits"):
        op.create_index(
            f"ix_{table}_at_xact_id",
            table,
            ["at", "xact_id"],
            postgresql_using="brin",
            postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
        )
    # The tasks of tracks that are not completed. In a table of their own, claims write no index of the tracks.
    op.create_table(
        "audio_track_tasks",
        sa.Column("track_id", sa.Uuid(), nullable=False),
        sa.Column("status", Domain("status"), nullable=False),
        sa.Column("since", Domain("time"), nullable=False),
        sa.Column("ready_at", Domain("time")),
        sa.Column("expires_at", Domain("time")),
        sa.Column("token", sa.BigInteger()),
        sa.Column("worker", Domain("actor")),
        sa.Column("begun", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", Domain("reason")),
        sa.PrimaryKeyConstraint("track_id", name=op.f("pk_audio_track_tasks")),
        sa.ForeignKeyConstraint(["track_id"], ["audio_tracks.id"], name=op.f("fk_audio_track_tasks_track_id")),
        sa.CheckConstraint(
            "audiocatalog_legal_task_v1(status, since, ready_at, expires_at, token, worker, begun, attempts)",
            name=op.f("ck_audio_track_tasks_legal_task"),
        ),
    )
    # The index on since finds waiting tracks with a time in the future, because the clock was set back.
    for column, present in (("ready_at", "ready_at"), ("since", "ready_at"), ("expires_at", "expires_at")):
        op.create_index(
            f"ix_audio_track_tasks_{column}",
            "audio_track_tasks",
            [column, "track_id"],
            postgresql_where=sa.text(f"{present} IS NOT NULL"),
        )
    # SECURITY DEFINER functions must find these tables, and no others of the same name.
    op.execute("SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)")
    op.create_functions(FUNCTIONS / "lifecycle_v1.sql")
    op.create_functions(FUNCTIONS / "content_v1.sql", **COLUMNS)
    op.create_functions(FUNCTIONS / "bulk_v1.sql", **COLUMNS)


def downgrade() -> None:
    asked = context.get_x_argument(as_dictionary=True).get("lose_data") == "yes"
    if not (asked or context.config.attributes.get("lose_data") is True):
        raise CommandError("this downgrade deletes every track and its history: to do so, add `-x lose_data=yes`")
    for name in (
        *("load", "stage", "complete", "claim", "replace", "save"),
        *("restore", "release_expired", "give_up", "answers", "renew", "begin", "lock_due", "move"),
        *("pause", "wrong_retries", "wrong_claims", "refuse"),
    ):
        op.execute(f"DROP FUNCTION audiocatalog_{name}_v1")
    for table in (
        "audio_search_counts",
        "audio_search_words",
        "audio_track_tasks",
        "audio_track_edits",
        "audio_track_status_changes",
        "audio_tracks",
    ):
        op.drop_table(table)
    for name, *_ in DOMAINS:
        op.execute(f"DROP DOMAIN audiocatalog_{name}")
    for signature in (
        "audiocatalog_slips_v1(text)",
        "audiocatalog_spell_v1(text, boolean)",
        "audiocatalog_search_vector_v1(text, text, text, text, integer)",
        "audiocatalog_no_vector(text, text, text, text, integer)",
        "audiocatalog_weigh_v1(text, text, text, text, integer, text, text)",
        "audiocatalog_name_v1(text)",
        "audiocatalog_words_v1(text)",
        "audiocatalog_fold_v1(text)",
        "audiocatalog_visible_v1(text)",
        "audiocatalog_legal_task_v1(text, timestamptz, timestamptz, timestamptz, bigint, text, boolean, integer)",
        "audiocatalog_legal_move_v1(text, text)",
    ):
        op.execute(f"DROP FUNCTION {signature}")
