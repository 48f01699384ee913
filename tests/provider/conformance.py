"""What the conformance suite holds every provider to.

`tests/unit/test_provider_conformance.py` has one test for each behaviour, and the table in
docs/reference/providers.md is made from these declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Subject:
    """A provider under test, and what its API has.

    Attributes:
        model: a model with an entry in the registry.
        dimensions: its default; `requested` are other dimensions that it returns, or None.
        unlisted: a model without an entry.
        query: what marks a query in a request: a type, or the beginning of its text; `passage`
            likewise. None if the model has no such mark.
        without: behaviours that the API rules out, with the reason.
    """

    model: str
    dimensions: int
    requested: int | None
    query: str | None = None
    passage: str | None = None
    unlisted: str = "house-model"
    without: Mapping[str, str] = field(default_factory=dict)


BEHAVIOURS: Final[Mapping[str, str]] = {
    "order": "Vectors are in the order of the texts, and of unit length.",
    "base64": "Vectors are requested as base64.",
    "floats": "Vectors are accepted as lists of numbers.",
    "dimensions": "Other dimensions than the model's default are requested, the default is not.",
    "unlisted_model": "A model without an entry is accepted, and its dimensions are asked once.",
    "query_and_passage": "A query and a passage are marked as the model was trained.",
    "no_truncation": "The server is told not to shorten texts silently.",
    "too_long": "A text over the limit is rejected, not shortened.",
    "key": "The key is sent, and appears in no error.",
    "statuses": "400, 413, 422 reject a text; 401, 403, 404 refuse; 408 and 5xx may be retried.",
    "rate_limit": "A 429 is a deferral, for as long as the response says.",
    "limit_headers": "The limits in the headers reach the limiter.",
    "malformed": "Too few or too many vectors, and other bodies, are errors that may be retried.",
    "unusable": "A vector that is null, not finite or all zeros rejects its text.",
    "cut": "A response that ends in its middle is an error that may be retried.",
    "timeout": "A call ends after its time limit.",
    "cancelled": "A cancelled call leaves the embedder usable.",
    "redirect": "A redirect is not followed.",
    "many_inputs": "More texts than one request takes go into several requests.",
}

_NO_TRUNCATION: Final = {"no_truncation": "the API has no such member; it rejects long texts"}
_NO_LIMITS: Final = {"limit_headers": "the API documents no rate-limit headers"}
_NO_BASE64: Final = {"base64": "the API returns numbers"}
_NO_MARKS: Final = {"query_and_passage": "this model has none"}
_NO_MOST: Final = {"many_inputs": "the API documents no limit"}

SUBJECTS: Final[Mapping[str, Subject]] = {
    "openai": Subject(
        "text-embedding-3-small", 1536, 512,
        without={**_NO_TRUNCATION, **_NO_MARKS, "many_inputs": "batches keep to the limit"},
    ),
    "azure": Subject(
        "text-embedding-3-large", 3072, 256, without={**_NO_TRUNCATION, **_NO_MARKS}
    ),
    "gemini": Subject(
        "gemini-embedding-001", 3072, 768, "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT",
        without={**_NO_TRUNCATION, **_NO_LIMITS, **_NO_BASE64},
    ),
    "voyage": Subject("voyage-3.5", 1024, 512, "query", "document", without=_NO_LIMITS),
    "cohere": Subject(
        "embed-v4.0", 1536, 256, "search_query", "search_document",
        without={**_NO_LIMITS, **_NO_BASE64},
    ),
    "mistral": Subject(
        "codestral-embed", 1536, 512, without={**_NO_TRUNCATION, **_NO_MARKS}
    ),
    "jina": Subject(
        "jina-embeddings-v3", 1024, 64, "retrieval.query", "retrieval.passage", without=_NO_MOST
    ),
    "nvidia": Subject(
        "nvidia/llama-nemotron-embed-1b-v2", 2048, 384, "query", "passage",
        without={**_NO_LIMITS, **_NO_MOST},
    ),
    "ollama": Subject(
        "nomic-embed-text", 768, 256, "search_query: ", "search_document: ",
        without={**_NO_LIMITS, **_NO_BASE64, **_NO_MOST},
    ),
    "tei": Subject(
        "intfloat/multilingual-e5-base", 768, None, "query: ", "passage: ",
        without={
            **_NO_LIMITS, **_NO_BASE64, "dimensions": "this model has one number of dimensions",
        },
    ),
    "vllm": Subject(
        "Qwen/Qwen3-Embedding-0.6B", 1024, 128, "Instruct: ", "",
        without={**_NO_TRUNCATION, **_NO_LIMITS, **_NO_MOST},
    ),
    "compatible": Subject(
        "BAAI/bge-m3", 1024, None,
        without={
            **_NO_TRUNCATION, **_NO_MARKS, **_NO_MOST,
            "dimensions": "this model has one number of dimensions",
        },
    ),
}  # fmt: skip
