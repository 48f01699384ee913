"""Rows that somebody else embeds and stores: a Backline server, or the Edge Function of a project.

Both take the same request, `{rows: [{id, text}]}`, and answer row by row. The worker is the one
that also embeds by itself: it claims, splits, waits and buries in the same way. In place of a
matrix it gets an answer, and then it asks the database what is stored, because only that counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from pydantic import SecretStr

from backline import errors, pgvector
from backline.store import NewVector
from backline.supabase.keys import ApiKey
from backline.types import Collection, FailedAttempt, Job, Model, Purpose, Vectors
from backline.worker.backlog import PendingText
from backline.worker.batching import Budget
from backline.worker.worker import ERROR_LENGTH, Worker
from backline.worker.writer import Write

Way: TypeAlias = Literal["api", "edge"]

FUNCTION: Final = "upsert-embeddings"
# What one request to the function holds: 200 rows, or 200 KB of text, took it 0.2 s of processor
# time with 1,536 dimensions, where Supabase gives it two.
EDGE_BUDGET: Final = Budget(max_tokens=60_000, max_bytes_over_4=50_000)
EDGE_ROWS: Final = 200
# gte-small is computed in the function's own two seconds.
EDGE_ROWS_COMPUTED: Final = 10
# The platform ends a function's request after 150 s without an answer.
EDGE_SECONDS: Final = 160.0
API_SECONDS: Final = 120.0
SAID: Final = 500
# Not a status of HTTP's: Supabase's, for a function that ran out of processor time or memory.
OUT_OF_RESOURCES: Final = 546
PAUSED: Final = 540


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go, and what is sent with them to be let in."""

    way: Way
    url: str
    headers: Mapping[str, str]
    about: str
    timeout: float

    @property
    def where(self) -> str:
        name = "Edge Function" if self.way == "edge" else "Backline server"
        return f"{name} at {urlsplit(self.url).netloc}"


def api_target(url: str, key: SecretStr | None) -> Target:
    """A Backline server."""
    headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
    return Target("api", f"{url}/api/{FUNCTION}", headers, f"{url}/api/status", API_SECONDS)


def edge_target(project_url: str, key: ApiKey | None, secret: SecretStr | None) -> Target:
    """The Edge Function of a project; its caller shows a secret key of it, or its own secret."""
    url = f"{project_url}/functions/v1/{FUNCTION}"
    headers = {}
    if key is not None:
        headers["apikey"] = key.text
        if key.is_jwt:  # what the platform itself checks where verify_jwt is left on
            headers["Authorization"] = f"Bearer {key.text}"
    if secret is not None:
        headers["X-API-Key"] = secret.get_secret_value()
    return Target("edge", url, headers, url, EDGE_SECONDS)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the rows of a request, by key; a row in neither mapping is stored."""

    sent: list[tuple[PendingText, Job]]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]


class Remote:
    """An embedder that stores as well; one attempt a call, like every embedder.

    It counts no tokens and cuts no text: the other side does, and the hash that guards a row is of
    its whole text.
    """

    def __init__(self, target: Target, collection: Collection) -> None:
        self.target = target
        self._collection = collection
        self._http = httpx.AsyncClient(
            headers={"Accept": "application/json", **target.headers},
            timeout=httpx.Timeout(target.timeout, connect=10),
        )

    @property
    def model(self) -> Model:
        return replace(self._collection.model, max_tokens=1 << 40)

    @property
    def free(self) -> bool:
        return False

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """A quarter of the characters, which is about right and enough to cut batches by."""
        return [len(text) // 4 + 1 for text in texts]

    def truncate(self, text: str) -> str:
        return text

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        """Refused: only rows of the collection's table go to the other side."""
        raise errors.UsageError(
            f"The {self.target.where} embeds rows of a table, not single texts."
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def check(self) -> None:
        """Ask the other side whether it embeds this collection, and with the same model.

        Raises:
            ConfigurationError, EmbedderError: it does not, or does not let us in, or is not there.

        """
        found = await self._exchange(
            self._http.build_request(
                "GET", self.target.about, params={"collection": self._collection.name}
            )
        )
        model = self._model_in(found)
        given = Model(model["provider"], model["name"], model["revision"], model["dimensions"])
        if given.identity != self._collection.model.identity:
            raise errors.ModelMismatchError(
                f"The {self.target.where} embeds {self._collection.name!r} with {given} revision "
                f"{given.revision}; here it is {self._collection.model} revision "
                f"{self._collection.model.revision}. Both must see the same database."
            )

    def _model_in(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """The collection's model in what the other side says of itself."""
        known = [found] if self.target.way == "edge" else found.get("collections", [])
        name = "collection" if self.target.way == "edge" else "name"
        for each in known:
            if each.get(name) == self._collection.name:
                model: Mapping[str, Any] = each["model"]
                return model
        names = ", ".join(str(each.get(name)) for each in known) or "none"
        raise errors.CollectionNotFoundError(
            f"The {self.target.where} has no collection {self._collection.name!r}; it has: "
            f"{names}. It works on another database."
        )

    async def send(self, sent: list[tuple[PendingText, Job]]) -> Answer:
        """Have rows embedded and stored.

        Raises:
            EmbedderError: one of the four, for the whole request.

        """
        rows = [{"id": job.key, "text": unit.text} for unit, job in sent]
        answer = await self._exchange(
            self._http.build_request(
                "POST", self.target.url, json={"rows": rows, "collection": self._collection.name}
            ),
            rows=len(rows),
        )
        return Answer(
            sent,
            {str(each["id"]): each["reason"] for each in answer["skipped"]},
            {str(each["id"]): each["error"] for each in answer["failed"]},
        )

    async def _exchange(self, request: httpx.Request, rows: int = 0) -> dict[str, Any]:
        try:
            response = await self._http.send(request)
        except httpx.HTTPError as error:
            raise errors.ProviderUnavailableError(
                f"The {self.target.where} does not answer: {error or type(error).__name__}."
            ) from error
        body = _body(response)
        if response.is_success and body is not None:
            return body
        raise translate(response, body or {}, self.target, rows)


def _body(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def translate(
    response: httpx.Response, body: Mapping[str, Any], target: Target, rows: int
) -> errors.BacklineError:
    """The error for an answer that is no success; `rows` is how many were sent."""
    status = response.status_code
    said = str(body.get("detail") or body.get("message") or response.reason_phrase)[:SAID]
    says = f"The {target.where} says: {said.rstrip('.')} ({status})."
    kind = str(body.get("type", "")).rpartition(":")[2]
    if status == 429:
        return errors.RateLimitedError(says, retry_after=_retry_after(response))
    if status in (413, OUT_OF_RESOURCES) and rows > 1:
        return errors.InputRejectedError(says)  # fewer at once may pass
    if status == 413 or kind == "InputRejectedError":
        return errors.InputRejectedError(said)
    if status >= 500 and status != PAUSED and kind != "ProviderRefusedError":
        return errors.ProviderUnavailableError(says, status=status)
    return errors.ProviderRefusedError(f"{says} {_remedy(status, target)}".strip())


def _remedy(status: int, target: Target) -> str:
    edge = target.way == "edge"
    if status in (200, 404):
        return (
            f"Is the function deployed? Run: supabase functions deploy {FUNCTION}."
            if edge
            else "Is it a Backline server? Set BACKLINE_API_URL to its address, without a path."
        )
    if status in (401, 403):
        return (
            "Set SUPABASE_SECRET_KEY or FUNCTION_SECRET to what the function knows, and "
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


class RemoteWorker(Worker):
    """A worker whose embedder, a `Remote`, stores too."""

    async def _ask(self, units: list[PendingText]) -> Answer:
        assert isinstance(self._embedder, Remote)  # noqa: S101
        return await self._embedder.send([(unit, job) for unit in units for job in unit.jobs])

    async def _accepted(self, units: list[PendingText], answer: Answer) -> None:
        """End what is stored; send a text that failed among others again, by itself.

        By itself its failure has a status, which says whose fault it is. What was stored of it is
        known to the other side and costs nothing.
        """
        self.stats.requests += 1
        failed = [unit for unit in units if any(job.key in answer.failed for job in unit.jobs)]
        if len(units) == 1:
            await self._confirm([e for e in answer.sent if e[1].key not in answer.failed], answer)
            await self._bury([e for e in answer.sent if e[1].key in answer.failed], answer)
            return
        await self._confirm([e for e in answer.sent if e[0] not in failed], answer)
        for unit in failed:
            await self._deliver([unit])

    async def _confirm(self, rows: Sequence[tuple[PendingText, Job]], answer: Answer) -> None:
        """Ask the database which rows are stored, and end their jobs.

        Raises:
            ProviderRefusedError: the other side says that it stored a row, and it is not there.

        """
        if not rows:
            return
        new = [
            NewVector(job.key, "up_to_date", job.content_hash, lease=job.lease) for _, job in rows
        ]
        left = dict(await self._patiently(self._confirmation(new)))
        for key, outcome in left.items():
            if outcome == "unstored" and key not in answer.skipped:
                raise self._not_stored(key)
        writes = [Write(row, unit) for row, (unit, _) in zip(new, rows, strict=True)]
        late = self._late({id(unit): unit for unit, _ in rows}.values(), answer)
        self._settled([write for write in writes if left.get(write.row.key) != "busy"])
        await self._writer.put(
            [write for write in writes if left.get(write.row.key) == "busy"] + late
        )

    def _confirmation(
        self, rows: Sequence[NewVector]
    ) -> Callable[[], Awaitable[list[tuple[str, str]]]]:
        """One confirmation, which counts once however often it is asked for."""
        return partial(
            self._store.confirm, self._collection, self._lease.worker, self._run, rows, uuid4()
        )

    def _late(self, units: Iterable[PendingText], answer: Answer) -> list[Write]:
        """Rows that joined a text after it was sent; they and later ones take it from the cache."""
        sent = {job.key for _, job in answer.sent}
        writes = []
        for unit in units:
            if unit.element is not None:
                continue
            unit.element = pgvector.NULL
            writes += [
                Write(NewVector(job.key, "reuse", job.content_hash, lease=job.lease), unit)
                for job in unit.jobs
                if job.key not in sent
            ]
        return writes

    def _not_stored(self, key: str) -> errors.ProviderRefusedError:
        assert isinstance(self._embedder, Remote)  # noqa: S101
        return errors.ProviderRefusedError(
            f"The {self._embedder.target.where} says that it stored row {key}, and this database "
            "has no vector of its text: the other side works on another database. Give both the "
            "same one."
        )

    async def _bury(self, failed: Sequence[tuple[PendingText, Job]], answer: Answer) -> None:
        """Rows that the other side was sent alone, and that its database would not store."""
        writes = self._late({id(unit): unit for unit, _ in failed}.values(), answer)
        for unit, job in failed:
            error = answer.failed[job.key][:ERROR_LENGTH]
            attempt = FailedAttempt(
                job.key, unit.content_hash, "refused", error, None, lease=job.lease
            )
            writes.append(Write(NewVector(job.key, job.action, unit.content_hash), unit, attempt))
        await self._writer.put(writes)
