"""Seed a row, once."""

from alembic import op

from audiocatalog.models.sql_names import SCHEMA_REVISION

revision = f"{int(SCHEMA_REVISION) + 4:04}"
down_revision = f"{int(SCHEMA_REVISION) + 3:04}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("INSERT INTO audio_search_counts (at, tracks, words) VALUES ('2000-01-01', 0, 0)")


def downgrade() -> None:
    op.execute("DELETE FROM audio_search_counts WHERE at = '2000-01-01'")
