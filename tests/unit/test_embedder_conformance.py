"""The contract of every embedder.

To test another embedder, add a `Subject` to `SUBJECTS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tests.provider import StandInProvider

from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder
from backline.embedders.local import list_models, open_local
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.types import Model, Vectors

TEXTS = [
    "My vocals sound muddy",
    "Cut 300 Hz with a narrow band, then lift the presence region",
    "a",
    "naïve café, 音楽制作, музыка, موسيقى",
    "🎛️🎚️👩‍👩‍👧‍👦🇫🇮",
    "<|endoftext|> [CLS] [SEP] [PAD] [UNK] <s></s>",
    "a NUL \x00 and a \x1b[31m control sequence",
    "a lone \ud800 surrogate, and \udfff another",
    " leading and trailing blanks \t\n",
    "null",
    "{'a': \"b\"}\\\\",
    "\u202eright to left\u202c and zero\u200bwidth",
]
LONG = "The kick and the bass fight for the same low end. " * 2000  # 100,000 characters


# --- subjects -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """An embedder under test.

    Attributes:
        open: opens the embedder, with a stand-in provider if it needs one.
        many: number of texts that would block the event loop noticeably, if embedding blocked it.
        tolerance: largest difference of a component between two batches that hold the same text.
    """

    name: str
    open: Callable[[StandInProvider], AbstractAsyncContextManager[Embedder]]
    many: int
    tolerance: float = 0.0


def hash_subject(dimensions: int) -> Subject:
    @asynccontextmanager
    async def opened(_: StandInProvider) -> AsyncIterator[Embedder]:
        yield HashEmbedder(dimensions)

    return Subject(f"hash@{dimensions}", opened, many=20_000)


def openai_subject(name: str, behaviour: dict[str, Any], **settings: Any) -> Subject:
    @asynccontextmanager
    async def opened(provider: StandInProvider) -> AsyncIterator[Embedder]:
        provider.behave(**behaviour)
        embedder = await OpenAIEmbedder.open(
            base_url=provider.base_url, api_key=provider.api_key, **settings
        )
        yield embedder
        await embedder.aclose()

    return Subject(name, opened, many=200)


def local_subject() -> Subject:
    @asynccontextmanager
    async def opened(_: StandInProvider) -> AsyncIterator[Embedder]:
        if not any(model.cached for model in list_models() if model.info.name == LOCAL_MODEL):
            pytest.skip(f"the weights of {LOCAL_MODEL} are not here: backline model pull")
        # Reused by all tests, because the first call takes ten times as long as the next.
        embedder = _reused.get(LOCAL_MODEL) or await open_local(LOCAL_MODEL, threads=2)
        _reused[LOCAL_MODEL] = embedder
        yield embedder

    # The other texts of a batch change the order of the sums in a matrix product.
    return Subject(f"local/{LOCAL_MODEL}", opened, many=24, tolerance=2e-5)


LOCAL_MODEL = "all-MiniLM-L6-v2"
_reused: dict[str, Embedder] = {}

SUBJECTS = [
    hash_subject(384),
    hash_subject(1536),
    openai_subject("openai, base64", {}),
    openai_subject("openai, floats", {"ignore_base64": True}, dimensions=256),
    openai_subject("openai-compatible", {"scale": 3.0}, model="nomic-embed-text"),
    local_subject(),
]


@pytest.fixture(scope="module")
def server() -> Iterator[StandInProvider]:
    with StandInProvider(models={"nomic-embed-text": 768}) as provider:
        yield provider


@pytest.fixture(scope="module", autouse=True)
def _close_reused_embedders() -> Iterator[None]:
    yield
    while _reused:
        asyncio.run(_reused.popitem()[1].aclose())


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    assert isinstance(request.param, Subject)
    return request.param


@pytest.fixture
async def embedder(subject: Subject, server: StandInProvider) -> AsyncIterator[Embedder]:
    server.reset()
    async with subject.open(server) as opened:
        yield opened


def assert_well_formed(vectors: Vectors, rows: int, model: Model) -> None:
    assert vectors.shape == (rows, model.dimensions)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


# --- contract -------------------------------------------------------------------------------------


async def test_embedder_implements_the_protocol(embedder: Embedder) -> None:
    assert isinstance(embedder, Embedder)
    assert isinstance(embedder.free, bool)
    model = embedder.model
    assert isinstance(model, Model)
    assert model == embedder.model
    assert model.provider in ("hash", "openai", "local")
    assert model.name
    assert model.revision
    assert model.dimensions >= 1
    assert model.max_tokens >= 1


async def test_every_text_has_a_vector(embedder: Embedder) -> None:
    assert_well_formed(await embedder.embed(TEXTS), len(TEXTS), embedder.model)


async def test_query_has_a_vector(embedder: Embedder) -> None:
    assert_well_formed(await embedder.embed(TEXTS[:3], purpose="query"), 3, embedder.model)


async def test_rows_match_their_texts_in_any_batch(embedder: Embedder, subject: Subject) -> None:
    together = await embedder.embed(TEXTS)
    backwards = await embedder.embed(TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], together, atol=subject.tolerance, rtol=0)
    for i in (0, 1, 4):
        alone = await embedder.embed([TEXTS[i]])
        np.testing.assert_allclose(alone[0], together[i], atol=subject.tolerance, rtol=0)
    # Different texts differ by more than the tolerance, so the assertions above prove the order.
    assert np.abs(together[0] - together[1]).max() > 100 * max(subject.tolerance, 1e-6)


async def test_repeated_call_returns_equal_vectors(embedder: Embedder) -> None:
    np.testing.assert_array_equal(await embedder.embed(TEXTS), await embedder.embed(TEXTS))


async def test_duplicate_texts_have_the_same_vector(embedder: Embedder, subject: Subject) -> None:
    vectors = await embedder.embed(["kick", "a much longer text about snares", "kick", "kick"])
    for i in (2, 3):
        np.testing.assert_allclose(vectors[i], vectors[0], atol=subject.tolerance, rtol=0)


async def test_empty_batch_makes_no_call(embedder: Embedder, server: StandInProvider) -> None:
    calls = len(server.calls)
    vectors = await embedder.embed([])
    assert vectors.shape == (0, embedder.model.dimensions)
    assert vectors.dtype == np.float32
    assert len(server.calls) == calls


async def test_batch_makes_one_call(
    embedder: Embedder, subject: Subject, server: StandInProvider
) -> None:
    calls = len(server.calls)
    await embedder.embed(TEXTS)
    assert len(server.calls) - calls == (1 if subject.name.startswith("openai") else 0)


async def test_concurrent_calls_get_their_own_vectors(embedder: Embedder, subject: Subject) -> None:
    expected = await embedder.embed(TEXTS)
    parts = await asyncio.gather(*(embedder.embed([text]) for text in TEXTS))
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=subject.tolerance, rtol=0)


async def test_tuple_of_texts_is_accepted(embedder: Embedder) -> None:
    np.testing.assert_array_equal(
        await embedder.embed(tuple(TEXTS[:2])), await embedder.embed(TEXTS[:2])
    )


async def test_truncated_long_text_is_embedded(embedder: Embedder) -> None:
    vectors = await embedder.embed([embedder.truncate(LONG), "short"])
    assert_well_formed(vectors, 2, embedder.model)


async def test_tokens_are_counted_for_each_text(embedder: Embedder) -> None:
    counts = embedder.count_tokens([*TEXTS, LONG, ""])
    assert len(counts) == len(TEXTS) + 2
    assert all(isinstance(count, int) and count >= 1 for count in counts)
    assert embedder.count_tokens([]) == []
    assert counts[-2] > embedder.model.max_tokens, "counted before any truncation"
    one, two = embedder.count_tokens(["kick drum " * 5, "kick drum " * 50])
    assert 5 <= one < two


async def test_truncation_keeps_the_longest_prefix_that_fits(embedder: Embedder) -> None:
    for text in (LONG, "音楽 " * 20_000, "🎛️" * 20_000, "x" * 100_000, "\ud800 " * 50_000):
        cut = embedder.truncate(text)
        assert text.startswith(cut)
        assert 1 <= embedder.count_tokens([cut])[0] <= embedder.model.max_tokens
        assert embedder.truncate(cut) == cut
        more = text[: len(cut) + len(text) // 100]
        assert len(more) == len(cut) or embedder.count_tokens([more])[0] > (
            0.95 * embedder.model.max_tokens
        )


async def test_text_that_fits_is_not_truncated(embedder: Embedder) -> None:
    for text in (*TEXTS, ""):
        assert embedder.truncate(text) == text


async def test_event_loop_runs_while_texts_are_embedded(
    embedder: Embedder, subject: Subject
) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    await embedder.embed([f"text {i} about mixing" for i in range(subject.many)])
    turning.cancel()
    assert turns >= 8


async def test_aclose_is_idempotent(embedder: Embedder) -> None:
    _reused.clear()
    await embedder.embed(["a"])
    await embedder.aclose()
    await embedder.aclose()
