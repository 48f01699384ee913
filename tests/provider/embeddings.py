"""What the stand-in accepts and returns, in any dialect; the limits are those of OpenAI."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Protocol

import numpy as np

from backline.embedders.hash import hash_vectors
from backline.types import Vectors
from tests.provider.behaviour import Behaviour
from tests.provider.dialects import Dialect, EmbeddingsRequest, Row
from tests.provider.http import Answer


class Fail(Protocol):
    """Returns an error in the dialect of the server."""

    def __call__(self, status: int, message: str, code: str | None = None) -> Answer: ...


MODELS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}


def _least_tokens(text: str) -> int:
    """Return a sixth of the bytes, a lower bound that needs no vocabulary."""
    return -(-len(text.encode("utf-8", "replace")) // 6)


def refusal(
    dialect: Dialect, request: EmbeddingsRequest, behaviour: Behaviour, models: dict[str, int]
) -> Answer | None:
    """Return the error of an invalid request, or None."""
    error = partial(dialect.error, code=None)
    if request.model not in models:
        return error(404, f"The model `{request.model}` does not exist.", code="model_not_found")
    if not request.texts or "" in request.texts:
        return error(400, "'$.input' is invalid. Please check the API reference.")
    if len(request.texts) > behaviour.max_inputs:
        return error(
            400, f"'input' has {len(request.texts)} items; at most {behaviour.max_inputs}."
        )
    return _refuse_size(error, request, behaviour) or _refuse_content(
        error, request, behaviour, models
    )


def _refuse_size(error: Fail, request: EmbeddingsRequest, behaviour: Behaviour) -> Answer | None:
    limit = behaviour.max_tokens_per_input
    longest = max(_least_tokens(text) for text in request.texts)
    if longest > limit:
        return error(
            400,
            f"This model's maximum context length is {limit} tokens, however you requested "
            f"{longest} tokens. Please reduce your prompt.",
        )
    if request.tokens > behaviour.max_tokens_per_request:
        return error(
            400, "Requested too many tokens in one request.", code="max_tokens_per_request"
        )
    return None


def _refuse_content(
    error: Fail, request: EmbeddingsRequest, behaviour: Behaviour, models: dict[str, int]
) -> Answer | None:
    unsupported = behaviour.refuse_dimensions or request.model == "text-embedding-ada-002"
    if request.dimensions is not None and unsupported:
        return error(400, "This model does not support specifying dimensions.")
    if not 1 <= (request.dimensions or 1) <= models[request.model]:
        return error(400, f"Invalid value for 'dimensions' = {request.dimensions}.")
    marker = behaviour.reject_marker
    if marker is not None and any(marker in text for text in request.texts):
        return error(400, behaviour.reject_message, code="invalid_input")
    return None


def success(
    dialect: Dialect, request: EmbeddingsRequest, behaviour: Behaviour, models: dict[str, int]
) -> Answer:
    """Return the vectors of HashEmbedder in the requested dimensions."""
    full = models[request.model]
    dimensions = full if behaviour.ignore_dimensions else request.dimensions or full
    vectors = _spoil(
        hash_vectors(request.texts, dimensions) * np.float32(behaviour.scale), behaviour
    )
    as_base64 = request.base64 and not behaviour.ignore_base64
    rows: list[Row] = [_encode(vector, as_base64=as_base64) for vector in vectors]
    if behaviour.spoil == "null vector":
        rows[-1] = None
    body = dialect.write([] if behaviour.spoil == "no data" else rows, request)
    if behaviour.spoil in ("reversed", "same index"):
        items = body["data"]
        body["data"] = (
            items[::-1]
            if behaviour.spoil == "reversed"
            else [{**item, "index": 0} for item in items]
        )
    spoiled = {"not json": b"<html>", "too deep": b"[" * 100_000}
    return Answer(200, spoiled.get(behaviour.spoil) or json.dumps(body).encode())


def _spoil(vectors: Vectors, behaviour: Behaviour) -> Vectors:
    if behaviour.spoil == "missing":
        return vectors[:-1]
    if behaviour.spoil == "extra":
        return np.concatenate([vectors, vectors[:1]])
    if behaviour.spoil == "short vector":
        return np.ascontiguousarray(vectors[:, :-1])
    if behaviour.spoil in ("not finite", "zero"):
        vectors[-1] = np.inf if behaviour.spoil == "not finite" else 0
    return vectors


def _encode(vector: Vectors, *, as_base64: bool) -> str | list[float]:
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
