"""Search, suggestions and the map."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from backline.collections import check
from backline.search import DEFAULT_WEIGHT, LARGEST_PAGE, Mode
from backline.search.ranking import DEEPEST_ROW, clean_text, embed_query
from backline.server import handlers, map, schemas
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.routes.status import OfCollection
from backline.server.services import READ, TheServices

router = APIRouter(
    tags=["search"], dependencies=[READ], responses=problems(*WITH_DATABASE, *WITH_BODY, 502)
)


@router.post("/api/search")
async def search(services: TheServices, asked: schemas.SearchRequest) -> schemas.SearchResults:
    """The rows that answer a query, best first, each with the parts of its score."""
    return await handlers.hits(services, asked)


@router.get("/api/search")
async def search_by_address(  # noqa: PLR0917  each is a parameter of the address
    services: TheServices,
    q: Annotated[str, Query(min_length=1)],
    collection: OfCollection = None,
    mode: Mode = "hybrid",
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 10,
    offset: Annotated[int, Query(ge=0, le=DEEPEST_ROW)] = 0,
    where: str | None = None,
    weight: Annotated[float, Query(ge=0, le=1)] = DEFAULT_WEIGHT,
) -> schemas.SearchResults:
    """As POST, for links and for trying out."""
    asked = schemas.SearchRequest(
        query=q, collection=collection, mode=mode, limit=limit, offset=offset, where=where,
        weight=weight,
    )  # fmt: skip
    return await handlers.hits(services, asked)


@router.post("/codette/suggest", summary="Suggest, under its older name")
@router.post("/api/suggest")
async def suggest(services: TheServices, asked: schemas.SuggestRequest) -> schemas.Suggestions:
    """Advice for a prompt or a context, the most useful first; none where nothing is known."""
    return await handlers.suggestions(services, asked)


@router.get("/api/map")
async def map_of_rows(
    services: TheServices,
    collection: OfCollection = None,
    limit: Annotated[int, Query(ge=1, le=map.LARGEST)] = 10_000,
) -> schemas.Map:
    """The embeddings in two dimensions, x and y within -1 and 1."""
    found = await services.store.collection(collection)
    check(found, found.model, to="read")
    made = await services.maps.of(services.store, found, limit)
    return schemas.Map(
        collection=found.name,
        method="pca",
        total=made.total,
        count=len(made.keys),
        keys=made.keys,
        x=made.x.round(5).tolist(),
        y=made.y.round(5).tolist(),
        titles=made.titles,
        categories=made.categories,
        computed_at=made.computed_at,
    )


@router.get("/api/map/query")
async def place_of_query(
    services: TheServices,
    q: Annotated[str, Query(min_length=1)],
    collection: OfCollection = None,
    limit: Annotated[int, Query(ge=1, le=map.LARGEST)] = 10_000,
) -> schemas.Place:
    """Where a query would lie on the map of the same limit."""
    handlers.check_length(services, "query", q)
    found = await services.store.collection(collection)
    check(found, found.model, to="read")
    opened = await services.models.of(found.model)
    made = await services.maps.of(services.store, found, limit)
    vector = await embed_query(found, opened.embedder, clean_text(q))
    [[x, y]] = made.plane.place(map.row(vector)).round(5).tolist()
    return schemas.Place(x=x, y=y)
