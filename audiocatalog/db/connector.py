"""New connections to the server of one catalogue, with the checks of the server and its schema."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import psycopg
from sqlalchemy import URL

from audiocatalog.db.commit_outcome import note_server
from audiocatalog.db.connection import PooledConnection, transaction_settings
from audiocatalog.db.connection_parameters import Password, checked_password, connection_parameters, password_of
from audiocatalog.db.error_translation import translated
from audiocatalog.db.first_revision import check_first_revision
from audiocatalog.db.function_rights import check_pins
from audiocatalog.db.observer import LOGGER
from audiocatalog.db.schema_check import check_schema
from audiocatalog.db.settings import CONNECTION_DEFAULTS, Settings, is_unverified, parse_url
from audiocatalog.errors import ConfigurationError
from audiocatalog.models.arguments import is_async
from audiocatalog.operations.operation import settings_call

_OLDEST_SERVER: Final = 150000
_UNVERIFIED: Final = (
    "the server is on another machine, and its identity is not verified: add sslmode=verify-full and sslrootcert to "
    "the URL"
)


class Connector:
    """
    A factory of connections to *url*, with the session settings of *settings*.

    *password* replaces the URL's password. *introduce* is called with the first connection after its checks.
    """

    def __init__(
        self,
        url: str | URL,
        settings: Settings,
        *,
        password: Password | None,
        introduce: Callable[[PooledConnection], None] = lambda _: None,
    ) -> None:
        self.url = parse_url(url)
        self._settings = settings
        self._password = password
        if is_async(password):
            raise ConfigurationError("password must be a text or a plain function, not an async one", field="password")
        if password is not None and not callable(password):
            checked_password(password)
        self._introduce = introduce
        self._parameters = self._connection_parameters()
        if is_unverified(self.url):
            LOGGER.warning(_UNVERIFIED)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Make the next connection check the server again."""
        self._is_checked = False
        #: Behind a pooler, the statement that sets the timeouts in each transaction.
        self.settings_of_a_transaction: str | None = None

    @property
    def limits(self) -> Callable[[], str | None] | None:
        """Behind a pooler, a function that returns the statement to execute in each transaction; otherwise None."""
        return (lambda: self.settings_of_a_transaction) if self._settings.pooler else None

    def connect(self) -> PooledConnection:
        """
        Return a new connection for the pool, with its session settings.

        The first call also checks the server and its schema.

        Raises:
            ConfigurationError: the server refuses the connection or is older than PostgreSQL 15, or the encoding of the
                database is not UTF8.
            PermissionDenied: the role may not use the schema.
            SchemaMismatch: this code does not work with the schema.
            DatabaseUnavailable: the server cannot be reached.
        """
        with translated("connect", "connect"):
            connection = self.connect_without_checks()
            try:
                if not self._is_checked:
                    check_server(connection)
                    check_schema(connection)
                    check_first_revision(connection)
                    check_pins(connection)
                    self._introduce(connection)
                    self._is_checked = True
                self._configure(connection)
                note_server(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def connect_without_checks(self) -> PooledConnection:
        """Return a new connection in autocommit mode, without session settings."""
        parameters = {**self._parameters, "autocommit": True}
        if self._password is not None:
            parameters["password"] = password_of(self._password)
        return PooledConnection.connect(
            **parameters,
            # A server that is not frozen ends a slow statement before this timeout.
            response_timeout=self._settings.statement_timeout + self._settings.network_timeout,
            network_timeout=self._settings.network_timeout,
        )

    def _configure(self, connection: PooledConnection) -> None:
        version = connection.info.server_version
        if not self._settings.pooler:
            connection.execute(settings_call(self._settings.of_the_session(version), local=False))
            return
        # Behind a pooler, session settings would stay on a server connection that other clients get.
        self.settings_of_a_transaction = transaction_settings(self._settings.of_a_transaction(version))
        # Behind a pooler, each BEGIN has to name the isolation level.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED

    def _connection_parameters(self) -> dict[str, Any]:
        parameters = connection_parameters(self.url)
        # libpq needs a whole number of seconds, and psycopg needs at least two seconds.
        seconds = {"connect_timeout": max(2, math.ceil(self._settings.connect_timeout))}
        parameters = {**CONNECTION_DEFAULTS, **seconds, **parameters, "client_encoding": "UTF8"}
        if self._settings.pooler:
            parameters["prepare_threshold"] = None
        return parameters


def check_server(connection: psycopg.Connection[Any]) -> None:
    """
    Check that this package supports the server.

    Raises:
        ConfigurationError: the server is older than PostgreSQL 15, or the encoding of the database is not UTF8.
    """
    if connection.info.server_version < _OLDEST_SERVER:
        raise ConfigurationError("the server is older than PostgreSQL 15: upgrade the server, or use another one")
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise ConfigurationError("the encoding of the database is not UTF8: create a new database with ENCODING 'UTF8'")
