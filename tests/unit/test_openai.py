"""The OpenAI embedder, through the official SDK, against a server that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from pydantic import SecretStr
from tests.provider import StandInProvider

from backline.embedders.hash import hash_vectors
from backline.embedders.limiter import Limits
from backline.embedders.openai import tokens
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.embedders.openai.errors import parse_duration, parse_limits, parse_retry_after
from backline.embedders.openai.models import is_openai
from backline.embedders.openai.response import EmbeddingResponse, read_response
from backline.embedders.openai.tokens import EstimatingCounter, ExactCounter
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


# --- limits ---------------------------------------------------------------------------------------


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


def test_responses_without_limits_report_nothing() -> None:
    assert parse_limits({"content-type": "application/json"}) is None
    assert parse_limits({"x-ratelimit-limit-requests": "many"}) is None
    assert parse_retry_after({"x-ratelimit-limit-requests": "3"}) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12", 12.0),
        ("1.5", 1.5),
        ("120ms", 0.12),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("7m12s", 432.0),
        ("250us", 0.00025),
        ("", None),
        ("s", None),
        ("1x", None),
        ("nan", None),
        ("inf", None),
        (None, None),
    ],
)
def test_durations_are_parsed(text: str | None, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


# --- tokens ---------------------------------------------------------------------------------------

# Texts with their true counts in cl100k_base, which the estimate must reach.
TRUE_COUNTS = [
    ("The vocals sound muddy because the low mids build up; cut around 300 hertz.", 19),
    ("Wenn der Gesang dumpf klingt, senken Sie dreihundert Hertz ab.", 21),
    ("Jos laulu kuulostaa sameelta, vähennä kolmesataa hertsiä ja nosta taajuuksia.", 31),
    ("Jeśli wokal brzmi mętnie, obniż trzysta herców i podnieś wysokie częstotliwości.", 35),
    ("Если вокал звучит мутно, уберите 300 Гц и добавьте высокие частоты.", 34),
    ("אם השירה נשמעת עמומה הנמיכו שלוש מאות הרץ והגבירו את התדרים הגבוהים", 63),
    ("यदि स्वर धुंधला लगता है तो तीन सौ हर्ट्ज़ कम करें और उच्च आवृत्ति बढ़ाएँ", 80),
    ("你的人声听起来很浑浊请在三百赫兹处做一个窄带衰减然后提升高频。", 42),
    ("보컬이 탁하게 들리면 300Hz를 줄이고 고음을 올리세요.", 30),
    ("🎛🎚🎙😀🔥🇫🇮", 20),
    ('{"type": "eq", "freq_hz": 300, "gain_db": -3.5, "tags": ["mud", "vocals"]}', 34),
    ("def cut(frequency: float, gain: float = -3.0) -> Filter: return Filter(gain)", 24),
    ("https://www.example.com/path/to/mix?track=12&bus=vocals#eq", 20),
    ("3 14 159 2653 58979 0.5 -12.25 44100 48000", 25),
    ("IF THE KICK AND THE BASS CLASH, SIDECHAIN THE BASS.", 17),
    ("\x00\x01\x02", 3),
]


@pytest.fixture(scope="module")
def toy_encoding() -> tiktoken.Encoding:
    """A byte-pair encoding of 256 bytes and a few merges, in tiktoken itself."""
    merges = [b"th", b"the", b" the", b"in", b"ing", b" m", b" mi", b" mix", b"\xf0\x9f"]
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {merge: 256 + i for i, merge in enumerate(merges)}
    return tiktoken.Encoding(
        "toy",
        pat_str=r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 1000},
    )


@pytest.mark.parametrize(("text", "true_count"), TRUE_COUNTS)
def test_estimate_reaches_the_true_count(text: str, true_count: int) -> None:
    estimate = EstimatingCounter().count(text)
    assert true_count <= estimate <= 2 * true_count + 1


@pytest.mark.parametrize("text", ["", " ", "a", "word " * 5000, "\U0001f39b" * 400, "  " * 9000])
def test_estimate_is_at_least_a_quarter_of_the_bytes(text: str) -> None:
    assert EstimatingCounter().count(text) >= max(1, len(text.encode()) / 4)


@pytest.mark.parametrize(
    "unit", ["word ", "\U0001f39b\ufe0f", "\u97f3\u697d", "x\ud800", "a1!\n", "  "]
)
def test_estimated_truncation_keeps_the_longest_prefix(unit: str) -> None:
    text, counter = unit * 500, EstimatingCounter()
    cut = counter.truncate(text, 100)
    assert text.startswith(cut)
    assert counter.count(cut) <= 100 < counter.count(text[: len(cut) + 1])
    assert counter.truncate(cut, 100) is cut
    assert counter.truncate("short", 100) == "short"


def test_exact_count_treats_special_tokens_as_text(
    toy_encoding: tiktoken.Encoding,
) -> None:
    counter = ExactCounter(toy_encoding)
    assert counter.count(" the mixing") == len([" the", " mix", "ing"])
    assert counter.count("<|endoftext|>") > 1
    assert counter.count("\ud800") == counter.count("?") == 1


@pytest.mark.parametrize("limit", range(1, 16))
def test_exact_truncation_is_a_fitting_prefix(toy_encoding: tiktoken.Encoding, limit: int) -> None:
    counter = ExactCounter(toy_encoding)
    text = " the mix\ud83d\ude00 \U0001f39b\ufe0f 123456 the  \n mixing"
    cut = counter.truncate(text, limit)
    assert text.startswith(cut)
    assert counter.count(cut) <= limit
    assert counter.truncate(cut, limit) == cut
    # Truncation removes at most one character of up to four bytes, or one word, too many.
    assert counter.count(text[: len(cut) + 4]) > limit - 4


def test_exact_truncation_of_words_is_the_longest(toy_encoding: tiktoken.Encoding) -> None:
    assert ExactCounter(toy_encoding).truncate(" the mixing the" * 9, 4) == " the mixing the"


def test_exact_truncation_fits_if_the_rest_splits_into_more_tokens() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {b"\xf0\x9f": 256, b"y\xf0\x9f": 257, b"xy\xf0\x9f": 258}
    encoding = tiktoken.Encoding(
        "straddling", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    counter = ExactCounter(encoding)
    text = "z xy\U0001f39b"
    assert encoding.encode_ordinary(text)[2] == 258  # half of the last character is in this token
    assert counter.truncate(text, 3) == "z "
    assert counter.truncate(text, 4) == "z xy"


async def test_embedder_uses_its_token_counter(
    toy_encoding: tiktoken.Encoding,
) -> None:
    embedder = OpenAIEmbedder(api_key=KEY, counter=ExactCounter(toy_encoding))
    assert embedder.count_tokens([" the mixing", ""]) == [3, 1]
    assert len(embedder.truncate(" the" * 9000)) == 4 * 8192
    await embedder.aclose()


@pytest.fixture
def no_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Empty tiktoken's cache, and point the vocabulary at a port without a listener."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/cl100k_base.tiktoken"
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(tokens, "_VOCABULARY_URL", url)
        tokens._load_encoding.cache_clear()
        yield tmp_path
    tokens._load_encoding.cache_clear()


def test_offline_falls_back_to_the_estimate_after_one_attempt(
    no_vocabulary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    for _ in range(3):
        assert isinstance(tokens.load_counter(may_download=True), EstimatingCounter)
    assert time.monotonic() - began < 10
    assert tokens._load_encoding.cache_info().misses == 1
    assert list(no_vocabulary.iterdir()) == []
    assert caplog.records == []


def test_damaged_vocabulary_is_ignored(no_vocabulary: Path) -> None:
    path = tokens._cache_path()
    assert path is not None
    assert path.parent == no_vocabulary
    path.write_bytes(b"damaged")
    assert isinstance(tokens.load_counter(may_download=False), EstimatingCounter)


@pytest.mark.parametrize(("sent", "kept"), [(b"vocabulary", True), (b"a login page", False)])
def test_vocabulary_is_fetched_and_verified(
    no_vocabulary: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, kept: bool
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(tokens, "_VOCABULARY_SHA256", hashlib.sha256(b"vocabulary").hexdigest())
    path = no_vocabulary / "new" / "folder" / "vocabulary"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(tokens, "_VOCABULARY_URL", f"http://127.0.0.1:{server.server_port}/v")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert tokens._download(path) is kept
        server.shutdown()
    files = [file for file in no_vocabulary.rglob("*") if file.is_file()]
    assert [file.read_bytes() for file in files] == ([sent] if kept else [])


def test_disabled_cache_is_respected(no_vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert isinstance(tokens.load_counter(may_download=True), EstimatingCounter)


@pytest.mark.skipif(
    not (tokens._cache_path() or Path("-")).is_file(), reason="tiktoken's cache lacks cl100k_base"
)
def test_counts_are_exact_with_the_vocabulary() -> None:
    counter = tokens.load_counter(may_download=False)
    assert isinstance(counter, ExactCounter)
    assert [(text, counter.count(text)) for text, _ in TRUE_COUNTS] == TRUE_COUNTS


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
