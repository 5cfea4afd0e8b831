"""A proxy before PostgreSQL that loses what it is told to lose."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

from sqlalchemy import URL, make_url

Loss = Literal["COMMIT", "its answer"]
#: A simple query, as the protocol has it: its letter, its length, its text.
_COMMIT: Final = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class Proxy:
    """
    Pass everything on between clients and the server at *url*, until a COMMIT that is to be lost, or its answer.

    *losses* says what to lose of the next commits, one after the other, before the connection is cut; None is for a
    commit that goes through.
    """

    def __init__(self, url: str | URL) -> None:
        parsed = make_url(url)
        self._host = str(parsed.query.get("host") or parsed.host or "localhost")
        self._port = int(str(parsed.query.get("port") or parsed.port or 5432))
        self._listener = socket.create_server(("127.0.0.1", 0))
        query = {name: value for name, value in parsed.query.items() if name not in {"host", "port"}}
        self.url = parsed.set(host="127.0.0.1", port=self._listener.getsockname()[1], query=query)
        self.losses: list[Loss | None] = []
        self.lost = 0

    def serve(self) -> None:
        with suppress(OSError):  # Closing the listener ends this.
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _server(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server

    def _pass_on(self, client: socket.socket) -> None:
        with client, self._server() as server, suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    loss = self.losses.pop(0) if source is client and _COMMIT in data and self.losses else None
                    if loss == "COMMIT":
                        self.lost += 1
                        return
                    (server if source is client else client).sendall(data)
                    if loss is not None:
                        server.recv(1 << 16)
                        self.lost += 1
                        return


@contextmanager
def proxied(url: str | URL) -> Iterator[Proxy]:
    """Run a proxy before the server at *url*."""
    proxy = Proxy(url)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
