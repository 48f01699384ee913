"""Have rows embedded and stored by a remote service: a Backline server or an Edge Function.

Both take the same request, `{rows: [{id, text}]}`, and respond row by row. The worker claims,
splits and retries as usual, then reads from its own database which rows are stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from backline import errors
from backline.supabase.keys import ApiKey
from backline.types import Collection, Model
from backline.worker.backlog import PendingText
from backline.worker.batch_handler import BatchResult, StoredBatch
from backline.worker.batching import Budget

RemoteTransport: TypeAlias = Literal["api", "edge"]

FUNCTION: Final = "upsert-embeddings"
# The limits of one request to the function. 200 rows of 1,536 dimensions, or 200 KB of text, took
# it 0.2 s of processor time. Supabase allows 2 s.
EDGE_BUDGET: Final = Budget(max_tokens=60_000, max_bytes_over_4=50_000)
EDGE_ROWS: Final = 200
# The function computes gte-small within those 2 s.
EDGE_ROWS_COMPUTED: Final = 10
# The platform ends a request to a function after 150 s without a response.
EDGE_SECONDS: Final = 160.0
API_SECONDS: Final = 120.0
MESSAGE_LENGTH: Final = 500
CHARACTERS_PER_TOKEN: Final = 4
# Supabase's own statuses: a function ran out of processor time or memory; the project is paused.
OUT_OF_RESOURCES: Final = 546
PAUSED: Final = 540


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows are sent, and the headers that authorize the request.

    Attributes:
        about: the URL that describes the collections of the service.
        timeout: seconds.
    """

    transport: RemoteTransport
    url: str
    headers: Mapping[str, str]
    about: str
    timeout: float

    @property
    def where(self) -> str:
        """The name of the target in messages."""
        name = "Edge Function" if self.transport == "edge" else "Backline server"
        return f"{name} at {urlsplit(self.url).netloc}"


def api_target(url: str, key: SecretStr | None) -> Target:
    """Return the target of a Backline server."""
    headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
    return Target("api", f"{url}/api/{FUNCTION}", headers, f"{url}/api/status", API_SECONDS)


def edge_target(project_url: str, key: ApiKey | None, secret: SecretStr | None) -> Target:
    """Return the target of an Edge Function, called with a key of its project or its own secret."""
    url = f"{project_url}/functions/v1/{FUNCTION}"
    headers = {}
    if key is not None:
        headers["apikey"] = key.text
        if key.is_jwt:  # the platform checks this header if verify_jwt is left on
            headers["Authorization"] = f"Bearer {key.text}"
    if secret is not None:
        headers["X-API-Key"] = secret.get_secret_value()
    return Target("edge", url, headers, url, EDGE_SECONDS)


class Remote:
    """A client of a remote service for one collection. Makes one attempt a call."""

    def __init__(self, target: Target, collection: Collection) -> None:
        self.target = target
        self.collection = collection
        self._http = httpx.AsyncClient(
            headers={"Accept": "application/json", **target.headers},
            timeout=httpx.Timeout(target.timeout, connect=10),
            follow_redirects=False,  # rows and keys go to the configured address only
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def check(self) -> None:
        """Check that the remote service embeds this collection with the same model.

        Raises:
            ConfigurationError, EmbedderError: it does not, or refuses access, or is not running.
        """
        about = await self._exchange(
            self._http.build_request(
                "GET", self.target.about, params={"collection": self.collection.name}
            )
        )
        if not about.get("auth", {}).get("authorized", True):
            raise errors.ProviderRefusedError(
                f"The {self.target.where} refuses the key for writes. {_remedy(401, self.target)}"
            )
        fields = self._model_in(about)
        model = Model(fields["provider"], fields["name"], fields["revision"], fields["dimensions"])
        if model.identity != self.collection.model.identity:
            raise errors.ModelMismatchError(
                f"The {self.target.where} embeds {self.collection.name!r} with {model} revision "
                f"{model.revision}; here it is {self.collection.model} revision "
                f"{self.collection.model.revision}. Both must see the same database."
            )

    async def upsert(self, rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Have rows, as (key, text), embedded and stored. Returns the response.

        Raises:
            EmbedderError: for the whole request; see `embedders.base` for its four kinds.
        """
        return await self._exchange(
            self._http.build_request(
                "POST",
                self.target.url,
                json={
                    "rows": [{"id": key, "text": text} for key, text in rows],
                    "collection": self.collection.name,
                },
            ),
            rows=len(rows),
        )

    def _model_in(self, about: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the collection's model as the remote service describes it."""
        edge = self.target.transport == "edge"
        collections = [about] if edge else about.get("collections", [])
        name = "collection" if edge else "name"
        for each in collections:
            if each.get(name) == self.collection.name:
                model: Mapping[str, Any] = each["model"]
                return model
        names = ", ".join(str(each.get(name)) for each in collections) or "none"
        raise errors.CollectionNotFoundError(
            f"The {self.target.where} has no collection {self.collection.name!r}; it has: "
            f"{names}. It works on another database."
        )

    async def _exchange(self, request: httpx.Request, rows: int = 0) -> dict[str, Any]:
        try:
            # The limit of httpx applies to each read, so that a response that trickles in has none.
            async with asyncio.timeout(self.target.timeout):
                response = await self._http.send(request)
        except (httpx.HTTPError, TimeoutError) as error:
            raise errors.ProviderUnavailableError(
                f"The {self.target.where} does not answer: {error or type(error).__name__}."
            ) from error
        body = _body(response)
        if response.is_success and body is not None:
            return body
        raise translate(response, body or {}, self.target, rows)


class RemoteBatches:
    """Sends batches to a remote service, which embeds and stores them.

    Texts are sent whole, because the hash that guards a row is that of its whole text. The
    service counts tokens and cuts long texts.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    @property
    def model(self) -> Model:
        """The model of the collection. `Remote.check` compares it with that of the service."""
        return self._remote.collection.model

    @property
    def free(self) -> bool:
        """False: the remote service may pay for vectors."""
        return False

    def prepare(self, texts: Sequence[PendingText], _collection: Collection) -> None:
        """Estimate tokens, which is enough to cut batches."""
        for each in texts:
            each.tokens = len(each.text) // CHARACTERS_PER_TOKEN + 1

    async def handle(self, batch: Sequence[PendingText]) -> BatchResult:
        """Send every row of a batch."""
        sent = [(text, job) for text in batch for job in text.jobs]
        response = await self._remote.upsert([(job.key, text.text) for text, job in sent])
        return StoredBatch(
            self._remote.target.where,
            sent,
            {str(each["id"]): each["reason"] for each in response["skipped"]},
            {str(each["id"]): each["error"] for each in response["failed"]},
        )


def _body(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def translate(
    response: httpx.Response, body: Mapping[str, Any], target: Target, rows: int
) -> errors.BacklineError:
    """Return the error for a response that is not a success. `rows` is how many were sent."""
    status = response.status_code
    reason = str(body.get("detail") or body.get("message") or response.reason_phrase)
    reason = reason[:MESSAGE_LENGTH]
    message = f"The {target.where} responds: {reason.rstrip('.')} ({status})."
    kind = str(body.get("type", "")).rpartition(":")[2]
    if response.has_redirect_location:
        return errors.ProviderRefusedError(_redirected(response, target))
    if status == 429:
        return errors.RateLimitedError(message, retry_after=_retry_after(response))
    if status in (413, OUT_OF_RESOURCES) and rows > 1:
        return errors.InputRejectedError(message)  # a smaller request may pass
    if status == 413 or kind == "InputRejectedError":
        return errors.InputRejectedError(reason)
    if status >= 500 and status != PAUSED and kind != "ProviderRefusedError":
        return errors.ProviderUnavailableError(message, status=status)
    return errors.ProviderRefusedError(f"{message} {_remedy(status, target)}".strip())


def _redirected(response: httpx.Response, target: Target) -> str:
    """Return the message for a redirect, which is not followed."""
    address = response.request.url.join(response.headers["location"]).copy_with(
        username=None, password=None, query=None, fragment=None
    )
    setting = "BACKLINE_SUPABASE_URL" if target.transport == "edge" else "BACKLINE_API_URL"
    return (
        f"The {target.where} redirects ({response.status_code}) to {str(address)[:MESSAGE_LENGTH]}."
        f" Rows are not sent there. If that address is right, set {setting} to it."
    )


def _remedy(status: int, target: Target) -> str:
    edge = target.transport == "edge"
    if status in (200, 404):
        return (
            f"Is the function deployed? Run: supabase functions deploy {FUNCTION}."
            if edge
            else "Is it a Backline server? Set BACKLINE_API_URL to its address, without a path."
        )
    if status in (401, 403):
        return (
            "Set SUPABASE_SECRET_KEY or FUNCTION_SECRET to the value that the function has, and "
            "verify_jwt = false for it in supabase/config.toml."
            if edge
            else "Set BACKLINE_API_KEY to the server's key."
        )
    return ""


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
