"""OpenAI's wire format, so that any of its clients can use the local model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine
from typing import Any, Final

import numpy as np
from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from backline import errors
from backline.server import schemas
from backline.server.embedder_pool import Opened, name_of
from backline.server.routes.responses import WITH_BODY, WITH_DATABASE, problems
from backline.server.services import READ, WRITE, Services, TheServices
from backline.types import Vectors

router = APIRouter(prefix="/v1", tags=["openai"])

MOST_TEXTS: Final = 2048
# 64 MiB of float32: what one answer may hold.
MOST_COMPONENTS: Final = 16 << 20
FEW_TEXTS: Final = 8


@router.post(
    "/embeddings",
    dependencies=[WRITE],
    response_model=schemas.Embeddings,
    responses=problems(*WITH_DATABASE, *WITH_BODY, 502),
)
async def embeddings(
    request: Request, services: TheServices, asked: schemas.EmbeddingsRequest
) -> Response:
    """Vectors for texts. Requests that come at the same moment are computed together."""
    texts = _texts(asked.input)
    opened = await _opened(services, asked)
    dimensions = opened.embedder.model.dimensions
    if len(texts) * dimensions > MOST_COMPONENTS:
        raise errors.TooLargeError(
            f"{len(texts):,} texts of {dimensions:,} dimensions are too much for one answer. Send "
            "them in parts."
        )
    tokens = await _count(opened, texts)
    fitted = await _fitted(opened, texts, tokens)
    vectors = await _unless_gone(request, opened.embedder.embed_call(fitted))
    most = opened.embedder.model.max_tokens
    used = sum(min(count, most) for count in tokens)
    encode = _as_base64 if asked.encoding_format == "base64" else _as_floats
    body = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(encode(vectors))
        ],
        "model": asked.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }
    return Response(to_json(body), media_type="application/json")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Vectors]) -> Vectors:
    """The outcome of some work, which is dropped where its caller hangs up before.

    Raises:
        OverloadedError: the caller has gone; nobody reads this.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise errors.OverloadedError("The caller has gone before there was an answer.")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


def _texts(given: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    texts: list[Any] = [given] if isinstance(given, str) else list(given)
    if not texts:
        raise errors.UsageError("input is empty. Send a text, or a list of texts.")
    if any(not isinstance(text, str) for text in texts):
        raise errors.UsageError(
            "input holds tokens of another model's vocabulary; send texts. With LangChain: "
            "OpenAIEmbeddings(check_embedding_ctx_length=False)."
        )
    if len(texts) > MOST_TEXTS:
        raise errors.TooLargeError(
            f"input has {len(texts):,} texts; at most {MOST_TEXTS:,} are taken at once."
        )
    if any(not text for text in texts):
        raise errors.UsageError("input holds an empty text.")
    # Half of a surrogate pair is no character, and no tokenizer takes it.
    return [text.encode("utf-8", "replace").decode() for text in texts]


async def _opened(services: Services, asked: schemas.EmbeddingsRequest) -> Opened:
    """The model that is meant; one that was meant before is found without the database."""
    if found := services.models.recent(asked.model, asked.dimensions):
        return found
    used = [each.model for each in await services.store.collections()]
    return await services.models.named(asked.model, asked.dimensions, used)


async def _count(opened: Opened, texts: list[str]) -> list[int]:
    """Tokens of each text; off the event loop where it takes longer than a hop to a thread."""
    if len(texts) <= FEW_TEXTS and sum(map(len, texts)) < 10_000:
        return opened.embedder.count_tokens(texts)
    return await asyncio.to_thread(opened.embedder.count_tokens, texts)


async def _fitted(opened: Opened, texts: list[str], tokens: list[int]) -> list[str]:
    most = opened.embedder.model.max_tokens
    if max(tokens) <= most:
        return texts
    return await asyncio.to_thread(
        lambda: [
            opened.embedder.truncate(text) if count > most else text
            for text, count in zip(texts, tokens, strict=True)
        ]
    )


def _as_floats(vectors: Vectors) -> list[Any]:
    floats: list[Any] = vectors.tolist()
    return floats


def _as_base64(vectors: Vectors) -> list[str]:
    wire = vectors.astype("<f4", copy=False)
    return [base64.b64encode(np.ascontiguousarray(row).tobytes()).decode() for row in wire]


@router.get("/models", dependencies=[READ], responses=problems(503, 504))
async def models(services: TheServices) -> schemas.ModelList:
    """The models that callers may use: those of the collections, and local ones that are here."""
    used = [each.model for each in await services.store.collections()]
    return schemas.ModelList(
        object="list",
        data=[
            schemas.ModelEntry(
                id=name_of(model), object="model", owned_by=model.provider,
                created=int(services.started_at.timestamp()),
            )
            for model in await services.models.known(used)
        ],
    )  # fmt: skip
