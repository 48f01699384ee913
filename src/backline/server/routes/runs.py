"""Routes to list, start and cancel backfills."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter

from backline.server import schemas
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.routes.status import OptionalCollection
from backline.server.services import ADMIN, READ, TheServices

router = APIRouter(prefix="/api/runs", tags=["runs"])

RunId = Annotated[int, PathParameter(ge=1, le=2**63 - 1)]
PROBLEMS = problems(*WITH_DATABASE, *WITH_BODY)


@router.get("", dependencies=[READ], responses=PROBLEMS)
async def runs(
    services: TheServices,
    collection: OptionalCollection = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> schemas.Runs:
    """List past and present backfills, newest first."""
    selected = await services.store.collection(collection) if collection else None
    records = await services.store.runs(selected, limit=limit)
    return schemas.Runs(runs=[schemas.Run.of(record) for record in records])


@router.get("/{run}", dependencies=[READ], responses=PROBLEMS)
async def one_run(services: TheServices, run: RunId) -> schemas.OneRun:
    """Return one backfill."""
    services.change_feed.check()
    return schemas.OneRun(run=schemas.Run.of(await services.backfills.find(run)))


@router.post(
    "",
    dependencies=[ADMIN],
    status_code=202,
    responses=problems(*WITH_DATABASE, *WITH_BODY, 502),
)
async def start_run(services: TheServices, request: schemas.StartRun) -> schemas.OneRun:
    """Start a backfill in the background. Follow it here or by the topic run_progress."""
    collection = await services.store.collection(request.collection)
    run = await services.backfills.start(collection, request.batch_size, request.limit)
    return schemas.OneRun(run=schemas.Run.of(run))


@router.post("/{run}/cancel", dependencies=[ADMIN], status_code=202, responses=PROBLEMS)
async def cancel_run(services: TheServices, run: RunId) -> schemas.OneRun:
    """Cancel a run. Its workers stop within seconds, and embedded rows stay."""
    services.change_feed.check()
    return schemas.OneRun(run=schemas.Run.of(await services.backfills.cancel(run)))
