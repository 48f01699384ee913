"""The wire formats that the stand-in speaks, each as its provider's API reference describes it.

They are written from the references and not from Backline's registry, which they test. A member
that the reference does not have is refused, and so is a text type that it does not list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tests.provider.http import Answer, Request

Row: TypeAlias = str | list[float] | None
"""A vector in a response: base64, numbers, or null."""


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """What a request asks for, in any dialect.

    Attributes:
        type: how the request marks its texts, or None.
        truncates: whether the server may shorten texts silently; None if the API has no such
            member.
    """

    texts: tuple[str, ...]
    model: str
    dimensions: int | None = None
    base64: bool = False
    type: str | None = None
    truncates: bool | None = None

    @property
    def tokens(self) -> int:
        return sum(max(1, -(-len(text.encode("utf-8", "replace")) // 4)) for text in self.texts)


class UnknownMemberError(ValueError):
    """The request has a member, or a value of one, that the API reference does not list."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API.

    Attributes:
        path: of the endpoint; a group named "model" is the model's name.
        key_header: the header of the key; with `bearer`, the key follows "Bearer ".
        read: returns the request of a body.
        write: returns the body of a success.
        fail: returns the body of an error, from status, message and code.
        base: what precedes the path in the address that users set.
        members: what a body may hold.
    """

    path: str
    read: Callable[[dict[str, Any]], EmbeddingsRequest]
    write: Callable[[Sequence[Row], EmbeddingsRequest], Any]
    fail: Callable[[int, str, str | None], Any]
    base: str
    members: frozenset[str]
    key_header: str = "authorization"
    bearer: bool = True
    limit_headers: Mapping[str, str] = field(default_factory=dict)

    def key(self, request: Request) -> str:
        """Return the key of a request."""
        value = request.headers.get(self.key_header, "")
        return value.removeprefix("Bearer ") if self.bearer else value

    def parse(self, request: Request) -> EmbeddingsRequest:
        """Return what a request asks for.

        Raises:
            UnknownMemberError: the API does not have one of its members.
        """
        fields = json.loads(request.body)
        unknown = set(fields) - self.members
        if unknown:
            raise UnknownMemberError(f"Unknown members: {', '.join(sorted(unknown))}.")
        match = re.fullmatch(self.path, request.path)
        named = match.groupdict() if match else {}
        return self.read({**fields, **named})

    def error(self, status: int, message: str, code: str | None, **headers: str) -> Answer:
        dashed = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer(status, json.dumps(self.fail(status, message, code)).encode(), dashed)


def _one_of(value: Any, *allowed: Any) -> Any:
    if value not in allowed:
        raise UnknownMemberError(f"{value!r} is not one of {allowed}.")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


# --- openai and its kin ---------------------------------------------------------------------------


def openai_write(rows: Sequence[Row], request: EmbeddingsRequest) -> Any:
    """Return a body whose vectors are numbered."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": request.tokens, "total_tokens": request.tokens},
    }


def _openai_fail(_status: int, message: str, code: str | None) -> Any:
    kind = "insufficient_quota" if code == "insufficient_quota" else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _openai_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    return EmbeddingsRequest(
        _texts(fields["input"]),
        fields["model"],
        fields.get("dimensions"),
        base64=_one_of(fields.get("encoding_format", "float"), "float", "base64") == "base64",
    )


_OPENAI_LIMITS = {
    f"{part}-{kind}": f"x-ratelimit-{part}-{kind}"
    for part in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
}
_OPENAI_MEMBERS = frozenset({"model", "input", "encoding_format", "dimensions", "user"})
OPENAI = Dialect(
    r"/v1/embeddings", _openai_read, openai_write, _openai_fail, "/v1", _OPENAI_MEMBERS,
    limit_headers=_OPENAI_LIMITS,
)  # fmt: skip

AZURE = Dialect(
    r"/openai/v1/embeddings", _openai_read, openai_write, _openai_fail, "", _OPENAI_MEMBERS,
    key_header="api-key", bearer=False, limit_headers=_OPENAI_LIMITS,
)  # fmt: skip

VLLM = Dialect(
    r"/v1/embeddings", _openai_read, openai_write, _openai_fail, "/v1",
    _OPENAI_MEMBERS | {"truncate_prompt_tokens", "add_special_tokens", "priority"},
)  # fmt: skip


def _voyage_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    return EmbeddingsRequest(
        _texts(fields["input"]),
        fields["model"],
        fields.get("output_dimension"),
        base64=_one_of(fields.get("encoding_format"), None, "base64") == "base64",
        type=_one_of(fields.get("input_type"), None, "query", "document"),
        truncates=fields.get("truncation", True),
    )


def _detail(_status: int, message: str, _code: str | None) -> Any:
    return {"detail": message}


VOYAGE = Dialect(
    r"/v1/embeddings", _voyage_read, openai_write, _detail, "/v1",
    frozenset({"input", "model", "input_type", "truncation", "output_dimension", "output_dtype",
               "encoding_format"}),
)  # fmt: skip


def _mistral_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    return EmbeddingsRequest(
        _texts(fields["input"]),
        fields["model"],
        fields.get("output_dimension"),
        base64=_one_of(fields.get("encoding_format", "float"), "float", "base64") == "base64",
    )


def _mistral_fail(_status: int, message: str, code: str | None) -> Any:
    return {"object": "error", "message": message, "type": code or "invalid_request", "code": None}


MISTRAL = Dialect(
    r"/v1/embeddings", _mistral_read, openai_write, _mistral_fail, "/v1",
    frozenset({"model", "input", "metadata", "output_dimension", "output_dtype",
               "encoding_format"}),
    limit_headers={
        "limit-requests": "x-ratelimit-limit-req-minute",
        "remaining-requests": "x-ratelimit-remaining-req-minute",
        "limit-tokens": "x-ratelimit-limit-tokens-minute",
        "remaining-tokens": "x-ratelimit-remaining-tokens-minute",
    },
)  # fmt: skip


def _jina_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    return EmbeddingsRequest(
        _texts(fields["input"]),
        fields["model"],
        fields.get("dimensions"),
        base64=_one_of(fields.get("embedding_type", "float"), "float", "base64") == "base64",
        type=_one_of(fields.get("task"), None, "retrieval.query", "retrieval.passage"),
        truncates=fields.get("truncate", False),
    )


JINA = Dialect(
    r"/v1/embeddings", _jina_read, openai_write, _detail, "/v1",
    frozenset({"model", "input", "task", "dimensions", "embedding_type", "normalized", "truncate",
               "late_chunking"}),
    limit_headers={
        "remaining-requests": "x-ratelimit-remaining-requests",
        "remaining-tokens": "x-ratelimit-remaining-tokens",
    },
)  # fmt: skip


def _nvidia_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    return EmbeddingsRequest(
        _texts(fields["input"]),
        fields["model"],
        fields.get("dimensions"),
        base64=_one_of(fields.get("encoding_format", "float"), "float", "base64") == "base64",
        type=_one_of(fields.get("input_type"), "query", "passage"),
        truncates=_one_of(fields.get("truncate", "NONE"), "NONE", "START", "END") != "NONE",
    )


def _nvidia_fail(status: int, message: str, _code: str | None) -> Any:
    return {"type": "about:blank", "title": "Error", "status": status, "detail": message}


NVIDIA = Dialect(
    r"/v1/embeddings", _nvidia_read, openai_write, _nvidia_fail, "/v1",
    frozenset({"model", "input", "input_type", "encoding_format", "truncate", "dimensions",
               "user"}),
)  # fmt: skip


# --- others ---------------------------------------------------------------------------------------


def _cohere_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    _one_of(tuple(fields["embedding_types"]), ("float",))
    return EmbeddingsRequest(
        tuple(fields["texts"]),
        fields["model"],
        fields.get("output_dimension"),
        type=_one_of(fields["input_type"], "search_query", "search_document"),
        truncates=_one_of(fields.get("truncate", "END"), "NONE", "START", "END") != "NONE",
    )


def _cohere_write(rows: Sequence[Row], request: EmbeddingsRequest) -> Any:
    return {
        "id": "1",
        "embeddings": {"float": list(rows)},
        "texts": list(request.texts),
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": request.tokens}},
    }


def _message(_status: int, message: str, _code: str | None) -> Any:
    return {"id": "1", "message": message}


COHERE = Dialect(
    r"/v2/embed", _cohere_read, _cohere_write, _message, "",
    frozenset({"model", "texts", "input_type", "embedding_types", "output_dimension", "truncate",
               "max_tokens", "priority"}),
)  # fmt: skip


def _gemini_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    requests = fields["requests"]
    for each in requests:
        unknown = set(each) - {"model", "content", "taskType", "outputDimensionality", "title"}
        if unknown:
            raise UnknownMemberError(f"Unknown name {sorted(unknown)}")
        _one_of(each["model"], f"models/{fields['model']}")
        _one_of(each.get("taskType"), None, "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT")
    return EmbeddingsRequest(
        tuple("".join(part["text"] for part in each["content"]["parts"]) for each in requests),
        fields["model"],
        requests[0].get("outputDimensionality"),
        type=requests[0].get("taskType"),
    )


def _gemini_write(rows: Sequence[Row], _request: EmbeddingsRequest) -> Any:
    return {"embeddings": [{"values": row} for row in rows]}


_GOOGLE = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}


def _gemini_fail(status: int, message: str, code: str | None) -> Any:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code}
    word = _GOOGLE.get(status, "INTERNAL")
    details = [info] if code else []
    return {"error": {"code": status, "message": message, "status": word, "details": details}}


GEMINI = Dialect(
    r"/v1beta/models/(?P<model>[^/]+):batchEmbedContents", _gemini_read, _gemini_write,
    _gemini_fail, "/v1beta", frozenset({"requests"}), key_header="x-goog-api-key", bearer=False,
)  # fmt: skip


def _ollama_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    return EmbeddingsRequest(
        _texts(fields["input"]),
        fields["model"],
        fields.get("dimensions"),
        truncates=fields.get("truncate", True),
    )


def _ollama_write(rows: Sequence[Row], request: EmbeddingsRequest) -> Any:
    return {
        "model": request.model,
        "embeddings": list(rows),
        "total_duration": 1,
        "load_duration": 1,
        "prompt_eval_count": request.tokens,
    }


def _error_text(_status: int, message: str, _code: str | None) -> Any:
    return {"error": message}


OLLAMA = Dialect(
    r"/api/embed", _ollama_read, _ollama_write, _error_text, "",
    frozenset({"model", "input", "truncate", "dimensions", "keep_alive", "options"}),
)  # fmt: skip


def _tei_read(fields: dict[str, Any]) -> EmbeddingsRequest:
    return EmbeddingsRequest(
        _texts(fields["inputs"]), "", fields.get("dimensions"),
        truncates=fields.get("truncate", False),
    )  # fmt: skip


def _tei_write(rows: Sequence[Row], _request: EmbeddingsRequest) -> Any:
    return list(rows)


def _tei_fail(_status: int, message: str, code: str | None) -> Any:
    return {"error": message, "error_type": code or "Validation"}


TEI = Dialect(
    r"/embed", _tei_read, _tei_write, _tei_fail, "",
    frozenset({"inputs", "truncate", "truncation_direction", "prompt_name", "normalize",
               "dimensions"}),
)  # fmt: skip

DIALECTS: dict[str, Dialect] = {
    "openai": OPENAI, "azure": AZURE, "gemini": GEMINI, "voyage": VOYAGE, "cohere": COHERE,
    "mistral": MISTRAL, "jina": JINA, "nvidia": NVIDIA, "ollama": OLLAMA, "tei": TEI,
    "vllm": VLLM, "compatible": OPENAI,
}  # fmt: skip
