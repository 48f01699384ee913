"""Parse and validate the body of a response of /v1/embeddings."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backline.errors import InputRejectedError
from backline.types import Vectors


class MalformedResponseError(ValueError):
    """The response violates the API. The message continues a sentence that names the provider."""


@dataclass(frozen=True, slots=True)
class EmbeddingResponse:
    """Vectors of unit length in the order of the texts, and the billed tokens."""

    vectors: Vectors
    prompt_tokens: int


def read_response(body: bytes, texts: int) -> EmbeddingResponse:
    """Return the vectors of `texts` texts.

    Raises:
        MalformedResponseError: the body is not JSON of the API's form, or has another number of
            vectors.
        InputRejectedError: a vector has no direction: it is not finite, or all zeros.
    """
    try:
        fields = json.loads(body)
        items = _in_order(fields["data"], texts)
        vectors = unit_vectors([item["embedding"] for item in items], texts)
    except MalformedResponseError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedResponseError(
            f"returned something other than embeddings: {error}"
        ) from error
    return EmbeddingResponse(vectors, _prompt_tokens(fields))


def unit_vectors(rows: Sequence[Any], texts: int) -> Vectors:
    """Return vectors of unit length: each row is base64 of float32, or a list of numbers.

    Raises:
        MalformedResponseError: there is another number of rows.
        InputRejectedError: a row is null, not finite, or all zeros.
        ValueError, TypeError: a row is something else, or of another length.
    """
    if len(rows) != texts:
        raise MalformedResponseError(f"returned {len(rows)} vectors for {texts} texts")
    vectors = [None if row is None else _vector(row) for row in rows]
    length = next((len(vector) for vector in vectors if vector is not None), 1)
    missing = np.full(length, np.nan, dtype=np.float32)
    return _unit_length(np.stack([missing if vector is None else vector for vector in vectors]))


def _in_order(data: list[dict[str, Any]], texts: int) -> list[dict[str, Any]]:
    if len(data) != texts:
        raise MalformedResponseError(f"returned {len(data)} vectors for {texts} texts")
    ordered = sorted(data, key=lambda item: int(item["index"]))
    if [item["index"] for item in ordered] != list(range(texts)):
        raise MalformedResponseError(f"did not number its {texts} vectors 0 to {texts - 1}")
    return ordered


def _vector(encoded: str | list[float]) -> NDArray[np.float32]:
    if isinstance(encoded, str):
        return np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4")
    return np.asarray(encoded, dtype=np.float32)


def _unit_length(vectors: NDArray[np.float32]) -> Vectors:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unusable = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if unusable.size:
        raise InputRejectedError(
            f"The provider returned no usable vector for {unusable.size} of {len(vectors)} texts: "
            "not finite, or all zeros."
        )
    return np.ascontiguousarray(vectors / lengths, dtype=np.float32)


def _prompt_tokens(fields: dict[str, Any]) -> int:
    usage = fields.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0
