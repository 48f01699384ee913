"""The forms of requests and responses: how each kind of server takes texts and returns vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from backline.embedders.openai.response import (
    EmbeddingResponse,
    MalformedResponseError,
    read_response,
    unit_vectors,
)
from backline.embedders.registry import ProviderEntry, Wire


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        model: its name on the server.
        dimensions: requested ones, or None for the model's default.
        type: what the server calls texts of this purpose, or None.
    """

    provider: ProviderEntry
    model: str
    texts: Sequence[str]
    dimensions: int | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class WireFormat:
    """One form.

    Attributes:
        body: returns the members of a request.
        read: returns the vectors of a response's body for a number of texts.
        suffix: returns what follows the provider's path.
    """

    body: Callable[[Call], dict[str, Any]]
    read: Callable[[bytes, int], EmbeddingResponse]
    suffix: Callable[[str], str] = lambda _model: ""


def _given(**members: object) -> dict[str, Any]:
    """Return the members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


# --- openai ---------------------------------------------------------------------------------------


def _openai_body(call: Call) -> dict[str, Any]:
    fields = call.provider.fields
    optional = (
        (fields.encoding, "base64"),
        (fields.dimensions, call.dimensions),
        (fields.type, call.type),
    )
    members = {name: value for name, value in optional if name and value is not None}
    return {"model": call.model, "input": list(call.texts), **members}


# --- cohere ---------------------------------------------------------------------------------------


def _cohere_body(call: Call) -> dict[str, Any]:
    return {
        "model": call.model,
        "texts": list(call.texts),
        "embedding_types": ["float"],
        "truncate": "NONE",
        **_given(input_type=call.type, output_dimension=call.dimensions),
    }


def _cohere_read(body: bytes, texts: int) -> EmbeddingResponse:
    def rows(fields: Any) -> Any:
        return fields["embeddings"]["float"]

    def tokens(fields: Any) -> Any:
        return fields["meta"]["billed_units"]["input_tokens"]

    return _read(body, texts, rows, tokens)


# --- gemini ---------------------------------------------------------------------------------------


def _gemini_body(call: Call) -> dict[str, Any]:
    options = _given(taskType=call.type, outputDimensionality=call.dimensions)
    return {
        "requests": [
            {"model": f"models/{call.model}", "content": {"parts": [{"text": text}]}, **options}
            for text in call.texts
        ]
    }


def _gemini_read(body: bytes, texts: int) -> EmbeddingResponse:
    def rows(fields: Any) -> Any:
        return [each["values"] for each in fields["embeddings"]]

    def tokens(fields: Any) -> Any:
        return fields["usageMetadata"]["promptTokenCount"]

    return _read(body, texts, rows, tokens)


def _gemini_suffix(model: str) -> str:
    return f"/models/{quote(model, safe='')}:batchEmbedContents"


# --- ollama ---------------------------------------------------------------------------------------


def _ollama_body(call: Call) -> dict[str, Any]:
    return {
        "model": call.model,
        "input": list(call.texts),
        "truncate": False,
        **_given(dimensions=call.dimensions),
    }


def _ollama_read(body: bytes, texts: int) -> EmbeddingResponse:
    return _read(
        body, texts, lambda fields: fields["embeddings"], lambda fields: fields["prompt_eval_count"]
    )


# --- text embeddings inference --------------------------------------------------------------------


def _tei_body(call: Call) -> dict[str, Any]:
    return {
        "inputs": list(call.texts),
        "truncate": False,
        "normalize": True,
        **_given(dimensions=call.dimensions),
    }


def _tei_read(body: bytes, texts: int) -> EmbeddingResponse:
    return _read(body, texts, lambda fields: fields, lambda _fields: 0)


# --- all ------------------------------------------------------------------------------------------


def _read(
    body: bytes, texts: int, rows: Callable[[Any], Any], tokens: Callable[[Any], Any]
) -> EmbeddingResponse:
    """Return the vectors that `rows` finds in a body whose order is that of the texts."""
    try:
        fields = json.loads(body)
        vectors = unit_vectors(rows(fields), texts)
    except MalformedResponseError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedResponseError(
            f"returned something other than embeddings: {error!r}"
        ) from error
    return EmbeddingResponse(vectors, _tokens(fields, tokens))


def _tokens(fields: Any, tokens: Callable[[Any], Any]) -> int:
    """Return the billed tokens, or 0 if the response does not name them."""
    try:
        count = tokens(fields)
    except (TypeError, KeyError):
        return 0
    return count if isinstance(count, int) else 0


WIRES: Final[Mapping[Wire, WireFormat]] = {
    "openai": WireFormat(_openai_body, read_response),
    "cohere": WireFormat(_cohere_body, _cohere_read),
    "gemini": WireFormat(_gemini_body, _gemini_read, _gemini_suffix),
    "ollama": WireFormat(_ollama_body, _ollama_read),
    "tei": WireFormat(_tei_body, _tei_read),
}


def members(call: Call) -> dict[str, Any]:
    """Return the body of a request, with what the provider adds to every one."""
    return {**WIRES[call.provider.wire].body(call), **call.provider.body}


def address(provider: ProviderEntry, base_url: str, model: str) -> str:
    """Return where requests go. `base_url` may already end with the beginning of the path."""
    base, path = base_url.rstrip("/"), provider.path
    parts = path.split("/")
    for n in range(len(parts), 1, -1):
        if base.endswith("/".join(parts[:n])):
            path = "/".join(["", *parts[n:]]) if n < len(parts) else ""
            break
    return f"{base}{path}{WIRES[provider.wire].suffix(model)}"
