"""A proxy before PostgreSQL that loses what it is told to lose."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

from sqlalchemy import URL, make_url

Loss = Literal["COMMIT", "message", "its answer"]
#: So long an answer that is to be lost is waited for.
_ANSWER_SECONDS: Final = 0.2
#: A simple query, as the protocol has it: its letter, its length, its text.
_COMMIT: Final = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class Proxy:
    """
    Pass everything on between clients and the server at *url*, until a COMMIT that is to be lost, or its answer.

    *losses* says what to lose of the next commits, one after the other, before the connection is cut; None is for a
    commit that goes through. `doom` does the same to any other message.
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
        self._doomed = 0
        self._after_the_answer = False

    def serve(self) -> None:
        with suppress(OSError):  # Closing the listener ends this.
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def close(self) -> None:
        """Accept nobody any more; those who are connected stay so."""
        with suppress(OSError):  # It may have been closed before.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def doom(self, message: int, *, answered: bool) -> None:
        """Lose the *message*-th message of a client from now on, or its answer if it is to be *answered*; 0 is none."""
        self._doomed, self._after_the_answer = message, answered

    def _loss_of(self, data: bytes) -> Loss | None:
        """Return what is to be lost of a message of a client."""
        if self._doomed:
            self._doomed -= 1
            if not self._doomed:
                return "its answer" if self._after_the_answer else "message"
        return self.losses.pop(0) if _COMMIT in data and self.losses else None

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
                    loss = self._loss_of(data) if source is client else None
                    if loss in {"COMMIT", "message"}:
                        self.lost += 1
                        return
                    (server if source is client else client).sendall(data)
                    if loss is not None:
                        # Not everything is answered: of what is copied, the end alone is.
                        select.select([server], [], [], _ANSWER_SECONDS)
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
