"""Token counting and truncation for OpenAI models, with and without the vocabulary."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiktoken

from backline.embedders.openai import tokens
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.embedders.openai.tokens import EstimatingCounter, ExactCounter

KEY = "sk-proj-secret-0123456789"

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
