"""
A web service in front of a catalogue, with FastAPI: uploads, search as you type, statuses, and probes.

Start it with ``uvicorn --app-dir examples fastapi_service:app``; AUDIOCATALOG_DATABASE_URL names the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from typing import Annotated, Any, Final, Self
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, Field

from audiocatalog import FacetName, FacetValue, SearchFilters, SearchPage, Track, TrackMetadata, TrackStatus, errors
from audiocatalog.aio import AsyncCatalog, AsyncUnitOfWork

LOGGER: Final = logging.getLogger(__name__)
UNAVAILABLE: Final = 503
#: The code of each error. Any other error is a fault of this service, with the code 500.
CODES: Final[Mapping[type[errors.CatalogError], int]] = {
    errors.TrackNotFound: 404,
    **dict.fromkeys((errors.SaveConflict, errors.IllegalTransition, errors.TransitionConflict), 409),
    errors.InvalidInput: 422,
    # Clients can repeat these requests: an id or an Idempotency-Key makes that safe, also after CommitOutcomeUnknown.
    **dict.fromkeys((errors.DatabaseUnavailable, errors.TransientConflict, errors.StaleStatement), UNAVAILABLE),
    **dict.fromkeys((errors.PoolTimeout, errors.TooManySearches), UNAVAILABLE),
    errors.QueryTimeout: 504,
}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open the catalogue before the first request, and close it when uvicorn has answered the last one, on SIGTERM."""
    async with AsyncCatalog.from_env(actor="api") as catalog:
        try:
            await catalog.warm_up()
        except (errors.DatabaseUnavailable, errors.PoolTimeout) as error:
            # /readyz says when the database is there. Any other error, such as a wrong password, ends the service.
            LOGGER.warning("the service starts without its database: %s", error)
        yield {"catalog": catalog, "searches": {}}


class CommittingRoute(APIRoute):
    """
    A route that commits the unit of work of its request before the response is sent.

    FastAPI 0.106 to 0.117 ends a plain dependency with ``yield`` before it sends the response. All other versions end
    it afterwards: the client may read 201 although the COMMIT fails. ``Depends(..., scope="function")`` is right from
    0.121 on. This class is right in every version, because its handler ends before the response is sent.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that ends the request's unit of work, and then returns the response."""
        handle = super().get_route_handler()

        async def handle_and_commit(request: Request) -> Response:
            async with AsyncExitStack() as request.state.before_response:
                return await handle(request)

        return handle_and_commit


def catalog_of(request: Request) -> AsyncCatalog:
    """Return the catalogue of the service."""
    catalog: AsyncCatalog = request.state.catalog
    return catalog


Catalog = Annotated[AsyncCatalog, Depends(catalog_of)]


async def unit_of_work(request: Request, catalog: Catalog) -> AsyncUnitOfWork:
    """Return a unit of work, which is committed before the response is sent, and rolled back if the request fails."""
    before_response: AsyncExitStack = request.state.before_response
    return await before_response.enter_async_context(catalog.unit_of_work())


class Upload(BaseModel):
    """A new track. A client that chooses the id can repeat its upload after an error."""

    id: UUID = Field(default_factory=uuid4)
    audio_path: str
    metadata: Annotated[TrackMetadata, BeforeValidator(TrackMetadata.from_mapping)]


class TrackOut(BaseModel):
    """A track."""

    id: UUID
    status: TrackStatus
    version: int
    audio_path: str
    metadata: TrackMetadata

    @classmethod
    def of(cls, track: Track) -> Self:
        """Return what clients see of *track*."""
        metadata = TrackMetadata(**{field.name: getattr(track, field.name) for field in fields(TrackMetadata)})
        return cls(metadata=metadata, **{name: getattr(track, name) for name in cls.model_fields if name != "metadata"})


class Move(BaseModel):
    """A move to another status; only from the status *expected*, if that is given."""

    status: TrackStatus
    expected: TrackStatus | None = None
    reason: str | None = None


class HitOut(BaseModel):
    """A found track, and the spans of each field that match the query."""

    track: TrackOut
    highlights: Mapping[str, tuple[tuple[int, int], ...]]


class PageOut(BaseModel):
    """A page of a search; each value of a facet has its number of tracks."""

    hits: list[HitOut]
    total: int
    next_cursor: str | None
    facets: Mapping[str, tuple[FacetValue, ...]]


app = FastAPI(title="Tracks", lifespan=lifespan)
app.router.route_class = CommittingRoute


@app.post("/tracks", status_code=201)
async def upload(body: Upload, work: Annotated[AsyncUnitOfWork, Depends(unit_of_work)]) -> TrackOut:
    """Store an uploaded track for the workers. Rows of your own, through ``work.session``, are committed with it."""
    saved = await work.save(body.metadata, audio_path=body.audio_path, id=body.id, status=TrackStatus.PENDING)
    return TrackOut.of(saved)


@app.get("/tracks/{track_id}")
async def show(track_id: UUID, catalog: Catalog) -> TrackOut:
    """Return a track."""
    return TrackOut.of(await catalog.get(track_id))


@app.patch("/tracks/{track_id}")
async def move(
    track_id: UUID, body: Move, catalog: Catalog, idempotency_key: Annotated[UUID | None, Header()] = None
) -> TrackStatus:
    """Move a track and return its status; requests with the same Idempotency-Key move it once."""
    change = await catalog.update_status(
        track_id, body.status, expected=body.expected, reason=body.reason, operation_id=idempotency_key
    )
    return change.to_status


@app.get("/search")
async def search(  # noqa: PLR0917  # FastAPI passes each parameter by its name.
    request: Request,
    catalog: Catalog,
    q: str,
    artist: Annotated[list[str] | None, Query()] = None,
    facet: Annotated[tuple[FacetName, ...], Query()] = (),
    limit: int = 20,
    after: str | None = None,
    box: UUID | None = None,
) -> PageOut:
    """Search as you type. *box* is a random id of a client's search box: its newer request cancels the older one."""
    searching = catalog.search(q, filters=SearchFilters(artist=artist), facets=facet, limit=limit, after=after)
    page = await while_wanted(request, box or uuid4(), searching)
    return PageOut(
        hits=[HitOut(track=TrackOut.of(hit.track), highlights=hit.highlights) for hit in page],
        total=page.total,
        next_cursor=page.next_cursor,
        facets={name: counted.values for name, counted in page.facets.items()},
    )


async def while_wanted(request: Request, box: UUID, searching: Coroutine[Any, Any, SearchPage]) -> SearchPage:
    """Return the page of a search, which is cancelled if its *box* searches again or its client disconnects."""
    searches: dict[UUID, asyncio.Task[SearchPage]] = request.state.searches
    if (older := searches.get(box)) is not None:
        older.cancel()
    searches[box] = task = asyncio.create_task(searching)
    gone = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or task.cancelled():
            raise HTTPException(409, "a newer search of this box has begun")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()  # This ends the statement on the server, and its connection returns to the pool.
        if searches.get(box) is task:
            del searches[box]


async def disconnected(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@app.get("/healthz")
async def is_alive() -> str:
    """Answer while the event loop runs, also without a database: a restart of this service would not mend that."""
    return "alive"


@app.get("/readyz")
async def is_ready(catalog: Catalog) -> JSONResponse:
    """Answer 200 if the database answers within one second, and 503 if not."""
    try:
        health = await asyncio.wait_for(catalog.health(), 1.0)
    except (errors.CatalogError, TimeoutError) as error:
        return failure(UNAVAILABLE, type(error).__name__)
    return JSONResponse({"schema": health.schema_revision})


@app.exception_handler(errors.CatalogError)
async def catalog_error(_: Request, error: errors.CatalogError) -> JSONResponse:
    """Answer with the code of *error*, and with its message, which never contains data or secrets."""
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), None)
    if code is None:
        LOGGER.error("%s: %s", type(error).__name__, error)
        return failure(500, "InternalError")
    rules = {problem.field: problem.rule for problem in getattr(error, "problems", ())}
    return failure(code, type(error).__name__, message=str(error), fields=rules)


@app.exception_handler(RequestValidationError)
async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answer with the rule of each bad field, and without the values that FastAPI's own answer repeats."""
    rules: dict[str, str] = {}
    for problem in error.errors():
        ours = getattr(problem.get("ctx", {}).get("error"), "problems", ())  # TrackMetadata raises InvalidInput.
        rules |= {rule.field: rule.rule for rule in ours} or {str(problem["loc"][-1]): problem["msg"]}
    return failure(422, "InvalidInput", message="the request is not valid", fields=rules)


def failure(code: int, error: str, **facts: object) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse({"error": error, **facts}, code, {"Retry-After": "1"} if code == UNAVAILABLE else None)
