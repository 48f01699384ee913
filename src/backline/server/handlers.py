"""The answers that routes and sockets give alike."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from backline import errors, search
from backline.collections import check
from backline.search.filters import Filter
from backline.server import reads, schemas
from backline.server.services import Services, backline_version
from backline.types import Collection, Coverage


async def status(services: Services) -> schemas.Status:
    """Everything that a page shows first; without collections while the database is away."""
    collections: list[schemas.Collection] = []
    if services.watch.up:
        with suppress(errors.DatabaseUnavailableError):
            collections = [
                schemas.Collection.of(each, await reads.shown(services.store, each, covered))
                for each, covered in await coverages(services)
            ]
    return schemas.Status(
        server=schemas.ServerInfo(
            name="backline",
            version=backline_version(),
            started_at=services.started_at,
            uptime_seconds=(datetime.now(UTC) - services.started_at).total_seconds(),
            worker=services.followers is not None,
        ),
        auth=schemas.AuthInfo(
            key_required_for_writes=services.guard.key_required_for_writes,
            key_required_for_reads=services.guard.key_required_for_reads,
        ),
        database=schemas.DatabaseInfo(where=services.where, ok=services.watch.up),
        collections=collections,
        clients=len(services.hub),
        hosts=services.hub.hosts,
    )


async def coverages(
    services: Services, name: str | None = None
) -> list[tuple[Collection, Coverage]]:
    """The collections, or the one of that name, with what is embedded of them."""
    store = services.store
    wanted = [await store.collection(name)] if name else await store.collections()
    found = await asyncio.gather(*(store.coverage(each) for each in wanted))
    return list(zip(wanted, found, strict=True))


async def hits(services: Services, asked: schemas.SearchRequest) -> schemas.SearchResults:
    """The rows that answer a query."""
    began = time.perf_counter()
    check_length(services, "query", asked.query)
    collection = await services.store.collection(asked.collection)
    embedder = None
    if asked.mode != "semantic":
        await services.keywords.ensure(services.store, collection)
    if asked.mode != "keyword":
        check(collection, collection.model, to="read")
        embedder = (await services.models.of(collection.model)).embedder
    query = search.Query(
        asked.query, asked.mode, asked.limit, asked.offset, condition(asked.where), asked.weight,
        snippets=True,
    )  # fmt: skip
    found = await search.search(services.store, collection, embedder, query)
    return schemas.SearchResults(
        collection=collection.name,
        query=asked.query,
        mode=asked.mode,
        hits=[schemas.Hit.of(hit) for hit in found],
        limit=asked.limit,
        offset=asked.offset,
        model=str(collection.model),
        took_ms=took(began),
    )


def condition(where: str | dict[str, Any] | None) -> str | Filter | None:
    """A condition as search takes it; an object of columns and values means that all are equal."""
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


async def suggestions(services: Services, asked: schemas.SuggestRequest) -> schemas.Suggestions:
    """Advice for a prompt, or for a context alone."""
    prompt = asked.prompt or _prompt_of(asked.context)
    check_length(services, "prompt", prompt)
    collection = await services.store.collection(asked.collection)
    check(collection, collection.model, to="read")
    await services.keywords.ensure(services.store, collection)
    opened = await services.models.of(collection.model)
    context = search.Context(
        focus=asked.context.type, genre=asked.context.genre, bpm=asked.context.bpm,
        track_type=asked.context.track_type,
    )  # fmt: skip
    found = await search.suggest(
        services.store, collection, opened.embedder, prompt, context, limit=asked.limit
    )
    return schemas.Suggestions(
        suggestions=[_suggestion(each) for each in found.suggestions],
        context=asked.context,
        timestamp=datetime.now(UTC),
        message=None if found.known else found.message,
    )


def _prompt_of(context: schemas.SuggestContext) -> str:
    """What to ask where there is only a context."""
    words = [context.mood, context.genre, context.track_type, context.type]
    prompt = " ".join(word.replace("_", " ") for word in words if word)
    if not prompt.strip():
        raise errors.UsageError("Say what advice is wanted: a prompt, or a context with a type.")
    return prompt


def _suggestion(found: search.Suggestion) -> schemas.Suggestion:
    return schemas.Suggestion(
        id=found.key,
        type=found.topic or found.category or "advice",
        title=found.title,
        description=found.advice,
        parameters=dict(found.parameters),
        confidence=found.confidence,
        category=found.category,
        score=found.score,
        reason=found.reason,
    )


def check_length(services: Services, what: str, text: str) -> None:
    """Refuse a text that is longer than the settings allow."""
    most = services.settings.max_query_length
    if len(text) > most:
        raise errors.UsageError(
            f"The {what} has {len(text):,} characters; at most {most:,} are read. Shorten it, or "
            "raise BACKLINE_MAX_QUERY_LENGTH."
        )


def took(began: float) -> float:
    """Milliseconds since a moment of `time.perf_counter`."""
    return round(1000 * (time.perf_counter() - began), 2)
