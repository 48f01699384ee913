"""Routes compatible with OpenAI's embeddings API, so that its clients can use local models."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import numpy as np
from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from backline import errors
from backline.server import openai_schemas as schemas
from backline.server.embedder_pool import PooledModel, name_of
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.services import READ, WRITE, Services, TheServices
from backline.types import Model, Purpose, Vectors

router = APIRouter(prefix="/v1", tags=["openai"])

MAX_TEXTS: Final = 2048
# 64 MiB of float32 in one response.
MAX_COMPONENTS: Final = 16 << 20
# Below these sizes, counting tokens takes less time than a switch to a thread.
FEW_TEXTS: Final = 8
FEW_CHARACTERS: Final = 10_000
# Words of input types, also as parts of "retrieval.query" and "RETRIEVAL_QUERY".
_PURPOSES: Final[Mapping[str, Purpose]] = {
    "query": "query",
    "search_query": "query",
    "retrieval_query": "query",
    "passage": "passage",
    "document": "passage",
    "search_document": "passage",
    "retrieval_document": "passage",
}


@router.post(
    "/embeddings",
    dependencies=[WRITE],
    response_model=schemas.Embeddings,
    responses=problems(*WITH_DATABASE, *WITH_BODY, 502),
)
async def embeddings(
    request: Request, services: TheServices, body: schemas.EmbeddingsRequest
) -> Response:
    """Embed texts as passages, or as queries if `input_type` says so.

    Concurrent requests are computed together.
    """
    texts, purpose = _texts(body.input), _purpose(body)
    pooled = await _model(services, body)
    model = pooled.embedder.model
    if len(texts) * model.dimensions > MAX_COMPONENTS:
        raise errors.TooLargeError(
            f"{len(texts):,} texts of {model.dimensions:,} dimensions are too much for one "
            "response. Send them in parts."
        )
    tokens = await _count_tokens(pooled, texts)
    truncated = await _truncate(pooled, texts, tokens)
    vectors = await _until_disconnect(request, _embed(pooled, truncated, purpose))
    return _response(body, vectors, tokens, model.max_tokens)


async def _embed(pooled: PooledModel, texts: list[str], purpose: Purpose) -> Vectors:
    """Embed the texts of a call.

    Raises:
        InputRejectedError: the provider rejects a text. The message has its index.
    """
    try:
        return await pooled.embedder.embed_call(texts, purpose)
    except errors.InputRejectedError as error:
        index, reason = await _first_rejected(pooled, texts, purpose, error)
    raise errors.InputRejectedError(f"input[{index}] is rejected: {reason}")


async def _first_rejected(
    pooled: PooledModel, texts: list[str], purpose: Purpose, error: errors.InputRejectedError
) -> tuple[int, errors.InputRejectedError]:
    """Return the index of the first text that the provider rejects, by halving, and its error."""
    first, end = 0, len(texts)
    while end - first > 1:
        middle = (first + end) // 2
        try:
            await pooled.embedder.embed_call(texts[first:middle], purpose)
            first = middle
        except errors.InputRejectedError as rejected:
            end, error = middle, rejected
    return first, error


def _response(
    body: schemas.EmbeddingsRequest, vectors: Vectors, tokens: list[int], limit: int
) -> Response:
    """Serialize vectors directly. The response model only documents their form."""
    used = sum(min(count, limit) for count in tokens)
    encode = _as_base64 if body.encoding_format == "base64" else _as_floats
    content: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(encode(vectors))
        ],
        "model": body.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }
    headers = {}
    if long := [(index, count) for index, count in enumerate(tokens) if count > limit]:
        content["truncated"] = [{"index": i, "tokens": n, "used": limit} for i, n in long]
        headers["X-Backline-Truncated"] = ",".join(str(index) for index, _ in long)
    return Response(to_json(content), headers=headers, media_type="application/json")


async def _until_disconnect(request: Request, work: Coroutine[Any, Any, Vectors]) -> Vectors:
    """Return the result of `work`, or cancel it when the client disconnects.

    Raises:
        OverloadedError: the client has disconnected, so nothing reads the response.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise errors.OverloadedError("The client disconnected before the response.")
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()


def _purpose(body: schemas.EmbeddingsRequest) -> Purpose:
    """Return what the texts are embedded as: passages, unless the request says otherwise.

    Raises:
        UsageError: its members name no purpose, or two different ones.
    """
    named = [each for each in (body.input_type, body.prompt_name) if each is not None]
    purposes = {_PURPOSES.get(each.lower().rpartition(".")[2]) for each in named}
    if len(purposes) > 1:
        raise errors.UsageError(
            f"input_type {body.input_type!r} and prompt_name {body.prompt_name!r} differ. Send one."
        )
    purpose = purposes.pop() if purposes else "passage"
    if purpose is None:
        raise errors.UsageError(
            f"There is no input_type {named[0]!r}. Send query or passage (or document)."
        )
    return purpose


def _texts(value: str | list[str]) -> list[str]:
    """Return the texts of a request's `input`.

    Raises:
        UsageError: it is empty.
        TooLargeError: it has too many texts.
    """
    texts = [value] if isinstance(value, str) else list(value)
    if not texts or not texts[0]:
        raise errors.UsageError("input is empty. Send a text, or a list of texts.")
    if len(texts) > MAX_TEXTS:
        raise errors.TooLargeError(
            f"input has {len(texts):,} texts; the limit is {MAX_TEXTS:,}. Send them in parts."
        )
    # Tokenizers refuse half of a surrogate pair, so it is replaced.
    return [text.encode("utf-8", "replace").decode() for text in texts]


async def _model(services: Services, body: schemas.EmbeddingsRequest) -> PooledModel:
    """Return the requested model; the database is read only at its first request."""
    if pooled := services.embedder_pool.recent(body.model, body.dimensions):
        return pooled
    used = [each.model for each in await services.store.collections()]
    return await services.embedder_pool.named(body.model, body.dimensions, used)


async def _count_tokens(pooled: PooledModel, texts: list[str]) -> list[int]:
    if len(texts) <= FEW_TEXTS and sum(map(len, texts)) < FEW_CHARACTERS:
        return pooled.embedder.count_tokens(texts)
    return await asyncio.to_thread(pooled.embedder.count_tokens, texts)


async def _truncate(pooled: PooledModel, texts: list[str], tokens: list[int]) -> list[str]:
    limit = pooled.embedder.model.max_tokens
    if max(tokens) <= limit:
        return texts
    return await asyncio.to_thread(
        lambda: [
            pooled.embedder.truncate(text) if count > limit else text
            for text, count in zip(texts, tokens, strict=True)
        ]
    )


def _as_floats(vectors: Vectors) -> list[Any]:
    floats: list[Any] = vectors.tolist()
    return floats


def _as_base64(vectors: Vectors) -> list[str]:
    little_endian = vectors.astype("<f4", copy=False)
    return [base64.b64encode(np.ascontiguousarray(row).tobytes()).decode() for row in little_endian]


@router.get("/models", dependencies=[READ], responses=problems(503, 504))
async def models(services: TheServices) -> schemas.ModelList:
    """List the models of the collections and the cached local models."""
    used = [each.model for each in await services.store.collections()]
    available = await services.embedder_pool.available(used)
    return schemas.ModelList(object="list", data=[_entry(services, model) for model in available])


@router.get("/models/{model:path}", dependencies=[READ], responses=problems(*WITH_DATABASE))
async def one_model(services: TheServices, model: str) -> schemas.ModelEntry:
    """Return one model, by any name that `POST /v1/embeddings` accepts."""
    used = [each.model for each in await services.store.collections()]
    found = await services.embedder_pool.known(model, used)
    return _entry(services, found)


def _entry(services: Services, model: Model) -> schemas.ModelEntry:
    created = int(services.started_at.timestamp())
    return schemas.ModelEntry(
        id=name_of(model), object="model", owned_by=model.provider, created=created
    )
