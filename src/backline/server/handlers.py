"""Request handlers shared by the HTTP routes and the WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from backline import errors, model_change, search
from backline.collections import check
from backline.search.filters import Filter
from backline.server import reads, schemas
from backline.server.auth import Access
from backline.server.services import Services, backline_version
from backline.types import Collection, Coverage

T = TypeVar("T")


async def status(services: Services, access: Access) -> schemas.Status:
    """Return the state of the server, without collections while the database is down."""
    return schemas.Status(
        server=schemas.ServerInfo(
            name="backline",
            version=backline_version(),
            started_at=services.started_at,
            uptime_seconds=(datetime.now(UTC) - services.started_at).total_seconds(),
            worker=services.live_sync is not None,
        ),
        auth=schemas.AuthInfo(
            key_required_for_writes=services.policy.key_required_for_writes,
            key_required_for_reads=services.policy.key_required_for_reads,
            authorized=access.may("write"),
            role=access.role,
        ),
        collections=await _collections(services),
        database=schemas.DatabaseInfo(where=services.where, ok=services.change_feed.up),
        clients=len(services.broadcaster),
        hosts=services.broadcaster.hosts,
    )


async def _collections(services: Services) -> list[schemas.Collection]:
    if services.change_feed.up:
        with suppress(errors.DatabaseUnavailableError):
            collections = await services.store.collections()
            others = {each.family: each for each in collections if each.role != "serving"}
            serving = await _checked(services, [c for c in collections if c.role == "serving"])
            return [
                await _with_change(services, collection, coverage, others.get(collection.name))
                for collection, coverage in serving
            ]
    return []


async def _with_change(
    services: Services, collection: Collection, coverage: Coverage, other: Collection | None
) -> schemas.Collection:
    """Return a collection with the open change of its model, whose other target is `other`."""
    view = await reads.coverage_view(services.store, collection, coverage)
    change = await model_change.find(services.store, collection.name) if other else None
    if other is None or change is None:
        return schemas.Collection.of(collection, view)
    return schemas.Collection.of(
        collection, view, schemas.ModelChange.of(change), await target(services, other)
    )


async def target(services: Services, other: Collection) -> schemas.Target | None:
    """Return the target of a change that does not serve, with its coverage, if it still exists."""
    for _, coverage in await _checked(services, [other]):
        view = await reads.coverage_view(services.store, other, coverage)
        return schemas.Target.of(other, view)
    return None


async def coverages(
    services: Services, name: str | None = None
) -> list[tuple[Collection, Coverage]]:
    """Return the collections that are searched, or the named one, with their coverage."""
    store = services.store
    if name is not None:
        return await _checked(services, [await store.collection(name)])
    return await _checked(services, [c for c in await store.collections() if c.role == "serving"])


async def other_coverages(services: Services) -> list[tuple[Collection, Coverage]]:
    """Return the targets of changes of models that do not serve, with their coverage."""
    return await _checked(
        services, [c for c in await services.store.collections() if c.role != "serving"]
    )


async def _checked(
    services: Services, selected: Sequence[Collection]
) -> list[tuple[Collection, Coverage]]:
    """Return collections with their coverage, without those that were dropped meanwhile."""

    async def checked(collection: Collection) -> tuple[Collection, Coverage] | None:
        try:
            problems = await services.problems.get(collection)
            coverage = await services.store.coverage(collection)
        except errors.CollectionNotFoundError:
            return None
        return collection, replace(coverage, problems=problems)

    found = await asyncio.gather(*map(checked, selected))
    return [each for each in found if each is not None]


async def search_rows(services: Services, request: schemas.SearchRequest) -> schemas.SearchResults:
    """Return the rows that match a query."""
    check_length(services, "query", request.query)
    return await _serving(services, request.collection, partial(_search, services, request))


async def _serving(
    services: Services, name: str | None, answer: Callable[[Collection], Awaitable[T]]
) -> T:
    """Answer from a collection, and again if its vectors were retired meanwhile."""
    collection = await services.store.collection(name)
    try:
        return await answer(collection)
    except (errors.ConfigurationError, errors.PermissionDeniedError):  # whose vectors are gone
        again = await services.store.collection(name)
        if again.id == collection.id:
            raise
        return await answer(again)


async def _search(
    services: Services, request: schemas.SearchRequest, collection: Collection
) -> schemas.SearchResults:
    began = time.perf_counter()
    embedder = None
    if request.mode != "keyword":
        check(collection, collection.model, to="read")
        embedder = (await services.embedder_pool.get(collection.model)).embedder
    query = search.Query(
        request.query, request.mode, request.limit, request.offset, condition(request.where),
        request.weight, snippets=True, passages=request.passages,
    )  # fmt: skip
    hits = await search.search(services.store, collection, embedder, query)
    if request.offset == 0:  # further pages are of the same query
        services.query_log.add(collection, request.mode, request.query)
    return schemas.SearchResults(
        collection=collection.name,
        query=request.query,
        mode=request.mode,
        hits=[schemas.Hit.of(hit) for hit in hits],
        limit=request.limit,
        offset=request.offset,
        model=str(collection.model),
        complete=request.mode == "semantic" or not await services.store.needs_keywords(collection),
        took_ms=milliseconds_since(began),
    )


def condition(where: str | dict[str, Any] | None) -> str | Filter | None:
    """Convert a request's condition to a filter. An object of columns and values compares all."""
    if not where:
        return None
    if isinstance(where, str) or "op" in where:
        return where
    args = [_equals(name, value) for name, value in where.items()]
    return args[0] if len(args) == 1 else {"op": "and", "args": args}


def _equals(column: str, value: Any) -> Filter:
    if value is None:
        return {"op": "is null", "path": [column]}
    return {"op": "=", "path": [column], "value": value}


async def suggestions(services: Services, request: schemas.SuggestRequest) -> schemas.Suggestions:
    """Return advice for a prompt, or for a context without a prompt."""
    prompt = request.prompt or _prompt_of(request.context)
    check_length(services, "prompt", prompt)
    return await _serving(
        services, request.collection, partial(_suggest, services, request, prompt)
    )


async def _suggest(
    services: Services, request: schemas.SuggestRequest, prompt: str, collection: Collection
) -> schemas.Suggestions:
    check(collection, collection.model, to="read")
    pooled = await services.embedder_pool.get(collection.model)
    context = search.Context(
        focus=request.context.type, genre=request.context.genre, bpm=request.context.bpm,
        track_type=request.context.track_type,
    )  # fmt: skip
    result = await search.suggest(
        services.store, collection, pooled.embedder, prompt, context, limit=request.limit
    )
    services.query_log.add(collection, "hybrid", prompt)
    return schemas.Suggestions(
        collection=collection.name,
        suggestions=[_suggestion(each) for each in result.suggestions],
        context=request.context,
        timestamp=datetime.now(UTC),
        message=None if result.known else result.message,
    )


def _prompt_of(context: schemas.SuggestContext) -> str:
    """Build a prompt from a context.

    Raises:
        UsageError: the context is empty.
    """
    words = [context.mood, context.genre, context.track_type, context.type]
    prompt = " ".join(word.replace("_", " ") for word in words if word)
    if not prompt.strip():
        raise errors.UsageError("The request needs a prompt, or a context with a type.")
    return prompt


def _suggestion(suggestion: search.Suggestion) -> schemas.Suggestion:
    return schemas.Suggestion(
        id=suggestion.key,
        type=suggestion.topic or suggestion.category or "advice",
        title=suggestion.title,
        description=suggestion.advice,
        parameters=dict(suggestion.parameters),
        confidence=suggestion.confidence,
        category=suggestion.category,
        score=suggestion.score,
        reason=suggestion.reason,
    )


def check_length(services: Services, what: str, text: str) -> None:
    """Raise UsageError for a text longer than the settings allow."""
    limit = services.settings.max_query_length
    if len(text) > limit:
        raise errors.UsageError(
            f"The {what} has {len(text):,} characters; the limit is {limit:,}. Shorten it, or "
            "raise BACKLINE_MAX_QUERY_LENGTH."
        )


def milliseconds_since(began: float) -> float:
    """Return the milliseconds since a value of `time.perf_counter`."""
    return round(1000 * (time.perf_counter() - began), 2)
