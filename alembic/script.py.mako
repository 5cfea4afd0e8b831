"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

The rules for tables in use (docs/adr/0004-migrations.md); `make lint` and the tests check most of them.

In general
- Revisions are numbered in sequence: `make revision NAME=...` takes the next number and lists what else to change.
- Running code must work with this schema and the next one: expand, deploy, contract. Drop or rename only what has been
  out of use since the previous release.
- A revision changes the schema or data, never both. It imports nothing from audiocatalog, because the package changes.
- A new version of the search vector follows docs/adr/0013-two-columns-for-vectors.md.
- A revision does not read the database: `alembic upgrade --sql` must work.
- A revision may be interrupted at any point and run again. Statements outside a transaction must be repeatable.

Locks: a statement waits 0.1 s for a lock, then the whole revision is retried; a revision holds its locks until its end
- In one revision, ALTER only one table in use, once or several times, and run no slow statement with it.
- A statement may run for 5 s. For a longer one that blocks neither readers nor writers:
  `with op.long_step(seconds=3600): ...`

To avoid rewriting or scanning a table under a lock
- A new column: with a plain type, and nullable or with a constant default. A domain with a CHECK, a volatile default
  and a stored generated column rewrite the table. A field of the metadata: `op.add_track_column`
  (docs/adding-a-field.md).
- CHECK and FOREIGN KEY: NOT VALID here, in the next revision `with op.long_step(): ... VALIDATE CONSTRAINT ...`.
- NOT NULL: add and validate a CHECK (column IS NOT NULL) first.
- An index: `op.build_index_concurrently(name, table, columns, **options_of_create_index)`, alone in its revision; to
  drop one: `op.drop_index_concurrently(name)`.
- UNIQUE: the index first, in the next revision ADD CONSTRAINT ... UNIQUE USING INDEX.
- Another type: a new column beside the old one. Only varchar(n) of plain columns may grow.
- Rows: in batches by id, each committed, in `op.get_context().autocommit_block()`.
- Functions: a new name (_v2) beside the old one, which running code still calls, in a new file:
  `op.create_functions(Path(__file__).parents[1] / "functions" / "search_v2.sql")`. For new versions of the functions in
  content_v1.sql and bulk_v1.sql, run the same file with `version=2`.

Rights
- Name every function audiocatalog_.... A SECURITY DEFINER function works in its own schema. At the end of each
  revision, in its transaction, env.py revokes EXECUTE on all of them from PUBLIC and gives a new _v2 the grantees of
  its _v1. So never create a function in an autocommit_block.
- Only the owner can use a new table, or a function without a previous version, until the operator runs
  `audiocatalog roles --apply` or `audiocatalog roles --grant ROLE`. Add its name to audiocatalog/migrations/roles.py,
  and say so in the changelog.

Name every constraint by the convention of audiocatalog/models/base.py. If a statement must break a rule of the linter,
begin it with the comment `-- squawk-ignore RULE`, and say why.
"""

from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
