"""PgBouncer in transaction mode before a server of the tests: many clients share a few of its connections."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import URL, make_url

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
MISSING: Final = "PgBouncer is not installed (apt-get install pgbouncer)"
# Nothing listens on this port; it is the name of the socket.
_PORT: Final = 6432
_READY_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0


class PgBouncer:
    """
    Stand before the server at *server*, and serve each database of it with *pool_size* connections for each user.

    *settings* are further lines of its configuration. Nothing there makes room for clients that are not made for it:
    it refuses any parameter that a session would begin with.
    """

    def __init__(self, server: str | URL, folder: Path, *, pool_size: int, settings: dict[str, str]) -> None:
        self._server = make_url(server)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        host = self._server.query.get("host") or self._server.host or "localhost"
        port = self._server.query.get("port") or self._server.port or 5432
        user = self._server.username or "postgres"
        lines = {
            "listen_addr": "",
            "listen_port": str(_PORT),
            "unix_socket_dir": str(folder),
            "pool_mode": "transaction",
            "default_pool_size": str(pool_size),
            "max_client_conn": "1000",
            # Each transaction gets the connection that has rested longest, so that even a lone client changes often.
            "min_pool_size": "2",
            "server_round_robin": "1",
            "query_wait_timeout": "5",
            "auth_type": "trust",
            "auth_file": str(folder / "users"),
            # Roles that a test makes are asked of the server.
            "auth_user": user,
            "admin_users": user,
            # After a failed attempt, a server that is back is found again so soon; the default is 15 seconds.
            "server_login_retry": "1",
            **settings,
        }
        (folder / "users").write_text(f'"{user}" "{self._server.password or ""}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={host} port={port}\n\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )

    def url(self, database: str | URL) -> str:
        """Return *database*, a URL of the server's or the name of a database, as the URL that leads through here."""
        url = make_url(database) if "://" in str(database) else self._server.set(database=str(database))
        query = {**url.query, "host": str(self._folder), "port": str(_PORT)}
        return URL.create(
            url.drivername, username=url.username, password=url.password, database=url.database, query=query
        ).render_as_string(hide_password=False)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self._folder / "log").read_text(errors="replace")

    def ask(self, command: str) -> list[tuple[Any, ...]]:
        """Return what its console answers to *command*, such as ``SHOW POOLS``."""
        dsn = self.url("pgbouncer").replace("+psycopg", "")
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as console:
            found = console.execute(command.encode())
            return found.fetchall() if found.description else []

    def start(self) -> None:
        """Start it, and return when it answers."""
        assert PROGRAM is not None, MISSING
        # It does not run as root, and neither does the embedded server, whose socket only its own user can reach.
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [PROGRAM, self._folder / "pgbouncer.ini"],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                self.ask("SHOW VERSION")
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"PgBouncer did not start:\n{self.log}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it at once, with all its connections."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
            process.wait()


@contextmanager
def bouncing(server: str | URL, *, pool_size: int = 2, **settings: str) -> Iterator[PgBouncer]:
    """Run PgBouncer before the server at *server*."""
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", ignore_cleanup_errors=True) as name:
        bouncer = PgBouncer(server, Path(name), pool_size=pool_size, settings=settings)
        try:
            bouncer.start()
            yield bouncer
        finally:
            bouncer.stop()
