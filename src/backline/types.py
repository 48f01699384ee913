"""The nouns of Backline as immutable values. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
"""A float32 matrix of shape (n, dimensions), C-contiguous, one row a text."""

Purpose: TypeAlias = Literal["passage", "query"]
"""What a text is embedded for; some models prefix queries and passages differently."""


@dataclass(frozen=True, slots=True)
class Model:
    """What made a vector. Two vectors compare only if their Model is the same.

    `max_tokens` is the longest input the model reads; it is no part of the identity.
    """

    provider: str
    name: str
    revision: str
    dimensions: int
    max_tokens: int = 8192

    @property
    def identity(self) -> tuple[str, str, str, int]:
        return (self.provider, self.name, self.revision, self.dimensions)

    def __str__(self) -> str:
        return f"{self.provider}/{self.name} ({self.dimensions} dimensions)"
