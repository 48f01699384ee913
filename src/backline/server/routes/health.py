"""Routes for liveness, readiness, Prometheus metrics and connected clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from fastapi import APIRouter
from psycopg.rows import DictRow
from starlette.responses import Response

from backline import errors
from backline.embedders import registry
from backline.postgres.schema import require_sound
from backline.server import handlers, reads, schemas
from backline.server.metrics import CONTENT_TYPE, Metrics
from backline.server.routes.responses import problems
from backline.server.services import READ, Services, TheServices

router = APIRouter(tags=["health"])


@router.get("/health", responses=problems())
async def health() -> schemas.Health:
    """Return 200 while the process is alive."""
    return schemas.Health(status="ok")


@router.get("/health/ready", responses=problems(503, 504))
async def ready(services: TheServices) -> schemas.Ready:
    """Return 200 if the database is up and its schema undamaged, else 503."""
    collections = await services.store.collections()
    await require_sound(services.store.connector)
    found = sum([len(await services.problems.get(each)) for each in collections])
    return schemas.Ready(status="ready", database=services.where, problems=found)


@router.get(
    "/metrics",
    dependencies=[READ],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
async def figures(services: TheServices) -> Response:
    """Return the metrics in Prometheus' text format."""
    if services.change_feed.up:
        with suppress(errors.BacklineError):  # keeps the figures of the previous scrape
            await _update_metrics(services)
    return Response(services.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def _update_metrics(services: Services) -> None:
    coverages = await handlers.coverages(services)
    failures = await reads.failures_by_kind(services.store)
    usage = await reads.usage_by_collection(services.store)
    targets = await handlers.other_coverages(services)
    changes = await services.store.changes() if targets else []
    metrics = services.metrics
    metrics.clear_collections()
    for collection, coverage in coverages:
        metrics.set_coverage(collection.name, coverage)
    for target, coverage in targets:
        metrics.set_target(target, coverage)
    for change in changes:
        if change.open:
            metrics.set_change(change)
    for row in failures:
        metrics.failures.labels(row["collection"], row["kind"]).set(row["count"])
    _set_usage(metrics, usage)


def _set_usage(metrics: Metrics, usage: Sequence[DictRow]) -> None:
    """Set embedded rows, tokens and their price, summed over the models of each collection."""
    embedded: Counter[str] = Counter()
    for row in usage:
        model = f"{row['provider']}/{row['model']}"
        embedded[row["collection"]] += row["embedded"]
        metrics.tokens.labels(row["collection"], model).set(row["tokens"])
        price = registry.price(row["provider"], row["model"])
        if price is not None:
            metrics.dollars.labels(row["collection"], model).set(price * row["tokens"] / 1e6)
    for collection, rows in embedded.items():
        metrics.written.labels(collection).set(rows)


@router.get("/ws/status", dependencies=[READ], responses=problems())
async def socket_status(services: TheServices) -> schemas.SocketStatus:
    """Return the connected clients, for clients that poll."""
    broadcaster = services.broadcaster
    return schemas.SocketStatus(
        clients=len(broadcaster),
        hosts=broadcaster.hosts,
        topics=broadcaster.subscribers(),
        dropped=broadcaster.dropped,
    )
