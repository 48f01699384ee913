"""The options of a worker, from settings and model."""

from __future__ import annotations

import pytest

from backline.config import Settings
from backline.types import Model
from backline.wiring import LOCAL_BATCH_SIZE, worker_options

LOCAL = Model("local", "all-MiniLM-L6-v2", "r", 384, 256)
OPENAI = Model("openai", "text-embedding-3-small", "1", 1536)


@pytest.mark.parametrize(
    ("settings", "model", "expected"),
    [
        (Settings(), OPENAI, 50),
        (Settings(), Model("hash", "hash", "1", 384), 50),
        (Settings(), LOCAL, LOCAL_BATCH_SIZE),
        (Settings(batch_size=50), LOCAL, 50),
        (Settings(batch_size=7), OPENAI, 7),
        (Settings(batch_size=500), Model("cohere", "embed-v4.0", "v1", 256), 96),
        (Settings(), Model("tei", "BAAI/bge-m3", "v1", 1024), 32),
        (Settings(batch_size=500), Model("vllm", "BAAI/bge-m3", "v1", 1024), 500),
    ],
)
def test_the_batch_size_is_the_setting_or_the_default_of_the_provider(
    settings: Settings, model: Model, expected: int
) -> None:
    assert worker_options(settings, model).batch_size == expected


def test_a_token_budget_bounds_the_calls_of_a_local_model() -> None:
    assert worker_options(Settings(), LOCAL).budget.max_tokens <= 8_192
    assert worker_options(Settings(), OPENAI).budget.max_tokens == 300_000


@pytest.mark.parametrize(
    ("provider", "name", "tokens"),
    [
        ("mistral", "mistral-embed", 16_384),
        ("voyage", "voyage-4-large", 120_000),
        ("voyage", "voyage-4", 320_000),
        ("voyage", "voyage-4-lite", 1_000_000),
        ("compatible", "house", 300_000),
    ],
)
def test_a_call_keeps_to_the_tokens_of_its_provider(provider: str, name: str, tokens: int) -> None:
    budget = worker_options(Settings(), Model(provider, name, "v1", 256)).budget
    assert (budget.max_tokens, budget.max_bytes_over_4) == (tokens, tokens)
