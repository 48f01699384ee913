"""Embedders: turn texts into a float32 matrix. `open_embedder` opens one by its specification.

To add a provider, see CONTRIBUTING.md: an entry in data/providers.toml, or an `Embedder` (base.py)
in a module here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from backline.embedders.base import Embedder
    from backline.embedders.hash import HashEmbedder
    from backline.embedders.limiter import Limiter, Limits
    from backline.embedders.providers import (
        EmbedderOptions,
        EmbedderSpec,
        describe,
        open_embedder,
        parse_spec,
    )

__all__ = [
    "Embedder",
    "EmbedderOptions",
    "EmbedderSpec",
    "HashEmbedder",
    "Limiter",
    "Limits",
    "describe",
    "open_embedder",
    "parse_spec",
]

# Names are imported on first use, so that importing one module does not load all the others.
_HOMES: Final = {
    "base": ("Embedder",),
    "hash": ("HashEmbedder",),
    "limiter": ("Limiter", "Limits"),
    "providers": ("EmbedderOptions", "EmbedderSpec", "describe", "open_embedder", "parse_spec"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
