"""Validate the ratings."""

from alembic import op

from audiocatalog.models.sql_names import SCHEMA_REVISION

revision = f"{int(SCHEMA_REVISION) + 2:04}"
down_revision = f"{int(SCHEMA_REVISION) + 1:04}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.long_step(seconds=600):
        op.execute("ALTER TABLE audio_tracks VALIDATE CONSTRAINT ck_audio_tracks_rating_range")


def downgrade() -> None:
    op.drop_constraint("ck_audio_tracks_rating_range", "audio_tracks")
    op.execute(
        "ALTER TABLE audio_tracks ADD CONSTRAINT ck_audio_tracks_rating_range CHECK (rating BETWEEN 1 AND 5) NOT VALID"
    )
