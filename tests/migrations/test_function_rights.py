"""A role without a grant may do nothing, whatever has been run; a role of one's own gets its rights by one command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from audiocatalog import Catalog, TrackMetadata, TrackRecord, TrackStatus, migrations
from audiocatalog.errors import ConfigurationError, PermissionDenied, SchemaMismatch
from audiocatalog.migrations.grants import grant_rights, grant_sql
from audiocatalog.migrations.layout import TABLES
from audiocatalog.migrations.roles import RoleNames, apply_roles, roles_sql
from audiocatalog.models.sql_names import VERSION_TABLE
from tests.support.command import invoke
from tests.support.databases import libpq, temporary_database
from tests.support.repository import ROOT
from tests.support.roles import save_call
from tests.support.upgrades import RATED, ini_with, upgrade

#: A later version of a function, as a revision's author may write it by hand.
SAVE_V2 = """
CREATE FUNCTION audiocatalog_save_v2(track uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
BEGIN
  INSERT INTO audio_tracks (id, status, title, audio_path) VALUES (track, 'COMPLETED', 'forged', 'p');
END
$$"""
#: Another one, which has no version before it.
PEEK_V1 = """
CREATE FUNCTION audiocatalog_peek_v1() RETURNS SETOF audio_tracks
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT
AS 'SELECT * FROM audio_tracks'"""
NEWER_BY_HAND = f'op.execute("""{SAVE_V2}""")\n    op.execute("""{PEEK_V1}""")'
PUBLIC = """
SELECT proname::text FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
WHERE starts_with(proname, 'audiocatalog_') AND grantee = 0"""
GRANTEES = """
SELECT grantee::regrole::text, is_grantable FROM pg_proc, aclexplode(proacl)
WHERE proname = %s AND grantee <> proowner ORDER BY 1"""


class Place:
    """An upgraded database, and roles of its own, which end with it."""

    def __init__(self, url: str, admin: psycopg.Connection[Any]) -> None:
        self.url = url
        self.admin = admin
        self.roles: list[str] = []

    def role(self) -> str:
        """Create a role that may log in, and nothing else."""
        self.roles.append(f"test_role_{uuid4().hex[:12]}")
        self.admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(self.roles[-1])))
        return self.roles[-1]

    def names(self) -> RoleNames:
        """Return names for three roles that are nobody else's."""
        names = RoleNames(*(f"test_{kind}_{uuid4().hex[:12]}" for kind in ("owner", "app", "search")))
        self.roles += [names.app, names.search, names.owner]
        return names

    def url_of(self, role: str) -> str:
        return make_url(self.url).set(username=role).render_as_string(hide_password=False)

    def login(self, role: str) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(libpq(self.url_of(role)), autocommit=True)
        except psycopg.OperationalError:
            pytest.skip("this server asks for passwords")

    def public(self) -> list[str]:
        """Return the functions that every role may execute."""
        return [name for (name,) in self.admin.execute(PUBLIC)]

    def defaults_of(self, role: str) -> int:
        """Return how many kinds of objects *role* has default privileges for in this database."""
        query = "SELECT FROM pg_default_acl WHERE pg_get_userbyid(defaclrole) = %s"
        return self.admin.execute(query, [role]).rowcount


@pytest.fixture
def place(server_url: str, migrated_template: str) -> Iterator[Place]:
    with (
        temporary_database(server_url, template=migrated_template) as url,
        psycopg.connect(libpq(url), autocommit=True) as admin,
    ):
        with Catalog(url, actor="boss") as catalog, catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="a secret"), audio_path="p", status=TrackStatus.PENDING)
        found = Place(url, admin)
        try:
            yield found
        finally:
            for role in map(sql.Identifier, found.roles):
                if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role.as_string(None).strip('"')]).rowcount:
                    admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
                    admin.execute(sql.SQL("DROP ROLE {}").format(role))


def statements(admin: psycopg.Connection[Any]) -> list[str]:
    """Return calls of every function of ours, and all that can be done to each table."""
    calls = [
        f"SELECT * FROM {name}({', '.join(f'(SELECT NULL::{kind})' for kind in arguments)})"
        for name, arguments in admin.execute(
            "SELECT oid::regproc::text, ARRAY(SELECT format_type(one, NULL) FROM unnest(proargtypes) AS one)"
            " FROM pg_proc WHERE starts_with(proname, 'audiocatalog_') ORDER BY oid"
        )
    ]
    tables = [
        statement.format(table)
        for table in TABLES
        for statement in (
            "SELECT FROM {} LIMIT 1",
            "SELECT count(*) FROM {}",
            "INSERT INTO {} DEFAULT VALUES",
            "DELETE FROM {}",
            "TRUNCATE {} CASCADE",
            "COPY {} TO STDOUT",
            "BEGIN; LOCK TABLE {} IN ACCESS SHARE MODE",
        )
    ]
    return [
        *calls,
        *tables,
        "SELECT " + save_call("gen_random_uuid()", "'COMPLETED'", "'the boss'"),
        "SELECT title, audio_path FROM audiocatalog_claim_v1(10, interval '7 days', 'nobody', false)",
        "UPDATE audio_tracks SET title = 'x'",
        "UPDATE audio_track_status_changes SET actor = 'x'",
        "SELECT search_vector FROM audio_tracks",
        "SELECT audiocatalog_fold_v1('x')",
        f"UPDATE {TABLES[-1]} SET version_num = '9999'",
        "CREATE TABLE mine (LIKE audio_tracks INCLUDING ALL)",
        "CREATE VIEW mine AS SELECT * FROM audio_tracks",
        "ALTER FUNCTION audiocatalog_save_v1 SECURITY INVOKER",
        "DROP FUNCTION audiocatalog_save_v1",
    ]


def allowed(place: Place, role: str) -> list[str]:
    """Return those of all statements that are not refused to *role* for want of a right."""
    tried = statements(place.admin)
    assert len(tried) >= 40
    found = []
    with place.login(role) as connection:
        for statement in tried:
            try:
                connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass
            except psycopg.Error as error:
                found.append(f"{statement}: {error.sqlstate}")
            else:
                found.append(statement)
            connection.execute("ROLLBACK")
    return found


class TestWithoutAGrant:
    def test_nothing_is_allowed_after_an_upgrade(self, place: Place) -> None:
        assert allowed(place, place.role()) == []
        assert place.public() == []

    def test_nothing_is_allowed_after_the_roles_are_applied(self, place: Place) -> None:
        apply_roles(place.url, place.names())
        assert allowed(place, place.role()) == []

    @pytest.mark.parametrize("with_roles", [False, True])
    def test_nothing_is_allowed_after_a_later_revision(self, place: Place, tmp_path: Path, *, with_roles: bool) -> None:
        if with_roles:
            apply_roles(place.url, place.names())
        upgrade(place.url, RATED, ini=ini_with(tmp_path, NEWER_BY_HAND))
        assert any("peek" in statement for statement in statements(place.admin))
        assert allowed(place, place.role()) == []
        assert place.public() == []
        # What was written last to a function was written with the revision: nobody has seen it open to all.
        together = "SELECT bool_and(f.xmin = v.xmin) FROM pg_proc AS f, {} AS v WHERE proname = ANY (%s)"
        made = ["audiocatalog_save_v2", "audiocatalog_peek_v1"]
        assert place.admin.execute(sql.SQL(together).format(sql.Identifier(VERSION_TABLE)), [made]).fetchone() == (
            True,
        )

    def test_nothing_is_allowed_after_printed_sql(self, place: Place, tmp_path: Path) -> None:
        """Alembic prints what it would do; a database on which that is run is the same."""

        ini = ini_with(tmp_path, NEWER_BY_HAND)
        command = [sys.executable, "-m", "alembic", "-c", str(ini), "upgrade", f"0001:{RATED}", "--sql"]
        printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
        place.admin.execute(printed)
        assert place.public() == []
        assert allowed(place, place.role()) == []

    def test_what_the_owner_creates_by_hand_is_nobodys(self, place: Place) -> None:
        names = place.names()
        apply_roles(place.url, names)
        place.admin.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(names.owner)))
        place.admin.execute(SAVE_V2.replace("FROM CURRENT", "= public, pg_temp"))
        place.admin.execute("RESET ROLE")
        assert place.public() == []
        assert allowed(place, place.role()) == []


class TestDefaultPrivileges:
    def test_an_upgrade_changes_none(self, place: Place) -> None:
        assert not place.admin.execute("SELECT FROM pg_default_acl").rowcount

    def test_those_of_an_owner_that_was_there_before_are_left_alone(self, place: Place) -> None:
        names = place.names()
        place.admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(names.owner)))
        assert "DEFAULT PRIVILEGES" not in apply_roles(place.url, names)
        assert not place.defaults_of(names.owner)

    def test_those_of_an_owner_of_ours_are_set_again_in_another_database(
        self, place: Place, server_url: str, migrated_template: str
    ) -> None:
        names = place.names()
        apply_roles(place.url, names)
        assert place.defaults_of(names.owner) == 1
        with temporary_database(server_url, template=migrated_template) as other:
            apply_roles(other, names)
            with psycopg.connect(libpq(other), autocommit=True) as admin:
                assert Place(other, admin).defaults_of(names.owner) == 1
                admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(names.owner)))


class TestNewVersions:
    def test_a_new_version_has_the_grantees_of_the_one_before(self, place: Place, tmp_path: Path) -> None:
        first, second = place.role(), place.role()
        grant_rights(place.url, first)
        place.admin.execute(
            sql.SQL("GRANT EXECUTE ON FUNCTION audiocatalog_save_v1 TO {} WITH GRANT OPTION").format(
                sql.Identifier(second)
            )
        )
        upgrade(place.url, RATED, ini=ini_with(tmp_path, NEWER_BY_HAND))
        expected = sorted([(first, False), (second, True)])
        assert place.admin.execute(GRANTEES, ["audiocatalog_save_v2"]).fetchall() == expected
        assert place.admin.execute(GRANTEES, ["audiocatalog_peek_v1"]).fetchall() == []

    def test_a_file_of_functions_is_treated_alike(self, place: Place, tmp_path: Path) -> None:
        first = place.role()
        grant_rights(place.url, first)
        file = tmp_path / "save_v2.sql"
        file.write_text(f"-- A comment: one function.\n{SAVE_V2};\n\n{PEEK_V1};\n", encoding="utf-8")
        upgrade(place.url, RATED, ini=ini_with(tmp_path, f'op.create_functions("{file}")'))
        assert place.public() == []
        assert place.admin.execute(GRANTEES, ["audiocatalog_save_v2"]).fetchall() == [(first, False)]

    def test_what_a_revision_grants_itself_is_left_as_it_is(self, place: Place, tmp_path: Path) -> None:
        first, second = place.role(), place.role()
        grant_rights(place.url, first)
        grant = f'op.execute("GRANT EXECUTE ON FUNCTION audiocatalog_save_v2 TO {second}")'
        upgrade(place.url, RATED, ini=ini_with(tmp_path, f"{NEWER_BY_HAND}\n    {grant}"))
        assert place.admin.execute(GRANTEES, ["audiocatalog_save_v2"]).fetchall() == [(second, False)]

    def test_a_right_that_was_taken_later_stays_taken(self, place: Place, tmp_path: Path) -> None:
        first = place.role()
        grant_rights(place.url, first)
        upgrade(place.url, RATED, ini=ini_with(tmp_path, NEWER_BY_HAND))
        revoke = sql.SQL("REVOKE EXECUTE ON FUNCTION audiocatalog_save_v2 FROM {}").format(sql.Identifier(first))
        place.admin.execute(revoke)
        upgrade(place.url, RATED, ini=tmp_path / "alembic.ini")
        assert place.admin.execute(GRANTEES, ["audiocatalog_save_v2"]).fetchall() == []


def work_with(url: str) -> None:
    """Do what an application does."""
    with Catalog(url, actor="uploads") as catalog:
        with catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title="Jóga"), audio_path="p", status=TrackStatus.PENDING)
        (claim,) = catalog.claim(1, order_by="newest")
        assert claim.track.id == track.id
        catalog.complete(claim)
        assert catalog.bulk_save([TrackRecord(TrackMetadata(title="x"), "p")]).inserted == 1
        assert catalog.refresh_vocabulary().tracks >= 1
        assert catalog.search("joga").total == 1
        assert [change.to_status for change in catalog.history(track.id)] == ["PENDING", "PROCESSING", "COMPLETED"]


OWNERS = """
SELECT relname::text, relowner FROM pg_class WHERE relname LIKE 'audio%%' UNION ALL
SELECT proname::text, proowner FROM pg_proc WHERE proname LIKE 'audiocatalog%%' ORDER BY 1, 2"""


class TestGrant:
    @pytest.mark.parametrize("with_roles", [False, True])
    def test_a_role_of_ones_own_is_told_what_it_needs_and_gets_it(self, place: Place, *, with_roles: bool) -> None:
        if with_roles:
            apply_roles(place.url, place.names())
        role = place.role()
        place.login(role).close()
        with Catalog(place.url_of(role)) as catalog, pytest.raises(PermissionDenied) as caught:
            catalog.search("secret")
        assert "`audiocatalog roles --grant ROLE`" in str(caught.value)
        before = place.admin.execute(OWNERS).fetchall()
        result = invoke("--url", place.url, "roles", "--grant", role)
        assert (result.exit_code, result.stdout) == (0, f"the role {role} has the rights of the application\n")
        work_with(place.url_of(role))
        assert place.admin.execute(OWNERS).fetchall() == before

    def test_the_schema_must_be_usable_too(self, place: Place) -> None:
        place.admin.execute("CREATE SCHEMA music")
        role = place.role()
        place.login(role).close()
        options = {"options": "-c search_path=music"}
        own = make_url(place.url).update_query_dict(options).render_as_string(hide_password=False)
        migrations.upgrade(own)
        theirs = make_url(own).set(username=role)
        with Catalog(theirs) as catalog, pytest.raises(PermissionDenied, match="roles --grant ROLE"):
            catalog.search("x")
        grant_rights(own, role)
        work_with(theirs.render_as_string(hide_password=False))

    def test_the_rights_of_the_search_are_fewer(self, place: Place) -> None:
        role = place.role()
        place.login(role).close()
        result = invoke("--url", place.url, "roles", "--grant-search", role)
        assert (result.exit_code, result.stdout) == (0, f"the role {role} has the rights of the search\n")
        with Catalog(place.url_of(role)) as catalog:
            assert catalog.search("nothing").total == 0
            for refused in (catalog.claim, catalog.count_by_status):
                with pytest.raises(PermissionDenied):
                    refused()

    def test_an_owner_that_is_no_superuser_can_grant(self, place: Place) -> None:
        owner, role = place.role(), place.role()
        place.admin.execute(sql.SQL("CREATE SCHEMA own AUTHORIZATION {}").format(sql.Identifier(owner)))
        own = make_url(place.url_of(owner)).update_query_dict({"options": "-c search_path=own"})
        place.login(owner).close()
        migrations.upgrade(own)
        grant_rights(own, role)
        work_with(own.set(username=role).render_as_string(hide_password=False))

    def test_who_may_not_grant_is_told(self, place: Place) -> None:
        role = place.role()
        place.login(role).close()
        grant_rights(place.url, role)
        before = place.admin.execute(GRANTEES, ["audiocatalog_save_v1"]).fetchall()
        result = invoke("--url", place.url_of(role), "roles", "--grant", place.role())
        assert result.exit_code == 1
        assert "Run the command as the owner of the tables" in result.stderr
        assert place.admin.execute(GRANTEES, ["audiocatalog_save_v1"]).fetchall() == before

    def test_only_an_existing_role_gets_rights(self, place: Place) -> None:
        for name in ("test_nobody", "public", 'a"b', "PUBLIC", ""):
            with pytest.raises(ConfigurationError, match="create the role first"):
                grant_rights(place.url, name)

    def test_it_can_be_printed_and_changes_nothing_then(self, place: Place) -> None:
        role = place.role()
        result = invoke("--url", place.url, "roles", "--grant", role, "--dry-run", "--json")
        printed = json.loads(result.stdout)
        assert (printed["applied"], printed["sql"]) == (False, grant_sql(place.url, role))
        assert place.admin.execute(GRANTEES, ["audiocatalog_save_v1"]).fetchall() == []
        place.admin.execute(printed["sql"])
        assert place.admin.execute(GRANTEES, ["audiocatalog_save_v1"]).fetchall() == [(role, False)]

    @pytest.mark.parametrize(
        "options",
        [("--grant", "x", "--grant-search", "x"), ("--grant", "x", "--revoke-temporary"), ("--dry-run",)],
    )
    def test_options_that_make_no_sense_together_are_refused(self, options: tuple[str, ...]) -> None:
        assert invoke("--url", "postgresql://x/y", "roles", *options).exit_code == 2


class TestTemporary:
    GRANTED = "SELECT has_database_privilege(%s, current_database(), 'TEMPORARY')"

    def test_it_is_taken_from_everybody_only_when_asked(self, place: Place) -> None:
        names, role = place.names(), place.role()
        apply_roles(place.url, names)
        assert place.admin.execute(self.GRANTED, [role]).fetchone() == (True,)
        assert "REVOKE TEMPORARY" not in roles_sql(place.url, names)
        options = ("--owner", names.owner, "--app", names.app, "--search", names.search)
        result = invoke("--url", place.url, "roles", "--apply", "--revoke-temporary", *options)
        assert result.exit_code == 0, result.stderr
        assert place.admin.execute(self.GRANTED, [role]).fetchone() == (False,)
        assert place.admin.execute(self.GRANTED, [names.search]).fetchone() == (False,)
        place.admin.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(names.app)))
        place.login(names.app).close()
        work_with(place.url_of(names.app))


class TestCheck:
    def test_a_restore_without_its_grants_is_reported_and_mended(self, place: Place) -> None:
        for (signature,) in place.admin.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE starts_with(proname, 'audiocatalog_')"
        ).fetchall():
            place.admin.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO PUBLIC")
        with pytest.raises(SchemaMismatch, match="every role of the server may execute audiocatalog_") as caught:
            migrations.check(place.url)
        assert "`audiocatalog upgrade`" in str(caught.value)
        migrations.upgrade(place.url)
        migrations.check(place.url)
        assert allowed(place, place.role()) == []


def test_an_upgrade_without_the_right_to_create_names_the_schema(
    server_url: str, empty_database: Callable[[], str]
) -> None:
    url, role = empty_database(), f"test_role_{uuid4().hex[:12]}"
    with psycopg.connect(libpq(server_url), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN")
        try:
            theirs = make_url(url).set(username=role)
            with pytest.raises((PermissionDenied, ConfigurationError)) as caught:
                migrations.upgrade(theirs)
        finally:
            admin.execute(f"DROP ROLE {role}")
    if isinstance(caught.value, ConfigurationError):
        pytest.skip("this server asks for passwords")
    assert "CREATE on the schema 'public'" in str(caught.value)
    assert "GRANT CREATE ON SCHEMA" in str(caught.value)
    assert role not in str(caught.value)
