"""Errors that a provider words in its own way, and addresses and keys that are missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from backline.config import Settings
from backline.embedders import registry
from backline.embedders.failures import Response, refusal
from backline.embedders.providers import EmbedderOptions, open_embedder
from backline.errors import (
    ConfigurationError,
    EmbedderError,
    InputRejectedError,
    ProviderRefusedError,
    RateLimitedError,
)


def error(provider: str, status: int, body: Any) -> EmbedderError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = Response(status, "Reason", {}, content, "https://x.test/v1")
    entry = registry.providers()[provider]
    return refusal(response, entry, where="x.test", model="m", key="the-key")


def google(status: int, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": "X", "details": [*details]}}


@pytest.mark.parametrize(
    ("provider", "status", "body", "expected", "remedy"),
    [
        (
            "gemini", 400, google(400, "API key not valid.", {"reason": "API_KEY_INVALID"}),
            ProviderRefusedError, "Check GEMINI_API_KEY.",
        ),
        ("gemini", 400, google(400, "Too long."), InputRejectedError, "Too long."),
        (
            "cohere", 429, {"message": "A Trial key is limited to 1000 API calls / month"},
            ProviderRefusedError, "Add credit",
        ),
        ("cohere", 429, {"message": "40 calls / minute"}, RateLimitedError, "calls / minute"),
        (
            "jina", 400, {"detail": "Model 'x' not found", "code": "INPUT_MODEL_NOT_FOUND"},
            ProviderRefusedError, "Check the model's name",
        ),
        (
            "jina", 403, {"error": {"code": "AUTHZ_INSUFFICIENT_BALANCE", "message": "Empty."}},
            ProviderRefusedError, "Add credit",
        ),
        (
            "openai", 429, {"error": {"message": "Quota.", "type": "insufficient_quota"}},
            ProviderRefusedError, "Add credit",
        ),
        (
            "ollama", 500, {"error": "the input length exceeds the context length"},
            InputRejectedError, "context length",
        ),
        ("ollama", 404, {"error": 'model "x" not found'}, ProviderRefusedError, "OLLAMA_BASE_URL"),
        (
            "vllm", 422, {"detail": [{"loc": ["body"], "msg": "bad"}]}, InputRejectedError, "bad",
        ),
        ("tei", 413, b"<html>too large</html>", InputRejectedError, "<html>too large"),
        ("voyage", 401, b"", ProviderRefusedError, "Reason Check VOYAGE_API_KEY."),
        ("voyage", 400, {"detail": None}, InputRejectedError, "Reason"),
        ("voyage", 400, [], InputRejectedError, "Reason"),
        ("voyage", 400, b"[" * 100_000, InputRejectedError, "[[["),
    ],
)  # fmt: skip
def test_words_of_a_provider_have_their_meaning(
    provider: str, status: int, body: Any, expected: type[EmbedderError], remedy: str
) -> None:
    translated = error(provider, status, body)
    assert type(translated) is expected
    assert remedy in str(translated)
    assert f"responded {status}" in str(translated)


@pytest.mark.parametrize("text", ["insufficient_quota", "API_KEY_INVALID", "billing_not_active"])
def test_text_that_an_error_quotes_has_no_meaning(text: str) -> None:
    """A row that holds a code must not end the run."""
    for provider in ("openai", "gemini", "jina"):
        body = {"error": {"message": f"Invalid input: {text!r}", "code": "invalid"}}
        assert type(error(provider, 400, body)) is InputRejectedError


@pytest.mark.parametrize(
    ("details", "wait"),
    [
        ([{"@type": "x/google.rpc.RetryInfo", "retryDelay": "34.5s"}], 34.5),
        ([{"@type": "x/Help"}, {"retryDelay": "2s"}], 2.0),
        ([{"retryDelay": "soon"}], None),
        ([], None),
    ],
)
def test_wait_may_be_in_the_body(details: list[dict[str, Any]], wait: float | None) -> None:
    limited = error("gemini", 429, google(429, "Slow down.", *details))
    assert isinstance(limited, RateLimitedError)
    assert limited.retry_after == wait


def test_key_is_removed_from_the_words() -> None:
    assert "the-key" not in str(error("mistral", 401, {"message": "the-key is wrong"}))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("voyage/voyage-4", {}, "set VOYAGE_API_KEY.*VOYAGE_BASE_URL selects another server"),
        ("voyage/voyage-4", {"api_key": " \n"}, "set VOYAGE_API_KEY"),
        ("voyage/voyage-4", {"api_key": "a b"}, "VOYAGE_API_KEY holds a space"),
        ("azure/text-embedding-3-small", {"api_key": "k"}, "set AZURE_OPENAI_ENDPOINT"),
        ("azure/text-embedding-3-small", {"base_url": "https://x.test"}, "AZURE_OPENAI_API_KEY"),
        ("tei/BAAI/bge-m3", {}, "no address of its own: set TEI_BASE_URL"),
        ("compatible/x@3", {"base_url": "x.test"}, "does not begin with http"),
    ],
)
async def test_missing_key_or_address_names_the_variable(
    spec: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await open_embedder(spec, EmbedderOptions(**options))


@pytest.mark.parametrize(
    ("provider", "settings", "reached"),
    [
        ("openai", {}, False),
        ("openai", {"openai_api_key": SecretStr("k")}, True),
        ("openai", {"openai_base_url": "http://x.test"}, True),
        ("azure", {"azure_api_key": SecretStr("k")}, False),
        ("azure", {"azure_base_url": "http://x.test"}, False),
        ("azure", {"azure_base_url": "http://x.test", "azure_api_key": SecretStr("k")}, True),
        ("ollama", {}, True),
        ("tei", {}, False),
        ("tei", {"tei_base_url": "http://x.test"}, True),
        ("local", {}, True),
        ("hash", {}, True),
    ],
)
def test_provider_is_reached_with_what_it_needs(
    provider: str, settings: dict[str, Any], reached: bool
) -> None:
    assert Settings(**settings).reaches(provider) is reached
