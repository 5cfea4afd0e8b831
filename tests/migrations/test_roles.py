"""The database roles: what each is for works, and all else is refused, by a real server to real logins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from audiocatalog import TRANSITIONS, Catalog, TrackMetadata, TrackRecord, TrackStatus, migrations
from audiocatalog.errors import (
    ConfigurationError,
    IllegalTransition,
    InvalidInput,
    PermissionDenied,
    SchemaMismatch,
    TrackNotFound,
)
from audiocatalog.migrations.layout import FUNCTIONS, INNER_FUNCTIONS, TABLES
from audiocatalog.migrations.roles import RoleNames, apply_roles, roles_sql
from audiocatalog.models.ids import new_id
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE
from tests.support.command import invoke
from tests.support.databases import libpq, temporary_database
from tests.support.roles import Place, drop_roles, random_names, save_call

IDIOTEQUE = UUID("01920000-0000-7000-8000-00000001d107")


@pytest.fixture(scope="module")
def track_id(place: Place) -> UUID:
    """Save a track, as the application, that is COMPLETED."""
    with Catalog(place.url_of(place.names.app), actor="app") as catalog, catalog.unit_of_work() as work:
        return work.save(TrackMetadata(title="Idioteque", artist="Radiohead"), id=IDIOTEQUE, audio_path="p").id


class TestNames:
    @pytest.mark.parametrize(
        "name", ["", "a b", 'a"b', "a'b", "a$$b", "ä", "x" * 64, "pg_app", "public", "1a", "a\n", 7]
    )
    def test_a_name_that_could_be_misread_is_refused(self, name: Any) -> None:
        for field in ("owner", "app", "search"):
            with pytest.raises(InvalidInput) as caught:
                RoleNames(**{field: name})
            assert caught.value.field == field

    def test_three_roles_are_three(self) -> None:
        with pytest.raises(InvalidInput, match="three different names"):
            RoleNames(app="x", search="x")


class TestStatements:
    def test_every_object_of_ours_is_known(self, place: Place) -> None:
        with place.admin() as admin:
            functions = admin.execute(r"SELECT proname FROM pg_proc WHERE proname LIKE 'audiocatalog\_%'").fetchall()
            tables = admin.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S') "
                "AND relnamespace = 'public'::regnamespace"
            ).fetchall()
        assert sorted(name for (name,) in functions) == sorted(FUNCTIONS)
        assert sorted(name for (name,) in tables) == sorted(TABLES)

    def test_all_of_it_belongs_to_the_owner(self, place: Place) -> None:
        with place.admin() as admin:
            others = admin.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " AND pg_get_userbyid(relowner) <> %(o)s"
                " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
                " AND pg_get_userbyid(proowner) <> %(o)s"
                " UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'd'"
                " AND pg_get_userbyid(typowner) <> %(o)s",
                {"o": place.names.owner},
            ).fetchall()
        assert others == []

    def test_nobody_may_call_a_function_but_the_three(self, place: Place) -> None:
        with place.admin() as admin:
            free = admin.execute(
                r"SELECT proname FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))"
                r" WHERE proname LIKE 'audiocatalog\_%' AND grantee = 0"
            ).fetchall()
        assert free == []

    def test_printing_changes_nothing_and_the_script_does_what_apply_does(
        self, server_url: str, migrated_template: str
    ) -> None:
        names = random_names()
        with temporary_database(server_url, template=migrated_template) as url:
            script = roles_sql(url, names)
            with psycopg.connect(libpq(url), autocommit=True) as admin:
                known = "SELECT FROM pg_roles WHERE rolname = %s"
                assert not admin.execute(known, [names.owner]).rowcount
                try:
                    admin.execute(script)
                    granted = _rights(admin)
                    assert apply_roles(url, names)
                    assert _rights(admin) == granted
                    again = roles_sql(url, names)
                    # What the owner has already is not given again: that would lock the tables.
                    assert "OWNER TO" in script
                    assert "OWNER TO" not in again
                    assert "roles --apply" in again
                finally:
                    drop_roles(admin, names.app, names.search, names.owner)

    def test_what_was_granted_besides_is_taken_back(self, place: Place) -> None:
        app = sql.Identifier(place.names.app)
        with place.admin() as admin:
            before = _rights(admin)
            admin.execute(sql.SQL("GRANT ALL ON audio_track_status_changes TO {}").format(app))
            admin.execute(sql.SQL("GRANT UPDATE (status) ON audio_tracks TO {}").format(app))
            admin.execute("GRANT ALL ON FUNCTION audiocatalog_answers_v1 TO PUBLIC")
            apply_roles(place.url, place.names)
            assert _rights(admin) == before

    def test_it_needs_a_schema(self, server_url: str) -> None:
        with temporary_database(server_url) as url:
            for call in (roles_sql, apply_roles):
                with pytest.raises(SchemaMismatch, match="audiocatalog upgrade"):
                    call(url)

    def test_who_may_not_is_told_and_nothing_is_changed(self, place: Place) -> None:
        names = random_names()
        with pytest.raises(PermissionDenied):
            apply_roles(place.url_of(place.names.app), names)
        with place.admin() as admin:
            assert not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [names.owner]).rowcount

    def test_a_role_that_no_grant_limits_is_refused(self, place: Place) -> None:
        with place.admin() as admin:
            owner, app = sql.Identifier(place.names.owner), sql.Identifier(place.names.app)
            admin.execute(sql.SQL("GRANT {} TO {}").format(owner, app))
            try:
                with pytest.raises(ConfigurationError, match="grants do not limit the role"):
                    apply_roles(place.url, place.names)
            finally:
                admin.execute(sql.SQL("REVOKE {} FROM {}").format(owner, app))
        apply_roles(place.url, place.names)

    def test_the_owner_of_the_database_needs_no_superuser(self, server_url: str) -> None:
        names, boss = random_names(), f"boss_{uuid4().hex[:12]}"
        with temporary_database(server_url) as url, psycopg.connect(libpq(url), autocommit=True) as admin:
            place = Place(url, names)
            try:
                admin.execute(f"CREATE ROLE {boss} LOGIN CREATEROLE")
                admin.execute(f'ALTER DATABASE "{make_url(url).database}" OWNER TO {boss}')
                admin.execute(f"ALTER SCHEMA public OWNER TO {boss}")
                try:
                    migrations.upgrade(place.url_of(boss))
                except ConfigurationError:
                    pytest.skip("this server asks for passwords")
                for _ in range(2):
                    apply_roles(place.url_of(boss), names)
                migrations.check(place.url_of(boss))
            finally:
                admin.execute("ALTER SCHEMA public OWNER TO pg_database_owner")
                admin.execute(f'ALTER DATABASE "{make_url(url).database}" OWNER TO CURRENT_USER')
                drop_roles(admin, names.app, names.search, names.owner, boss)


def _rights(admin: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Return every right to our tables, columns and functions."""
    return admin.execute(
        r"""
        SELECT relname, NULL, grantee::regrole::text, privilege_type
        FROM pg_class, aclexplode(relacl) WHERE relname LIKE 'audio%%' AND relkind = 'r'
        UNION ALL
        SELECT relname, attname, grantee::regrole::text, privilege_type
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid, aclexplode(attacl) WHERE relname LIKE 'audio%%'
        UNION ALL
        SELECT proname, NULL, grantee::regrole::text, privilege_type
        FROM pg_proc, aclexplode(proacl) WHERE proname LIKE 'audiocatalog%%'
        ORDER BY 1, 2, 3, 4""".replace("%%", "%")
    ).fetchall()


class TestApplication:
    """What the application is for works through the public surface."""

    @pytest.fixture
    def catalog(self, place: Place) -> Iterator[Catalog]:
        with Catalog(place.url_of(place.names.app), actor="app", retry_delay=0.001, notify=True) as catalog:
            yield catalog

    def test_it_saves_and_replaces(self, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title="Jóga", artist="Björk"), audio_path="p")
        with catalog.unit_of_work() as work:
            saved = work.save(
                TrackMetadata(title="Hyperballad", artist="Björk", year=1995, format="flac"),
                id=track.id,
                audio_path="q",
                thumbnail_path="t",
                replace=True,
                expected_version=1,
            )
            assert (saved.outcome, saved.version) == ("updated", 2)
        assert catalog.get(track.id).title == "Hyperballad"
        assert catalog.search("hyperballad bjork").hits[0].track.id == track.id

    def test_it_moves_and_reads_the_history(self, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title="x"), audio_path="p")
            work.update_status(track.id, TrackStatus.PENDING, operation_id=uuid4(), reason="again")
        change = catalog.update_statuses([track.id], TrackStatus.FAILED)[track.id]
        assert change.to_status == "FAILED"  # type: ignore[union-attr]
        with pytest.raises(IllegalTransition):
            catalog.update_status(track.id, TrackStatus.COMPLETED)
        assert [change.to_status for change in catalog.history(track.id)] == ["COMPLETED", "PENDING", "FAILED"]

    def test_it_claims_and_ends_claims(self, catalog: Catalog) -> None:
        with catalog.unit_of_work() as work:
            for number in range(6):
                work.save(TrackMetadata(title="x"), audio_path=f"{number}", status=TrackStatus.PENDING)
        first, second, third, fourth, fifth, sixth = catalog.claim(6)
        assert catalog.renew(first, lease=timedelta(hours=1)).expires_at > first.expires_at
        catalog.complete(first, TrackMetadata(title="Done", artist="Done", year=2000))
        assert catalog.complete(first).to_status == "COMPLETED"
        catalog.complete(second)
        catalog.fail(third, "broken")
        catalog.fail(fourth, "broken", retry=False)
        catalog.release(fifth)
        catalog.renew(sixth)
        dead = catalog.claim(1, lease=timedelta(milliseconds=10))
        assert dead
        threading.Event().wait(0.03)
        assert [change.track_id for change in catalog.release_expired()] == [claim.track.id for claim in dead]
        worked_on: set[UUID] = set()
        catalog.worker(until_empty=True, listen=True, poll=0.01).run(lambda claim: worked_on.add(claim.track.id))
        assert fifth.track.id in worked_on

    def test_it_saves_many(self, catalog: Catalog) -> None:
        many = [TrackRecord(TrackMetadata(title="x"), "p", status=status) for status in TRANSITIONS[None]]
        assert catalog.bulk_save(many).inserted == len(many)
        changed = [TrackRecord(TrackMetadata(title="y"), "p", record.id) for record in many]
        assert catalog.bulk_save(changed, on_conflict="replace").updated == len(many)
        assert [track.title for track in catalog.get_many(record.id for record in many).values()] == ["y", "y"]

    def test_it_searches_counts_and_looks_after_itself(self, catalog: Catalog, track_id: UUID) -> None:
        assert catalog.search("radiohead", facets=["artist"]).total >= 1
        assert catalog.explain("radiohead", track_id).position is not None
        for _ in range(2):
            assert catalog.refresh_vocabulary().tracks >= 1
        assert catalog.search("raidohead idioteqe").suggestion == "radiohead idioteque"
        assert sum(count.tracks for count in catalog.count_by_status()) >= 1
        assert catalog.activity().since < catalog.activity().until
        assert catalog.health().schema_revision == SCHEMA_REVISION

    def test_words_that_are_gone_are_forgotten(self, catalog: Catalog, track_id: UUID) -> None:
        catalog.refresh_vocabulary()
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="Optimistic"), id=track_id, audio_path="p", replace=True)
        catalog.refresh_vocabulary()
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="Idioteque", artist="Radiohead"), id=track_id, audio_path="p", replace=True)

    def test_an_illegal_move_past_python_is_refused_by_the_check(
        self, app: psycopg.Connection[Any], track_id: UUID
    ) -> None:
        every = ["PENDING", "PROCESSING", "COMPLETED", "FAILED"]
        call = "SELECT audiocatalog_move_v1(%s, %s, %s, 'app', NULL, NULL, false)"
        for target in ("PROCESSING", "FAILED", "COMPLETED"):
            for starts in (every, None):
                with pytest.raises(psycopg.errors.CheckViolation) as caught:
                    app.execute(call, [track_id, target, starts])
                assert caught.value.diag.constraint_name == "ck_audio_track_status_changes_legal_transition"
        with pytest.raises(psycopg.errors.CheckViolation):
            app.execute(call, [track_id, "DONE", every])

    def test_a_track_that_begins_elsewhere_is_refused_by_the_check(self, app: psycopg.Connection[Any]) -> None:
        for status in ("PROCESSING", "FAILED"):
            with pytest.raises(psycopg.errors.CheckViolation):
                app.execute("SELECT " + save_call("%s", "%s", "'app'"), [new_id(), status])

    def test_no_call_writes_a_row_of_the_history_that_does_not_say_what_happened(
        self, app: psycopg.Connection[Any], catalog: Catalog
    ) -> None:
        """A function writes the row of the move that it makes, at the time of the clock; without a move, none."""
        with catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title="x"), audio_path="p", status=TrackStatus.PENDING)
        claim = next(claim for claim in catalog.claim(1000) if claim.track.id == track.id)
        before = catalog.history(track.id)
        ids, nobody = [track.id], new_id()
        for call, values in (
            ("audiocatalog_complete_v1(%s, %s, %s, 'x', NULL)", (ids, [claim.token + 1], [uuid4()])),
            ("audiocatalog_complete_v1(%s, %s, %s, 'x', NULL)", ([nobody], [claim.token], [uuid4()])),
            (
                "audiocatalog_give_up_v1(%s, %s, %s, 'x', 'y', true, true, 5, 1, 1, 1, false)",
                (ids, [claim.token - 1], [uuid4()]),
            ),
            ("audiocatalog_move_v1(%s, 'COMPLETED', ARRAY['FAILED'], 'x', NULL, NULL, false)", (track.id,)),
            ("audiocatalog_move_v1(%s, 'COMPLETED', NULL, 'x', NULL, NULL, false)", (nobody,)),
            (save_call("%s", "'PENDING'", "'x'"), (track.id,)),
            ("audiocatalog_release_expired_v1(10, 'x', 5, 1, 1, 1, false)", ()),
        ):
            app.execute("SELECT " + call, values)
        assert [change.version for change in catalog.history(track.id)] == [change.version for change in before]
        now = app.execute("SELECT clock_timestamp()").fetchone()
        catalog.complete(claim)
        last = catalog.history(track.id)[-1]
        assert (last.from_status, last.to_status, last.version) == ("PROCESSING", "COMPLETED", (claim.token >> 32) + 1)
        assert now is not None
        assert last.at >= now[0]

    def test_a_temporary_table_takes_nobodys_place(self, place: Place, track_id: UUID) -> None:
        with place.login(place.names.app) as app:
            for table in ("audio_tracks", "audio_track_tasks", "audio_track_status_changes"):
                app.execute(f"CREATE TEMPORARY TABLE {table} AS SELECT * FROM public.{table}")
            app.execute("GRANT ALL ON ALL TABLES IN SCHEMA pg_temp TO PUBLIC")
            app.execute("SET search_path = pg_temp, public")
            moves = "SELECT count(*) FROM {}.audio_track_status_changes WHERE track_id = %s"

            def count(schema: str) -> int:
                row = app.execute(moves.format(schema), [track_id]).fetchone()
                assert row is not None
                return int(row[0])

            real, shadow = count("public"), count("pg_temp")
            for target in ("PENDING", "PROCESSING", "COMPLETED"):
                app.execute(
                    "SELECT public.audiocatalog_move_v1(%s, %s, NULL, 'app', NULL, NULL, false)", [track_id, target]
                )
            assert (count("public"), count("pg_temp")) == (real + 3, shadow)


COLUMNS = "(track_id, version, from_status, to_status, actor, at)"
FORGED = f"'{IDIOTEQUE}', 99, 'COMPLETED', 'PENDING', 'x'"
#: Every way to write into the history what did not happen, or to take out what did.
FORGING = {
    "invent": f"INSERT INTO audio_track_status_changes {COLUMNS} VALUES ({FORGED}, now())",
    "invent and date back": f"INSERT INTO audio_track_status_changes {COLUMNS} VALUES ({FORGED}, '2000-01-01')",
    "invent past what is generated": (
        f"INSERT INTO audio_track_status_changes {COLUMNS} OVERRIDING SYSTEM VALUE VALUES ({FORGED}, now())"
    ),
    "invent where it is there already": (
        f"INSERT INTO audio_track_status_changes {COLUMNS} VALUES ({FORGED}, now())"
        " ON CONFLICT (track_id, version) DO UPDATE SET actor = 'forged'"
    ),
    "copy": "COPY audio_track_status_changes FROM STDIN",
    "reword": "UPDATE audio_track_status_changes SET reason = 'forged'",
    "date back": "UPDATE audio_track_status_changes SET at = at - interval '1 day'",
    "delete": "DELETE FROM audio_track_status_changes",
    "merge": "MERGE INTO audio_track_status_changes USING audio_tracks ON track_id = id WHEN MATCHED THEN DELETE",
    "empty": "TRUNCATE audio_track_status_changes",
}
#: What the application may not do, each refused with 42501.
FORBIDDEN = [
    "CREATE TABLE public.mine (id integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION public.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE DOMAIN public.mine AS text",
    "CREATE INDEX ON audio_tracks (title)",
    "CREATE TRIGGER mine BEFORE INSERT ON audio_tracks EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE audio_tracks ADD COLUMN mine integer",
    "ALTER TABLE audio_track_status_changes DROP CONSTRAINT ck_audio_track_status_changes_legal_transition",
    "ALTER TABLE audio_track_status_changes DISABLE TRIGGER ALL",
    "ALTER DOMAIN audiocatalog_status DROP CONSTRAINT ck_audio_tracks_status_known",
    "ALTER TABLE audio_tracks OWNER TO CURRENT_USER",
    "DROP TABLE audio_track_status_changes",
    "DROP FUNCTION audiocatalog_move_v1",
    "ALTER FUNCTION audiocatalog_move_v1 SECURITY INVOKER",
    "ALTER FUNCTION audiocatalog_move_v1 SET search_path = pg_temp",
    "CREATE OR REPLACE FUNCTION audiocatalog_visible_v1(value text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "TRUNCATE audio_tracks CASCADE",
    "TRUNCATE audio_search_words",
    "DELETE FROM audio_tracks",
    "DELETE FROM audio_track_tasks",
    "DELETE FROM audio_track_edits",
    "INSERT INTO audio_track_edits SELECT id, 9, 'x' FROM audio_tracks",
    "UPDATE audio_track_edits SET actor = 'forged'",
    "DELETE FROM audio_search_counts",
    "COPY audio_tracks FROM STDIN",
    "SELECT FROM audio_track_status_changes FOR UPDATE",
    "SELECT FROM audio_track_tasks FOR UPDATE",
    "UPDATE audio_tracks SET status = 'PENDING'",
    "UPDATE audio_tracks SET id = gen_random_uuid()",
    "UPDATE audio_tracks SET created_at = now()",
    "INSERT INTO audio_tracks (id, status, title, audio_path) VALUES (gen_random_uuid(), 'COMPLETED', 'x', 'p')",
    "INSERT INTO audio_tracks (id) SELECT id FROM audio_tracks ON CONFLICT (id) DO UPDATE SET status = 'x'",
    "UPDATE audio_track_tasks SET expires_at = now()",
    "UPDATE audio_track_tasks SET token = 1",
    f"INSERT INTO audio_track_tasks (track_id, status, since) VALUES ('{IDIOTEQUE}', 'FAILED', now())",
    "SELECT audiocatalog_lock_due_v1('oldest', 10, now())",
    "SELECT audiocatalog_refuse_v1('x')",
    "SELECT audiocatalog_wrong_claims_v1(NULL, NULL, NULL)",
    "SELECT audiocatalog_wrong_retries_v1(1, 1, 1, 1, true)",
    "SELECT audiocatalog_pause_v1(gen_random_uuid(), 1, 1, 1, 1, 1)",
    "SELECT audiocatalog_legal_task_v1('FAILED', now(), NULL, NULL, NULL, NULL, false, 0)",
    "SELECT audiocatalog_answers_v1(ARRAY[]::uuid[], ARRAY[]::uuid[], now())",
    "SELECT audiocatalog_legal_move_v1('PENDING', 'PENDING')",
    f"UPDATE {VERSION_TABLE} SET version_num = '9999'",
    f"DELETE FROM {VERSION_TABLE}",
    "GRANT DELETE ON audio_tracks TO CURRENT_USER; DELETE FROM audio_tracks",
    "CREATE ROLE mine",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "SET session_replication_role = replica",
    "SET ROLE {owner}",
    "GRANT {owner} TO CURRENT_USER",
    "SET SESSION AUTHORIZATION {owner}",
    "SET ROLE {superuser}",
    "SET SESSION AUTHORIZATION {superuser}",
    "COPY audio_tracks TO PROGRAM 'true'",
    "COPY pg_temp.mine FROM PROGRAM 'true'",
    "COPY audio_tracks TO '/tmp/audiocatalog_test_copy'",
    "COPY pg_temp.mine FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/audiocatalog_test_copy')",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "ALTER SYSTEM SET fsync = off",
    "ALTER DATABASE {database} SET lock_timeout = 1",
    "CREATE DATABASE mine",
    "DROP EXTENSION plpgsql",
    "CREATE FUNCTION pg_temp.mine() RETURNS integer LANGUAGE c AS '/lib/mine.so', 'mine'",
    "SELECT pg_terminate_backend({session})",
    "SELECT pg_cancel_backend({session})",
    "BEGIN; LOCK TABLE audio_track_status_changes",
    "REINDEX TABLE audio_tracks",
]


class TestForbidden:
    @pytest.mark.parametrize("statement", FORBIDDEN)
    @pytest.mark.usefixtures("track_id")
    def test_the_application_may_not(self, place: Place, statement: str) -> None:
        with place.admin() as admin, place.login(place.names.app) as app:
            app.execute("CREATE TEMPORARY TABLE mine (line text)")
            names = {
                "owner": sql.Identifier(place.names.owner),
                "superuser": sql.Identifier(admin.info.user),
                "database": sql.Identifier(admin.info.dbname),
                "session": sql.Literal(admin.info.backend_pid),
            }
            with pytest.raises(psycopg.Error) as caught:
                app.execute(sql.SQL(statement).format(**names))
            assert caught.value.sqlstate == "42501"
            assert admin.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.parametrize("statement", FORGING.values(), ids=FORGING)
    @pytest.mark.usefixtures("track_id")
    def test_the_application_does_not_forge_the_history(self, place: Place, statement: str) -> None:
        read = "SELECT c::text FROM audio_track_status_changes AS c ORDER BY track_id, version"
        with place.admin() as admin, place.login(place.names.app) as app:
            before = admin.execute(read).fetchall()
            with pytest.raises(psycopg.Error) as caught:
                app.execute(statement)
            assert caught.value.sqlstate == "42501"
            assert admin.execute(read).fetchall() == before

    def test_who_moves_a_track_by_hand_leaves_one_row_of_it(self, place: Place, track_id: UUID) -> None:
        move = "SELECT audiocatalog_move_v1(%s, %s, NULL, 'by hand', NULL, NULL, false)"
        count = "SELECT count(*) FROM audio_track_status_changes WHERE track_id = %s"
        with place.admin() as admin, place.login(place.names.app) as app:
            for target in ("PENDING", "PROCESSING", "COMPLETED"):
                before = admin.execute(count, [track_id]).fetchone() or (0,)
                app.execute(move, [track_id, target])
                assert admin.execute(count, [track_id]).fetchone() == (before[0] + 1,)
                status = admin.execute("SELECT status::text FROM audio_tracks WHERE id = %s", [track_id]).fetchone()
                assert status == (target,)

    def test_inner_functions_are_all_named(self) -> None:
        called = [name for name in INNER_FUNCTIONS if any(name in statement for statement in FORBIDDEN)]
        assert called == list(INNER_FUNCTIONS)


class TestStage:
    """What many tracks are copied into is the owner's; whose else it could be, the functions of the owner refuse."""

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT FROM {stage}",
            "DELETE FROM {stage}",
            "TRUNCATE {stage}",
            "DROP TABLE {stage}",
            "ALTER TABLE {stage} ADD COLUMN mine integer",
            "ALTER TABLE {stage} ALTER COLUMN title SET DEFAULT pg_temp.mine()",
            "CREATE INDEX ON {stage} (pg_temp.mine())",
            "CREATE TRIGGER mine BEFORE INSERT ON {stage} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "CREATE RULE mine AS ON INSERT TO {stage} DO INSTEAD NOTHING",
        ],
    )
    def test_nobody_else_changes_or_reads_it(self, app: psycopg.Connection[Any], statement: str) -> None:
        app.execute("CREATE FUNCTION pg_temp.mine() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
            app.execute("SELECT audiocatalog_stage_v1()")
            app.execute(statement.format(stage="pg_temp.audiocatalog_stage"))

    @pytest.mark.parametrize(
        "mine",
        [
            "CREATE TEMP TABLE audiocatalog_stage (place integer, id uuid)",
            "CREATE TEMP VIEW audiocatalog_stage AS SELECT 1 AS place, gen_random_uuid() AS id",
            "CREATE TEMP SEQUENCE audiocatalog_stage",
        ],
    )
    def test_what_the_application_puts_in_its_place_is_not_read(self, app: psycopg.Connection[Any], mine: str) -> None:
        app.execute(mine)
        app.execute("SELECT audiocatalog_stage_v1()")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no batch is staged"):
            app.execute("SELECT audiocatalog_load_v1(false, 'x', NULL, false)")


class TestSearch:
    def test_it_searches(self, place: Place, track_id: UUID) -> None:
        with Catalog(place.url_of(place.names.app), actor="app") as writer:
            writer.refresh_vocabulary()
        with Catalog(place.url_of(place.names.search), actor="api") as catalog:
            assert catalog.search("radiohead", facets=["artist", "decade"]).hits[0].track.id == track_id
            assert catalog.search("raidohead idioteqe").suggestion == "radiohead idioteque"
            assert catalog.search('"radiohead" -creep', order_by="year").total == 1
            assert catalog.search(str(track_id)).total == 1
            assert catalog.explain("radiohead", track_id).position == 1
            assert catalog.get(track_id).title == "Idioteque"
            assert catalog.health().schema_revision == SCHEMA_REVISION
            with catalog.unit_of_work() as work:
                assert work.search("radiohead").total == 1
            with pytest.raises(TrackNotFound):
                catalog.get(new_id())

    def test_what_it_may_not_is_told(self, place: Place, track_id: UUID) -> None:
        with Catalog(place.url_of(place.names.search), actor="api") as catalog:
            for call in (
                lambda: catalog.history(track_id),
                catalog.count_by_status,
                catalog.activity,
                catalog.claim,
                lambda: catalog.update_status(track_id, TrackStatus.PENDING),
                catalog.release_expired,
            ):
                with pytest.raises(PermissionDenied):
                    call()

    def test_the_command_line_says_what_may_help(self, place: Place) -> None:
        result = invoke("--url", place.url_of(place.names.search), "stats")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "lacks a privilege" in result.stderr
        assert "`audiocatalog roles --apply`" in result.stderr
        refused = invoke("--url", place.url_of(place.names.app), "roles", "--apply", "--app", "test_nobody")
        assert refused.exit_code == 1
        assert "Run the command as a superuser" in refused.stderr

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT FROM audio_track_status_changes",
            "SELECT FROM audio_track_tasks",
            "INSERT INTO audio_search_counts VALUES (now(), 1, 1)",
            "UPDATE audio_tracks SET title = 'x'",
            "DELETE FROM audio_search_words",
            "SELECT audiocatalog_claim_v1(1, interval '1 minute', 'x', false)",
            "SELECT audiocatalog_move_v1(gen_random_uuid(), 'PENDING', NULL, 'x', NULL, NULL, false)",
            "SELECT audiocatalog_release_expired_v1(1, 'x', 1, 1, 1, 1, false)",
            "CREATE TABLE public.mine (id integer)",
            "SET ROLE {owner}",
            "SELECT pg_read_file('/etc/passwd')",
        ],
    )
    def test_it_reads_and_writes_nothing_else(self, place: Place, statement: str) -> None:
        with place.login(place.names.search) as connection:
            assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
            # A setting is only a default: without it, the rights decide.
            connection.execute("SET default_transaction_read_only = off")
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(sql.SQL(statement).format(owner=sql.Identifier(place.names.owner)))
        assert caught.value.sqlstate == "42501"

    def test_its_sessions_are_read_only(self, place: Place) -> None:
        with place.login(place.names.search) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("UPDATE audio_tracks SET title = 'x'")


class TestOwner:
    def test_it_migrates_and_checks(self, place: Place) -> None:
        migrations.upgrade(place.url_of(place.names.owner))
        migrations.check(place.url_of(place.names.owner))
