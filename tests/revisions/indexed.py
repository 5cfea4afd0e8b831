"""Find tracks by their rating."""

from alembic import op

from audiocatalog.models.sql_names import SCHEMA_REVISION

revision = f"{int(SCHEMA_REVISION) + 3:04}"
down_revision = f"{int(SCHEMA_REVISION) + 2:04}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.build_index_concurrently("ix_audio_tracks_rating", "audio_tracks", ["rating", "id"])


def downgrade() -> None:
    op.drop_index_concurrently("ix_audio_tracks_rating")
