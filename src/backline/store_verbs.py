"""The store's verbs that are the same over Postgres and over PostgREST, written once.

Each verb calls one SQL function through an `Rpc`, which knows how its transport encodes arguments
and results. `postgres.store.Store` and `supabase.store.RestStore` add the verbs that differ.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from psycopg.types.json import Jsonb

from backline import errors
from backline.collections import choose, collection_of
from backline.store import Lease, NewVector, ScannedRow, VerifiedPage, failed_row
from backline.types import (
    Collection,
    Coverage,
    FailedAttempt,
    Failure,
    Job,
    ModelChange,
    Problem,
    RunRecord,
)

T = TypeVar("T")
PASSAGES_A_CALL: Final = 10_000


class Rpc(Protocol):
    """Calls the function behind a verb; one method for each shape of result.

    Arguments are Python values: numbers, text, bytes, UUIDs, datetimes, lists of these, and `Jsonb`
    for a JSON document.
    """

    async def value(self, verb: str, /, **arguments: Any) -> Any: ...
    async def record(self, verb: str, /, **arguments: Any) -> Mapping[str, Any]: ...
    async def records(self, verb: str, /, **arguments: Any) -> Sequence[Mapping[str, Any]]: ...
    async def rows(self, verb: str, /, **arguments: Any) -> Sequence[Sequence[Any]]: ...


class Verbs:
    """Holds the transport that the verbs of a store share."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def _guarded(self, collection: int, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, and repeat it if the text or the condition of one row made it fail.

        The expressions of the collection are then computed such that they never fail.
        """
        try:
            return await call()
        except errors.RowRefusedError:
            if not await self._rpc.value("guard_expressions", collection=collection):
                raise
            return await call()


class CollectionVerbs(Verbs):
    """Collections, their coverage and their rows."""

    async def collections(self) -> list[Collection]:
        """Return every declared collection that this connection may read."""
        return [collection_of(record) for record in await self._rpc.records("collections")]

    async def collection(self, name: str | None = None) -> Collection:
        """Return the collection `name`, or the only one without a name.

        Raises:
            CollectionNotFoundError: no collection has that name, or several exist and none is
                named.

        """
        return choose(await self.collections(), name)

    async def coverage(self, collection: Collection) -> Coverage:
        """Return how many rows are embedded. Reads counters, so the cost is the same at any size.

        The counters are kept by triggers; `recount` corrects them.

        Raises:
            CollectionNotFoundError: the collection was dropped.

        """
        counted = await self._rpc.value("coverage", collection=collection.id)
        if counted is None:
            raise errors.CollectionNotFoundError(f"{collection.name!r} was dropped.")
        return Coverage(**counted)

    async def problems(self, collection: Collection) -> tuple[Problem, ...]:
        """Return what makes the coverage of a collection untrue, with the remedies."""
        records = await self._rpc.records("problems", collection=collection.id)
        return tuple(Problem(**record) for record in records)

    async def checked_coverage(self, collection: Collection) -> Coverage:
        """Return the coverage of a collection together with its problems."""
        problems = await self.problems(collection)
        return replace(await self.coverage(collection), problems=problems)

    async def follow(self, collection: Collection) -> bool:
        """Record the present names of the table and its columns; return whether they changed."""
        return bool(await self._rpc.value("follow", collection=collection.id))

    async def compact(self, collection: Collection) -> None:
        """Sum the counter deltas of a collection into one row each."""
        await self._rpc.value("compact", collection=collection.id)

    async def trim_cache(self, most_bytes: int) -> int:
        """Delete the oldest cached vectors beyond `most_bytes`; return how many were deleted."""
        return int(await self._rpc.value("trim_vectors", bytes=most_bytes))

    async def verify_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> VerifiedPage:
        """Verify the next `limit` rows after the key `after` against the stored vectors."""
        record = await self._rpc.record(
            "verify_page", collection=collection.id, after=after, limit=limit
        )
        problems = [(item["key"], item["problem"]) for item in record["problems"]]
        return VerifiedPage(
            record["scanned"], record["embedded"], record["blank"], problems, record["last_key"],
            record["excluded"],
        )  # fmt: skip

    async def scan_page(
        self, collection: Collection, after: str | None, limit: int
    ) -> list[ScannedRow]:
        """Return the next `limit` rows after the key `after` with their texts; enqueue nothing."""
        rows = await self._rpc.rows("scan_page", collection=collection.id, after=after, limit=limit)
        return [
            ScannedRow(key, due, content, digest(content_hash), cached)
            for key, due, content, content_hash, cached in rows
        ]

    async def now(self) -> datetime:
        """Return the database's time. Every lease and delay is measured by this clock."""
        return timestamp(await self._rpc.value("now"))


class QueueVerbs(Verbs):
    """Jobs, and the workers that lease them."""

    async def end_finished_batches(self, worker: int, unfinished: Iterable[int]) -> None:
        """End the worker's batch leases except `unfinished`, which it still works on."""
        await self._rpc.value("end_finished_batches", worker=worker, leases=list(unfinished))

    async def known_passages(
        self, collection: Collection, passages: Sequence[tuple[str, bytes]]
    ) -> list[bool]:
        """Return whether passages have a vector already, which `complete` would reuse.

        Args:
            collection: a collection of passages.
            passages: the key of the row, and the SHA-256 of what would be embedded.
        """
        known: list[bool] = []
        for start in range(0, len(passages), PASSAGES_A_CALL):
            some = passages[start : start + PASSAGES_A_CALL]
            known += await self._rpc.value(
                "known_passages", collection=collection.id,
                keys=[key for key, _ in some], hashes=[content_hash for _, content_hash in some],
            )  # fmt: skip
        return known

    async def confirm(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[NewVector],
        call: UUID, batches: int = 1,
    ) -> list[tuple[str, str]]:  # fmt: skip
        """End the jobs of rows that another program embedded, if their vectors are stored.

        A repeated call with the same id `call` returns the result of the first one.

        Returns:
            (key, outcome) of the other rows: an outcome of `complete`, or "unstored" if the text
            is unchanged and has no vector.
        """
        left = await self._rpc.value(
            "confirm", call=call, collection=collection.id, worker=worker, run=run,
            keys=[row.key for row in rows], hashes=[row.content_hash for row in rows],
            leases=[row.lease for row in rows], batches=batches, model=collection.model_id,
        )  # fmt: skip
        return [(key, outcome) for key, outcome in left]

    async def fail(
        self, collection: Collection, worker: int, run: int | None, rows: Sequence[FailedAttempt]
    ) -> list[str]:
        """Record failed attempts.

        Returns:
            Keys of rows locked by another transaction. Nothing is recorded for them: call again.
        """
        busy: list[str] = await self._rpc.value(
            "fail", collection=collection.id, worker=worker, run=run,
            rows=Jsonb([failed_row(row) for row in rows]),
        )  # fmt: skip
        return busy

    async def outstanding(
        self, collection: Collection, before: datetime
    ) -> tuple[bool, float | None]:
        """Return whether jobs enqueued up to `before` remain, and the seconds until one is due."""
        record = await self._rpc.record("outstanding", collection=collection.id, before=before)
        return record["remain"], record["due_in"]

    async def heartbeat(
        self, lease: Lease, run: int | None, seconds: float, rate: float
    ) -> tuple[bool, str | None]:
        """Renew a lease for `seconds` and report the worker's `rate` in rows a second.

        Returns:
            Whether the lease was still held, and the state of the run.
        """
        record = await self._rpc.record(
            "heartbeat", worker=lease.worker, run=run, lease=seconds, rate=rate
        )
        return record["alive"], record["run_state"]

    async def held(self, collection: Collection, worker: int, jobs: Sequence[Job]) -> list[bool]:
        """Return for each job whether the worker still holds it."""
        held: list[bool] = await self._rpc.value(
            "held", collection=collection.id, worker=worker,
            keys=[job.key for job in jobs], leases=[job.lease for job in jobs],
        )  # fmt: skip
        return held

    async def unregister(self, lease: Lease) -> None:
        """Delete a worker, release its jobs and close its session."""
        try:
            await self._rpc.value("unregister_worker", worker=lease.worker)
        finally:
            await self.close_session(lease)

    async def close_session(self, lease: Lease) -> None:
        """Close the session of a lease, which releases the worker's advisory lock."""
        if lease.session is not None:
            await lease.session.close()


class RunVerbs(Verbs):
    """Runs, and the dead letters that they leave."""

    async def start_run(self, collection: Collection, settings: Mapping[str, Any]) -> int:
        """Record the start of a run with its settings; return its id."""
        run = await self._rpc.value(
            "start_run", collection=collection.id, settings=Jsonb(dict(settings))
        )
        return int(run)

    async def finish_run(self, run: int, state: str, report: Mapping[str, Any]) -> None:
        """Record the end of a run with its final state and report."""
        await self._rpc.value("finish_run", run=run, state=state, report=Jsonb(dict(report)))

    async def cancel_run(self, run: int) -> bool:
        """Request the cancellation of a run; return False if it is not running."""
        return await self._rpc.value("cancel_run", run=run) is not None

    async def runs(
        self, collection: Collection | None = None, run: int | None = None, limit: int = 20
    ) -> list[RunRecord]:
        """Return the latest `limit` runs, newest first."""
        records = await self._rpc.records(
            "runs", collection=collection.id if collection else None, run=run, limit=limit
        )
        return [run_record(record) for record in records]

    async def failures(self, collection: Collection, page: int = 1000) -> AsyncIterator[Failure]:
        """Yield every dead letter in key order, reading `page` of them a query."""
        after = ""
        while True:
            records = await self._rpc.records(
                "failures", collection=collection.id, after=after, limit=page
            )
            for record in records:
                yield Failure(**{**record, "failed_at": timestamp(record["failed_at"])})
            if len(records) < page:
                return
            after = records[-1]["key"]

    async def run_failures(self, run: int, limit: int = 20) -> list[tuple[str, str, str]]:
        """Return (key, kind, error) of the first `limit` dead letters of a run."""
        rows = await self._rpc.rows("run_failures", run=run, limit=limit)
        return [(key, kind, error) for key, kind, error in rows]

    async def retry_failures(self, collection: Collection, keys: Sequence[str] | None) -> int:
        """Requeue the dead letters of `keys`, or all of them; return how many."""
        return await self._on_failures("retry_failures", collection, keys)

    async def drop_failures(self, collection: Collection, keys: Sequence[str] | None) -> int:
        """Delete the dead letters of `keys`, or all of them; return how many."""
        return await self._on_failures("drop_failures", collection, keys)

    async def _on_failures(
        self, verb: str, collection: Collection, keys: Sequence[str] | None
    ) -> int:
        selected = None if keys is None else list(keys)
        return int(await self._rpc.value(verb, collection=collection.id, keys=selected))


class ChangeVerbs(Verbs):
    """Fills and swaps the targets of a change of the model; see model_change.sql."""

    async def changes(self, name: str | None = None) -> list[ModelChange]:
        """Return the newest changes of models, the open ones first."""
        records = await self._rpc.records("change_records", name=name)
        return [
            ModelChange(**{
                **record, "started_at": timestamp(record["started_at"]),
                "changed_at": timestamp(record["changed_at"]),
            })
            for record in records
        ]  # fmt: skip

    async def copy_page(self, name: str) -> int:
        """Copy vectors of the next page to the new target; return how many rows the page has."""
        return int(await self._rpc.value("copy_page", name=name))

    async def finish_fill(self, name: str, *, despite_failures: bool, lag: float = 0) -> None:
        """Record that every row of the new target is embedded, but edits of the last `lag` s."""
        await self._rpc.value("finish_fill", name=name, despite_failures=despite_failures, lag=lag)

    async def finish_indexes(self, name: str) -> None:
        """Record that the new target can serve."""
        await self._rpc.value("finish_indexes", name=name)

    async def cutover(self, name: str, *, despite_failures: bool, lag: float = 0) -> None:
        """Make the new target serve, if it has every row but edits of the last `lag` seconds."""
        await self._rpc.value("cutover", name=name, despite_failures=despite_failures, lag=lag)

    async def rollback(self, name: str) -> None:
        """Make the former target serve again."""
        await self._rpc.value("rollback_change", name=name)


def run_record(record: Mapping[str, Any]) -> RunRecord:
    """Return a row of `backline.run_records` as a value."""
    started, finished = record["started_at"], record["finished_at"]
    return RunRecord(
        **{
            **record,
            "started_at": timestamp(started),
            "finished_at": None if finished is None else timestamp(finished),
        }
    )


def timestamp(value: datetime | str) -> datetime:
    """Return a timestamptz, which JSON holds as ISO 8601 text."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def digest(value: bytes | str) -> bytes:
    """Return a SHA-256, which JSON holds as hexadecimal text."""
    return bytes.fromhex(value) if isinstance(value, str) else value
