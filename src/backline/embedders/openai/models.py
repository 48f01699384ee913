"""The address and the default model of OpenAI's API. The registry has the facts of its models."""

from __future__ import annotations

from urllib.parse import urlsplit

PROVIDER = "openai"
DEFAULT_MODEL = "text-embedding-3-small"
DEFAULT_BASE_URL = "https://api.openai.com/v1"


def is_openai(base_url: str | None) -> bool:
    """Return whether `base_url` is OpenAI's API, in any region."""
    host = urlsplit(base_url or DEFAULT_BASE_URL).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")
