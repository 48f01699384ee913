"""Embeddings from OpenAI and servers with its API, such as Ollama, vLLM, TEI and LM Studio."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import openai
from pydantic import SecretStr

from backline.embedders import registry
from backline.embedders.headers import parse_limits
from backline.embedders.limiter import Limits
from backline.embedders.openai.errors import translate
from backline.embedders.openai.models import DEFAULT_BASE_URL, DEFAULT_MODEL, PROVIDER, is_openai
from backline.embedders.openai.response import (
    EmbeddingResponse,
    MalformedResponseError,
    read_response,
)
from backline.embedders.openai.tokens import (
    EstimatingCounter,
    TokenCounter,
    load_counter,
    well_formed,
)
from backline.errors import (
    ConfigurationError,
    EmbedderError,
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from backline.types import Model, Purpose, Vectors

DEFAULT_TIMEOUT_S = 60.0
# Parsing a larger response takes over about 10 ms, which is too long to block the event loop.
_PARSE_IN_THREAD_BYTES = 1 << 20
_DIMENSIONS_REJECTED = re.compile("dimensions|matryoshka", re.IGNORECASE)


class OpenAIEmbedder:
    """Makes one attempt a call, over the official SDK without its retries.

    Vectors are requested as base64, a quarter of the size of JSON numbers; lists of numbers are
    accepted too. They are sorted by index and scaled to unit length.

    Attributes:
        prompt_tokens: tokens billed so far, as reported in the responses.

    Args:
        model: the model's name on its server.
        dimensions: of the vectors. Required here for models of other servers;
            `OpenAIEmbedder.open` requests them from the server. The parameter is sent only if it
            may differ from the model's default, and no more once the server rejects it.
        base_url: the API's root, which usually ends in /v1.
        api_key: sent to the server, and never shown in an error, a log or a repr.
        timeout: seconds for a whole call.
        max_retries: retries of the SDK. Keep them at 0: the worker retries.
        on_limits: called with the rate limits in a response.
        counter: counts tokens; the default is an estimate.

    Raises:
        ConfigurationError: the dimensions are unsupported or unknown, the key has invalid
            characters, or the base URL is not a URL.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        *,
        base_url: str | None = None,
        api_key: SecretStr | str,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_retries: int = 0,
        on_limits: Callable[[Limits], None] | None = None,
        counter: TokenCounter | None = None,
    ) -> None:
        self._entry = registry.providers()[PROVIDER]
        self._model = _require_dimensions(model, registry.describe(PROVIDER, model, dimensions))
        self._requested = dimensions if _must_request(model, dimensions) else None
        self._key = _checked_key(api_key)
        self._provider = _host(base_url or DEFAULT_BASE_URL)
        self._timeout = timeout
        self._on_limits = on_limits
        self._counter = counter or EstimatingCounter()
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=base_url or DEFAULT_BASE_URL,
            timeout=timeout,
            max_retries=max_retries,
            # The SDK would send the texts, and to the same host the key, wherever a redirect leads.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        self.prompt_tokens = 0

    @classmethod
    async def open(
        cls,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        *,
        base_url: str | None = None,
        **settings: Any,
    ) -> Self:
        """Create an embedder and complete its settings; see the class for them.

        Unknown dimensions are determined by embedding one word. Tokens are counted exactly if the
        vocabulary is in tiktoken's cache, or can be fetched and the server is OpenAI's.

        Raises:
            EmbedderError: the server did not return the dimensions.
        """
        known = registry.find(PROVIDER, model)
        if known is not None and known.provider == PROVIDER:
            counter = await asyncio.to_thread(load_counter, may_download=is_openai(base_url))
            settings = {"counter": counter, **settings}
        elif known is None and dimensions is None:
            return await cls._discover(model, base_url=base_url, **settings)
        return cls(model, dimensions, base_url=base_url, **settings)

    @classmethod
    async def _discover(cls, model: str, **settings: Any) -> Self:
        embedder = cls(model, 1, **settings)
        embedder._requested = None
        try:
            response = await embedder._request(["dimensions"], None)
        except BaseException:
            await embedder.aclose()
            raise
        embedder._model = registry.identity(PROVIDER, model, response.vectors.shape[1])
        return embedder

    @property
    def model(self) -> Model:
        return self._model

    @property
    def free(self) -> bool:
        return False

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """Embed `texts` in one request; `purpose` has no effect on these models.

        Raises:
            RateLimitedError: status 429, or 503 with a time to wait.
            InputRejectedError: the server rejects a text, or returns no usable vector for it.
            ProviderRefusedError: the server refuses the key, the model or the dimensions.
            ProviderUnavailableError: no response, a server error, or a malformed response.
        """
        if not texts:
            return np.empty((0, self._model.dimensions), dtype=np.float32)
        requested = self._requested
        try:
            response = await self._request(texts, requested)
        except InputRejectedError as error:
            if requested is None or not _DIMENSIONS_REJECTED.search(str(error)):
                raise
            # The server rejects the parameter, but its default may be the requested number.
            response = await self._request(texts, None)
            self._requested = None
        self._check_dimensions(response.vectors.shape[1])
        return response.vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count exactly if the vocabulary was available when opening, else estimate."""
        return [max(1, self._counter.count(text)) for text in texts]

    def truncate(self, text: str) -> str:
        return self._counter.truncate(text, self._model.max_tokens)

    async def aclose(self) -> None:
        await self._client.close()

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self._model} at {self._provider})"

    async def _request(self, texts: Sequence[str], dimensions: int | None) -> EmbeddingResponse:
        try:
            async with asyncio.timeout(self._timeout):
                raw = await self._client.embeddings.with_raw_response.create(
                    model=self._model.name,
                    input=[well_formed(text) for text in texts],
                    dimensions=openai.omit if dimensions is None else dimensions,
                    encoding_format="base64",
                )
        except (openai.APIError, TimeoutError) as error:
            failure = self._failure(error)
        else:
            self._report_limits(raw.headers)
            return await self._parse(raw.content, len(texts))
        # Raised outside the handler: a chained traceback would show the message of the SDK's error,
        # which may quote the key.
        raise failure

    async def _parse(self, body: bytes, texts: int) -> EmbeddingResponse:
        try:
            if len(body) > _PARSE_IN_THREAD_BYTES:
                response = await asyncio.to_thread(read_response, body, texts)
            else:
                response = read_response(body, texts)
        except MalformedResponseError as error:
            raise ProviderUnavailableError(f"{self._provider} {error}") from error
        self.prompt_tokens += response.prompt_tokens
        return response

    def _failure(self, error: openai.APIError | TimeoutError) -> EmbedderError:
        if isinstance(error, openai.APIStatusError):
            self._report_limits(error.response.headers)
        return translate(
            error, self._entry, where=self._provider, model=self._model.name, key=self._key
        )

    def _report_limits(self, headers: Mapping[str, str]) -> None:
        limits = parse_limits(headers, self._entry.limits)
        if limits is not None and self._on_limits is not None:
            self._on_limits(limits)

    def _check_dimensions(self, returned: int) -> None:
        model = self._model
        if returned != model.dimensions:
            raise ProviderRefusedError(
                f"{self._provider} returned {returned} dimensions for {model.name} instead of "
                f"{model.dimensions}: use openai/{model.name}@{returned}."
            )


def _require_dimensions(name: str, model: Model | None) -> Model:
    if model is None:
        raise ConfigurationError(
            f"The dimensions of {name} are unknown. Specify them: openai/{name}@DIMENSIONS."
        )
    return model


def _must_request(name: str, dimensions: int | None) -> bool:
    """Return whether to send the dimensions. Many servers reject the parameter in any case."""
    entry = registry.find(PROVIDER, name)
    return dimensions is not None and (entry is None or dimensions != entry.dimensions)


def _host(base_url: str) -> str:
    """Return the provider's name for messages, without a user name or password of the URL."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "OPENAI_BASE_URL does not begin with http:// or https:// and a host, as in "
            f"{DEFAULT_BASE_URL}."
        )
    return parts.netloc.rpartition("@")[2]


def _checked_key(api_key: SecretStr | str) -> str:
    """Return the key without surrounding white space, which copying may have added."""
    key = (api_key if isinstance(api_key, str) else api_key.get_secret_value()).strip()
    if not key or not all("!" <= character <= "~" for character in key):
        raise ConfigurationError(
            "OPENAI_API_KEY is empty, or holds a space or a character beyond ASCII. Copy it again."
        )
    return key
