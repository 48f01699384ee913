"""The embedder of every provider that is called over HTTP without an SDK."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
import numpy as np

from backline.embedders import registry
from backline.embedders.failures import Response, refusal, silent, unreachable
from backline.embedders.headers import parse_limits
from backline.embedders.http.wires import WIRES, Call, address, members
from backline.embedders.limiter import Limits
from backline.embedders.openai.response import EmbeddingResponse, MalformedResponseError
from backline.embedders.openai.tokens import EstimatingCounter, TokenCounter, well_formed
from backline.embedders.registry import ProviderEntry
from backline.errors import (
    ConfigurationError,
    EmbedderError,
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from backline.types import Model, Purpose, Vectors

# Parsing a larger response takes over about 10 ms, which is too long to block the event loop.
_PARSE_IN_THREAD_BYTES: Final = 1 << 20
_DIMENSIONS_REJECTED: Final = re.compile("dimension|matryoshka", re.IGNORECASE)


class HttpEmbedder:
    """Makes one attempt a call, in the wire format of its provider.

    Texts of a call that exceed the provider's limit of inputs go into several requests.

    Attributes:
        prompt_tokens: tokens billed so far, as reported in the responses.

    Args:
        model: the identity of the model; see `HttpEmbedder.open` for one without dimensions.
        base_url: the address of the server; the default is the provider's own.
        api_key: sent to the server, and never shown in an error, a log or a repr.
        timeout: seconds for a whole request.
        on_limits: called with the rate limits in a response.
        counter: counts tokens; the default is an estimate.

    Raises:
        ConfigurationError: the address or the key is missing or invalid.
    """

    def __init__(
        self,
        model: Model,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        on_limits: Callable[[Limits], None] | None = None,
        counter: TokenCounter | None = None,
    ) -> None:
        self._entry = registry.providers()[model.provider]
        self._model = model
        self._known = registry.find(model.provider, model.name)
        self._prompts = registry.prompts(model.provider, model.name)
        self._requested = self._requested_dimensions()
        self._key = _checked_key(api_key, self._entry, base_url)
        self._url = address(self._entry, _checked_url(base_url, self._entry), model.name)
        self._where = urlsplit(self._url).netloc.rpartition("@")[2]
        self._timeout = timeout
        self._on_limits = on_limits
        self._counter = counter or EstimatingCounter()
        self._client = httpx.AsyncClient(
            headers={"Content-Type": "application/json", **self._authorization()},
            timeout=timeout,
            # The limiter bounds the calls in flight, so that none waits for a connection.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            follow_redirects=False,  # texts and the key go to the configured address only
        )
        self.prompt_tokens = 0

    @classmethod
    async def open(
        cls, provider: str, name: str, dimensions: int | None = None, **settings: Any
    ) -> Self:
        """Create an embedder; see the class for the settings.

        Unknown dimensions are determined by embedding one word.

        Raises:
            EmbedderError: the server did not return the dimensions.
        """
        model = registry.describe(provider, name, dimensions)
        embedder = cls(model or registry.identity(provider, name, 1), **settings)
        if model is None:
            await embedder._discover()
        return embedder

    async def _discover(self) -> None:
        self._requested = None
        try:
            response = await self._request(["dimensions"], None, "passage")
        except BaseException:
            await self.aclose()
            raise
        returned = response.vectors.shape[1]
        self._model = registry.identity(self._model.provider, self._model.name, returned)

    @property
    def model(self) -> Model:
        return self._model

    @property
    def free(self) -> bool:
        return False

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """Embed `texts` as passages or as queries.

        Raises:
            RateLimitedError: status 429, or 503 with a time to wait.
            InputRejectedError: the server rejects a text, or returns no usable vector for it.
            ProviderRefusedError: the server refuses the key, the model or the dimensions.
            ProviderUnavailableError: no response, a server error, or a malformed response.
        """
        if not texts:
            return np.empty((0, self._model.dimensions), dtype=np.float32)
        most = self._entry.max_inputs or len(texts)
        parts = [texts[start : start + most] for start in range(0, len(texts), most)]
        vectors = [await self._embed_part(part, purpose) for part in parts]
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Estimate on the high side, unless a counter of the model was given."""
        return [max(1, self._counter.count(text)) for text in texts]

    def truncate(self, text: str) -> str:
        return self._counter.truncate(text, self._model.max_tokens)

    async def aclose(self) -> None:
        await self._client.aclose()

    def __repr__(self) -> str:
        return f"HttpEmbedder({self._model} at {self._where})"

    async def _embed_part(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        requested = self._requested
        try:
            response = await self._request(texts, requested, purpose)
        except InputRejectedError as error:
            if requested is None or not _DIMENSIONS_REJECTED.search(str(error)):
                raise
            # The server rejects the parameter, but its default may be the requested number.
            response = await self._request(texts, None, purpose)
            self._requested = None
        self._check_dimensions(response.vectors.shape[1])
        return response.vectors

    async def _request(
        self, texts: Sequence[str], dimensions: int | None, purpose: Purpose
    ) -> EmbeddingResponse:
        sent = [well_formed(text) for text in texts]
        call = Call(self._entry, self._model.name, sent, dimensions, self._prompts.type(purpose))
        body = json.dumps(members(call), ensure_ascii=False).encode()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.post(self._url, content=body)
        except (httpx.TimeoutException, TimeoutError):
            raise silent(self._where) from None
        except httpx.HTTPError as error:
            raise unreachable(error, self._where) from None
        self._report_limits(response)
        if not response.is_success:
            raise self._refusal(response)
        return await self._parse(response.content, len(texts))

    async def _parse(self, body: bytes, texts: int) -> EmbeddingResponse:
        read = WIRES[self._entry.wire].read
        try:
            if len(body) > _PARSE_IN_THREAD_BYTES:
                response = await asyncio.to_thread(read, body, texts)
            else:
                response = read(body, texts)
        except MalformedResponseError as error:
            raise ProviderUnavailableError(f"{self._where} {error}") from error
        self.prompt_tokens += response.prompt_tokens
        return response

    def _refusal(self, received: httpx.Response) -> EmbedderError:
        response = Response(
            received.status_code,
            received.reason_phrase,
            received.headers,
            received.content,
            self._url,
        )
        return refusal(
            response, self._entry, where=self._where, model=self._model.name, key=self._key
        )

    def _report_limits(self, response: httpx.Response) -> None:
        limits = parse_limits(response.headers, self._entry.limits)
        if limits is not None and self._on_limits is not None:
            self._on_limits(limits)

    def _requested_dimensions(self) -> int | None:
        """Return the dimensions to send. Many servers reject the parameter in any case."""
        published = self._known.dimensions if self._known else None
        return None if self._model.dimensions == published else self._model.dimensions

    def _check_dimensions(self, returned: int) -> None:
        model = self._model
        if returned != model.dimensions:
            raise ProviderRefusedError(
                f"{self._where} returned {returned} dimensions for {model.name} instead of "
                f"{model.dimensions}: use {model.provider}/{model.name}@{returned}."
            )

    def _authorization(self) -> dict[str, str]:
        if not self._key:
            return {}
        if self._entry.key_header is None:
            return {"Authorization": f"Bearer {self._key}"}
        return {self._entry.key_header: self._key}


def _checked_url(base_url: str | None, provider: ProviderEntry) -> str:
    url = base_url or provider.base_url
    if url is None:
        raise ConfigurationError(
            f"{provider.title} has no address of its own: set {provider.addresses[0]}."
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"{provider.addresses[0]} does not begin with http:// or https:// and a host."
        )
    return url


def _checked_key(api_key: str | None, provider: ProviderEntry, base_url: str | None) -> str:
    """Return the key without surrounding white space, which copying may have added."""
    key = (api_key or "").strip()
    if not key:
        if provider.needs_key(base_url):
            raise ConfigurationError(
                f"{provider.title} needs a key: set {provider.keys[0]}. Local models are free and "
                f"need none, and {provider.addresses[0]} selects another server."
            )
        return ""
    if not all("!" <= character <= "~" for character in key):
        raise ConfigurationError(
            f"{provider.keys[0]} holds a space or a character beyond ASCII. Copy it again."
        )
    return key
