"""Files of one commit on the Hugging Face hub: from the user's hub cache, else over HTTP.

The variables are those of `huggingface_hub`, which with all that it brings would be 30 MB more to
install, for three files: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_HOME.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
HUB_TIMEOUT_S: Final = 3.0
"""A hub that does not answer the first request within this time is not tried any further."""
STALL_S: Final = 10.0
"""A download that brings nothing for so long is broken off, and continued from where it was."""
ATTEMPTS: Final = 5
_TRUE: Final = {"1", "ON", "YES", "TRUE"}


class HubError(Exception):
    """The hub did not give the files; the message is half a sentence that says why."""


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, which mirrors are named by, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def copy_cached(repository: str, revision: str, names: Sequence[str], folder: Path) -> bool:
    """Copy the files from the cache that `huggingface_hub` keeps; False where one is not there."""
    cache = _cache() / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
    if not all((cache / name).is_file() for name in names):
        return False
    for name in names:
        shutil.copyfile(cache / name, folder / name)
    return True


def download(repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
    """Fetch the files into `folder`; a connection that breaks is taken up where it broke.

    Raises:
        HubError: the hub is switched off, cannot be reached, or refuses.
        OSError: a file cannot be written.
    """
    if _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE"):
        raise HubError("the hub is switched off by HF_HUB_OFFLINE")
    timeout = httpx.Timeout(HUB_TIMEOUT_S, connect=HUB_TIMEOUT_S)
    base = f"{endpoint()}/{repository}/resolve/{revision}"
    try:
        with httpx.Client(headers=_headers(), follow_redirects=True, timeout=timeout) as client:
            _receive(client, f"{base}/{names[0]}", folder / names[0])
            client.timeout = httpx.Timeout(STALL_S, connect=HUB_TIMEOUT_S)
            for name in names[1:]:
                _receive_whole(client, f"{base}/{name}", folder / name)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise HubError(f"the hub cannot be reached: {_first_line(error)}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a proxy's URL
        raise HubError(f"the hub failed: {_first_line(error)}") from error


def _receive_whole(client: httpx.Client, url: str, target: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _receive(client, url, target)
        except httpx.TransportError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
    return None


def _receive(client: httpx.Client, url: str, target: Path) -> None:
    """Bring what `target` still lacks; a server that knows no ranges sends the whole again."""
    have = target.stat().st_size if target.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code not in (200, 206):
            raise HubError(f"the hub answers {answer.status_code} for {url}{_hint(answer)}")
        with target.open("ab" if answer.status_code == 206 else "wb") as file:
            for block in answer.iter_bytes():  # as they come: none is lost where the next does not
                file.write(block)


def _hint(answer: httpx.Response) -> str:
    return "; is HF_TOKEN right?" if answer.status_code in (401, 403) else ""


def _headers() -> dict[str, str]:
    """Identity, so that a range counts the bytes of the file; httpx keeps the token to one host."""
    token = _token()
    return {
        "User-Agent": "backline",
        "Accept-Encoding": "identity",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }


def _token() -> str | None:
    """HF_TOKEN, or what `hf auth login` left."""
    given = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if given is None and not _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        try:
            given = Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token").read_text()
        except (OSError, ValueError):
            return None
    return "".join((given or "").split()) or None


def _cache() -> Path:
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(named).expanduser() if named else _home() / "hub"


def _home() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in _TRUE


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
