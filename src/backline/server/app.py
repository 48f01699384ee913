"""The application: routes, WebSocket and background tasks around one store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

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
from backline.server import problems, schemas, telemetry, websocket
from backline.server.middleware import EXPOSED_HEADERS, RequestMiddleware
from backline.server.routes import (
    evaluation,
    failures,
    health,
    model_change,
    openai,
    runs,
    search,
    status,
    studio,
    upsert,
)
from backline.server.services import Services, backline_version, make_services
from backline.worker.tasks import end_tasks

DESCRIPTION = (
    "Keeps the embeddings behind your Postgres tables filled, fresh and searchable. Errors are "
    "RFC 9457 problem details. If the server has a key, writes need it: "
    "`Authorization: Bearer KEY` or `X-API-Key: KEY`."
)

# Time to release the rows of dead workers before the server starts; later, workers do it.
RELEASE_SECONDS: Final = 5.0


def create_app(
    store: Store, settings: Settings, *, worker: bool = True, where: str = "Postgres"
) -> FastAPI:
    """Create the server over an open store. The caller closes the store after the server ends.

    Args:
        store: of a migrated database.
        settings: limits, keys, origins, and access to models.
        worker: whether to embed edits of every collection as they happen.
        where: the name of the database for people.

    Raises:
        ConfigurationError: the server would accept writes from the network without a key.

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
            errors.BacklineError: problems.handle_exception,
            RequestValidationError: problems.handle_exception,
            HTTPException: problems.handle_exception,
        },
        telemetry=telemetry.configuration(),
        separate_input_output_schemas=False,
    )
    app.state.services = services
    for routes in (
        status, search, runs, model_change, evaluation, failures, upsert, openai, health,
    ):  # fmt: skip
        app.include_router(routes.router)
    _add_websocket(app, services)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.router.default = studio.fallback(app.router.default)
    return app


def _add_websocket(app: FastAPI, services: Services) -> None:
    @app.websocket("/ws")
    async def connect(connection: WebSocket) -> None:
        await websocket.serve(services, connection)

    @app.get("/ws", include_in_schema=False)
    async def upgrade_required() -> None:
        raise HTTPException(
            426,
            "This address is a WebSocket, and the request is not an upgrade. A proxy in between "
            "must forward the headers Upgrade and Connection.",
        )


def _middleware(services: Services) -> list[Middleware]:
    settings = services.settings
    return [
        Middleware(
            RequestMiddleware, policy=services.policy, rate_limit=services.rate_limit,
            metrics=services.metrics, max_body_bytes=settings.max_body_bytes,
            root_path=settings.root_path,
        ),
        Middleware(
            CORSMiddleware, allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            # Clients send headers of their own, such as x-stainless-os. The origin decides.
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        ),
    ]  # fmt: skip


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the background tasks. At shutdown, workers finish or release their rows."""
    services: Services = app.state.services
    await _release_dead_workers(services.open_store)
    tasks = [
        asyncio.create_task(services.change_feed.run(), name="change feed"),
        asyncio.create_task(services.query_log.run(), name="query log"),
    ]
    if services.live_sync is not None:
        tasks.append(asyncio.create_task(services.live_sync.run(), name="live sync"))
        tasks.append(asyncio.create_task(services.model_changes.run(), name="model changes"))
    try:
        yield
    finally:
        await end_tasks(*tasks)
        await services.model_changes.aclose()
        workers = [
            services.backfills.aclose(), services.evaluations.aclose(), services.query_log.aclose(),
        ]  # fmt: skip
        if services.live_sync is not None:
            workers.append(services.live_sync.aclose())
        await asyncio.gather(*workers)
        await services.embedder_pool.aclose()


async def _release_dead_workers(store: Store) -> None:
    """End the runs of a killed server, so that new runs can start."""
    # The change feed reports a database that is down or does not answer.
    with suppress(errors.BacklineError, TimeoutError):
        async with asyncio.timeout(RELEASE_SECONDS):
            for collection in await store.collections():
                await store.release_dead_workers(collection)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's document, extended by the problem schema and the key."""
    services: Services = app.state.services
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
        if services.settings.root_path:
            document["servers"] = [{"url": services.settings.root_path}]
        document["security"] = [{}, {"bearer": []}, {"key": []}]
        app.openapi_schema = document
    return app.openapi_schema
