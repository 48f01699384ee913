"""Embeddings on this machine's processor, without a key, torch, or (after one pull) a network."""

from backline.embedders.local.catalog import DEFAULT_MODEL, ModelInfo, find_model, models
from backline.embedders.local.embedder import LocalEmbedder, LocalInfo
from backline.embedders.local.engines.select import EngineChoice, choose_engine
from backline.embedders.local.load import open_local
from backline.embedders.local.weights import CachedModel, list_models, pull

__all__ = [
    "DEFAULT_MODEL",
    "CachedModel",
    "EngineChoice",
    "LocalEmbedder",
    "LocalInfo",
    "ModelInfo",
    "choose_engine",
    "find_model",
    "list_models",
    "models",
    "open_local",
    "pull",
]
