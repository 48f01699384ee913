"""Routes that compare a collection with the one that is to replace it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from backline.search import compare
from backline.search.query_sets import QuerySet, kept_queries, listed_queries
from backline.server import handlers
from backline.server.evaluation_schemas import Evaluation, LatestEvaluation, StartEvaluation
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.services import WRITE, Services, TheServices
from backline.types import Collection

# An evaluation quotes queries of users and titles of rows, so reading one needs the key too.
router = APIRouter(
    prefix="/api/collections/{name}/evaluation", tags=["evaluation"], dependencies=[WRITE]
)

CollectionName = Annotated[str, Path(max_length=200, description="The collection's name.")]


@router.get("", responses=problems(*WITH_DATABASE))
async def latest_evaluation(services: TheServices, name: CollectionName) -> LatestEvaluation:
    """Return the latest comparison with a candidate, and whether one is running."""
    return await _latest(services, await services.store.collection(name))


@router.post("", status_code=202, responses=problems(*WITH_DATABASE, *WITH_BODY, 502))
async def start_evaluation(
    services: TheServices, name: CollectionName, request: StartEvaluation
) -> LatestEvaluation:
    """Compare the collection with a candidate in the background. The answer has the former one."""
    serving, candidate = await compare.pair(services.store, name, request.candidate)
    asked = await _asked(services, serving, request)
    await services.evaluations.start(serving, candidate, asked, partial=request.partial)
    return await _latest(services, serving)


async def _asked(services: Services, serving: Collection, request: StartEvaluation) -> QuerySet:
    if request.queries is None:
        return await kept_queries(services.store, serving)
    for text in request.queries:
        handlers.check_length(services, "query", text)
    return listed_queries(request.queries, "the request")


async def _latest(services: Services, collection: Collection) -> LatestEvaluation:
    stored = await compare.latest_evaluation(services.store, collection)
    return LatestEvaluation(
        evaluation=None if stored is None else Evaluation.of(stored),
        running=services.evaluations.running(collection),
        failed=services.evaluations.failure(collection),
    )
