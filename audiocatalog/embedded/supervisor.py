"""
A supervisor that runs one PostgreSQL server for its parent process, the owner, and stops the server after the owner.

``python -I -S supervisor.py JOB`` creates the cluster, starts the server and writes one JSON object to its standard
output: ``{"pid": …, "socket": …}`` or ``{"problem": …, "details": …}``. Then the supervisor waits. When the owner
writes to the pipe on the supervisor's standard input, closes the pipe, or ends, the supervisor stops the server and
removes every temporary folder.

The supervisor is a separate process, because nothing inside the owner survives SIGKILL. The owner does not start the
server itself, because the kernel would tie the server to the owner's thread, not to its process. All imports are at the
top, and only of the standard library, because `nobody` may not be allowed to read the interpreter's folders.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import locale
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

try:
    import ctypes
except ImportError:
    # Some Pythons are built without ctypes. In these, `_tied_to_this_process` has no effect.
    ctypes = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

#: Settings for speed. A power cut may destroy the data, which tests and demos can create again.
_FAST_SETTINGS = {
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}
_STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1
_INITDB_SECONDS = 120.0
_READY_SECONDS = 120.0
_PREDECESSOR_SECONDS = 0.5
_TICK_SECONDS = 0.25


class Job(NamedTuple):
    """The server to run, and its *owner* process; *data* is None for a temporary cluster."""

    owner: int
    binaries: str
    version: int
    data: str | None
    durable: bool
    settings: dict[str, str]

    def owner_left(self, seconds: float) -> bool:
        """Wait at most *seconds* for the owner to write, close the pipe or end; return whether this has happened."""
        # A forked child of the owner may hold the pipe open, so the parent process is checked as well.
        readable, _, _ = select.select([0], [], [], seconds)
        return bool(readable) or os.getppid() != self.owner


class Folders(NamedTuple):
    """The folders of the programs, the cluster and the socket."""

    binaries: Path
    data: Path
    socket: Path

    @property
    def log(self) -> Path:
        """The server's log; in a kept cluster, each run appends to it."""
        return self.data / "server.log"


class Problem(Exception):
    """The reason why the server did not start, with advice; *details* is the output of the failed program."""

    def __init__(self, problem: str, details: str = "") -> None:
        super().__init__(problem)
        self.details = details


def main(job: Job) -> None:
    """Run the server until its owner stops the server or ends, then remove all temporary folders."""
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(1))
    # If the owner ignores SIGCHLD, this process inherits the setting, and would not get initdb's exit code.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.ExitStack() as cleanup:
        try:
            _serve(job, cleanup)
        except Problem as problem:
            _report(problem=str(problem), details=problem.details)
        except OSError as error:
            _report(problem=f"{error}. Correct this and try again.", details="")
        finally:
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)


def _serve(job: Job, cleanup: contextlib.ExitStack) -> None:
    if job.data is not None:
        Path(job.data).mkdir(parents=True, exist_ok=True)
    binaries = _become_nobody(job, cleanup) if os.geteuid() == 0 else Path(job.binaries)
    os.umask(0o077)
    data = _temporary_folder(cleanup, tempfile.gettempdir()) if job.data is None else Path(job.data)
    folders = Folders(binaries, data, _temporary_folder(cleanup, _plain_parent()))
    lock = _claim(data, job)
    _create_cluster(folders, job)
    already_logged = folders.log.stat().st_size if folders.log.exists() else 0
    server = _start(folders, job, lock)
    cleanup.callback(_stop, server, gently=job.durable or job.data is not None)
    _wait_until_ready(server, folders, job, already_logged)
    _report(pid=server.pid, socket=str(folders.socket))
    # The end of the output tells the owner that the report is complete.
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - dup2 needs the descriptor.
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    while server.poll() is None and not job.owner_left(_TICK_SECONDS):
        pass


def _report(**facts: object) -> None:
    with contextlib.suppress(OSError):  # The owner may be gone.
        os.write(1, json.dumps(facts).encode())


def _become_nobody(job: Job, cleanup: contextlib.ExitStack) -> Path:
    """Become `nobody`, because PostgreSQL refuses to run as root; return the folder of programs for `nobody`."""
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        msg = "PostgreSQL refuses to run as root, and this system has no user `nobody`. Run as an ordinary user."
        raise Problem(msg) from None
    if job.data is not None and Path(job.data).stat().st_uid == 0 and not any(Path(job.data).iterdir()):
        os.chown(job.data, nobody.pw_uid, nobody.pw_gid)
    os.setgroups([])
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    tempfile.gettempdir()  # The first call picks a writable folder, which has to be writable for `nobody`.
    runnable = os.access(Path(job.binaries, "postgres"), os.X_OK, effective_ids=True)
    os.seteuid(0)
    binaries = Path(job.binaries) if runnable else _copy_binaries(Path(job.binaries), nobody, cleanup)
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    if job.data is not None and not os.access(job.data, os.R_OK | os.W_OK | os.X_OK):
        msg = f"The server of root runs as `nobody`, which cannot use {job.data}. Name a folder open to other users."
        raise Problem(msg)
    return binaries


def _copy_binaries(binaries: Path, nobody: pwd.struct_passwd, cleanup: contextlib.ExitStack) -> Path:
    """Copy an installation that `nobody` cannot read; keep the layout, so that programs find their libraries."""
    installation, package = binaries.parent, binaries.parent.parent
    libraries = package.parent / f"{package.name}.libs"
    copy = _temporary_folder(cleanup, _plain_parent())
    for part in (binaries, installation / "lib", installation / "share", libraries):
        if part.is_dir():
            target = copy / part.relative_to(package.parent)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
    # The top folder comes last, so that no other user can reach into the tree while root is writing it.
    for folder, _, files in os.walk(copy, topdown=False):
        for name in (*files, ""):
            os.chown(Path(folder, name), nobody.pw_uid, nobody.pw_gid)
    return copy / binaries.relative_to(package.parent)


def _plain_parent() -> str:
    """Return a folder for temporary files with a path that needs no quoting and fits a socket's 103 bytes."""
    usual = tempfile.gettempdir()
    return usual if re.fullmatch(r"[\w/.-]{1,60}", usual, re.ASCII) else "/tmp"  # noqa: S108 - mkdtemp follows.


def _temporary_folder(cleanup: contextlib.ExitStack, parent: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="audiocatalog-", dir=parent))
    cleanup.callback(_remove, folder)
    return folder


def _remove(folder: Path) -> None:
    """Remove a folder, with retries for 5 seconds: the children of a killed server write after its end."""
    deadline = time.monotonic() + 5
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def _claim(data: Path, job: Job) -> int:
    """
    Lock the data folder and return the lock's descriptor, which the server inherits.

    The lock ends with the last process of the server. If a previous server is stopping, wait for its end.
    """
    folder = os.open(data, os.O_RDONLY)
    deadline = time.monotonic() + _PREDECESSOR_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, state = _read_pid_file(data)
            if state != "stopping" and time.monotonic() > deadline:
                msg = f"{data} is in use by another server (process {pid}). Stop that server, or name another folder."
                raise Problem(msg) from None
        except OSError:
            break  # Some network file systems have no locks. PostgreSQL's own check remains.
        else:
            break
        if job.owner_left(0.02):
            sys.exit(1)
    _remove_stale_pid_file(data)
    return folder


def _read_pid_file(data: Path) -> tuple[int, str]:
    """Return the process id and the state in postmaster.pid, or 0 and an empty string."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""  # noqa: PLR2004 - it is the eighth line.
    except (OSError, ValueError, IndexError):
        return 0, ""


def _remove_stale_pid_file(data: Path) -> None:
    """Remove a postmaster.pid with the process of another program, which PostgreSQL would take for a server."""
    pid, _ = _read_pid_file(data)
    with contextlib.suppress(OSError):  # Without the process or /proc, PostgreSQL decides.
        if Path(f"/proc/{pid}/comm").read_text().strip() not in {"postgres", "postmaster"}:
            (data / "postmaster.pid").unlink()


def _create_cluster(folders: Folders, job: Job) -> None:
    """Create the cluster, unless there is one; raise Problem if another major version made it."""
    data = folders.data
    if (data / "PG_VERSION").exists():
        made_by = (data / "PG_VERSION").read_text().strip()
        if made_by != str(job.version):
            msg = (
                f"{data} was made by PostgreSQL {made_by}, not {job.version}. Use version {made_by}, or another folder."
            )
            raise Problem(msg)
        return
    done = subprocess.run(  # noqa: S603 - a program of the installation, without a shell.
        [
            *(folders.binaries / "initdb", "--pgdata", data),
            *("--username=postgres", "--auth=trust", "--encoding=UTF8"),
            *_locale_options(job.version),
            *(() if job.durable else ("--no-sync",)),
        ],
        check=False,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_INITDB_SECONDS,
        preexec_fn=_tied_to_this_process(signal.SIGTERM),
    )
    if done.returncode != 0:
        msg = f"initdb did not create a cluster in {data}. Correct what initdb reports, or name an empty folder."
        raise Problem(msg, done.stdout.decode(errors="replace"))


def _locale_options(version: int) -> list[str]:
    """Return initdb's options that sort by code point and use Unicode's character classes, on any system."""
    if version >= 17:  # noqa: PLR2004 - the first with locales of its own.
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    for name in ("C.UTF-8", "en_US.UTF-8"):
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, name)
            return ["--locale=C", f"--lc-ctype={name}"]
    msg = f"PostgreSQL {version} needs the system's locale C.UTF-8 or en_US.UTF-8. Install one, or use version 18."
    raise Problem(msg)


def _start(folders: Folders, job: Job, lock: int) -> subprocess.Popen[bytes]:
    settings = {
        **({} if job.durable else _FAST_SETTINGS),
        **job.settings,
        "listen_addresses": "",
        "port": "5432",  # The port is only part of the socket's name.
        "unix_socket_directories": str(folders.socket),
    }
    with folders.log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - a program of the installation, without a shell.
            [
                folders.binaries / "postgres",
                "-D",
                folders.data,
                *(f"-c{name}={value}" for name, value in settings.items()),
            ],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[lock],
            # If this process is killed, the server gets SIGQUIT, and ends at once with its children.
            preexec_fn=_tied_to_this_process(signal.SIGQUIT),  # noqa: PLW1509 - this process has one thread.
        )


def _tied_to_this_process(number: signal.Signals) -> Callable[[], None] | None:
    """Return a preexec_fn that makes Linux send the child the signal *number* when this process ends."""
    if sys.platform != "linux" or ctypes is None:
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _wait_until_ready(server: subprocess.Popen[bytes], folders: Folders, job: Job, already_logged: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        if _read_pid_file(folders.data) == (server.pid, "ready"):
            return
        if job.owner_left(0.005):
            sys.exit(1)
    outcome = "did not become ready in time" if server.returncode is None else f"ended with code {server.returncode}"
    msg = f"The server {outcome}. Correct what its log reports."
    raise Problem(msg, folders.log.read_bytes()[already_logged:].decode(errors="replace"))


def _stop(server: subprocess.Popen[bytes], *, gently: bool) -> None:
    """Stop the server, *gently* if its data is kept; send stronger signals if the server does not end."""
    for number, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        if gently or number != signal.SIGINT:
            server.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(seconds)
                return


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
