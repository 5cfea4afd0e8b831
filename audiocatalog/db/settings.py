"""The URL of the database, and the settings of its connections."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import URL, make_url

from audiocatalog.db.connection_parameters import host_of
from audiocatalog.errors import ConfigurationError
from audiocatalog.models.arguments import is_between
from audiocatalog.models.claim import RetryPolicy
from audiocatalog.operations.operation import milliseconds

_DRIVER: Final = "postgresql+psycopg"
_DIALECTS: Final = {"postgres", "postgresql", _DRIVER}
_FIRST_WITH_TRANSACTION_TIMEOUT: Final = 170000
_IS_LOCAL: Final = re.compile(r"(?:localhost|127\.[0-9.]+|\[?::1\]?)(?::[0-9]*)?$", re.IGNORECASE)
_HOST: Final = re.compile(r"[^:\[\]]+(?::[0-9]+)?")
_SEVERAL_HOSTS: Final = re.compile(
    r"(?P<before>[\w+]+://(?:[^@/?]*@)?)(?P<hosts>(?=[^@/?]*,)[^@/?]*+)(?P<after>(?:[/?].*)?)$", re.DOTALL
)
# A dead server is noticed within 15 seconds: by keepalives during a wait, by tcp_user_timeout during sending.
CONNECTION_DEFAULTS: Final[Mapping[str, Any]] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "fallback_application_name": "audiocatalog",
    "client_encoding": "UTF8",
}
_HOW_TO_NAME_A_DATABASE: Final = (
    "no database is configured: set AUDIOCATALOG_DATABASE_URL (postgresql://user:password@host/name), "
    "or DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD"
)


def parse_url(url: str | URL) -> URL:
    """
    Return *url* for psycopg 3; ``postgresql://`` and ``postgresql+psycopg://`` mean the same.

    The URL may name several hosts, as for libpq: ``postgresql://user@first:5432,second:5432/name``. With
    ``?target_session_attrs=read-write``, libpq connects to the host that accepts writes.

    Raises:
        ConfigurationError: *url* is not a URL of a PostgreSQL database. The message does not repeat the URL, which may
            contain a password.
    """
    several = _SEVERAL_HOSTS.match(url) if isinstance(url, str) else None
    try:
        parsed = make_url(url if several is None else several["before"] + several["after"])
    except Exception:  # noqa: BLE001  # A wrong port raises ValueError, other faults raise ArgumentError.
        raise ConfigurationError(
            "the database URL cannot be read: write it as postgresql://user:password@host:5432/name, "
            "with every special character of the password percent-encoded"
        ) from None
    # After an unencoded @, the rest of the password would be read as the host, and messages would show it.
    if any("@" in part for part in (parsed.host or "", parsed.database or "", several["after"] if several else "")):
        raise ConfigurationError("the database URL contains more than one @: write each @ of the password as %40")
    if several is not None and not all(_HOST.fullmatch(host) for host in several["hosts"].split(",")):
        raise ConfigurationError(
            "a host of the database URL cannot be read: if the URL names several hosts, write each as a name or an "
            "IPv4 address, with an optional port"
        )
    if several is not None:
        parsed = parsed.update_query_dict({"host": several["hosts"].split(",")})
    if parsed.drivername not in _DIALECTS:
        raise ConfigurationError("the database URL must begin with postgresql:// or postgresql+psycopg://")
    return parsed.set(drivername=_DRIVER)


def is_unverified(url: URL) -> bool:
    """Return whether *url* leads to another machine without verifying that machine's identity."""
    hosts = url.query.get("host") or url.host or ""
    named = [hosts] if isinstance(hosts, str) else hosts
    remote = [host for host in named if host and not host.startswith("/") and not _IS_LOCAL.match(host)]
    return bool(remote) and (url.query.get("sslmode") or os.environ.get("PGSSLMODE")) != "verify-full"


def the_environment(environment: Mapping[str, str] | None) -> Mapping[str, str]:
    """
    Return *environment*, or the environment of the process if *environment* is None.

    ``os.environ`` is not a default argument, because ``help`` and ``inspect.signature`` would print its passwords.
    """
    return os.environ if environment is None else environment


def url_from_environment(environment: Mapping[str, str] | None = None) -> URL:
    """
    Return the URL in ``AUDIOCATALOG_DATABASE_URL``, or a URL made of ``DB_HOST``, ``DB_PORT``, ``DB_NAME``, ``DB_USER``
    and ``DB_PASSWORD``. If *environment* is None, the environment of the process is read.

    Raises:
        ConfigurationError: the variables are missing or malformed.
    """
    environment = the_environment(environment)
    if url := environment.get("AUDIOCATALOG_DATABASE_URL"):
        return parse_url(url)
    if not environment.get("DB_NAME"):
        raise ConfigurationError(_HOW_TO_NAME_A_DATABASE)
    port = environment.get("DB_PORT") or "5432"
    if not re.fullmatch("[0-9]{1,9}", port):
        raise ConfigurationError("DB_PORT must be a whole number, such as 5432")
    return URL.create(
        _DRIVER,
        username=environment.get("DB_USER") or None,
        password=environment.get("DB_PASSWORD") or None,
        host=host_of(environment.get("DB_HOST") or "localhost"),
        port=int(port),
        database=environment["DB_NAME"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    The settings of a catalogue; ``Catalog`` describes each of them. All times are in seconds.

    Raises:
        ConfigurationError: a setting is out of its range; the error names it.
    """

    pool_size: int = 5
    max_searches: int | None = None
    pool_timeout: float = 5.0
    pool_recycle: float = 1800.0
    connect_timeout: float = 3.0
    statement_timeout: float = 5.0
    search_timeout: float = 2.0
    lock_timeout: float = 2.0
    idle_timeout: float = 10.0
    network_timeout: float = 2.0
    slow_after: float = 1.0
    pooler: bool = False
    debug_pool: bool = False
    max_attempts: int = 5
    retry_delay: float = 10.0
    longest_retry_delay: float = 3600.0
    notify: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            is_valid, rule = _RULES[field.type]
            if not is_valid(getattr(self, field.name)):
                raise ConfigurationError(f"{field.name} must be {rule}", field=field.name)
        most = self.max_searches
        if most is not None and (type(most) is not int or not 1 <= most <= self.pool_size):
            raise ConfigurationError("max_searches must be a whole number from 1 to pool_size", field="max_searches")

    @property
    def searches(self) -> int:
        """The limit of concurrent searches: max_searches, or three quarters of pool_size, at most pool_size - 1."""
        if self.max_searches is not None:
            return self.max_searches
        return max(1, self.pool_size - max(1, self.pool_size // 4))

    @property
    def retries(self) -> RetryPolicy:
        """The limit of tries of a track, and the delays between them."""
        return RetryPolicy(self.max_attempts, self.retry_delay, self.longest_retry_delay)

    def of_the_session(self, server_version: int = 0) -> dict[str, str]:
        """
        Return the settings of a session on a server of *server_version*, such as 170004.

        These are the timeouts, and every setting that could change a result if a database, a role or a host set it.
        """
        settings = {
            # These settings fix the formats of values.
            "TimeZone": "UTC",
            "DateStyle": "ISO, YMD",
            "IntervalStyle": "postgres",
            "extra_float_digits": "1",
            "array_nulls": "on",
            "standard_conforming_strings": "on",
            # Moves and claims wait for a lock, then need a new snapshot to read what the lock's holder wrote.
            "default_transaction_isolation": "read committed",
            # With a limit, the index would return a random part of the hits, and totals would be wrong.
            "gin_fuzzy_search_limit": "0",
            # The session must survive an error.
            "exit_on_error": "off",
            "statement_timeout": milliseconds(self.statement_timeout),
            "lock_timeout": milliseconds(self.lock_timeout),
            "idle_in_transaction_session_timeout": milliseconds(self.idle_timeout),
            # A connection of the pool may be idle for any length of time.
            "idle_session_timeout": "0",
        }
        if server_version >= _FIRST_WITH_TRANSACTION_TIMEOUT:
            settings["transaction_timeout"] = "0"
        return settings

    def of_a_transaction(self, server_version: int = 0) -> dict[str, str]:
        """Return the settings of each transaction behind a pooler; BEGIN sets the isolation level."""
        outside = ("default_transaction_isolation", "idle_session_timeout")
        return {name: value for name, value in self.of_the_session(server_version).items() if name not in outside}


#: For each type of setting, a function that checks a value, and the rule for messages.
_RULES: Final[Mapping[Any, tuple[Callable[[object], bool], str]]] = {
    "int": (lambda value: is_between(value, 1, 1000, whole=True), "a whole number from 1 to 1000"),
    "int | None": (lambda _: True, ""),
    "float": (lambda value: is_between(value, 0.001, 86_400), "a number of seconds from 0.001 to 86400"),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
}


def settings_from_environment(environment: Mapping[str, str] | None = None) -> dict[str, int | float | bool]:
    """
    Return the settings in *environment*, such as ``AUDIOCATALOG_POOL_SIZE``, as arguments of ``Catalog``.

    If *environment* is None, the environment of the process is read.

    Raises:
        ConfigurationError: a variable cannot be read; the error names its setting.
    """
    environment = the_environment(environment)
    found = {}
    for field in dataclasses.fields(Settings):
        read, kind = _READERS[field.type]
        variable = f"AUDIOCATALOG_{field.name.upper()}"
        if text := environment.get(variable):
            try:
                found[field.name] = read(text)
            except ValueError:
                raise ConfigurationError(f"{variable} must be {kind}", field=field.name) from None
    return found


def _read_switch(text: str) -> bool:
    switches = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    try:
        return switches[text.lower()]
    except KeyError:
        raise ValueError(text) from None


_READERS: Final[Mapping[Any, tuple[Callable[[str], int | float | bool], str]]] = {
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "float": (float, "a number of seconds"),
    "bool": (_read_switch, "true or false"),
}
