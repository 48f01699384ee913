"""Translate the errors of OpenAI's SDK."""

from __future__ import annotations

import openai

from backline.embedders.failures import Response, refusal, silent, unreachable
from backline.embedders.registry import ProviderEntry
from backline.errors import EmbedderError


def translate(
    error: openai.APIError | TimeoutError,
    provider: ProviderEntry,
    *,
    where: str,
    model: str,
    key: str,
) -> EmbedderError:
    """Return Backline's error for an error of the SDK."""
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return silent(where)
    if not isinstance(error, openai.APIStatusError):
        return unreachable(error, where)
    received = error.response
    response = Response(
        received.status_code,
        received.reason_phrase,
        received.headers,
        received.content,
        str(received.request.url),
    )
    return refusal(response, provider, where=where, model=model, key=key)
