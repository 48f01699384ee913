"""Request and response models of the OpenAI-compatible endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from backline.server.schemas import NullIsAbsent


def _check_input(value: Any) -> Any:
    """Return the value, or name the first input that is wrong, which a union's errors do not."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise PydanticCustomError("input", "input must be a text, or a list of texts")
    for index, item in enumerate(value):
        if isinstance(item, int | list) and not isinstance(item, bool):
            raise PydanticCustomError(
                "input",
                "input[{index}] is not a text but tokens of another model's vocabulary; send "
                "texts. With LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)",
                {"index": index},
            )
        if not isinstance(item, str) or not item:
            kind = "is empty" if item == "" else "is not a text"
            raise PydanticCustomError(
                "input", "input[{index}] {kind}; send a text", {"index": index, "kind": kind}
            )
    return value


class EmbeddingsRequest(NullIsAbsent):
    """A request of OpenAI's API. Members that Backline does not use are ignored."""

    input: Annotated[str | list[str], BeforeValidator(_check_input)]
    model: str = Field(max_length=200)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=16_000)
    user: str | None = None
    input_type: str | None = Field(
        None,
        max_length=100,
        description="`query` or `passage`; other providers' words for them are accepted too.",
    )
    prompt_name: str | None = Field(
        None,
        max_length=100,
        description="As `input_type`, under the name of sentence-transformers.",
    )


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="A list, or base64 of little-endian float32.")


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Truncated(BaseModel):
    """A text of which the model read only the beginning."""

    index: int
    tokens: int = Field(description="Tokens of the whole text.")
    used: int = Field(description="Tokens that the model read.")


class Embeddings(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    truncated: list[Truncated] | None = Field(
        None,
        description="Texts that are longer than the model reads; absent if there are none. "
        "OpenAI's API has no such member. The header X-Backline-Truncated has their indexes.",
    )


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]
