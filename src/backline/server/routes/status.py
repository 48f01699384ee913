"""What is there: status, coverage, facets, actions."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query

from backline.server import handlers, reads, schemas
from backline.server.routes.responses import WITH_DATABASE, problems
from backline.server.services import READ, TheServices

router = APIRouter(prefix="/api", tags=["status"], dependencies=[READ])

OfCollection = Annotated[
    str | None, Query(max_length=200, description="Default: all, or the only one.")
]


@router.get("/status", responses=problems(503, 504))
async def status(services: TheServices) -> schemas.Status:
    """The server, its database, and every collection with its coverage."""
    return await handlers.status(services)


@router.get("/coverage", responses=problems(*WITH_DATABASE))
async def coverage(services: TheServices, collection: OfCollection = None) -> schemas.Coverages:
    """What is embedded and what is not, counted by the database."""
    found = await handlers.coverages(services, collection)
    return schemas.Coverages(
        collections=[
            schemas.NamedCoverage(
                name=each.name, coverage=await reads.shown(services.store, each, covered)
            )
            for each, covered in found
        ]
    )


@router.get("/facets", responses=problems(*WITH_DATABASE))
async def facets(services: TheServices, collection: OfCollection = None) -> schemas.Facets:
    """The columns of words that have few values, with how often each occurs."""
    return await services.facets.of(services.store, await services.store.collection(collection))


@router.get("/actions", responses=problems())
async def actions() -> schemas.Actions:
    """What a studio can be asked to do."""
    return schemas.Actions(actions=[schemas.ActionEntry(**each) for each in _shipped_actions()])


def _shipped_actions() -> list[dict[str, Any]]:
    file = files("backline.data").joinpath("actions.json")
    if not file.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["actions"]
    return found
