"""Fetch files of one commit on the Hugging Face hub, from the user's hub cache or over HTTP.

The environment variables are those of `huggingface_hub`: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,
HF_HUB_CACHE and HF_HOME. The package itself would add 30 MB to the install, to fetch three files.
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
"""Time limit of the first response. After it, the hub counts as unreachable."""
STALL_S: Final = 10.0
"""Time without data after which a download is interrupted, and resumed where it stopped."""
ATTEMPTS: Final = 5
_TRUE: Final = {"1", "ON", "YES", "TRUE"}


class HubError(Exception):
    """The hub did not serve the files. The message is a clause that gives the reason."""


def endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT, for mirrors, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def copy_cached(repository: str, revision: str, names: Sequence[str], folder: Path) -> bool:
    """Copy the files from the cache of `huggingface_hub`; return False if one is missing."""
    cache = _cache() / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
    if not all((cache / name).is_file() for name in names):
        return False
    for name in names:
        shutil.copyfile(cache / name, folder / name)
    return True


def download(repository: str, revision: str, names: Sequence[str], folder: Path) -> None:
    """Download the files into `folder`, and resume interrupted downloads.

    Raises:
        HubError: the hub is disabled, unreachable, or refuses the request.
        OSError: a file cannot be written.
    """
    if _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE"):
        raise HubError("HF_HUB_OFFLINE disables the hub")
    timeout = httpx.Timeout(HUB_TIMEOUT_S, connect=HUB_TIMEOUT_S)
    base = f"{endpoint()}/{repository}/resolve/{revision}"
    try:
        with httpx.Client(headers=_headers(), follow_redirects=True, timeout=timeout) as client:
            _receive(client, f"{base}/{names[0]}", folder / names[0])
            client.timeout = httpx.Timeout(STALL_S, connect=HUB_TIMEOUT_S)
            for name in names[1:]:
                _receive_with_retries(client, f"{base}/{name}", folder / name)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise HubError(f"the hub cannot be reached: {_first_line(error)}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a proxy's URL
        raise HubError(f"the hub failed: {_first_line(error)}") from error


def _receive_with_retries(client: httpx.Client, url: str, target: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _receive(client, url, target)
        except httpx.TransportError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
    return None


def _receive(client: httpx.Client, url: str, target: Path) -> None:
    """Download the rest of `target`, or all of it if the server does not support ranges."""
    size = target.stat().st_size if target.exists() else 0
    headers = {"Range": f"bytes={size}-"} if size else {}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code not in (200, 206):
            raise HubError(f"the hub responds {response.status_code} for {url}{_hint(response)}")
        with target.open("ab" if response.status_code == 206 else "wb") as file:
            for block in response.iter_bytes():  # written at once, so that a retry resumes here
                file.write(block)


def _hint(response: httpx.Response) -> str:
    return "; check HF_TOKEN" if response.status_code in (401, 403) else ""


def _headers() -> dict[str, str]:
    """Return the headers of every request.

    Identity encoding makes a range count the bytes of the file. On a redirect to another host,
    httpx removes the token.
    """
    token = _token()
    return {
        "User-Agent": "backline",
        "Accept-Encoding": "identity",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }


def _token() -> str | None:
    """Return HF_TOKEN, or the token that `hf auth login` stored."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if token is None and not _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        try:
            token = Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token").read_text()
        except (OSError, ValueError):
            return None
    return "".join((token or "").split()) or None


def _cache() -> Path:
    path = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(path).expanduser() if path else _home() / "hub"


def _home() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in _TRUE


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
