"""The store over PostgREST, for a Supabase project with a URL and an API key.

Each verb calls a function in `public`, a thin wrapper over the SQL function that `Store` calls, so
that both stores follow the same rules. A worker has no session over PostgREST: it lives until its
lease expires, and renews the lease by heartbeats.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from backline import errors
from backline.store import (
    NO_USAGE,
    Capabilities,
    KeywordsPage,
    Lease,
    LeasedBatch,
    NewVector,
    ReceivedLeases,
    Usage,
    VerifiedPage,
)
from backline.store_verbs import ChangeVerbs, CollectionVerbs, QueueVerbs, RunVerbs
from backline.supabase.client import Project, open_project
from backline.supabase.keys import ApiKey
from backline.supabase.rpc import PostgrestRpc, chunks, encode_rows
from backline.types import Collection, Job, Outcome

# A page that exceeds the role's statement_timeout is retried with half the rows, down to this many.
SMALLEST_PAGE: Final = 10
KEYWORDS_PAGE: Final = 1000


class RestStore(CollectionVerbs, ChangeVerbs, QueueVerbs, RunVerbs):
    """Reads and writes the collections, the queue and the runs of one Supabase project."""

    def __init__(self, project: Project) -> None:
        super().__init__(PostgrestRpc(project))
        self.project = project
        self._leases = ReceivedLeases()
        # The key after which each worker requested a batch, until the response arrives.
        self._unanswered: dict[int, str | None] = {}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(sessions=False, indexes=False, cache=True)

    async def check(self) -> None:
        """Check that the project is reachable, migrated and has pgvector.

        Raises:
            NotMigratedError: the schema is missing, or is another version's.
            ExtensionMissingError: pgvector is not enabled.
            ProjectKeyError, ProjectPausedError, DatabaseUnavailableError: the project refuses the
                key, is paused, or does not respond.

        """
        health = await self._rpc.value("health")
        if not isinstance(health, dict):
            raise errors.ConfigurationError(
                f"The server at {self.project.where} is not a Supabase project. Set SUPABASE_URL "
                "to https://PROJECT.supabase.co, without a path."
            )
        if health["vector"] is None:
            raise errors.ExtensionMissingError(
                "The project has no pgvector. Enable the extension `vector` in the dashboard "
                "(Database, Extensions), then run: backline migrate --database-url …"
            )

    async def recount(self, collection: int) -> dict[str, int]:
        """Count the rows of a collection and repair its counters; return each one's error."""
        corrected: dict[str, int] = await self._rpc.value("recount", collection=collection)
        return corrected

    async def verify_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> VerifiedPage:
        """Verify a page of rows, in halves if the whole exceeds the statement_timeout."""
        try:
            return await super().verify_page(collection, after, limit)
        except errors.StatementTimeoutError:
            if limit <= SMALLEST_PAGE:
                raise
        half = limit // 2
        left = await self.verify_page(collection, after, half)
        if left.scanned < half:
            return left
        return _joined(left, await self.verify_page(collection, left.last_key, limit - half))

    async def search_rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of `backline.search` for its parameters."""
        condition = values["filter"] and json.loads(values["filter"])
        rows: list[dict[str, Any]] = await self._rpc.value(
            "search", **{**values, "filter": condition}
        )
        return rows

    # --- keywords ---

    async def query_text(self, collection: Collection, query: str) -> str:
        """Return the text to embed for a query, with misspelled words corrected."""
        return str(await self._rpc.value("query_text", collection=collection.id, query=query))

    async def needs_keywords(self, collection: Collection) -> bool:
        """Return whether the keyword index must be built.

        False for a publishable key, which may not build it.
        """
        if self.project.key.access != "write":
            return False
        return not await self._rpc.value("keywords_built", collection=collection.id)

    async def build_keywords_page(self, collection: Collection, after: str | None) -> KeywordsPage:
        """Index the keywords of one page of rows."""
        page = await self._rpc.record(
            "build_keywords_page", collection=collection.id, after=after, limit=KEYWORDS_PAGE
        )
        return KeywordsPage(page["scanned"], page["last_key"], page["scanned"] < KEYWORDS_PAGE)

    async def finish_keywords(self, collection: Collection) -> bool:
        """Return whether every row is indexed; if so, merge the index's small blocks."""
        return bool(await self._rpc.value("finish_keywords", collection=collection.id))

    # --- jobs ---

    async def claim(
        self, collection: Collection, worker: int, limit: int, *, edits_only: bool = False
    ) -> list[Job]:
        """Lease up to `limit` jobs, or fewer if their texts exceed the statement_timeout."""
        while True:
            try:
                claim = partial(self._claim, collection, worker, limit, edits_only=edits_only)
                return await self._guarded(collection.id, claim)
            except errors.StatementTimeoutError:
                if limit <= SMALLEST_PAGE:
                    raise
                limit //= 2

    async def _claim(
        self, collection: Collection, worker: int, limit: int, *, edits_only: bool
    ) -> list[Job]:
        rows = await self._rpc.rows(
            "claim", collection=collection.id, worker=worker, limit=limit,
            model=collection.model_id, received_lease=self._leases.newest(worker),
            edits_only=edits_only,
        )  # fmt: skip
        jobs = [
            Job(key, action, content, digest and bytes.fromhex(digest), attempts, lease)
            for key, action, content, digest, attempts, lease in rows
        ]
        self._leases.receive(worker, jobs)
        return jobs

    async def claim_batch(
        self, collection: Collection, worker: int, run: int | None, after: str | None, limit: int,
        unfinished: Iterable[int] = (),
    ) -> LeasedBatch:  # fmt: skip
        """Scan the next rows after the key `after` and lease those that are due; see `Store`.

        A repeated call is marked, so that the run does not count the page twice.
        """
        claim = partial(self._claim_batch, collection, worker, run, after, limit, list(unfinished))
        return await self._guarded(collection.id, claim)

    async def _claim_batch(
        self, collection: Collection, worker: int, run: int | None, after: str | None, limit: int,
        unfinished: list[int],
    ) -> LeasedBatch:  # fmt: skip
        again = worker in self._unanswered and self._unanswered[worker] == after
        self._unanswered[worker] = after
        try:
            page = await self.project.call(
                "claim_batch", repeated="again", collection=collection.id, worker=worker, run=run,
                after=after, limit=limit, model=collection.model_id, unfinished=unfinished,
                again=again,
            )  # fmt: skip
        except errors.RowRefusedError:
            del self._unanswered[worker]
            raise
        del self._unanswered[worker]
        jobs = list(_jobs(page))
        self._leases.receive(worker, jobs)
        return LeasedBatch(page["scanned"], page["last_key"], jobs)

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
        """Store the vectors of unchanged rows and end their jobs; see `Store`.

        Each request is a transaction, and carries at most `MOST_NUMBERS` vector components.
        """
        left: list[tuple[str, Outcome]] = []
        for chunk in chunks(rows, collection.model.dimensions):
            left += [
                (key, outcome)
                for key, outcome in await self._rpc.rows(
                    "complete", collection=collection.id, worker=worker, run=run,
                    cache=cache, model=collection.model_id, **encode_rows(chunk),
                    batches=usage.batches, tokens=usage.tokens, truncated=usage.truncated,
                    sent=usage.passages,
                )
            ]  # fmt: skip
            usage = NO_USAGE
        return left

    # --- workers ---

    async def register(
        self, collection: Collection, run: int | None, lease: float, replaces: int | None = None
    ) -> Lease:
        """Register a worker without a session, which lives as long as its heartbeats."""
        worker: int = await self._rpc.value(
            "register_worker", collection=collection.id, host=socket.gethostname(),
            pid=os.getpid(), lease=lease, run=run, replaces=replaces,
        )  # fmt: skip
        if replaces is not None:
            self._leases.move(replaces, worker)
        return Lease(worker, None)

    async def release_dead_workers(self, collection: Collection, worker: int | None = None) -> int:
        """Release the jobs of dead workers; return how many workers were dead.

        `worker` is not needed: no worker has a session that could be lost.
        """
        return int(await self._rpc.value("release_dead_workers", collection=collection.id))


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
        left.excluded + right.excluded,
    )


@asynccontextmanager
async def open_rest_store(url: str, key: ApiKey) -> AsyncIterator[RestStore]:
    """Open a store over a project, and close it at the end of the block.

    With a key that may write, checks first that the project is ready for work.

    Raises:
        BacklineError: see `RestStore.check`.

    """
    async with open_project(url, key) as project:
        store = RestStore(project)
        if key.access == "write":
            await store.check()
        yield store
