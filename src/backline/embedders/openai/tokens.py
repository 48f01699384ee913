"""Count tokens: exactly if the model's vocabulary is available, else by a high estimate."""

from __future__ import annotations

import hashlib
import os
import string
import tempfile
import time
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tiktoken

_ENCODING = "cl100k_base"  # used by every OpenAI embedding model so far
_VOCABULARY_URL = f"https://openaipublic.blob.core.windows.net/encodings/{_ENCODING}.tiktoken"
_VOCABULARY_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_DOWNLOAD_TIMEOUT_S = 3.0


class TokenCounter(Protocol):
    """Counts the tokens of a text, and truncates a text to a number of tokens."""

    def count(self, text: str) -> int: ...

    def truncate(self, text: str, max_tokens: int) -> str: ...


class ExactCounter:
    """Counts with the model's byte-pair encoding. Special tokens count as ordinary text."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def count(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(well_formed(text)))

    def truncate(self, text: str, max_tokens: int) -> str:
        tokens = self._encoding.encode_ordinary(well_formed(text))
        if len(tokens) <= max_tokens:
            return text
        for length in range(max_tokens, 0, -1):
            # A cut inside a character drops the character.
            beginning = self._encoding.decode(tokens[:length], errors="ignore")
            # A truncated last word may split into one more token.
            if self.count(beginning) <= max_tokens:
                return text[: len(beginning)]
        return ""


class EstimatingCounter:
    """Estimates tokens from the kinds of bytes in a text, erring on the high side.

    The weights were fitted to cl100k_base. Prose in eighteen languages, source code, JSON, numbers,
    URLs and emoji never exceed their estimate; English prose gets 1.6 times its true count. Noise,
    such as base64 or random letters, has up to twice its estimate. The estimate is at least a
    quarter of the bytes, which is OpenAI's own estimate.
    """

    def count(self, text: str) -> int:
        weights = _weights(text)
        return max(1, -(-int(weights.sum()) // 100), -(-len(weights) // 4))

    def truncate(self, text: str, max_tokens: int) -> str:
        if len(text) * _MAX_WEIGHT_PER_CHARACTER <= max_tokens * 100:
            return text
        fits = int(np.searchsorted(_weights(text).cumsum(), max_tokens * 100, side="right"))
        encoded = text.encode("utf-8", "replace")[: min(fits, max_tokens * 4)]
        return text[: len(encoded.decode("utf-8", "ignore"))]


def well_formed(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def load_counter(*, may_download: bool) -> TokenCounter:
    """Return the exact counter of OpenAI's models, or the estimate. Blocking: use a thread.

    Args:
        may_download: fetch the vocabulary (1.7 MB) if it is not in tiktoken's cache. The download
            is tried once a process and has a silent time limit of three seconds.
    """
    encoding = _load_encoding(may_download=may_download)
    return EstimatingCounter() if encoding is None else ExactCounter(encoding)


@lru_cache(maxsize=2)
def _load_encoding(*, may_download: bool) -> tiktoken.Encoding | None:
    path = _cache_path()
    if path is None or not (_is_intact(path) or (may_download and _download(path))):
        return None
    # The file is checked above, because tiktoken downloads a missing one without a time limit.
    import tiktoken

    return tiktoken.get_encoding(_ENCODING)


def _cache_path() -> Path | None:
    """Return tiktoken's path of the vocabulary; None if its cache is disabled."""
    default = Path(tempfile.gettempdir()) / "data-gym-cache"
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    name = hashlib.sha1(_VOCABULARY_URL.encode(), usedforsecurity=False).hexdigest()
    return Path(folder) / name if folder else None


def _is_intact(path: Path) -> bool:
    try:
        return _is_vocabulary(path.read_bytes())
    except OSError:
        return False


def _is_vocabulary(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == _VOCABULARY_SHA256


def _download(path: Path) -> bool:
    try:
        content = _fetch(_VOCABULARY_URL, time.monotonic() + _DOWNLOAD_TIMEOUT_S)
        if not _is_vocabulary(content):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError:  # the base of URLError and TimeoutError
        return False
    return True


def _fetch(url: str, deadline: float) -> bytes:
    content = bytearray()
    with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310
        while chunk := response.read1():
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError
    return bytes(content)


def _weights(text: str) -> NDArray[np.int64]:
    """Return the estimate of each UTF-8 byte, in hundredths of a token."""
    encoded = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8)
    weights: NDArray[np.int64] = _BYTE_WEIGHTS[encoded]
    return weights


def _byte_weights() -> NDArray[np.int64]:
    weights = np.full(256, 56, dtype=np.int64)  # bytes of characters beyond ASCII
    weights[0xF0:] = 130  # the first byte of four: emoji
    for characters, weight in (
        ("".join(map(chr, range(128))), 100),  # control characters
        (string.ascii_lowercase, 39),
        (string.ascii_uppercase, 60),
        (string.digits, 70),
        (string.punctuation, 75),
        (" ", 15),
        ("\n\r\t", 50),
    ):
        weights[list(characters.encode())] = weight
    return weights


_BYTE_WEIGHTS = _byte_weights()
_MAX_WEIGHT_PER_CHARACTER = 130 + 3 * 56  # of four bytes
