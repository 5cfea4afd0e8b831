"""PostgreSQL servers whose life is in the test's hands: on a port of loopback, restarted, followed by a standby.

`EmbeddedPostgres` listens on no network, begins a new socket each time and takes no cluster that somebody else made;
a failover, TLS and a full disk need all three.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psycopg
from sqlalchemy import URL, make_url

from audiocatalog.embedded.server import _find_binaries
from audiocatalog.embedded.supervisor import _copy_binaries, _locale_options, _tied_to_this_process
from tests.support.databases import libpq
from tests.support.frozen import family
from tests.support.waiting import wait_until

#: The names of pg_ctl: end when all clients have left; end now, in order; end like a crash.
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}
StopMode = Literal["smart", "fast", "immediate", "kill"]
_SETTINGS = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "wal_keep_size": "64MB",
    "hot_standby_feedback": "off",
    "autovacuum": "off",
    "jit": "off",
    "log_min_messages": "warning",
}
_READY_SECONDS = 60.0


class Server:
    """Run the cluster in *data* on a port of its own, which stays the same when it is started again."""

    host = "127.0.0.1"

    def __init__(self, data: Path, sockets: Path, binaries: Path) -> None:
        self.data = data
        self.port = free_port()
        #: What the next start is told on the command line; it outweighs the cluster's own settings.
        self.settings = dict(_SETTINGS)
        #: What the next start finds in its environment besides.
        self.environment: dict[str, str] = {}
        self._sockets = sockets
        self._binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", *, user: str = "postgres", **query: str) -> URL:
        """Return the URL of *database* over TCP."""
        return URL.create("postgresql", username=user, host=self.host, port=self.port, database=database, query=query)

    def socket_url(self, database: str = "postgres", *, user: str = "postgres") -> URL:
        """Return the URL of *database* over the Unix socket, which no network can cut."""
        query = {"host": str(self._sockets), "port": str(self.port)}
        return URL.create("postgresql", username=user, database=database, query=query)

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Return a connection of the superuser's that commits by itself."""
        return psycopg.connect(libpq(self.socket_url(database)), autocommit=True, connect_timeout=10)

    def begin(self) -> None:
        """Start, without waiting until connections are accepted."""
        settings = {
            **self.settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self._sockets),
        }
        with self.data.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._binaries / "postgres"),
                    *("-D", str(self.data)),
                    *(f"-c{name}={value}" for name, value in settings.items()),
                ],
                cwd="/",
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # A run that is killed leaves no server behind.
                preexec_fn=_tied_to_this_process(signal.SIGQUIT),  # noqa: PLW1509
                **identity(),
            )

    def start(self) -> None:
        """Start, and return when connections are accepted."""
        self.begin()
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                self.admin().close()
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
            else:
                return

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop and wait for the end; one that is stopped stays so."""
        if self._process is None:
            return
        self.signal(mode)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
        self._process = None

    def signal(self, mode: StopMode) -> None:
        """Tell the server to stop, without waiting for the end; nobody of it survives being killed."""
        for pid in family(self.pid) if mode == "kill" else [self.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, STOP_SIGNALS[mode])

    def wait(self) -> None:
        """Wait until the server has ended by itself."""
        assert self._process is not None
        self._process.wait(60)
        self._process = None

    def promote(self) -> None:
        """Turn a standby into a primary, and return when it takes writes."""
        with self.admin() as admin:
            assert admin.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs, as the user who owns the cluster."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(
            [self._binaries / program, *arguments],
            check=False,
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            **identity(),
        )

    def log(self) -> str:
        """Return what the server wrote, from its first start on."""
        return self.data.with_suffix(".log").read_text(errors="replace")


@contextmanager
def cluster(folder: Path | None = None, *, binaries: Path | None = None) -> Iterator[Server]:
    """Make an empty cluster, in *folder* if that is given, and give its server, which is not started yet."""
    with _server(folder, binaries) as server:
        major = int((server.run("postgres", "--version").stdout.split()[2]).split(".")[0])
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", *_locale_options(major))
        made = server.run("initdb", "--pgdata", str(server.data), *options)
        assert made.returncode == 0, made.stderr
        yield server


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """Copy a running *primary* and give the server of the copy, which follows it and is already started."""
    with _server(None, primary._binaries) as server:
        source = primary.socket_url().render_as_string()
        copied = server.run("pg_basebackup", "-D", str(server.data), "-R", "-X", "stream", "-c", "fast", "-d", source)
        assert copied.returncode == 0, copied.stderr
        server.start()
        yield server


def wait_for_replay(primary: Server, standby: Server) -> None:
    """Wait until *standby* shows whatever *primary* has committed."""
    with primary.admin() as writer, standby.admin() as reader:
        target = writer.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert target is not None
        wait_until(lambda: reader.execute("SELECT pg_last_wal_replay_lsn() >= %s", target).fetchone() == (True,))


def multi_host_url(*servers: Server, database: str, target: str = "read-write") -> URL:
    """Return the URL by which libpq tries one server after the other until one is as *target* says."""
    hosts = tuple(f"{server.host}:{server.port}" for server in servers)
    query: dict[str, str | tuple[str, ...]] = {"host": hosts, "target_session_attrs": target}
    return make_url("postgresql+psycopg://postgres@/").set(database=database, query=query)


def free_port() -> int:
    """Return a port of loopback that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def identity() -> dict[str, Any]:
    """Return how a program is started as `nobody` where this process is root's, which PostgreSQL refuses to run as."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextmanager
def _server(folder: Path | None, binaries: Path | None) -> Iterator[Server]:
    with ExitStack() as cleanup:
        home = folder or temporary_folder(cleanup)
        own(home)
        sockets = temporary_folder(cleanup)
        server = Server(home / "data", sockets, binaries or _runnable_binaries())
        cleanup.callback(server.stop, "immediate")
        yield server


def temporary_folder(cleanup: ExitStack) -> Path:
    """Make a folder for the server, whose path is short enough for a socket, and remove it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="audiocatalog-"))
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    own(folder)
    return folder


def own(path: Path) -> None:
    """Give *path* to the user whom the server runs as."""
    if user := identity():
        os.chown(path, user["user"], user["group"])


@functools.cache
def _runnable_binaries() -> Path:
    """Return the folder of programs that the server's user may run: in closed homes, a copy of them."""
    binaries, _ = _find_binaries(None)
    runnable = subprocess.run(["test", "-x", binaries / "postgres"], check=False, **identity()).returncode == 0
    if runnable:
        return binaries
    copies = ExitStack()
    atexit.register(copies.close)
    return _copy_binaries(binaries, pwd.getpwnam("nobody"), copies)
