"""Runs, dead letters, and rows that a caller sends to be embedded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from starlette.responses import JSONResponse

from backline import errors
from backline.collections import check
from backline.server import schemas
from backline.server.reads import failures_page
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.routes.status import OfCollection
from backline.server.services import READ, WRITE, TheServices
from backline.server.upsert import Upsert, body_of

reads = APIRouter(prefix="/api", tags=["work"], dependencies=[READ])
writes = APIRouter(prefix="/api", tags=["work"], dependencies=[WRITE])

RunId = Annotated[int, PathParameter(ge=1, le=2**63 - 1)]
ERRORS = problems(*WITH_DATABASE, *WITH_BODY)


@reads.get("/runs", responses=ERRORS)
async def runs(
    services: TheServices,
    collection: OfCollection = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> schemas.Runs:
    """Past and present backfills, the newest first."""
    wanted = await services.store.collection(collection) if collection else None
    found = await services.store.runs(wanted, limit=limit)
    return schemas.Runs(runs=[schemas.Run.of(run) for run in found])


@reads.get("/runs/{run}", responses=ERRORS)
async def one_run(services: TheServices, run: RunId) -> schemas.OneRun:
    """One backfill."""
    services.watch.check()
    return schemas.OneRun(run=schemas.Run.of(await services.runs.find(run)))


@writes.post("/runs", status_code=202, responses=problems(*WITH_DATABASE, *WITH_BODY, 502))
async def start_run(services: TheServices, asked: schemas.StartRun) -> schemas.OneRun:
    """Start a backfill in the background; follow it here, or by the topic run_progress."""
    collection = await services.store.collection(asked.collection)
    run = await services.runs.start(collection, asked.batch_size, asked.limit)
    return schemas.OneRun(run=schemas.Run.of(run))


@writes.post("/runs/{run}/cancel", status_code=202, responses=ERRORS)
async def cancel_run(services: TheServices, run: RunId) -> schemas.OneRun:
    """Ask a run to stop; its workers notice within seconds. What is embedded stays."""
    services.watch.check()
    return schemas.OneRun(run=schemas.Run.of(await services.runs.cancel(run)))


@reads.get("/failures", responses=ERRORS)
async def failures(
    services: TheServices,
    collection: OfCollection = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=schemas.LONGEST_KEY)] = None,
) -> schemas.Failures:
    """The dead letters, a page of them."""
    store = services.store
    wanted = await store.collection(collection) if collection else None
    page = await failures_page(store, wanted, _cursor(after), limit)
    counted = [wanted] if wanted else await store.collections()
    total = sum([(await store.coverage(each)).failed for each in counted])
    shown = [
        schemas.Failure(
            collection=name, key=each.key, kind=each.kind, error=each.error,
            attempts=each.attempts, failed_at=each.failed_at, run_id=each.run_id,
        )
        for _, name, each in page
    ]  # fmt: skip
    more = f"{page[-1][0]}:{page[-1][2].key}" if len(page) == limit else None
    return schemas.Failures(failures=shown, total=total, next=more)


def _cursor(after: str | None) -> tuple[int, str]:
    """Where a page begins: after this key of the collection of that id."""
    if after is None:
        return (0, "")
    number, colon, key = after.partition(":")
    if not (number.isascii() and number.isdecimal() and colon) or len(number) > 9 or "\0" in key:
        raise errors.UsageError("`after` must be what the page before gave as `next`.")
    return int(number), key


@writes.post("/failures/retry", responses=ERRORS)
async def retry_failures(services: TheServices, asked: schemas.RetryFailures) -> schemas.Retried:
    """Send dead letters, all or some, through the queue again."""
    store = services.store
    if asked.collection is None and asked.keys is None:
        wanted = await store.collections()
    else:
        wanted = [await store.collection(asked.collection)]
    keys = None if asked.keys is None else [key for key in asked.keys if "\0" not in key]
    retried = sum([await store.retry_failures(each, keys) for each in wanted])
    return schemas.Retried(retried=retried)


@writes.post(
    "/upsert-embeddings",
    response_model=schemas.Upserted,
    responses={
        207: {"model": schemas.Upserted, "description": "Some rows were skipped or failed."},
        **problems(*WITH_DATABASE, *WITH_BODY, 502),
    },
)
async def upsert_embeddings(services: TheServices, asked: schemas.UpsertRequest) -> JSONResponse:
    """Embed rows and store them, each only if its text still is what the table has."""
    most = services.settings.max_rows
    if len(asked.rows) > most:
        raise errors.TooLargeError(
            f"The request has {len(asked.rows):,} rows; at most {most:,} are taken at once. Send "
            "them in parts."
        )
    collection = await services.store.collection(asked.collection)
    check(collection, collection.model)
    opened = await services.models.of(collection.model)
    work = Upsert(services.store, collection, opened, services.settings.batch_size)
    status, body = body_of(await work.run(asked.rows))
    return JSONResponse(body, status)
