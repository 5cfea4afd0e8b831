"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

The rules, for a table that is filled and in use (docs/adr/0004-migrations.md):
- Schema or data in one revision, never both; no imports from audiocatalog: a revision is frozen, the package is not.
- Number revisions in sequence (0002, 0003, ...) and set SCHEMA_REVISION in audiocatalog/models.py.
- Name every constraint by the convention of models.py; one constraint in each ALTER.
- CHECK and FOREIGN KEY as NOT VALID here, VALIDATE in the next revision; NOT NULL by way of a validated CHECK.
- Indexes with postgresql_concurrently=True in op.get_context().autocommit_block(), alone in their revision.
- Never add or change a stored generated column of a filled table: it rewrites the table under an exclusive lock.
- Nothing reads the database: `alembic upgrade --sql` must work.
- The code before this revision must keep working after it: expand, deploy, contract.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
