"""The store's verbs over PostgREST, for a Supabase project of which only URL and key are known.

Each verb is one call of a function in `public`, which is a thin wrapper over the function that
`Store` calls: the rules are the same, because they are the same SQL. A worker has no session here,
so its leases live by the clock, renewed by heartbeat.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np

from backline import errors, pgvector
from backline.collections import choose, collection_of
from backline.store import (
    NO_USAGE,
    KeywordsPage,
    Lease,
    LeasedBatch,
    NewVector,
    ScannedRow,
    Usage,
    VerifiedPage,
    failed_row,
)
from backline.supabase.client import Project, open_project
from backline.supabase.keys import ApiKey
from backline.types import Collection, Coverage, FailedAttempt, Failure, Job, Outcome, RunRecord

# Numbers in the vectors of one request: 2 MB of text. More rows would hold their locks for longer.
MOST_NUMBERS: Final = 200_000
# A statement that runs into the role's limit is tried with half the rows, down to this many.
SMALLEST_PAGE: Final = 10
KEYWORDS_PAGE: Final = 1000
HEADER: Final = 8  # bytes of a vector's element before its first number: length, dimensions, unused


class RestStore:
    """The domain over one Supabase project."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._known: dict[int, int] = {}
        self._asked: dict[int, str | None] = {}

    @property
    def has_sessions(self) -> bool:
        return False

    # --- what is there ---

    async def check(self) -> None:
        """Find what stands in the way of work before anything is spent.

        Raises:
            NotMigratedError: the project has no Backline schema, or another version's.
            ExtensionMissingError: pgvector is not enabled.
            ProjectKeyError, ProjectPausedError, DatabaseUnavailableError: the project does not
                let us in, or does not answer.

        """
        health = await self.project.call("health")
        if not isinstance(health, dict):
            raise errors.ConfigurationError(
                f"What answers at {self.project.where} is no Supabase project. Set SUPABASE_URL to "
                "https://PROJECT.supabase.co, without a path."
            )
        if health["vector"] is None:
            raise errors.ExtensionMissingError(
                "The project has no pgvector. Enable the extension `vector` in the dashboard "
                "(Database, Extensions), then run: backline migrate --database-url …"
            )

    async def collections(self) -> list[Collection]:
        """The declared collections; for a publishable key, those whose table it may read."""
        return [collection_of(row) for row in await self.project.call("collections")]

    async def collection(self, name: str | None = None) -> Collection:
        return choose(await self.collections(), name)

    async def coverage(self, collection: Collection) -> Coverage:
        return Coverage(**await self.project.call("coverage", collection=collection.id))

    async def recount(self, collection: int) -> dict[str, int]:
        corrected: dict[str, int] = await self.project.call("recount", collection=collection)
        return corrected

    async def compact(self, collection: Collection) -> None:
        await self.project.call("compact", collection=collection.id)

    async def trim_cache(self, most_bytes: int) -> int:
        return int(await self.project.call("trim_vectors", bytes=most_bytes))

    async def verify_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> VerifiedPage:
        """As of `Store`; a page that takes longer than the role may is read in halves."""
        try:
            return await self._verify_page(collection, after, limit)
        except errors.StatementTimeoutError:
            if limit <= SMALLEST_PAGE:
                raise
        half = limit // 2
        left = await self.verify_page(collection, after, half)
        if left.scanned < half:
            return left
        return _joined(left, await self.verify_page(collection, left.last_key, limit - half))

    async def _verify_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> VerifiedPage:
        row = await self.project.call(
            "verify_page", collection=collection.id, after=after, limit=limit
        )
        found = [(item["key"], item["problem"]) for item in row["problems"]]
        return VerifiedPage(row["scanned"], row["embedded"], row["blank"], found, row["last_key"])

    async def now(self) -> datetime:
        return datetime.fromisoformat(await self.project.call("now"))

    async def search_rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        condition = values["filter"] and json.loads(values["filter"])
        rows: list[dict[str, Any]] = await self.project.call(
            "search", **{**values, "filter": condition}
        )
        return rows

    async def needs_keywords(self, collection: Collection) -> bool:
        """See `Store`. False for a publishable key: it may not index, and searches report why."""
        if self.project.key.access != "write":
            return False
        return not await self.project.call("keywords_built", collection=collection.id)

    async def build_keywords_page(
        self, collection: Collection, after: str | None, *, wait: bool
    ) -> KeywordsPage:
        page = await self.project.call(
            "build_keywords_page", collection=collection.id, after=after, limit=KEYWORDS_PAGE,
            wait=wait,
        )  # fmt: skip
        return KeywordsPage(page["scanned"], page["last_key"], page["scanned"] < KEYWORDS_PAGE)

    async def finish_keywords(self, collection: Collection) -> bool:
        return bool(await self.project.call("finish_keywords", collection=collection.id))

    async def scan_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> list[ScannedRow]:
        rows = await self.project.call(
            "scan_page", collection=collection.id, after=after, limit=limit
        )
        return [
            ScannedRow(key, due, content, bytes.fromhex(content_hash), cached)
            for key, due, content, content_hash, cached in rows
        ]

    # --- jobs ---

    async def claim(self, collection: Collection, worker: int, limit: int) -> list[Job]:
        """As of `Store`; fewer jobs where reading so many texts takes longer than allowed."""
        while True:
            try:
                return await self._claim(collection, worker, limit)
            except errors.StatementTimeoutError:
                if limit <= SMALLEST_PAGE:
                    raise
                limit //= 2

    async def _claim(self, collection: Collection, worker: int, limit: int) -> list[Job]:
        rows = await self.project.call(
            "claim", collection=collection.id, worker=worker, limit=limit,
            model=collection.model_id, known_lease=self._known.get(worker, 0),
        )  # fmt: skip
        jobs = [
            Job(key, action, content, _bytes(content_hash), attempts, lease)
            for key, action, content, content_hash, attempts, lease in rows
        ]
        if jobs:
            self._known[worker] = jobs[0].lease or 0
        return jobs

    async def claim_batch(
        self, collection: Collection, worker: int, run: int | None, after: str | None, limit: int,
        known: Iterable[int] = (),
    ) -> LeasedBatch:  # fmt: skip
        again = worker in self._asked and self._asked[worker] == after
        self._asked[worker] = after
        page = await self.project.call(
            "claim_batch", repeated="again", collection=collection.id, worker=worker, run=run,
            after=after, limit=limit, model=collection.model_id, known=list(known), again=again,
        )  # fmt: skip
        del self._asked[worker]
        return LeasedBatch(page["scanned"], page["last_key"], list(_jobs(page)))

    async def end_finished_batches(self, worker: int, known: Iterable[int]) -> None:
        await self.project.call("end_finished_batches", worker=worker, leases=list(known))

    async def complete(
        self,
        collection: Collection,
        worker: int,
        run: int | None,
        rows: Sequence[NewVector],
        *,
        cache: bool,
        usage: Usage = NO_USAGE,
    ) -> list[tuple[str, Outcome]]:
        left: list[tuple[str, Outcome]] = []
        for chunk in _chunks(rows, collection.model.dimensions):
            answer = await self.project.call(
                "complete", call=str(uuid4()), collection=collection.id, worker=worker, run=run,
                cache=cache, model=collection.model_id, **_columns(chunk),
                batches=usage.batches, tokens=usage.tokens, truncated=usage.truncated,
            )  # fmt: skip
            usage = NO_USAGE
            left += [(key, outcome) for key, outcome in answer]
        return left

    async def confirm(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[NewVector],
        call: UUID, batches: int = 1,
    ) -> list[tuple[str, str]]:  # fmt: skip
        left = await self.project.call(
            "confirm", call=str(call), collection=collection.id, worker=worker, run=run,
            keys=[row.key for row in rows], hashes=[_hex(row.content_hash) for row in rows],
            leases=[row.lease for row in rows], batches=batches, model=collection.model_id,
        )  # fmt: skip
        return [(key, outcome) for key, outcome in left]

    async def fail(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[FailedAttempt]
    ) -> list[str]:
        busy: list[str] = await self.project.call(
            "fail", call=str(uuid4()), collection=collection.id, worker=worker, run=run,
            rows=[failed_row(row) for row in rows],
        )  # fmt: skip
        return busy

    async def release(self, worker: int, keys: Sequence[str] | None = None) -> int:
        wanted = None if keys is None else list(keys)
        return int(await self.project.call("release", worker=worker, keys=wanted))

    async def outstanding(
        self, collection: Collection, before: datetime
    ) -> tuple[bool, float | None]:
        row = await self.project.call(
            "outstanding", collection=collection.id, before=before.isoformat()
        )
        return row["remain"], row["due_in"]

    # --- workers ---

    async def register(
        self, collection: Collection, run: int | None, lease: float, replaces: int | None = None
    ) -> Lease:
        worker: int = await self.project.call(
            "register_worker", call=str(uuid4()), collection=collection.id,
            host=socket.gethostname(), pid=os.getpid(), lease=lease, run=run, replaces=replaces,
        )  # fmt: skip
        if replaces is not None:  # it has inherited what the other one knew of
            self._known[worker] = self._known.pop(replaces, 0)
        return Lease(worker, None)

    async def heartbeat(
        self, lease: Lease, run: int | None, seconds: float, rate: float
    ) -> tuple[bool, str | None]:
        row = await self.project.call(
            "heartbeat", worker=lease.worker, run=run, lease=seconds, rate=rate
        )
        return row["alive"], row["run_state"]

    async def unregister(self, lease: Lease) -> None:
        await self.project.call("unregister_worker", worker=lease.worker)

    async def close_session(self, lease: Lease) -> None:
        """Nothing to close: there is no session."""

    async def release_dead_workers(self, collection: Collection, worker: int | None = None) -> int:
        """As of `Store`; nobody has a session here that could be lost."""
        return int(await self.project.call("release_dead_workers", collection=collection.id))

    # --- runs ---

    async def start_run(self, collection: Collection, settings: Mapping[str, Any]) -> int:
        return int(
            await self.project.call(
                "start_run", call=str(uuid4()), collection=collection.id, settings=dict(settings)
            )
        )

    async def finish_run(self, run: int, state: str, report: Mapping[str, Any]) -> None:
        await self.project.call("finish_run", run=run, state=state, report=dict(report))

    async def cancel_run(self, run: int) -> bool:
        return await self.project.call("cancel_run", run=run) is not None

    async def runs(
        self, collection: Collection | None = None, run: int | None = None, limit: int = 20
    ) -> list[RunRecord]:
        rows = await self.project.call(
            "runs", collection=collection.id if collection else None, run=run, limit=limit
        )
        return [RunRecord(**_with_moments(row, "started_at", "finished_at")) for row in rows]

    # --- dead letters ---

    async def failures(self, collection: Collection, page: int = 1000) -> AsyncIterator[Failure]:
        """Every dead letter, by key, read in keyset pages."""
        after = ""
        while True:
            rows = await self.project.call(
                "failures", collection=collection.id, after=after, limit=page
            )
            for row in rows:
                yield Failure(**_with_moments(row, "failed_at"))
            if len(rows) < page:
                return
            after = rows[-1]["key"]

    async def run_failures(self, run: int, limit: int = 20) -> list[tuple[str, str, str]]:
        rows = await self.project.call("run_failures", run=run, limit=limit)
        return [(key, kind, error) for key, kind, error in rows]

    async def retry_failures(self, collection: Collection, keys: Sequence[str] | None) -> int:
        return await self._on_failures("retry_failures", collection, keys)

    async def drop_failures(self, collection: Collection, keys: Sequence[str] | None) -> int:
        return await self._on_failures("drop_failures", collection, keys)

    async def _on_failures(
        self, verb: str, collection: Collection, keys: Sequence[str] | None
    ) -> int:
        wanted = None if keys is None else list(keys)
        return int(await self.project.call(verb, collection=collection.id, keys=wanted))


# --- values, as JSON has them ---------------------------------------------------------------------


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _hex(value: bytes | None) -> str | None:
    """Bytes as Postgres reads a bytea."""
    return None if value is None else rf"\x{value.hex()}"


def _with_moments(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    moments = {name: row[name] and datetime.fromisoformat(row[name]) for name in names}
    return {**row, **moments}


def _jobs(page: Mapping[str, Any]) -> Iterator[Job]:
    columns = (page[name] or [] for name in ("keys", "actions", "contents", "hashes"))
    for key, action, content, content_hash in zip(*columns, strict=True):
        yield Job(key, action, content, bytes.fromhex(content_hash), 0, page["lease"])


def _joined(left: VerifiedPage, right: VerifiedPage) -> VerifiedPage:
    return VerifiedPage(
        left.scanned + right.scanned,
        left.embedded + right.embedded,
        left.blank + right.blank,
        [*left.problems, *right.problems],
        right.last_key or left.last_key,
    )


def _chunks(rows: Sequence[NewVector], dimensions: int) -> Iterator[Sequence[NewVector]]:
    """Rows in portions that one request carries."""
    size = max(1, MOST_NUMBERS // dimensions)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _columns(rows: Sequence[NewVector]) -> dict[str, Any]:
    """Rows as the parallel arrays that `complete` takes."""
    return {
        "keys": [row.key for row in rows],
        "actions": [row.action for row in rows],
        "hashes": [_hex(row.content_hash) for row in rows],
        "vectors": [vector_text(row.element) for row in rows],
        "leases": [row.lease for row in rows],
        "long": [row.long for row in rows],
    }


def vector_text(element: bytes) -> str | None:
    """Return a vector element as text that Postgres reads; nine digits keep every float32."""
    if element == pgvector.NULL:
        return None
    numbers = np.frombuffer(element, dtype=">f4", offset=HEADER).tolist()
    return f"[{','.join(['%.9g'] * len(numbers))}]" % tuple(numbers)


@asynccontextmanager
async def open_rest_store(url: str, key: ApiKey) -> AsyncIterator[RestStore]:
    """A store over a project; checks first that work is possible, as far as the key may know.

    Raises:
        BacklineError: see `RestStore.check`.

    """
    async with open_project(url, key) as project:
        store = RestStore(project)
        if key.access == "write":
            await store.check()
        yield store
