"""Translate errors and rate-limit headers of OpenAI-compatible servers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import openai

from backline.embedders.limiter import Limits
from backline.errors import (
    EmbedderError,
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)

_INPUT_STATUSES = {400, 413, 422}
_BUSY_STATUSES = {408, 409, 425}
_NO_CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_MAX_CHARACTERS = 500

_REMEDIES = {
    401: "Check OPENAI_API_KEY.",
    402: "Add credit to the account, then run the same command again.",
    403: "This key may not use it: check the key's project and its permissions.",
    404: "Check the model's name, and OPENAI_BASE_URL if it is set.",
    429: "Add credit to the account, then run the same command again.",
}


def translate(
    error: openai.APIError | TimeoutError, *, provider: str, model: str, key: str
) -> EmbedderError:
    """Return Backline's error for an error of the SDK.

    Some servers quote a rejected key in their message, so the key is removed from it.
    """
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return ProviderUnavailableError(f"{provider} did not answer in time.")
    if not isinstance(error, openai.APIStatusError):
        return ProviderUnavailableError(f"{provider} cannot be reached: {_reason(error)}")
    if 300 <= error.status_code < 400:
        return _redirected(error, provider)
    words = _shorten(provider_message(error).replace(key, "[key]"))
    return _translate_status(
        error, f"{provider} responded {error.status_code} for {model}: {words}"
    )


def _redirected(error: openai.APIStatusError, provider: str) -> EmbedderError:
    """Return the error for a redirect. Following it would send the texts to another address."""
    response = error.response
    target = response.request.url.join(response.headers.get("location", "")).copy_with(
        username=None, password=None, query=None, fragment=None
    )
    return ProviderRefusedError(
        f"{provider} redirects ({error.status_code}) to {_shorten(str(target))}. Texts are not "
        "sent there. If that address is right, set OPENAI_BASE_URL to it, without /embeddings."
    )


def _translate_status(error: openai.APIStatusError, message: str) -> EmbedderError:
    status, headers = error.status_code, error.response.headers
    if status == 429 and not _NO_CREDIT_CODES & {error.code, error.type}:
        return RateLimitedError(message, retry_after=parse_retry_after(headers))
    if status in (503, 529) and (wait := parse_retry_after(headers)) is not None:
        return RateLimitedError(message, retry_after=wait)
    if status in _INPUT_STATUSES:
        return InputRejectedError(message)
    if status in _BUSY_STATUSES or status >= 500:
        return ProviderUnavailableError(message, status=status)
    return ProviderRefusedError(f"{message} {_REMEDIES.get(status, _REMEDIES[404])}")


def provider_message(error: openai.APIStatusError) -> str:
    """Return the provider's message from any of the usual forms of an error body."""
    body: object = error.body
    while isinstance(body, Mapping):
        body = next((body[k] for k in ("error", "message", "detail") if body.get(k)), "")
    return " ".join(str(body or error.response.reason_phrase).split())


def _shorten(message: str) -> str:
    return message if len(message) <= _MAX_CHARACTERS else message[:_MAX_CHARACTERS] + "…"


def _reason(error: openai.APIError) -> str:
    """Return the message of the innermost cause, which is the operating system's."""
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    return f"{cause or type(cause).__name__}"


# --- headers --------------------------------------------------------------------------------------


def parse_limits(headers: Mapping[str, str]) -> Limits | None:
    """Parse the x-ratelimit-* headers of a response; None if it has none."""
    limits = Limits(
        requests=_integer(headers.get("x-ratelimit-limit-requests")),
        requests_remaining=_integer(headers.get("x-ratelimit-remaining-requests")),
        requests_reset_s=parse_duration(headers.get("x-ratelimit-reset-requests")),
        tokens=_integer(headers.get("x-ratelimit-limit-tokens")),
        tokens_remaining=_integer(headers.get("x-ratelimit-remaining-tokens")),
        tokens_reset_s=parse_duration(headers.get("x-ratelimit-reset-tokens")),
    )
    return None if limits == Limits() else limits


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the requested wait in seconds, from the most precise header in the response."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    seconds = parse_duration(header) if header else None
    if seconds is None and header:
        seconds = _until(header)
    return seconds if seconds is not None else _until_reset(parse_limits(headers))


def _until_reset(limits: Limits | None) -> float | None:
    """Return the seconds until an exhausted limit resets, without a Retry-After header."""
    if limits is None:
        return None
    pairs = (
        (limits.requests_remaining, limits.requests_reset_s),
        (limits.tokens_remaining, limits.tokens_reset_s),
    )
    return max((reset for left, reset in pairs if left == 0 and reset is not None), default=None)


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|ns))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")


def parse_duration(value: str | None) -> float | None:
    """Parse seconds, "12" or "1.5", or a Go duration: "120ms", "6m0s", "1h2m3.5s"."""
    if value is None:
        return None
    value = value.strip()
    if _DURATION.fullmatch(value):
        return sum(float(n) * _UNITS[unit] for n, unit in _DURATION_PART.findall(value))
    return _number(value)


def _until(date: str) -> float | None:
    """Return the seconds until an HTTP date, or 0 if it is past."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _number(value: str | None) -> float | None:
    """Parse a non-negative finite number; None for anything else."""
    try:
        number = float(value) if value is not None else -1.0
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _integer(value: str | None) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
