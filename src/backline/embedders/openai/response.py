"""Reading the body of an answer of /v1/embeddings, trusting nothing in it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backline.errors import InputRejectedError
from backline.types import Vectors


class MalformedResponseError(ValueError):
    """The answer is not what the API promises. The text reads on after the provider's name."""


@dataclass(frozen=True, slots=True)
class EmbeddingResponse:
    """Vectors of unit length in the order of the texts, and the tokens that were billed."""

    vectors: Vectors
    prompt_tokens: int


def read_response(body: bytes, texts: int) -> EmbeddingResponse:
    """Read the vectors of `texts` texts.

    Raises:
        MalformedResponseError: not JSON of the promised shape, or another number of vectors.
        InputRejectedError: a vector has no direction: it holds no finite number, or only zeros.
    """
    try:
        fields = json.loads(body)
        items = _in_order(fields["data"], texts)
        vectors = np.stack([_vector(item["embedding"]) for item in items])
    except MalformedResponseError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedResponseError(
            f"answered with something that is no embedding: {error}"
        ) from error
    return EmbeddingResponse(_unit_length(vectors), _prompt_tokens(fields))


def _in_order(data: list[dict[str, Any]], texts: int) -> list[dict[str, Any]]:
    if len(data) != texts:
        raise MalformedResponseError(f"answered with {len(data)} vectors for {texts} texts")
    ordered = sorted(data, key=lambda item: int(item["index"]))
    if [item["index"] for item in ordered] != list(range(texts)):
        raise MalformedResponseError(f"numbered {texts} vectors otherwise than 0 to {texts - 1}")
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
            f"The provider gave no usable vector for {unusable.size} of {len(vectors)} texts: "
            "not finite, or all zeros."
        )
    return np.ascontiguousarray(vectors / lengths, dtype=np.float32)


def _prompt_tokens(fields: dict[str, Any]) -> int:
    usage = fields.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0
