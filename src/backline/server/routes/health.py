"""Liveness, readiness, figures for Prometheus, and who is connected."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter
from starlette.responses import Response

from backline import errors
from backline.estimation import PRICES
from backline.server import handlers, metrics, reads, schemas
from backline.server.routes.responses import problems
from backline.server.services import READ, Services, TheServices

router = APIRouter(tags=["health"])


@router.get("/health", responses=problems())
async def health() -> schemas.Health:
    """The process is alive."""
    return schemas.Health(status="ok")


@router.get("/health/ready", responses=problems(503, 504))
async def ready(services: TheServices) -> schemas.Ready:
    """The database answers, and has the schema: requests can be served."""
    await services.store.collections()
    return schemas.Ready(status="ready", database=services.where)


@router.get(
    "/metrics",
    dependencies=[READ],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
async def figures(services: TheServices) -> Response:
    """Prometheus' text format."""
    if services.watch.up:
        with suppress(errors.BacklineError):  # what was read before is shown
            await _read_figures(services)
    return Response(services.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def _read_figures(services: Services) -> None:
    covered = await handlers.coverages(services)
    kinds = await reads.failures_by_kind(services.store)
    spent = await reads.spent(services.store)
    figures = services.metrics
    figures.forget_collections()
    for collection, coverage in covered:
        figures.see(collection.name, coverage)
    for row in kinds:
        figures.failures.labels(row["collection"], row["kind"]).set(row["count"])
    embedded: dict[str, int] = {}
    for row in spent:
        name = f"{row['provider']}/{row['model']}"
        embedded[row["collection"]] = embedded.get(row["collection"], 0) + row["embedded"]
        figures.tokens.labels(row["collection"], name).set(row["tokens"])
        price = PRICES.get(row["model"]) if row["provider"] == "openai" else 0.0
        if price is not None:
            figures.dollars.labels(row["collection"], name).set(price * row["tokens"] / 1e6)
    for collection_name, rows in embedded.items():
        figures.written.labels(collection_name).set(rows)


@router.get("/ws/status", dependencies=[READ], responses=problems())
async def socket_status(services: TheServices) -> schemas.SocketStatus:
    """Who is connected, for clients that poll."""
    hub = services.hub
    return schemas.SocketStatus(
        clients=len(hub), hosts=hub.hosts, topics=hub.subscribers(), dropped=hub.dropped
    )
