"""The behaviour of the stand-in that other tests rely on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.provider import StandInProvider
from tests.provider.behaviour import Behaviour, RateWindow, go_duration

MODEL = "text-embedding-3-small"


@pytest.fixture
def provider() -> Iterator[StandInProvider]:
    with StandInProvider() as started:
        yield started


@pytest.fixture
async def client(provider: StandInProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(provider.base_url, provider.api_key) as opened:
        yield opened


def client_of(base_url: str, api_key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)


async def embed(client: openai.AsyncOpenAI, *texts: str) -> int:
    answer = await client.embeddings.create(model=MODEL, input=list(texts), dimensions=8)
    return len(answer.data)


async def test_held_texts_are_embedded_on_release(
    provider: StandInProvider, client: openai.AsyncOpenAI
) -> None:
    with provider.held():
        call = asyncio.create_task(embed(client, "a"))
        await asyncio.to_thread(provider.wait_in_flight)
        assert not call.done()
        assert provider.texts_embedded == Counter()
    assert await call == 1
    assert provider.texts_embedded == Counter({"a": 1})
    assert (provider.in_flight, provider.peak_in_flight) == (0, 1)


async def test_failures_occur_in_order_and_then_end(
    provider: StandInProvider, client: openai.AsyncOpenAI
) -> None:
    provider.fail_next(500)
    provider.drop_next()
    provider.drop_next(mid_answer=True)
    provider.fail_next(429, times=2, retry_after=1.5)
    for _ in range(5):
        with pytest.raises(openai.APIError):
            await embed(client, "a")
    assert await embed(client, "a") == 1
    # A text is embedded and billed even if its response is cut.
    assert [call.status for call in provider.calls] == [500, None, 200, 429, 429, 200]
    assert provider.texts_embedded == Counter({"a": 2})


async def test_outage_cuts_connections_for_its_duration(
    provider: StandInProvider, client: openai.AsyncOpenAI
) -> None:
    provider.go_down(0.15)
    with pytest.raises(openai.APIConnectionError):
        await embed(client, "a")
    await asyncio.sleep(0.15)
    assert await embed(client, "a") == 1


async def test_delay_postpones_the_response(
    provider: StandInProvider, client: openai.AsyncOpenAI
) -> None:
    provider.behave(delay_s=0.1)
    began = time.monotonic()
    await embed(client, "a")
    assert time.monotonic() - began >= 0.1


async def test_limits_of_the_api_are_enforced(
    provider: StandInProvider, client: openai.AsyncOpenAI
) -> None:
    for texts in (["a"] * 2049, ["b" * 49_153], ["c" * 32_768] * 37, [""], []):
        with pytest.raises(openai.BadRequestError):
            await embed(client, *texts)
    assert provider.texts_embedded == Counter()
    assert await embed(client, "b" * 49_152, *["c" * 32_768] * 35) == 36


async def test_wrong_key_is_rejected(provider: StandInProvider) -> None:
    async with client_of(provider.base_url, "sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await embed(client, "a")
    assert provider.calls == []


async def test_rate_limits_are_enforced_and_announced(
    provider: StandInProvider, client: openai.AsyncOpenAI
) -> None:
    provider.behave(requests_per_minute=2, limit_window_s=0.3)
    await embed(client, "a")
    await embed(client, "b")
    with pytest.raises(openai.RateLimitError) as caught:
        await embed(client, "c")
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    wait = float(caught.value.response.headers["retry-after"])
    assert 0 < wait <= 0.3
    await asyncio.sleep(wait + 0.01)
    assert await embed(client, "c") == 1


def test_window_admits_requests_that_fit_and_returns_the_wait() -> None:
    window, behaviour = RateWindow(), Behaviour(requests_per_minute=3, tokens_per_minute=100)
    assert window.admit(0.0, 50, behaviour) == 0
    assert window.admit(10.0, 50, behaviour) == 0
    assert window.admit(20.0, 50, behaviour) == 40
    assert window.admit(20.0, 80, behaviour) == 50
    assert window.headers(20.0, behaviour) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "50s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "50s",
    }
    assert window.admit(60.0, 50, behaviour) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1.5, "1.5s"), (360, "6m0s")]
)
def test_durations_are_formatted_like_openais(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@pytest.fixture
def process_url() -> Iterator[str]:
    """The base URL of a stand-in in a separate process."""
    command = [sys.executable, "-m", "tests.provider", "--behave", '{"reject_marker": "BAD"}']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


async def test_process_is_scripted_and_inspected_over_http(process_url: str) -> None:
    root = process_url.removesuffix("/v1")
    async with client_of(process_url, "sk-stand-in") as client:
        with pytest.raises(openai.BadRequestError):
            await embed(client, "BAD")
        await asyncio.to_thread(http, f"{root}/_fail_next", {"status": 429})
        with pytest.raises(openai.RateLimitError):
            await embed(client, "a")
        assert await embed(client, "a", "a") == 2
    report = await asyncio.to_thread(http, f"{root}/_calls")
    assert report["texts_embedded"] == {"a": 2}
    assert [call["status"] for call in report["calls"]] == [400, 429, 200]


def http(url: str, fields: dict[str, Any] | None = None) -> Any:
    body = None if fields is None else json.dumps(fields).encode()
    with urllib.request.urlopen(url, data=body, timeout=10) as answer:
        return json.load(answer)
