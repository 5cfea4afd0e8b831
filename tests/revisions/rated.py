"""Add what a listener thinks of a track."""

import sqlalchemy as sa
from alembic import op

from audiocatalog.models.sql_names import SCHEMA_REVISION

revision = f"{int(SCHEMA_REVISION) + 1:04}"
down_revision = SCHEMA_REVISION
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audio_tracks", sa.Column("rating", sa.SmallInteger()))
    op.execute(
        "ALTER TABLE audio_tracks ADD CONSTRAINT ck_audio_tracks_rating_range CHECK (rating BETWEEN 1 AND 5) NOT VALID"
    )


def downgrade() -> None:
    op.drop_column("audio_tracks", "rating")
