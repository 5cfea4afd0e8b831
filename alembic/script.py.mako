"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

The rules, for tables that are filled and in use (docs/adr/0004-migrations.md); `make lint` and the tests hold to most.

In general
- Revisions are numbered in sequence: `make revision NAME=...` takes the next number and lists what else to change.
- Running code must work with this schema and with the next one: expand, deploy, contract. What is dropped or renamed
  here must have been out of use since the release before.
- Schema or data in one revision, never both; no imports from audiocatalog: a revision is frozen, the package is not.
- A new search vector has its own way: docs/adr/0013-two-columns-for-vectors.md.
- Nothing reads the database: `alembic upgrade --sql` must work.
- It may be broken off anywhere and is then run again: a transaction is all or nothing, what runs outside of one must
  not mind being repeated.

Locks: a statement waits 0.1 s for one, then the whole revision is tried again; all of its locks are held to its end
- One ALTER of a table in use in a revision, or several of the same table, and nothing slow beside them.
- A statement may run for 5 s. What takes longer and lets others read and write: `with op.long_step(seconds=3600): ...`

Instead of what would rewrite or scan a table while nobody can use it
- A new column: of a plain type and nullable, or with a constant default. A domain with a CHECK, a volatile default and
  a stored generated column rewrite the table. A field of the metadata: `op.add_track_column` (docs/adding-a-field.md).
- CHECK and FOREIGN KEY: NOT VALID here, in the next revision `with op.long_step(): ... VALIDATE CONSTRAINT ...`.
- NOT NULL: by way of a validated CHECK (column IS NOT NULL).
- An index: `op.build_index_concurrently(name, table, columns, **options_of_create_index)`, alone in its revision; to
  drop one: `op.drop_index_concurrently(name)`.
- UNIQUE: the index first, in the next revision ADD CONSTRAINT ... UNIQUE USING INDEX.
- Another type: a new column beside the old one. Only varchar(n) of plain columns may grow.
- Rows: in batches by id, each committed, in `op.get_context().autocommit_block()`.
- Functions: a new name (_v2) beside the old one, which running code still calls, in a file of their own:
  `op.create_functions(Path(__file__).parents[1] / "functions" / "search_v2.sql")`. Those of content_v1.sql and
  bulk_v1.sql are made anew, by `version=2`, of the same file.

Rights
- Every function is named audiocatalog_..., and one that is SECURITY DEFINER works in the schema that it lies in. At the
  end of each revision, in its transaction, env.py takes EXECUTE on all of them from PUBLIC and gives a new _v2 the
  grantees of its _v1. So never create one in an autocommit_block.
- A new table, or a function without a version before it, may be used by the owner alone until someone runs
  `audiocatalog roles --apply` or `audiocatalog roles --grant ROLE`: name it in audiocatalog/migrations/roles.py, and
  say so in the changelog.

Name every constraint by the convention of audiocatalog/models/base.py. A statement that must break a rule of the linter
begins with the comment `-- squawk-ignore RULE`, and says why.
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
