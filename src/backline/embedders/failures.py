"""Translate the error responses of every provider to Backline's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from backline.embedders.headers import parse_duration, parse_retry_after
from backline.embedders.registry import ProviderEntry
from backline.errors import (
    EmbedderError,
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)

_INPUT_STATUSES: Final = {400, 413, 422}
# 424 is Text Embeddings Inference's word for a failed computation, 499 Cohere's for a lost request.
_BUSY_STATUSES: Final = {408, 409, 424, 425, 499}
_MAX_CHARACTERS: Final = 500
# Members of an error's body that name it.
_CODES: Final = {"code", "type", "status", "reason", "error_type"}


@dataclass(frozen=True, slots=True)
class Response:
    """A response that is not a success, from any HTTP library.

    Attributes:
        url: of the request.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes
    url: str


def silent(where: str) -> ProviderUnavailableError:
    """Return the error for a response that did not arrive in time."""
    return ProviderUnavailableError(f"{where} did not answer in time.")


def unreachable(error: BaseException, where: str) -> ProviderUnavailableError:
    """Return the error for a connection that failed."""
    return ProviderUnavailableError(f"{where} cannot be reached: {_reason(error)}")


def refusal(
    response: Response, provider: ProviderEntry, *, where: str, model: str, key: str
) -> EmbedderError:
    """Return the error for a response that is not a success.

    Some servers quote a rejected key in their message, so the key is removed from it.
    """
    if 300 <= response.status < 400:
        return _redirected(response, provider, where)
    body = _body(response)
    words = _words(body) or response.reason
    if key:
        words = words.replace(key, "[key]")
    message = f"{where} responded {response.status} for {model}: {_shorten(words)}"
    status = _meaning(provider, body, words) or response.status
    return _of_status(status, message, provider, _wait(response, provider, body))


def _of_status(
    status: int, message: str, provider: ProviderEntry, wait: float | None
) -> EmbedderError:
    if status == 429 or (status in (503, 529) and wait is not None):
        return RateLimitedError(message, retry_after=wait)
    if status in _INPUT_STATUSES:
        return InputRejectedError(message)
    if status in _BUSY_STATUSES or status >= 500:
        return ProviderUnavailableError(message, status=status)
    return ProviderRefusedError(f"{message} {_remedy(status, provider)}")


def _remedy(status: int, provider: ProviderEntry) -> str:
    if status == 401:
        return f"Check {provider.keys[0]}."
    if status == 402:
        return "Add credit to the account, then run the same command again."
    if status == 403:
        return "This key may not use it: check the key's project and its permissions."
    return f"Check the model's name, and {provider.addresses[0]} if it is set."


def _redirected(response: Response, provider: ProviderEntry, where: str) -> ProviderRefusedError:
    """Return the error for a redirect. Following it would send the texts to another address."""
    parts = urlsplit(urljoin(response.url, response.headers.get("location", "")))
    target = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    path = f", without {provider.path}" if provider.path else ""
    return ProviderRefusedError(
        f"{where} redirects ({response.status}) to {_shorten(target)}. Texts are not "
        f"sent there. If that address is right, set {provider.addresses[0]} to it{path}."
    )


def _meaning(provider: ProviderEntry, body: object, words: str) -> int | None:
    """Return the status that the provider's own code or words stand for, if they are known.

    Only a phrase is looked for in the words: they may quote a text that holds any code.
    """
    codes = set(_codes(body))
    for name, status in provider.means.items():
        if name in codes or (" " in name and name in words):
            return status
    return None


def _codes(body: object) -> Iterator[str]:
    if isinstance(body, Mapping):
        for name, value in body.items():
            if name in _CODES and isinstance(value, str):
                yield value
            yield from _codes(value)
    elif isinstance(body, list):
        for each in body:
            yield from _codes(each)


def _body(response: Response) -> object:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return response.content.decode("utf-8", "replace")


def _words(body: object) -> str:
    """Return the provider's message from any of the usual forms of an error body."""
    while isinstance(body, Mapping):
        body = next((body[k] for k in ("error", "message", "detail") if body.get(k)), "")
    return " ".join(str(body or "").split())


def _wait(response: Response, provider: ProviderEntry, body: object) -> float | None:
    """Return the seconds to wait: from a header, or from Google's RetryInfo in the body."""
    wait = parse_retry_after(response.headers, provider.limits)
    return wait if wait is not None else _retry_delay(body)


def _retry_delay(body: object) -> float | None:
    details: Any = body
    for name in ("error", "details"):
        details = details.get(name) if isinstance(details, Mapping) else None
    for each in details if isinstance(details, list) else []:
        if isinstance(each, Mapping) and isinstance(each.get("retryDelay"), str):
            return parse_duration(each["retryDelay"])
    return None


def _shorten(message: str) -> str:
    return message if len(message) <= _MAX_CHARACTERS else message[:_MAX_CHARACTERS] + "…"


def _reason(error: BaseException) -> str:
    """Return the message of the innermost cause, which is the operating system's."""
    cause = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    return f"{cause or type(cause).__name__}"
