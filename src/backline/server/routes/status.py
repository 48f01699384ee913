"""Routes for status, coverage, facets and actions."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from backline.server import handlers, reads, schemas
from backline.server.routes.responses import WITH_DATABASE, problems
from backline.server.services import READ, TheServices

router = APIRouter(prefix="/api", tags=["status"], dependencies=[READ])

OptionalCollection = Annotated[
    str | None, Query(max_length=200, description="Default: all collections, or the only one.")
]


@router.get("/status", responses=problems(503, 504))
async def status(services: TheServices, request: Request) -> schemas.Status:
    """Return the server, its database, and every collection with its coverage."""
    access = services.policy.access(request.headers)
    return await handlers.status(services, access)


@router.get("/coverage", responses=problems(*WITH_DATABASE))
async def coverage(
    services: TheServices, collection: OptionalCollection = None
) -> schemas.Coverages:
    """Return how many rows are embedded, pending and failed."""
    coverages = await handlers.coverages(services, collection)
    return schemas.Coverages(
        collections=[
            schemas.NamedCoverage(
                name=each.name, coverage=await reads.coverage_view(services.store, each, coverage)
            )
            for each, coverage in coverages
        ]
    )


@router.get("/facets", responses=problems(*WITH_DATABASE))
async def facets(services: TheServices, collection: OptionalCollection = None) -> schemas.Facets:
    """Return the text columns with few distinct values, with the count of each value."""
    return await services.facets.get(services.store, await services.store.collection(collection))


@router.get("/actions", responses=problems())
async def actions() -> schemas.Actions:
    """List the actions that a studio offers."""
    return schemas.Actions(actions=[schemas.ActionEntry(**each) for each in _shipped_actions()])


def _shipped_actions() -> list[dict[str, Any]]:
    file = files("backline.data").joinpath("actions.json")
    if not file.is_file():
        return []
    actions: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["actions"]
    return actions
