"""Every provider against a server that speaks its wire format.

`tests/provider/conformance.py` declares the behaviours and the providers; the documentation shows
the same table. Embedders are opened as every command opens them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from tests.provider import StandInProvider
from tests.provider.conformance import BEHAVIOURS, SUBJECTS, Subject

from backline.embedders import registry
from backline.embedders.base import Embedder
from backline.embedders.hash import hash_vectors
from backline.embedders.limiter import Limits
from backline.embedders.providers import EmbedderOptions, open_embedder
from backline.errors import (
    EmbedderError,
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)

KEY = "key-of-the-provider-0123456789"
HOUSE_DIMENSIONS = 96


class World:
    """A provider, its stand-in, and embedders that reach it."""

    def __init__(self, name: str, server: StandInProvider) -> None:
        self.name = name
        self.subject: Subject = SUBJECTS[name]
        self.server = server
        self.limits: list[Limits] = []

    def spec(self, dimensions: int | None = None, model: str | None = None) -> str:
        at = f"@{dimensions}" if dimensions else ""
        return f"{self.name}/{model or self.subject.model}{at}"

    @asynccontextmanager
    async def embedder(self, spec: str | None = None, **options: Any) -> AsyncIterator[Embedder]:
        settings: dict[str, Any] = {
            "api_key": self.server.api_key, "base_url": self.server.base_url,
            "on_limits": self.limits.append, **options,
        }  # fmt: skip
        embedder = await open_embedder(spec or self.spec(), EmbedderOptions(**settings))
        try:
            yield embedder
        finally:
            await embedder.aclose()

    async def embed(self, *texts: str, **options: Any) -> Any:
        async with self.embedder(**options) as embedder:
            return await embedder.embed(texts)


def _served(subject: Subject, name: str) -> dict[str, int]:
    if name == "tei":  # serves one model, which no request names
        return {"": subject.dimensions}
    return {subject.model: subject.dimensions, subject.unlisted: HOUSE_DIMENSIONS}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, StandInProvider]]:
    started = {
        name: StandInProvider(api_key=KEY, models=_served(subject, name), dialect=name)
        for name, subject in SUBJECTS.items()
    }
    for server in started.values():
        server.__enter__()
    yield started
    for server in started.values():
        server.__exit__(None, None, None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each behaviour for every provider, without those whose API rules it out."""
    behaviour = metafunc.function.__name__.removeprefix("test_")
    if "provider" in metafunc.fixturenames:
        names = [name for name, each in SUBJECTS.items() if behaviour not in each.without]
        metafunc.parametrize("provider", names)


@pytest.fixture
def world(provider: str, servers: dict[str, StandInProvider]) -> World:
    servers[provider].reset()
    return World(provider, servers[provider])


def test_every_provider_and_every_behaviour_is_covered() -> None:
    assert list(SUBJECTS) == list(registry.providers())
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert set(BEHAVIOURS) == tests - {"every_provider_and_every_behaviour_is_covered"}
    for subject in SUBJECTS.values():
        assert set(subject.without) <= set(BEHAVIOURS)


# --- vectors --------------------------------------------------------------------------------------


def marked(subject: Subject, texts: list[str], mark: str | None) -> list[str]:
    """Return what the stand-in embeds: it sees prefixes as part of the text."""
    return [f"{mark}{text}" for text in texts] if mark and mark.endswith(": ") else texts


async def test_order(world: World) -> None:
    texts = ["muddy vocals", "boomy kick", "muddy vocals", "a lone \ud800 surrogate"]
    world.server.behave(scale=3.0)
    vectors = await world.embed(*texts)
    sent = [text.replace("\ud800", "?") for text in texts]
    expected = hash_vectors(
        marked(world.subject, sent, world.subject.passage), world.subject.dimensions
    )
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert vectors.dtype == np.float32
    if world.server.speaks_indices:
        world.server.behave(spoil="reversed")
        np.testing.assert_allclose(await world.embed(*texts), expected, atol=1e-6)


async def test_base64(world: World) -> None:
    await world.embed("a")
    assert [call.base64 for call in world.server.calls] == [True]


async def test_floats(world: World) -> None:
    world.server.behave(ignore_base64=True)
    expected = marked(world.subject, ["a", "b"], world.subject.passage)
    np.testing.assert_allclose(
        await world.embed("a", "b"), hash_vectors(expected, world.subject.dimensions), atol=1e-6
    )


async def test_dimensions(world: World) -> None:
    requested = world.subject.requested
    assert (await world.embed("a", spec=world.spec(requested))).shape == (1, requested)
    assert (await world.embed("a")).shape == (1, world.subject.dimensions)
    default = world.spec(world.subject.dimensions)
    assert (await world.embed("a", spec=default)).shape == (1, world.subject.dimensions)
    assert [call.dimensions for call in world.server.calls] == [requested, None, None]
    world.server.behave(ignore_dimensions=True)
    with pytest.raises(ProviderRefusedError, match=rf"{world.subject.dimensions} dimensions"):
        await world.embed("a", spec=world.spec(requested))


async def test_unlisted_model(world: World) -> None:
    dimensions = world.subject.dimensions if world.name == "tei" else HOUSE_DIMENSIONS
    async with world.embedder(world.spec(model=world.subject.unlisted)) as embedder:
        assert embedder.model.dimensions == dimensions
        assert (await embedder.embed(["a"])).shape == (1, dimensions)
    assert len(world.server.calls) == 2
    assert [call.dimensions for call in world.server.calls] == [None, None]
    world.server.behave(refuse_dimensions=True)
    spec = world.spec(dimensions, world.subject.unlisted)
    assert (await world.embed("a", spec=spec)).shape == (1, dimensions)


async def test_query_and_passage(world: World) -> None:
    async with world.embedder() as embedder:
        await embedder.embed(["kick"])
        await embedder.embed(["kick"], purpose="query")
        await embedder.embed([embedder.truncate("kick")], purpose="query")
    passage, query, again = world.server.calls
    for call, mark in ((passage, world.subject.passage), (query, world.subject.query)):
        by_type = call.type == mark and call.texts == ("kick",)
        by_prefix = call.type is None and call.texts[0].startswith(str(mark))
        assert by_type or by_prefix, call
        assert call.texts[0].endswith("kick")
    assert (again.type, again.texts) == (query.type, query.texts)
    assert (passage.type, passage.texts) != (query.type, query.texts)


async def test_no_truncation(world: World) -> None:
    await world.embed("a")
    assert [call.truncates for call in world.server.calls] == [False]


async def test_too_long(world: World) -> None:
    world.server.behave(max_tokens_per_input=100)
    with pytest.raises(InputRejectedError, match="maximum context length is 100"):
        await world.embed("word " * 200)
    async with world.embedder() as embedder:
        limit = embedder.model.max_tokens
        cut = embedder.truncate("word " * limit)
        assert embedder.count_tokens([cut])[0] <= limit < embedder.count_tokens([cut * 2])[0]


# --- errors ---------------------------------------------------------------------------------------


async def test_key(world: World) -> None:
    secret = "key-that-is-wrong-987654321"
    with pytest.raises(ProviderRefusedError) as caught:
        await world.embed("a", api_key=secret)
    assert registry.providers()[world.name].keys[0] in str(caught.value)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert secret not in str(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    async with world.embedder(api_key=secret) as embedder:
        assert secret not in repr(embedder)
    await world.embed("a", api_key=f" {KEY}\n")


STATUSES: dict[int, type[EmbedderError]] = {
    400: InputRejectedError, 413: InputRejectedError, 422: InputRejectedError,
    401: ProviderRefusedError, 403: ProviderRefusedError, 404: ProviderRefusedError,
    408: ProviderUnavailableError, 500: ProviderUnavailableError, 502: ProviderUnavailableError,
    503: ProviderUnavailableError,
}  # fmt: skip


async def test_statuses(world: World) -> None:
    async with world.embedder() as embedder:
        for status, expected in STATUSES.items():
            world.server.fail_next(status, message="These are the provider's own words.")
            with pytest.raises(EmbedderError) as caught:
                await embedder.embed(["a"])
            assert type(caught.value) is expected, status
            assert "These are the provider's own words." in str(caught.value)
            assert f"responded {status} for {world.subject.model}" in str(caught.value)
        assert len(world.server.calls) == len(STATUSES), "an embedder makes one attempt"
        world.server.drop_next()
        with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
            await embedder.embed(["a"])
        assert (await embedder.embed(["a"])).shape == (1, world.subject.dimensions)


async def test_rate_limit(world: World) -> None:
    async with world.embedder() as embedder:
        for status in (429, 503):
            world.server.fail_next(status, retry_after=7)
            with pytest.raises(RateLimitedError) as caught:
                await embedder.embed(["a"])
            assert caught.value.retry_after == 7
        world.server.fail_next(429)
        with pytest.raises(RateLimitedError) as caught:
            await embedder.embed(["a"])
        assert caught.value.retry_after is None


async def test_limit_headers(world: World) -> None:
    world.server.behave(requests_per_minute=77, tokens_per_minute=5000)
    await world.embed("a")
    assert len(world.limits) == 1
    announced = dataclasses.asdict(world.limits[0])
    assert (announced["requests_remaining"], announced["tokens_remaining"] < 5000) == (76, True)
    if world.name != "jina":  # it names what remains, not the limit
        assert (announced["requests"], announced["tokens"]) == (77, 5000)


async def test_malformed(world: World) -> None:
    async with world.embedder() as embedder:
        for spoil in ("missing", "extra", "no data", "not json", "too deep"):
            world.server.behave(spoil=spoil)
            with pytest.raises(ProviderUnavailableError, match=r"vectors|other than embeddings"):
                await embedder.embed(["a", "b"])
        world.server.behave(spoil="short vector")
        with pytest.raises(ProviderRefusedError, match=f"{world.subject.dimensions - 1} dimension"):
            await embedder.embed(["a", "b"])


async def test_unusable(world: World) -> None:
    async with world.embedder() as embedder:
        for spoil in ("null vector", "not finite", "zero"):
            world.server.behave(spoil=spoil)
            with pytest.raises(InputRejectedError, match="no usable vector for 1 of 2 texts"):
                await embedder.embed(["a", "b"])


async def test_cut(world: World) -> None:
    async with world.embedder() as embedder:
        world.server.drop_next(mid_answer=True)
        with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
            await embedder.embed(["a", "b"])
        assert (await embedder.embed(["a"])).shape == (1, world.subject.dimensions)


async def test_timeout(world: World) -> None:
    with world.server.held(), pytest.raises(ProviderUnavailableError, match="in time"):
        await world.embed("a", timeout_s=0.1)
    world.server.behave(trickle_s=4.0)
    began = time.monotonic()
    with pytest.raises(ProviderUnavailableError, match="in time"):
        await world.embed("a", timeout_s=0.3)  # no single part takes that long
    assert time.monotonic() - began < 3.9


async def test_cancelled(world: World) -> None:
    async with world.embedder() as embedder:
        with world.server.held():
            call = asyncio.create_task(embedder.embed(["a"]))
            await asyncio.to_thread(world.server.wait_in_flight)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert (await embedder.embed(["b"])).shape == (1, world.subject.dimensions)


async def test_redirect(world: World) -> None:
    world.server.fail_next(307, headers={"location": "http://u:p@elsewhere.test/x?token=hidden"})
    with pytest.raises(ProviderRefusedError, match=r"redirects \(307\)") as caught:
        await world.embed("a")
    assert "http://elsewhere.test/x" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert len(world.server.calls) == 1


async def test_many_inputs(world: World) -> None:
    most = registry.providers()[world.name].max_inputs or 0
    texts = [f"text {i}" for i in range(most + 3)]
    vectors = await world.embed(*texts, spec=world.spec(world.subject.requested))
    assert vectors.shape[0] == most + 3
    expected = marked(world.subject, texts[-1:], world.subject.passage)
    np.testing.assert_allclose(vectors[-1:], hash_vectors(expected, vectors.shape[1]), atol=1e-6)
    assert [len(call.texts) for call in world.server.calls] == [most, 3]
