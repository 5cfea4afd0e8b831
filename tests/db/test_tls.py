"""With sslmode=verify-full, a server that cannot prove who it is gets no password and no track."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL

from audiocatalog import Catalog, errors, migrations
from tests.support.servers import Server, cluster, free_port, own

_DATABASE = "music"
_ADDRESS = "127.0.0.1"
#: What the server may call itself. Nobody asks where that is: every URL says it, by its `hostaddr`.
_NAME = "database.example"


class Authority:
    """Sign certificates for clients that trust its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def certify(self, folder: Path) -> None:
        """Put a key and a certificate for the name and the address of our server into its data *folder*."""
        key, certificate, request, names = (folder / f"server.{kind}" for kind in ("key", "crt", "csr", "ext"))
        names.write_text(f"subjectAltName=DNS:{_NAME},DNS:localhost,IP:{_ADDRESS}")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={_NAME}", "-keyout", key, "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-days", "2", "-extfile", names, "-out", certificate),
            *("-CA", self.certificate, "-CAkey", self._key, "-set_serial", "1"),
        )
        for path in (key, certificate):
            path.chmod(0o600)
            own(path)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _programs_with_tls() -> Path | None:
    """Return the newest installed PostgreSQL that was built with OpenSSL, which the wheel's was not."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "pg_config").exists() and (folder / "initdb").exists():
            options = subprocess.run([folder / "pg_config", "--configure"], check=True, capture_output=True, text=True)
            if "openssl" in options.stdout:
                return folder
    return None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("making certificates takes the program `openssl`")
    return Authority(tmp_path_factory.mktemp("authority"), "Trusted")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[Server]:
    """Give a server that proves who it is."""
    programs = _programs_with_tls()
    if programs is None:
        pytest.skip("no installed PostgreSQL was built with OpenSSL")
    with cluster(binaries=programs) as server:
        authority.certify(server.data)
        server.settings["ssl"] = "on"
        server.start()
        with server.admin() as admin:
            admin.execute(f"CREATE DATABASE {_DATABASE}")
        migrations.upgrade(server.socket_url(_DATABASE))
        yield server


def url_of(server: Server, trusted: Authority, *, host: str = _NAME, sslmode: str = "verify-full") -> URL:
    query = {"hostaddr": _ADDRESS, "sslmode": sslmode, "sslrootcert": str(trusted.certificate)}
    return server.url(_DATABASE, **query).set(host=host)


@pytest.mark.parametrize("host", [_NAME, _ADDRESS])
def test_a_server_that_proves_who_it_is_is_used_over_tls(server: Server, authority: Authority, host: str) -> None:
    with Catalog(url_of(server, authority, host=host)) as catalog, catalog.unit_of_work() as work:
        assert work.find(uuid4()) is None
        assert work._open().driver().pgconn.ssl_in_use


@pytest.mark.parametrize("fault", ["another name", "another authority", "no TLS"])
def test_a_server_that_cannot_prove_who_it_is_is_refused(
    server: Server, authority: Authority, tmp_path: Path, fault: str
) -> None:
    url = url_of(server, authority)
    if fault == "another name":
        url = url_of(server, authority, host="elsewhere.example")
    elif fault == "another authority":
        url = url_of(server, Authority(tmp_path, "Other"))
    else:
        restart(server, ssl="off")
    try:
        with Catalog(url) as catalog:
            for _ in range(2):
                with pytest.raises(errors.ConfigurationError) as caught:
                    catalog.find(uuid4())
                assert not caught.value.retryable
                assert "TLS" in str(caught.value)
    finally:
        if fault == "no TLS":
            restart(server, ssl="on")


def restart(server: Server, *, ssl: str) -> None:
    server.stop()
    server.settings["ssl"] = ssl
    server.start()


def test_a_missing_file_of_authorities_is_a_wrong_setting(server: Server, authority: Authority, tmp_path: Path) -> None:
    url = url_of(server, authority).update_query_dict({"sslrootcert": str(tmp_path / "nothing.crt")})
    with Catalog(url) as catalog, pytest.raises(errors.ConfigurationError) as caught:
        catalog.find(uuid4())
    assert "TLS" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "sslmode", "warnings"),
    [
        (_NAME, "prefer", 1),
        (_NAME, "require", 1),
        (_NAME, "verify-ca", 1),
        (_NAME, "verify-full", 0),
        ("localhost", "prefer", 0),
        (_ADDRESS, "prefer", 0),
    ],
)
def test_another_machine_that_proves_nothing_is_warned_of_once(
    server: Server, authority: Authority, caplog: pytest.LogCaptureFixture, *, host: str, sslmode: str, warnings: int
) -> None:
    """The address is this machine's all the time; it is the name that says where a service means to go."""
    url = url_of(server, authority, host=host, sslmode=sslmode)
    with Catalog(url) as catalog:
        for _ in range(3):
            assert catalog.find(uuid4()) is None
    assert about_tls(caplog) == warnings


def test_a_service_that_waits_for_its_server_is_warned_only_once(
    server: Server, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with Catalog(url_of(server, authority, sslmode="require").set(port=free_port())) as catalog:
        for _ in range(3):
            with pytest.raises(errors.DatabaseUnavailable):
                catalog.find(uuid4())
    assert about_tls(caplog) == 1


def about_tls(caplog: pytest.LogCaptureFixture) -> int:
    return sum("verify-full" in record.getMessage() for record in caplog.records if record.levelname == "WARNING")
