"""The route that embeds and stores the rows of a request."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from backline import errors
from backline.collections import check
from backline.server import schemas
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.services import WRITE, TheServices
from backline.server.upsert import Upsert, status_and_body

router = APIRouter(prefix="/api", tags=["upsert"], dependencies=[WRITE])


@router.post(
    "/upsert-embeddings",
    response_model=schemas.Upserted,
    responses={
        207: {"model": schemas.Upserted, "description": "Some rows were skipped or failed."},
        **problems(*WITH_DATABASE, *WITH_BODY, 502),
    },
)
async def upsert_embeddings(services: TheServices, request: schemas.UpsertRequest) -> JSONResponse:
    """Embed rows, and store the vector of each row that still has the sent text."""
    limit = services.settings.max_rows
    if len(request.rows) > limit:
        raise errors.TooLargeError(
            f"The request has {len(request.rows):,} rows; the limit is {limit:,}. Send them in "
            "parts."
        )
    collection = await services.store.collection(request.collection)
    check(collection, collection.model)
    pooled = await services.embedder_pool.get(collection.model)
    upsert = Upsert(services.store, collection, pooled, services.settings.batch_size)
    status, body = status_and_body(await upsert.run(request.rows))
    return JSONResponse(body, status)
