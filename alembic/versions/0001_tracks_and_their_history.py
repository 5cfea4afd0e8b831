"""Create the tracks and their history.

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

FUNCTIONS = Path(__file__).parents[1] / "functions"


def _create_functions(name: str) -> None:
    """Run a file of functions, in which a blank line ends a statement; a released file never changes."""
    source = (FUNCTIONS / name).read_text(encoding="utf-8")
    for statement in source.split("\n\n"):
        if "CREATE FUNCTION" in statement:
            op.execute(sa.text(statement.strip().removesuffix(";").replace(":", r"\:")))


def upgrade() -> None:
    _create_functions("visible_v1.sql")
    _create_functions("search_v1.sql")
    op.create_table(
        "audio_tracks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("artist", sa.String(1000)),
        sa.Column("title", sa.String(1000), nullable=False),
        sa.Column("album", sa.String(1000)),
        sa.Column("genre", sa.String(200)),
        sa.Column("year", sa.Integer()),
        sa.Column("duration", sa.Double()),
        sa.Column("channels", sa.Integer()),
        sa.Column("sample_rate", sa.Integer()),
        sa.Column("bitrate", sa.Integer()),
        sa.Column("format", sa.String(50)),
        sa.Column("audio_path", sa.String(4096), nullable=False),
        sa.Column("thumbnail_path", sa.String(4096)),
        sa.Column("created_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "search_vector",
            postgresql.TSVECTOR(),
            sa.Computed("audiocatalog_search_vector_v1(title, artist, album, genre, year)", persisted=True),
            nullable=False,
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
        sa.CheckConstraint(
            "status IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED')", name=op.f("ck_audio_tracks_status_known")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_audio_tracks_version_range")),
        *(
            sa.CheckConstraint(f"isfinite({field})", name=op.f(f"ck_audio_tracks_{field}_range"))
            for field in ("created_at", "updated_at")
        ),
        # The text of a track shows something; its length is the column's.
        *(
            sa.CheckConstraint(f"audiocatalog_visible_v1({field})", name=op.f(f"ck_audio_tracks_{field}_visible"))
            for field in ("title", "artist", "album", "genre", "format", "audio_path", "thumbnail_path")
        ),
        # NaN sorts above infinity, so that the upper bounds refuse both.
        *(
            sa.CheckConstraint(f"{field} BETWEEN {lowest} AND {highest}", name=op.f(f"ck_audio_tracks_{field}_range"))
            for field, lowest, highest in (
                ("year", 1000, 9999),
                ("duration", 0, 31_536_000),
                ("channels", 1, 256),
                ("sample_rate", 1, 100_000_000),
                ("bitrate", 1, 2_000_000_000),
            )
        ),
    )
    # A track is found by its words, common words in a part of the table that stands for all of it.
    op.create_index(
        "ix_audio_tracks_search_vector",
        "audio_tracks",
        ["search_vector"],
        postgresql_using="gin",
        # What is written last is kept in a list that every search reads: a short one.
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
    # Or by its names as a whole, by one and the beginning of the other, and in their order.
    op.create_index("ix_audio_tracks_title_name", "audio_tracks", ["title_name", "artist_name", "id"])
    op.create_index("ix_audio_tracks_artist_name", "audio_tracks", ["artist_name", "title_name", "id"])
    # The order and the ranges by which people narrow a search; no status: its moves must not write any index.
    op.create_index("ix_audio_tracks_year", "audio_tracks", ["year", "id"])
    op.create_index("ix_audio_tracks_created_at", "audio_tracks", ["created_at", "id"])
    # The words of all tracks, counted now and then: what is there to be found when nothing matches as it was typed.
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
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("from_status", sa.Text()),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(1000)),
        sa.Column("operation_id", sa.Uuid()),
        sa.Column("at", postgresql.TIMESTAMP(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        # The version is the track's after the move: the order of the history, whatever the clocks say.
        sa.PrimaryKeyConstraint("track_id", "version", name=op.f("pk_audio_track_status_changes")),
        sa.ForeignKeyConstraint(["track_id"], ["audio_tracks.id"], name=op.f("fk_audio_track_status_changes_track_id")),
        # A repeated operation finds its first answer by this key.
        sa.UniqueConstraint(
            "track_id", "operation_id", name=op.f("uq_audio_track_status_changes_track_id_operation_id")
        ),
        sa.CheckConstraint(
            # A comparison with no status is null, and a CHECK lets null pass.
            "coalesce((from_status IS NULL AND to_status IN ('PENDING', 'COMPLETED'))"
            " OR (from_status = 'PENDING' AND to_status IN ('PROCESSING', 'FAILED'))"
            " OR (from_status = 'PROCESSING' AND to_status IN ('PENDING', 'COMPLETED', 'FAILED'))"
            " OR (from_status = 'FAILED' AND to_status IN ('PENDING'))"
            " OR (from_status = 'COMPLETED' AND to_status IN ('PENDING')), false)",
            name=op.f("ck_audio_track_status_changes_legal_transition"),
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_audio_track_status_changes_version_range")),
        sa.CheckConstraint("isfinite(at)", name=op.f("ck_audio_track_status_changes_at_range")),
        *(
            sa.CheckConstraint(
                f"audiocatalog_visible_v1({field})", name=op.f(f"ck_audio_track_status_changes_{field}_visible")
            )
            for field in ("actor", "reason")
        ),
    )


def downgrade() -> None:
    asked = context.get_x_argument(as_dictionary=True).get("lose_data") == "yes"
    if not (asked or context.config.attributes.get("lose_data") is True):
        raise CommandError("this downgrade drops every track and its history; to do so, add `-x lose_data=yes`")
    for table in ("audio_search_counts", "audio_search_words", "audio_track_status_changes", "audio_tracks"):
        op.drop_table(table)
    for signature in (
        "audiocatalog_slips_v1(text)",
        "audiocatalog_spell_v1(text, boolean)",
        "audiocatalog_search_vector_v1(text, text, text, text, integer)",
        "audiocatalog_weigh_v1(text, text, text, text, integer, text, text)",
        "audiocatalog_name_v1(text)",
        "audiocatalog_words_v1(text)",
        "audiocatalog_fold_v1(text)",
        "audiocatalog_visible_v1(text)",
    ):
        op.execute(f"DROP FUNCTION {signature}")
