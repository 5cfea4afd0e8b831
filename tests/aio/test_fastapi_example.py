"""examples/fastapi_service.py in a uvicorn of its own, over HTTP, on a PostgreSQL that can be stopped."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import uuid4

import psycopg
import pytest

from audiocatalog import Catalog, migrations
from tests.support.programs import PATIENCE
from tests.support.repository import ROOT
from tests.support.servers import Server, cluster
from tests.support.waiting import wait_until

pytest.importorskip("fastapi", reason="the extra `examples` is not installed")
pytest.importorskip("uvicorn", reason="the extra `examples` is not installed")

_SETTINGS: Final = {
    "AUDIOCATALOG_POOL_SIZE": "4",
    "AUDIOCATALOG_MAX_SEARCHES": "2",
    # Statements that wait for a lock end when the test lets them, and only some end by their limit.
    "AUDIOCATALOG_POOL_TIMEOUT": "1",
    "AUDIOCATALOG_STATEMENT_TIMEOUT": "1",
    "AUDIOCATALOG_SEARCH_TIMEOUT": "60",
    "AUDIOCATALOG_LOCK_TIMEOUT": "60",
}
_PASSWORD: Final = "secret-of-the-service"
# The service's searches that wait for a lock.
_WAITING: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""


class Answer(NamedTuple):
    """An answer over HTTP."""

    status: int
    body: Any
    headers: http.client.HTTPMessage


class Service:
    """The service in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.port = int(wait_until(self._listens)[0])

    def _listens(self) -> list[str]:
        assert self.process.poll() is None, self.log
        return re.findall(r"running on http://127\.0\.0\.1:(\d+)", self.log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **named})
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()), response.headers)
        finally:
            connection.close()

    def search(self, query: str, **parameters: Any) -> Answer:
        return self.ask("GET", "/search?" + urlencode({"q": query, **parameters}, doseq=True))

    def upload(self, title: str = "Jóga", **fields: Any) -> Answer:
        return self.ask("POST", "/tracks", {"audio_path": "s3://music/a.flac", "metadata": {"title": title}, **fields})


@contextmanager
def running(server: Server, log: Path) -> Iterator[Service]:
    """Run the service as the server's role `service`, and end it."""
    url = server.url(user="service").set(password=_PASSWORD).render_as_string(hide_password=False)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIOCATALOG_", "DB_"))}
    command = ("uvicorn", "--app-dir", "examples", "--port", "0", "fastapi_service:app")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment | _SETTINGS | {"AUDIOCATALOG_DATABASE_URL": url},
            stdout=output,
            stderr=output,
        )
    try:
        yield Service(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with cluster() as server:
        server.start()
        migrations.upgrade(server.url())
        with server.admin() as admin:
            admin.execute(f"CREATE ROLE service LOGIN PASSWORD '{_PASSWORD}'")
            admin.execute("GRANT postgres TO service")
            admin.execute("ALTER ROLE service SET role TO postgres")
        yield server


@pytest.fixture(scope="module")
def service(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(server, tmp_path_factory.mktemp("service") / "log") as service:
        yield service
        assert "Traceback" not in service.log
        assert _PASSWORD not in service.log


@pytest.fixture
def admin(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with server.admin() as admin:
        yield admin


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@contextmanager
def locked(server: Server) -> Iterator[psycopg.Connection[Any]]:
    """Lock the tracks, so that each request for them waits until the block ends."""
    with server.admin() as holder, holder.transaction():
        holder.execute("LOCK TABLE audio_tracks")
        yield holder


def waiting(admin: psycopg.Connection[Any]) -> int:
    row = admin.execute(_WAITING).fetchone()
    assert row is not None
    return int(row[0])


def test_an_upload_is_answered_with_the_track_and_found_by_its_id(service: Service, server: Server) -> None:
    identifier = str(uuid4())
    metadata = {"title": "Idioteque", "artist": "Radiohead", "year": 2000, "duration": 309.0}
    made = service.ask("POST", "/tracks", {"id": identifier, "audio_path": "s3://a", "metadata": metadata})
    assert made.status == 201
    assert (made.body["id"], made.body["status"], made.body["version"]) == (identifier, "PENDING", 1)
    assert metadata.items() <= made.body["metadata"].items()
    assert service.ask("GET", f"/tracks/{identifier}").body == made.body
    with Catalog(server.url()) as catalog:
        assert [change.actor for change in catalog.history(identifier)] == ["api"]


def test_a_repeated_upload_changes_nothing_and_another_one_with_its_id_conflicts(service: Service) -> None:
    identifier = str(uuid4())
    first = service.upload(id=identifier)
    assert service.upload(id=identifier)[:2] == (201, first.body)
    other = service.upload("Hunter", id=identifier)
    assert (other.status, other.body["error"]) == (409, "SaveConflict")


def test_the_commit_has_happened_when_the_response_arrives(service: Service, admin: psycopg.Connection[Any]) -> None:
    """A COMMIT that fails is no 201, so that none is answered before its COMMIT."""
    admin.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'refused' USING ERRCODE = 'serialization_failure'; END$$"
    )
    admin.execute(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON audio_tracks DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.title = 'refused at COMMIT') EXECUTE FUNCTION refuse()"
    )
    identifier = str(uuid4())
    try:
        refused = service.upload("refused at COMMIT", id=identifier)
    finally:
        admin.execute("DROP TRIGGER refuse ON audio_tracks")
        admin.execute("DROP FUNCTION refuse")
    assert (refused.status, refused.body["error"], refused.headers["Retry-After"]) == (503, "TransientConflict", "1")
    assert service.ask("GET", f"/tracks/{identifier}").status == 404
    assert service.upload(id=identifier).status == 201


def test_every_bad_field_is_named_and_no_value_is_repeated(service: Service) -> None:
    secret = "s" * 1_001
    bad = service.ask("POST", "/tracks", {"audio_path": "a", "metadata": {"year": 3, "artist": secret, "mood": "sad"}})
    assert bad.status == 422
    assert set(bad.body["fields"]) == {"year", "artist", "mood"}
    assert bad.body["fields"]["year"] == "a whole number from 1000 to 9999"
    missing = service.ask("POST", "/tracks", {"audio_path": secret * 5, "id": secret})
    assert (missing.status, set(missing.body["fields"])) == (422, {"id", "metadata"})
    late = service.upload(audio_path=secret * 5)
    assert (late.status, set(late.body["fields"])) == (422, {"audio_path"})
    for answer in (bad, missing, late):
        assert secret not in json.dumps(answer.body)
        assert answer.body["error"] == "InvalidInput"
    limit = service.search("joga", limit=1_000)
    assert (limit.status, set(limit.body["fields"])) == (422, {"limit"})


def test_what_is_not_there_is_not_found(service: Service) -> None:
    path = f"/tracks/{uuid4()}"
    for answer in (service.ask("GET", path), service.ask("PATCH", path, {"status": "COMPLETED"})):
        assert (answer.status, answer.body["error"]) == (404, "TrackNotFound")


def test_a_status_moves_once_for_each_key_and_only_as_the_table_allows(service: Service) -> None:
    path = f"/tracks/{service.upload().body['id']}"
    key = str(uuid4())
    for _ in range(2):
        moved = service.ask("PATCH", path, {"status": "PROCESSING", "reason": "by hand"}, Idempotency_Key=key)
        assert (moved.status, moved.body) == (200, "PROCESSING")
    assert service.ask("GET", path).body["version"] == 2
    wrong = service.ask("PATCH", path, {"status": "PROCESSING"})
    assert (wrong.status, wrong.body["error"]) == (409, "IllegalTransition")


def test_one_of_two_writers_that_conflict_is_refused(service: Service, threads: ThreadPoolExecutor) -> None:
    for _ in range(5):
        path = f"/tracks/{service.upload().body['id']}"
        move = {"status": "PROCESSING", "expected": "PENDING"}
        answers = list(threads.map(lambda _: service.ask("PATCH", path, move), range(2)))  # noqa: B023
        assert sorted(answer.status for answer in answers) == [200, 409]
        assert {answer.body["error"] for answer in answers if answer.status == 409} == {"TransitionConflict"}
        assert service.ask("GET", path).body["version"] == 2


def test_a_search_has_pages_filters_and_facets(service: Service) -> None:
    artist = f"Hjaltalín {uuid4().hex}"
    for title in ("Alpha", "Alphabet", "Alpine", "Beta"):
        service.upload(metadata={"title": title, "artist": artist})
    first = service.search("alp", artist=artist, facet=["artist", "status"], limit=2)
    assert first.status == 200
    assert (first.body["total"], len(first.body["hits"])) == (3, 2)
    assert first.body["facets"] == {"artist": [[artist, 3]], "status": [["PENDING", 3]]}
    assert first.body["hits"][0]["highlights"] == {"title": [[0, 3]]}
    last = service.search("alp", artist=artist, limit=2, after=first.body["next_cursor"])
    titles = [hit["track"]["metadata"]["title"] for page in (first, last) for hit in page.body["hits"]]
    assert sorted(titles) == ["Alpha", "Alphabet", "Alpine"]
    assert last.body["next_cursor"] is None
    assert service.search("alp", facet="colour").status == 422


def test_a_newer_search_of_a_box_cancels_the_older_one(
    service: Service, server: Server, admin: psycopg.Connection[Any], threads: ThreadPoolExecutor
) -> None:
    box, title = uuid4(), "Svefnthorn"
    service.upload(title)
    with locked(server):
        older = threads.submit(service.search, title[:3], box=box)
        wait_until(lambda: waiting(admin) == 1)
        newer = threads.submit(service.search, title, box=box)
        assert older.result(PATIENCE).status == 409
        wait_until(lambda: waiting(admin) == 1)
        assert not newer.done()
    assert newer.result(PATIENCE).body["total"] == 1


def test_the_search_of_a_client_that_disconnects_ends(
    service: Service, server: Server, admin: psycopg.Connection[Any]
) -> None:
    with locked(server):
        for _ in range(5):  # More than there are connections.
            client = service.connect()
            client.request("GET", "/search?q=joga")
            wait_until(lambda: waiting(admin) == 1)
            client.close()
            wait_until(lambda: waiting(admin) == 0)
    assert service.search("joga").status == 200


def test_too_many_searches_and_slow_statements_are_told_apart(
    service: Service, server: Server, admin: psycopg.Connection[Any], threads: ThreadPoolExecutor
) -> None:
    path = f"/tracks/{service.upload().body['id']}"
    with locked(server):
        under_way = [threads.submit(service.search, "joga") for _ in range(2)]
        wait_until(lambda: waiting(admin) == 2)
        refused = service.search("joga")
        assert (refused.status, refused.body["error"]) == (503, "TooManySearches")
        assert refused.headers["Retry-After"] == "1"
        slow = service.ask("GET", path)
        assert (slow.status, slow.body["error"], slow.headers["Retry-After"]) == (504, "QueryTimeout", None)
    assert {search.result(PATIENCE).status for search in under_way} == {200}


def test_a_database_that_stops_is_told_and_comes_back(service: Service, server: Server) -> None:
    path = f"/tracks/{service.upload().body['id']}"
    assert service.ask("GET", "/readyz").status == 200
    server.stop("immediate")
    try:
        for answer in (service.ask("GET", path), service.upload(), service.search("joga")):
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert answer.body["error"] == "DatabaseUnavailable"
            assert _PASSWORD not in json.dumps(answer.body)
        assert service.ask("GET", "/readyz").status == 503
        assert service.ask("GET", "/healthz").status == 200
    finally:
        server.start()
    wait_until(lambda: service.ask("GET", "/readyz").status == 200)
    assert service.ask("GET", path).status == 200


def test_a_request_under_way_is_answered_before_the_service_ends(
    server: Server, admin: psycopg.Connection[Any], threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with running(server, tmp_path / "log") as service:
        with locked(server):
            asked: Future[Answer] = threads.submit(service.search, "joga")
            wait_until(lambda: waiting(admin) == 1)
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses_connections(service.port))
            assert not asked.done()
        assert asked.result(PATIENCE).status == 200
        # uvicorn ends by the signal that it has got.
        assert service.process.wait(PATIENCE) in {0, -signal.SIGTERM}
        assert "Application shutdown complete" in service.log
        assert "Traceback" not in service.log


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False
