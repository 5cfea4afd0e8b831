"""Checks of libpq's parameters before a connection is opened, and advice about errors that parameters cause."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import psycopg
from psycopg import pq
from sqlalchemy import URL

from audiocatalog.errors import CatalogError, ConfigurationError

#: A password, or a function that returns the password for a new connection.
Password = str | Callable[[], str]

_HIGHEST_PORT: Final = 65_535
_DIGITS: Final = 9  # Python refuses to convert very long numbers.
_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<address>[^\[\]]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
#: Parameters of other drivers and tools. Messages may name these; any other unknown name may be part of a password.
_OF_OTHERS: Final = frozenset(
    (
        "schema",
        "currentSchema",
        "search_path",
        "pgbouncer",
        "connection_limit",
        "pool_timeout",
        "ssl",
        "sslaccept",
        "charset",
    )
)
#: The values that switch a parameter off.
_NOT: Final = frozenset(("", "0", "false", "off", "no"))
# Errors of libpq, the server and PgBouncer about a parameter. These errors quote the value; our messages do not.
_AT_FAULT: Final = tuple(
    re.compile(text)
    for text in (
        r'invalid "?(?P<name>[a-z_]+)"? value',
        r'invalid (?:integer )?value .* for connection option "(?P<name>[a-z_]+)"',
        r"bad value for (?P<name>[a-z_]+)",
        r"invalid (?P<name>port) number",
        r'(?:unrecognized configuration|invalid value for|permission denied to set) parameter "(?P<name>[\w.]+)"',
        r'outside the valid range for parameter "(?P<name>[\w.]+)"',
        r'parameter "(?P<name>[\w.]+)" (?:cannot be (?:changed|set)|requires)',
        r"(?P<name>[a-z_]+) (?:value |method )?\".*\" (?:may not be used|invalid when|is specified)",
        r"definition of (?P<name>service)|(?:syntax error in|nested) service",
        r"invalid command-line argument for server process|-c .* requires a value",
        r"could not match \d+ (?P<name>host|port)",
        r"could not parse network address|channel binding required|invalid SCRAM|authentication method requirement",
        r"could not access file",  # The session's library was not found.
    )
)
_STARTUP: Final = re.compile(r"unsupported startup parameter(?: in options)?: (?P<name>\w+)")


def connection_parameters(url: URL) -> dict[str, Any]:
    """
    Return the parameters in *url*, by libpq's names.

    Raises:
        ConfigurationError: libpq does not know a parameter, or a value is invalid. The message repeats no value,
            because it may be a part of a password that is not percent-encoded.
    """
    parameters: dict[str, str] = {}
    for place, (name, value) in enumerate(url.query.items(), 1):
        if name not in _known_to_libpq():
            what = f"the parameter {name}" if name in _OF_OTHERS else f"parameter {place} after the question mark"
            raise ConfigurationError(
                f"{what} of the database URL is unknown to libpq: remove it, or percent-encode the password",
                field=_field(name),
            )
        if not isinstance(value, str) and name != "host":
            raise ConfigurationError(
                f"the database URL contains the parameter {name} more than once: remove all but one", field=name
            )
        parameters[name] = value if isinstance(value, str) else ",".join(value)
    named = {"user": url.username, "password": url.password, "dbname": url.database, "host": url.host, "port": url.port}
    parameters = {name: str(value) for name, value in named.items() if value not in {None, ""}} | parameters
    for name, text in parameters.items():
        _check_text(name, text)
    parameters |= _hosts(parameters)
    seconds = parameters.get("connect_timeout")
    if seconds is not None and not re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", seconds):
        raise _wrong("connect_timeout")
    if parameters.get("replication", "false").lower() not in _NOT:
        raise _wrong("replication")
    try:
        psycopg.conninfo.make_conninfo(**parameters)
    except psycopg.Error as error:
        raise ConfigurationError(
            "a parameter of the database URL is wrong: check the parameters after the question mark"
        ) from _without_text(error)
    return dict(parameters)


def host_of(text: str) -> str:
    """
    Return the host, or comma-separated hosts, in *text*, without the brackets of IPv6 addresses, as libpq requires.

    Raises:
        ConfigurationError: *text* contains a port.
    """
    names = []
    for host in text.split(","):
        name, port = _name_and_port(host)
        if name is None or port is not None:
            raise ConfigurationError(
                "DB_HOST must be a host without a port, such as db.example or ::1: set the port in DB_PORT"
            )
        names.append(name)
    return ",".join(names)


def password_of(password: Password) -> str:
    """
    Return the password for a new connection.

    Raises:
        ConfigurationError: the function that returns the password raised an error, which is the cause, or libpq cannot
            send the password.
        CatalogError: the function raised this error.
    """
    if callable(password):
        try:
            password = password()
        except CatalogError:
            raise
        except Exception as error:
            raise ConfigurationError(
                "connect: the function that returns the password failed; see the cause of this error",
                operation="connect",
                phase="connect",
                field="password",
            ) from error
    checked_password(password)
    return password


def checked_password(password: object) -> None:
    """
    Check that libpq can send *password*.

    Raises:
        ConfigurationError: *password* is not a string, or libpq cannot send one of its characters.
    """
    if not isinstance(password, str):
        raise ConfigurationError("password must be a string, or a function that returns a string", field="password")
    _check_text("password", password)


def refusal(text: str) -> str | None:
    """Return advice about a failed connection if *text*, libpq's message, blames a parameter."""
    if (match := _STARTUP.search(text)) is not None:
        return (
            f"PgBouncer refuses the startup parameter {match['name']}: add this parameter to "
            "ignore_startup_parameters, or remove it from the URL and set it for the role (ALTER ROLE ... SET "
            "search_path = ...)"
        )
    for pattern in _AT_FAULT:
        if (match := pattern.search(text)) is not None:
            name = match.groupdict().get("name")
            what = f"the parameter {name}" if name else "a parameter"
            return f"{what} of the connection has a wrong value: check the URL and the PG... environment variables"
    return None


@cache
def _known_to_libpq() -> frozenset[str]:
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def _field(name: str) -> str | None:
    return name if name in _OF_OTHERS else None


def _wrong(name: str) -> ConfigurationError:
    return ConfigurationError(f"the parameter {name} of the database URL has a wrong value: correct it", field=name)


def _without_text(error: psycopg.Error) -> psycopg.Error:
    return type(error)("libpq refused the parameters")


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{name} contains a character that cannot be sent: remove this character"
        raise ConfigurationError(message, field=name) from None
    if "\0" in text:
        raise ConfigurationError(f"{name} contains a NUL character: remove this character", field=name)


def _hosts(parameters: dict[str, str]) -> dict[str, str]:
    """Return hosts and ports as comma-separated lists of the same length, without the brackets of IPv6 addresses."""
    hosts = parameters.get("host", "").split(",")
    ports = parameters["port"].split(",") if parameters.get("port") else []
    names, inner = [], []
    for host in hosts:
        name, port = _name_and_port(host)
        if name is None:
            raise ConfigurationError(
                "a host of the database URL cannot be read: use a name or an address, with brackets around an IPv6 "
                "address if a port follows",
                field="host",
            )
        names.append(name)
        inner.append(port or "")
    if any(inner):
        if ports:
            raise ConfigurationError(
                "the database URL contains ports after the hosts and in the parameter port: remove the parameter"
            )
        ports = inner
    if len(ports) > 1 and len(ports) != len(hosts):
        raise ConfigurationError(
            "the database URL must contain one port for each host, or one port for all hosts", field="port"
        )
    if not all(not port or _is_port(port) for port in ports):
        raise ConfigurationError("each port of the database URL must be a number from 1 to 65535", field="port")
    found = {}
    if any(names):
        found["host"] = ",".join(names)
    if any(ports):
        found["port"] = ",".join(ports)
    return found


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text[:_DIGITS]) <= _HIGHEST_PORT


def _name_and_port(host: str) -> tuple[str | None, str | None]:
    """Return the name and port of *host*. The name is None if *host* is invalid; the port is None if it is missing."""
    if host.startswith(("/", "@")) or _is_address(host):
        return host, None
    match = _HOST_AND_PORT.fullmatch(host)
    return (None, None) if match is None else (match["address"] or match["name"], match["port"])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
