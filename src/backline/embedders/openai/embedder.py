"""Embeddings from OpenAI, and from any server that speaks its API: Ollama, vLLM, TEI, LM Studio."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import openai
from pydantic import SecretStr

from backline.embedders.limiter import Limits
from backline.embedders.openai.errors import parse_limits, translate
from backline.embedders.openai.models import (
    DEFAULT_BASE_URL,
    DEFAULT_MODEL,
    OPENAI_MODELS,
    as_model,
    is_openai,
    openai_model,
)
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
# Reading a larger answer takes over about 10 ms, too long to stand in the way of the event loop.
_READ_IN_THREAD_BYTES = 1 << 20
_DIMENSIONS_REFUSED = re.compile("dimensions|matryoshka", re.IGNORECASE)


class OpenAIEmbedder:
    """One attempt a call, over the official SDK with its own retries off.

    Vectors travel as base64, which is a quarter of the size of JSON numbers; lists of numbers are
    understood too. They are put in order by index and scaled to unit length.

    Attributes:
        prompt_tokens: tokens billed so far, as the answers report them.

    Args:
        model: the model's name on its server.
        dimensions: of the vectors. For a model that is not OpenAI's own it must be given here;
            `OpenAIEmbedder.open` asks the server. Sent on only where it may differ from the
            model's own number, and no longer once the server refuses to be told.
        base_url: the API's root, ending in /v1 as a rule.
        api_key: sent to the server, and never shown in an error, a log or a repr.
        timeout: seconds for a whole call.
        max_retries: the SDK's retries; leave them off, because the worker knows what else waits.
        on_limits: called with the rate limits that an answer names.
        counter: counts tokens; by default an estimate.

    Raises:
        ConfigurationError: dimensions that the model cannot give or that are not known; a key
            with characters that no key has; a base URL that is none.
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
        self._model = _require_dimensions(model, openai_model(model, dimensions))
        self._ask_for = dimensions if _must_ask(model, dimensions) else None
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
        """Make an embedder ready for work: see the class for the settings.

        Dimensions that are neither given nor known are learned by embedding one word. Tokens are
        counted exactly where the vocabulary is in tiktoken's cache, or OpenAI itself is used and
        it can be fetched.

        Raises:
            EmbedderError: the server was asked for the dimensions and did not say.
        """
        if model in OPENAI_MODELS:
            counter = await asyncio.to_thread(load_counter, may_download=is_openai(base_url))
            settings = {"counter": counter, **settings}
        elif dimensions is None:
            return await cls._discover(model, base_url=base_url, **settings)
        return cls(model, dimensions, base_url=base_url, **settings)

    @classmethod
    async def _discover(cls, model: str, **settings: Any) -> Self:
        embedder = cls(model, 1, **settings)
        embedder._ask_for = None
        try:
            answer = await embedder._request(["dimensions"], None)
        except BaseException:
            await embedder.aclose()
            raise
        embedder._model = as_model(model, answer.vectors.shape[1])
        return embedder

    @property
    def model(self) -> Model:
        return self._model

    @property
    def free(self) -> bool:
        return False

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """Embed `texts` in one request; `purpose` makes no difference to these models.

        Raises:
            RateLimitedError: 429, or 503 that names a time to wait.
            InputRejectedError: the server rejects a text, or gives it no usable vector.
            ProviderRefusedError: the server refuses this key, this model or these dimensions.
            ProviderUnavailableError: no answer, a server error, or an answer that makes no sense.
        """
        if not texts:
            return np.empty((0, self._model.dimensions), dtype=np.float32)
        asked_for = self._ask_for
        try:
            answer = await self._request(texts, asked_for)
        except InputRejectedError as error:
            if asked_for is None or not _DIMENSIONS_REFUSED.search(str(error)):
                raise
            # The server takes no such parameter, but its own number may well be the same.
            answer = await self._request(texts, None)
            self._ask_for = None
        self._check_dimensions(answer.vectors.shape[1])
        return answer.vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Exact where the vocabulary was at hand when this was opened, else estimated."""
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
            self._tell_limits(raw.headers)
            return await self._read(raw.content, len(texts))
        # Raised out here, so that no traceback shows the SDK's error, whose text may hold the key.
        raise failure

    async def _read(self, body: bytes, texts: int) -> EmbeddingResponse:
        try:
            if len(body) > _READ_IN_THREAD_BYTES:
                answer = await asyncio.to_thread(read_response, body, texts)
            else:
                answer = read_response(body, texts)
        except MalformedResponseError as error:
            raise ProviderUnavailableError(f"{self._provider} {error}") from error
        self.prompt_tokens += answer.prompt_tokens
        return answer

    def _failure(self, error: openai.APIError | TimeoutError) -> EmbedderError:
        if isinstance(error, openai.APIStatusError):
            self._tell_limits(error.response.headers)
        return translate(error, provider=self._provider, model=self._model.name, key=self._key)

    def _tell_limits(self, headers: Mapping[str, str]) -> None:
        limits = parse_limits(headers)
        if limits is not None and self._on_limits is not None:
            self._on_limits(limits)

    def _check_dimensions(self, given: int) -> None:
        if given != self._model.dimensions:
            raise ProviderRefusedError(
                f"{self._provider} gives {given} dimensions for {self._model.name} where "
                f"{self._model.dimensions} were asked for: use openai/{self._model.name}@{given}."
            )


def _require_dimensions(name: str, model: Model | None) -> Model:
    if model is None:
        raise ConfigurationError(
            f"The dimensions of {name} are not known. Name them: openai/{name}@DIMENSIONS."
        )
    return model


def _must_ask(name: str, dimensions: int | None) -> bool:
    """Many servers refuse the parameter even where it changes nothing, so it is sent sparingly."""
    known = OPENAI_MODELS.get(name)
    return dimensions is not None and (known is None or dimensions != known.dimensions)


def _host(base_url: str) -> str:
    """How messages call the provider: never with a user name or password of the URL."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "OPENAI_BASE_URL does not begin with http:// or https:// and a host, as in "
            f"{DEFAULT_BASE_URL}."
        )
    return parts.netloc.rpartition("@")[2]


def _checked_key(api_key: SecretStr | str) -> str:
    """The bare key, without the blank or line end that copying it may have added."""
    key = (api_key if isinstance(api_key, str) else api_key.get_secret_value()).strip()
    if not key or not all("!" <= character <= "~" for character in key):
        raise ConfigurationError(
            "OPENAI_API_KEY is empty, or holds a blank or a character beyond ASCII. Copy it anew."
        )
    return key
