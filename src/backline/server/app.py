"""The application: routes, sockets and background work around one store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.websockets import WebSocket

from backline import errors
from backline.config import Settings
from backline.postgres.store import Store
from backline.server import problems, schemas, websocket
from backline.server.middleware import Front
from backline.server.routes import health, openai, search, status, studio, work
from backline.server.services import Services, backline_version, make_services
from backline.worker.tasks import end_tasks

DESCRIPTION = (
    "Keeps the embeddings behind your Postgres tables filled, fresh and searchable. Errors are "
    "RFC 9457 problem details. Where the server has a key, writes need it: "
    "`Authorization: Bearer KEY` or `X-API-Key: KEY`."
)


def create_app(
    store: Store, settings: Settings, *, worker: bool = True, where: str = "Postgres"
) -> FastAPI:
    """The server over an open store, which the caller closes after it has ended.

    Args:
        store: of a migrated database.
        settings: limits, keys and origins, and how models are reached.
        worker: whether to embed edits as they come, of every collection.
        where: the database as a person knows it.

    Raises:
        ConfigurationError: anybody could write to the server as it is set.

    """
    services = make_services(store, settings, worker=worker, where=where)
    app = FastAPI(
        title="Backline",
        version=backline_version(),
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(services),
        exception_handlers={
            errors.BacklineError: problems.answer,
            RequestValidationError: problems.answer,
            HTTPException: problems.answer,
        },
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        separate_input_output_schemas=False,
    )
    app.state.services = services
    for router in (
        status.router, search.router, work.reads, work.writes, openai.router, health.router,
    ):  # fmt: skip
        app.include_router(router)

    @app.websocket("/ws")
    async def socket(connection: WebSocket) -> None:
        await websocket.serve(services, connection)

    @app.get("/ws", include_in_schema=False)
    async def no_socket() -> None:
        raise HTTPException(426, "This is a WebSocket, and the request is none. A proxy in between "
                            "must pass on its headers Upgrade and Connection.")  # fmt: skip

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.router.default = studio.fallback(app.router.default)
    return app


def _middleware(services: Services) -> list[Middleware]:
    settings = services.settings
    return [
        Middleware(
            Front, guard=services.guard, rate=services.rate, metrics=services.metrics,
            max_body_bytes=settings.max_body_bytes,
        ),
        Middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "X-API-Key", "Content-Type", "X-Request-ID"),
            expose_headers=("X-Request-ID", "Retry-After"),
        ),
    ]  # fmt: skip


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start what runs beside the requests; at the end, finish or give back what it has in hand."""
    services: Services = app.state.services
    await _release_dead_workers(services.open_store)
    tasks = [asyncio.create_task(services.watch.run(), name="watch")]
    if services.followers is not None:
        tasks.append(asyncio.create_task(services.followers.run(), name="followers"))
    try:
        yield
    finally:
        await end_tasks(*tasks)
        await services.runs.aclose()
        if services.followers is not None:
            await services.followers.aclose()
        await services.models.aclose()


async def _release_dead_workers(store: Store) -> None:
    """End what a server that was killed here left as running, so that a new run may begin."""
    with suppress(errors.BacklineError):  # a database that is in trouble is told of elsewhere
        for collection in await store.collections():
            await store.release_dead_workers(collection)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the shape of problems and the key."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = schemas.Problem.model_json_schema()
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{}, {"bearer": []}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
