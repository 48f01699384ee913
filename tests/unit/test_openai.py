"""The OpenAI embedder, through the official SDK, against a server that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from tests.provider import StandInProvider

from backline.embedders.hash import hash_vectors
from backline.embedders.limiter import Limits
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.embedders.openai.models import is_openai
from backline.embedders.openai.response import EmbeddingResponse, read_response
from backline.errors import (
    ConfigurationError,
    EmbedderError,
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)

KEY = "sk-proj-secret-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[StandInProvider]:
    with StandInProvider(api_key=KEY, models={"local/nomic:v1": 96, "tiny": 8}) as provider:
        yield provider


@pytest.fixture
def provider(server: StandInProvider) -> StandInProvider:
    server.reset()
    return server


async def embed(provider: StandInProvider, *texts: str, **settings: Any) -> Any:
    settings = {"base_url": provider.base_url, "api_key": provider.api_key, **settings}
    embedder = OpenAIEmbedder(**settings)
    try:
        return await embedder.embed(texts)
    finally:
        await embedder.aclose()


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "dimensions", "sent"),
    [
        ({}, 1536, None),
        ({"dimensions": 1536}, 1536, None),
        ({"dimensions": 512}, 512, 512),
        ({"model": "text-embedding-3-large"}, 3072, None),
        ({"model": "text-embedding-ada-002", "dimensions": 1536}, 1536, None),
        ({"model": "local/nomic:v1", "dimensions": 32}, 32, 32),
    ],
)
async def test_dimensions_are_sent_only_if_they_may_differ(
    provider: StandInProvider, settings: dict[str, Any], dimensions: int, sent: int | None
) -> None:
    vectors = await embed(provider, "muddy vocals", "boomy kick", **settings)
    expected = hash_vectors(["muddy vocals", "boomy kick"], dimensions)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert [call.dimensions for call in provider.calls] == [sent]


async def test_vectors_are_requested_as_base64(provider: StandInProvider) -> None:
    await embed(provider, "a")
    assert [call.base64 for call in provider.calls] == [True]


@pytest.mark.parametrize("behaviour", [{"ignore_base64": True}, {"spoil": "reversed"}])
async def test_lists_of_numbers_and_any_order_are_accepted(
    provider: StandInProvider, behaviour: dict[str, Any]
) -> None:
    provider.behave(**behaviour)
    vectors = await embed(provider, "a", "b", "c", dimensions=64)
    np.testing.assert_allclose(vectors, hash_vectors(["a", "b", "c"], 64), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 2.0, 1e30])
async def test_vectors_are_scaled_to_unit_length(provider: StandInProvider, scale: float) -> None:
    provider.behave(scale=scale)
    vectors = await embed(provider, "a", "b")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(("texts", "elsewhere"), [(2, False), (300, True)])
async def test_large_response_is_parsed_off_the_event_loop(
    provider: StandInProvider, monkeypatch: pytest.MonkeyPatch, texts: int, elsewhere: bool
) -> None:
    readers: list[threading.Thread] = []

    def read(body: bytes, count: int) -> EmbeddingResponse:
        readers.append(threading.current_thread())
        return read_response(body, count)

    monkeypatch.setattr("backline.embedders.openai.embedder.read_response", read)
    vectors = await embed(provider, *(f"text {i}" for i in range(texts)))
    assert vectors.shape == (texts, 1536)
    assert [reader is not threading.main_thread() for reader in readers] == [elsewhere]


async def test_billed_tokens_are_summed(provider: StandInProvider) -> None:
    embedder = OpenAIEmbedder(base_url=provider.base_url, api_key=KEY)
    await embedder.embed(["a" * 40])
    await embedder.embed(["b" * 20, "c"])
    await embedder.aclose()
    assert embedder.prompt_tokens == 10 + 5 + 1


async def test_lone_surrogates_are_sent_as_question_marks(provider: StandInProvider) -> None:
    await embed(provider, "a\ud800b", "\U0001f39b\ufe0f <|endoftext|> \x00")
    assert provider.texts_embedded == Counter({"a?b": 1, "\U0001f39b\ufe0f <|endoftext|> \x00": 1})


# --- unknown dimensions ---------------------------------------------------------------------------


async def test_unknown_dimensions_are_requested_once(provider: StandInProvider) -> None:
    embedder = await OpenAIEmbedder.open("local/nomic:v1", base_url=provider.base_url, api_key=KEY)
    assert embedder.model.dimensions == 96
    assert (await embedder.embed(["a"])).shape == (1, 96)
    assert [call.dimensions for call in provider.calls] == [None, None]
    assert [len(call.texts) for call in provider.calls] == [1, 1]
    await embedder.aclose()


async def test_published_or_given_dimensions_cost_no_call(provider: StandInProvider) -> None:
    for model, dimensions in (("text-embedding-3-small", None), ("tiny", 8)):
        embedder = await OpenAIEmbedder.open(
            model, dimensions, base_url=provider.base_url, api_key=KEY
        )
        await embedder.aclose()
    assert provider.calls == []


async def test_failure_to_determine_dimensions_is_raised(provider: StandInProvider) -> None:
    provider.fail_next(503)
    with pytest.raises(ProviderUnavailableError):
        await OpenAIEmbedder.open("tiny", base_url=provider.base_url, api_key=KEY)


async def test_rejected_dimensions_parameter_is_left_out(
    provider: StandInProvider,
) -> None:
    provider.behave(refuse_dimensions=True)
    embedder = OpenAIEmbedder("tiny", 8, base_url=provider.base_url, api_key=KEY)
    both = await asyncio.gather(embedder.embed(["a"]), embedder.embed(["b"]))
    await embedder.embed(["c"])
    await embedder.aclose()
    assert [vectors.shape for vectors in both] == [(1, 8), (1, 8)]
    assert Counter(call.status for call in provider.calls) == {400: 2, 200: 3}
    assert provider.calls[-1].texts == ("c",)


@pytest.mark.parametrize("behaviour", [{"refuse_dimensions": True}, {"ignore_dimensions": True}])
async def test_error_about_other_dimensions_names_both_numbers(
    provider: StandInProvider, behaviour: dict[str, Any]
) -> None:
    provider.behave(**behaviour)
    with pytest.raises(
        ProviderRefusedError, match=r"returned 96 .* 32: .* openai/local/nomic:v1@96"
    ):
        await embed(provider, "a", model="local/nomic:v1", dimensions=32)


def test_unknown_dimensions_are_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="openai/mystery@DIMENSIONS"):
        OpenAIEmbedder("mystery", api_key=KEY)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ({"status": 429}, RateLimitedError),
        ({"status": 503, "retry_after": 2}, RateLimitedError),
        ({"status": 529, "retry_after": 2}, RateLimitedError),
        ({"status": 429, "code": "insufficient_quota"}, ProviderRefusedError),
        ({"status": 400}, InputRejectedError),
        ({"status": 413}, InputRejectedError),
        ({"status": 422}, InputRejectedError),
        ({"status": 401}, ProviderRefusedError),
        ({"status": 402}, ProviderRefusedError),
        ({"status": 403}, ProviderRefusedError),
        ({"status": 404}, ProviderRefusedError),
        ({"status": 408}, ProviderUnavailableError),
        ({"status": 409}, ProviderUnavailableError),
        ({"status": 500}, ProviderUnavailableError),
        ({"status": 502}, ProviderUnavailableError),
        ({"status": 503}, ProviderUnavailableError),
        ({"status": 529}, ProviderUnavailableError),
    ],
)
async def test_each_status_maps_to_one_error(
    provider: StandInProvider, failure: dict[str, Any], expected: type[EmbedderError]
) -> None:
    provider.fail_next(**failure, message="These are the provider's own words.")
    with pytest.raises(EmbedderError) as caught:
        await embed(provider, "a")
    assert type(caught.value) is expected
    assert "These are the provider's own words." in str(caught.value)
    assert f"responded {failure['status']} for text-embedding-3-small" in str(caught.value)
    assert len(provider.calls) == 1, "an embedder makes one attempt"
    if isinstance(caught.value, ProviderUnavailableError):
        assert caught.value.status == failure["status"]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "150", "retry-after": "1"}, 0.15),
        # A year ahead, because the suite may run this case late.
        (
            {"retry-after": formatdate(time.time() + 31_536_000, usegmt=True)},
            pytest.approx(31_536_000, abs=7200),
        ),
        ({"retry-after": formatdate(time.time() - 100, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({}, None),
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30.5s"},
            90.5,
        ),
        (
            {
                "x-ratelimit-remaining-requests": "5",
                "x-ratelimit-reset-requests": "1h",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "120ms",
            },
            0.12,
        ),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "6m0s"}, None),
    ],
)
async def test_wait_comes_from_the_most_precise_header(
    provider: StandInProvider, headers: dict[str, str], seconds: float | None
) -> None:
    provider.fail_next(429, headers=headers)
    with pytest.raises(RateLimitedError) as caught:
        await embed(provider, "a")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("mid_answer", [False, True])
async def test_cut_connection_is_unavailable(provider: StandInProvider, mid_answer: bool) -> None:
    provider.drop_next(mid_answer=mid_answer)
    with pytest.raises(ProviderUnavailableError, match=r"127\.0\.0\.1:\d+ cannot be reached: \S"):
        await embed(provider, "a")


async def test_refused_connection_is_unavailable() -> None:
    with StandInProvider() as gone:
        pass
    with pytest.raises(ProviderUnavailableError, match=r"cannot be reached: .*Connect") as caught:
        await embed(gone, "a")
    assert caught.value.status is None


async def test_missing_response_times_out(provider: StandInProvider) -> None:
    with provider.held(), pytest.raises(ProviderUnavailableError, match="did not answer in time"):
        await embed(provider, "a", timeout=0.1)


async def test_slow_response_times_out_as_a_whole(provider: StandInProvider) -> None:
    provider.behave(trickle_s=4.0)
    began = time.monotonic()
    with pytest.raises(ProviderUnavailableError, match="did not answer in time"):
        await embed(provider, "a", timeout=0.5)  # no single part takes that long
    assert time.monotonic() - began < 3.9


async def test_rejected_text_quotes_the_provider(provider: StandInProvider) -> None:
    provider.behave(reject_marker="POISON", reject_message="I will not read POISON.")
    with pytest.raises(InputRejectedError, match=r"I will not read POISON\."):
        await embed(provider, "fine", "POISON")
    assert (await embed(provider, "fine")).shape == (1, 1536)


async def test_text_over_the_limit_is_rejected(provider: StandInProvider) -> None:
    with pytest.raises(InputRejectedError, match="maximum context length is 8192"):
        await embed(provider, "word " * 10_000)


async def test_unknown_model_names_the_remedy(provider: StandInProvider) -> None:
    with pytest.raises(ProviderRefusedError, match=r"does not exist\. Check the model's name"):
        await embed(provider, "a", model="text-embedding-9", dimensions=3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("missing", "1 vectors for 2 texts"),
        ("extra", "3 vectors for 2 texts"),
        ("no data", "0 vectors for 2 texts"),
        ("same index", "did not number its 2 vectors 0 to 1"),
        ("not json", "something other than embeddings"),
    ],
)
async def test_malformed_response_may_be_retried(
    provider: StandInProvider, spoil: str, message: str
) -> None:
    provider.behave(spoil=spoil)
    with pytest.raises(ProviderUnavailableError, match=message):
        await embed(provider, "a", "b")


@pytest.mark.parametrize("spoil", ["not finite", "zero"])
@pytest.mark.parametrize("ignore_base64", [True, False])
async def test_text_without_a_usable_vector_is_rejected(
    provider: StandInProvider, spoil: str, ignore_base64: bool
) -> None:
    provider.behave(spoil=spoil, ignore_base64=ignore_base64)
    with pytest.raises(InputRejectedError, match="no usable vector for 1 of 2 texts"):
        await embed(provider, "a", "b")


async def test_vectors_of_wrong_dimensions_are_never_returned(provider: StandInProvider) -> None:
    provider.behave(spoil="short vector")
    with pytest.raises(ProviderRefusedError, match=r"returned 1535 .* 1536"):
        await embed(provider, "a")


# --- the key --------------------------------------------------------------------------------------


async def test_key_never_appears_in_errors_logs_or_reprs(
    provider: StandInProvider, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-proj-wrong-and-secret-42"
    caplog.set_level(logging.DEBUG)
    embedder = OpenAIEmbedder(base_url=provider.base_url, api_key=SecretStr(secret))
    with pytest.raises(ProviderRefusedError, match=r"Check OPENAI_API_KEY") as caught:
        await embedder.embed(["a"])  # the stand-in quotes the rejected key in its response
    await embedder.aclose()
    shown = "".join(traceback.format_exception(caught.value)) + repr(embedder) + str(embedder)
    assert "[key]" in shown
    assert secret not in shown
    assert caught.value.__context__ is None
    assert "HTTP Request" in caplog.text or "POST" in caplog.text
    assert secret not in caplog.text


async def test_white_space_around_the_key_is_removed(provider: StandInProvider) -> None:
    assert (await embed(provider, "a", api_key=f" {KEY}\n")).shape == (1, 1536)


@pytest.mark.parametrize("key", ["", "  ", "sk-\u201cquoted\u201d-secret", "sk-two\nlines-secret"])
def test_invalid_key_is_rejected_without_quoting_it(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpenAIEmbedder(api_key=key)
    assert "secret" not in str(caught.value)
    assert "OPENAI_API_KEY" in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:11434/v1", "ftp://host/v1", "http://", "//host"])
def test_invalid_base_url_is_rejected(url: str) -> None:
    with pytest.raises(ConfigurationError, match="OPENAI_BASE_URL does not begin with http"):
        OpenAIEmbedder(api_key=KEY, base_url=url)


def test_password_in_the_base_url_is_hidden() -> None:
    embedder = OpenAIEmbedder(api_key=KEY, base_url="https://me:hunter2@host.example/v1")
    assert "hunter2" not in repr(embedder)
    assert "host.example" in repr(embedder)


def test_openai_is_recognized_in_every_region() -> None:
    assert is_openai(None)
    assert is_openai("https://eu.api.openai.com/v1")
    assert not is_openai("https://api.openai.com.example.net/v1")
    assert not is_openai("http://localhost:11434/v1")


# --- limits --------------------------------------------------------------------------------------


async def test_limits_of_every_response_are_reported(provider: StandInProvider) -> None:
    seen: list[Limits] = []
    provider.behave(requests_per_minute=1, tokens_per_minute=100)
    await embed(provider, "a" * 40, on_limits=seen.append)
    with pytest.raises(RateLimitedError) as caught:
        await embed(provider, "b", on_limits=seen.append)
    assert caught.value.retry_after == pytest.approx(60, abs=5)
    assert [(limits.requests, limits.requests_remaining) for limits in seen] == [(1, 0), (1, 0)]
    assert [(limits.tokens, limits.tokens_remaining) for limits in seen] == [(100, 90), (100, 90)]
    assert seen[0].requests_reset_s == pytest.approx(60, abs=5)


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/v1/embeddings", "/v2/embeddings"])
async def test_redirect_is_not_followed(
    provider: StandInProvider, status: int, location: str
) -> None:
    with StandInProvider(api_key=KEY) as other:
        target = location.format(port=other.port)
        provider.fail_next(status, headers={"location": target})
        with pytest.raises(ProviderRefusedError, match=r"redirects .* OPENAI_BASE_URL") as caught:
            await embed(provider, "a private text")
        assert target in str(caught.value)
        assert other.calls == []
    assert len(provider.calls) == 1
