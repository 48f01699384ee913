"""Routes for search, suggestions and the map."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from backline.collections import check
from backline.search import DEFAULT_WEIGHT, LARGEST_PAGE, Mode
from backline.search.query import DEEPEST_ROW, clean_text, embed_query
from backline.server import handlers, map, schemas
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.routes.status import OptionalCollection
from backline.server.services import READ, TheServices

router = APIRouter(
    tags=["search"], dependencies=[READ], responses=problems(*WITH_DATABASE, *WITH_BODY, 502)
)


@router.post("/api/search")
async def search(services: TheServices, request: schemas.SearchRequest) -> schemas.SearchResults:
    """Return the rows that match a query, best first, each with the parts of its score."""
    return await handlers.search_rows(services, request)


@router.get("/api/search")
async def search_by_address(  # noqa: PLR0913, PLR0917  query parameters
    services: TheServices,
    q: Annotated[str, Query(min_length=1)],
    collection: OptionalCollection = None,
    mode: Mode = "hybrid",
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 10,
    offset: Annotated[int, Query(ge=0, le=DEEPEST_ROW)] = 0,
    where: str | None = None,
    weight: Annotated[float, Query(ge=0, le=1)] = DEFAULT_WEIGHT,
    *,
    passages: bool = False,
) -> schemas.SearchResults:
    """Search as POST does, by an address that can be linked."""
    request = schemas.SearchRequest(
        query=q, collection=collection, mode=mode, limit=limit, offset=offset, where=where,
        weight=weight, passages=passages,
    )  # fmt: skip
    return await handlers.search_rows(services, request)


@router.post("/codette/suggest", summary="Suggest, under its older name")
@router.post("/api/suggest")
async def suggest(services: TheServices, request: schemas.SuggestRequest) -> schemas.Suggestions:
    """Return advice for a prompt or a context, most useful first."""
    return await handlers.suggestions(services, request)


@router.get("/api/map")
async def map_of_rows(
    services: TheServices,
    collection: OptionalCollection = None,
    limit: Annotated[int, Query(ge=1, le=map.MAX_ROWS)] = 10_000,
) -> schemas.Map:
    """Return the embeddings in two dimensions, with x and y from -1 to 1."""
    selected = await services.store.collection(collection)
    check(selected, selected.model, to="read")
    rows = await services.maps.get(services.store, selected, limit)
    return schemas.Map(
        collection=selected.name,
        method="pca",
        total=rows.total,
        count=len(rows.keys),
        keys=rows.keys,
        x=rows.x.round(5).tolist(),
        y=rows.y.round(5).tolist(),
        titles=rows.titles,
        categories=rows.categories,
        computed_at=rows.computed_at,
    )


@router.get("/api/map/query")
async def place_of_query(
    services: TheServices,
    q: Annotated[str, Query(min_length=1)],
    collection: OptionalCollection = None,
    limit: Annotated[int, Query(ge=1, le=map.MAX_ROWS)] = 10_000,
) -> schemas.Place:
    """Return the place of a query on the map of the same limit."""
    handlers.check_length(services, "query", q)
    selected = await services.store.collection(collection)
    check(selected, selected.model, to="read")
    pooled = await services.embedder_pool.get(selected.model)
    rows = await services.maps.get(services.store, selected, limit)
    vector = await embed_query(selected, pooled.embedder, clean_text(q))
    [[x, y]] = rows.plane.place(map.row(vector)).round(5).tolist()
    return schemas.Place(x=x, y=y)
