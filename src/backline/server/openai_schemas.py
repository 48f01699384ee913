"""Request and response models of the OpenAI-compatible endpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class EmbeddingsRequest(BaseModel):
    """A request of OpenAI's API. Members that Backline does not use are ignored."""

    input: str | list[str] | list[int] | list[list[int]]
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


class Embeddings(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]
