"""The protocol under random histories: users, workers, crashes and late results in any order.

Hypothesis generates histories over three keys and a few texts, so that they collide often. After
every step the oracle of the integration tests looks for broken invariants. At the end of a history
a backfill drains the queue, and the collection must verify.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from tests.integration.harness import NOTES, World, connect, execute, make_world, new_vector
from tests.integration.oracle import NOT_QUEUED

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import Store, open_store
from backline.reconcile import Reconciliation
from backline.store import Lease
from backline.types import FailedAttempt, Job

T = TypeVar("T")

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "40"))

keys = st.integers(1, 3)
texts = st.sampled_from(["A", "B", "C", "", None, " A "])
indexes = st.integers(0, 100)  # of a worker or of one of its jobs, modulo their number
subsets = st.integers(1, 127)  # of a worker's jobs, as a bit mask over seven of them

EDITS: Final = {
    "insert": "insert into notes values (%(key)s, %(text)s) on conflict do nothing",
    "upsert": "insert into notes values (%(key)s, %(text)s) "
    "on conflict (id) do update set body = excluded.body",
    "update": "update notes set body = %(text)s where id = %(key)s",
    "delete": "delete from notes where id = %(key)s",
    "change a key": "update notes set id = %(other)s where id = %(key)s "
    "and not exists (select from notes where id = %(other)s)",
    "update all": "update notes set body = %(text)s",
    "shift all": "update notes set body = chr(ascii(body) %% 3 + 65) where body <> ''",
    "truncate": "truncate notes",
}
EDITS_OF_ONE_ROW: Final = ("insert", "upsert", "update", "delete", "change a key")
ADMINISTRATION: Final = (
    "apply", "release", "unregister", "crash", "expire_lease", "renew_lease", "remove_dead",
    "release_dead_workers",
    "retry_failures", "drop_failures", "compact", "recount", "clear_cache", "enqueue_all",
    "reconcile", "end_batches",
)  # fmt: skip
NOT_LOCKED: Final = "no transaction holds a lock"


@dataclass
class WorkerState:
    """What a worker believes to hold, including jobs that it has lost without noticing."""

    lease: Lease
    jobs: list[Job] = field(default_factory=list)
    dead: bool = False

    @property
    def batch_leases(self) -> set[int]:
        """The leases of its unfinished jobs."""
        return {job.lease for job in self.jobs if job.lease is not None}


class Machine(RuleBasedStateMachine):
    """The world, and what the rules know about it.

    Attributes:
        locked: keys of rows that an open transaction has edited.
        unqueued: keys that may be due without a job or a dead letter.
        waiting: since when the rows to embed have been seen without an edit.
    """

    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[WorkerState] = []
        self.locked: set[int] = set()
        self.unqueued: set[str] = set()
        self.waiting: dict[str, datetime] = {}
        self.transaction: AsyncConnection[DictRow] | None = None
        self.stack = AsyncExitStack()
        self.world: World

    @initialize()
    def set_up(self) -> None:
        self.do(self._set_up())

    async def _set_up(self) -> None:
        store: Store = await self.stack.enter_async_context(open_store(self.url))
        # A failed history leaves a collection behind, which would fail the next one.
        await store.connector.execute(
            "select backline.drop_collection(c.id, false) from backline.collections c"
        )
        ddl = f"drop table if exists notes; {NOTES}"
        self.world = await self.stack.enter_async_context(
            make_world(store, ddl=ddl, embedder=HashEmbedder(8))
        )
        await self.world.sql("set lock_timeout = '2s'")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine; after 20 s it counts as blocked."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def edited(self, keys: Iterable[object]) -> None:
        """Forget since when these rows have been waiting."""
        for key in keys:
            self.waiting.pop(str(key), None)

    @invariant()
    def no_invariant_is_broken(self) -> None:
        violations = self.do(self.world.violations())
        unqueued = tuple(f"row {key} " for key in self.unqueued)
        violations = [
            each for each in violations if not (each.startswith(unqueued) and NOT_QUEUED in each)
        ]
        assert not violations, "\n".join(violations)

    @invariant()
    def waiting_rows_are_outstanding(self) -> None:
        """Otherwise a drain that began earlier would end before it has embedded them."""
        now, jobs = self.do(self.world.store.now()), self.do(self.world.open_jobs())
        self.waiting = {key: self.waiting.get(key, now) for key in jobs}
        if self.waiting:
            began = min(self.waiting.values())
            remain, _ = self.do(self.world.store.outstanding(self.world.collection, began))
            assert remain, f"nothing is outstanding since {began}, but {self.waiting}"

    def teardown(self) -> None:
        try:
            self.do(self._drain())
        finally:
            self.do(self.stack.aclose())

    async def _drain(self) -> None:
        if self.transaction is not None:
            await self.transaction.rollback()
            await self.transaction.close()
        for worker in self.workers:
            await self.world.store.close_session(worker.lease)
        await self.world.sql("update backline.workers set expires_at = '-infinity'")
        await self.world.store.retry_failures(self.world.collection, None)
        await self.world.fill()
        await self.world.check_complete()
        await self.world.store.drop_collection(self.world.collection, drop_column=False)


class UserRules(Machine):
    """Edits of the table, also in a transaction that stays open and without triggers."""

    @rule(edit=st.sampled_from(list(EDITS)), key=keys, other=keys, text=texts)
    def edit(self, edit: str, key: int, other: int, text: str | None) -> None:
        touched = {key, other} if edit == "change a key" else {key}
        one_row = edit in EDITS_OF_ONE_ROW
        if not self.locked & (touched if one_row else self.locked):
            values = {"key": key, "other": other, "text": text}
            self.do(self.world.user.execute(EDITS[edit], values))
            self.edited(touched if one_row else {1, 2, 3})

    @precondition(lambda self: not self.locked)
    @rule()
    def edit_another_column(self) -> None:
        before = self.do(self.world.jobs())
        self.do(self.world.sql("update notes set views = views + 1"))
        assert self.do(self.world.jobs()) == before

    @precondition(lambda self: self.transaction is None)
    @rule(key=keys, text=texts)
    def begin_edit(self, key: int, text: str | None) -> None:
        self.transaction = self.do(connect(self.url))
        self.do(self.transaction.set_autocommit(value=False))
        self.locked = {key}
        self.edited({key})
        statement = "insert into notes values (%s, %s) on conflict (id) do update set body = %s"
        self.do(execute(self.transaction, statement, key, text, text))

    @precondition(lambda self: self.transaction is not None)
    @rule(commit=st.booleans())
    def end_edit(self, commit: bool) -> None:
        assert self.transaction is not None
        self.do(self.transaction.commit() if commit else self.transaction.rollback())
        self.do(self.transaction.close())
        self.transaction, self.locked = None, set()

    @precondition(lambda self: not self.locked)
    @rule(edit=st.sampled_from(list(EDITS)), key=keys, other=keys, text=texts)
    def edit_without_triggers(self, edit: str, key: int, other: int, text: str | None) -> None:
        """A load or a restore does this; reconcile must repair all of it."""
        values = {"key": key, "other": other, "text": text}
        self.do(self.world.bypassing_triggers(EDITS[edit], params=values))
        self.waiting.clear()
        result = self.do(Reconciliation(self.world.store, self.world.collection).run())
        assert result.sound


class WorkerRules(Machine):
    """Claims and results, also late, repeated, lost, or from a dead worker."""

    def worker(self, index: int) -> WorkerState:
        """Return one of up to three workers, and register it on first use."""
        if len(self.workers) <= index % 3:
            lease = self.do(self.world.store.register(self.world.collection, None, 30))
            self.workers.append(WorkerState(lease))
        return self.workers[index % len(self.workers)]

    def some_jobs(self, index: int, subset: int) -> tuple[WorkerState, list[Job]]:
        """Return a worker and a subset of its jobs, at least one if it has any."""
        worker = self.worker(index)
        chosen = [job for n, job in enumerate(worker.jobs) if subset >> n % 7 & 1]
        return worker, chosen or worker.jobs[-1:]

    @rule(index=indexes, limit=st.integers(1, 5))
    def claim(self, index: int, limit: int) -> None:
        worker = self.worker(index)
        worker.jobs += self.do(
            self.world.store.claim(self.world.collection, worker.lease.worker, limit)
        )

    @rule(
        index=indexes, after=st.none() | keys, limit=st.integers(1, 5), unqueued=st.booleans(),
        lost=st.sampled_from([False, False, True]),
    )  # fmt: skip
    def claim_batch(
        self, index: int, after: int | None, limit: int, *, unqueued: bool, lost: bool
    ) -> None:
        """Claim due rows, also some without a job; the response may be lost."""
        if unqueued and not self.locked:
            self.do(self._insert_unqueued())
        worker = self.worker(index)
        try:
            batch = self.do(
                self.world.store.claim_batch(
                    self.world.collection, worker.lease.worker, None,
                    None if after is None else str(after), limit, worker.batch_leases,
                )
            )  # fmt: skip
        except errors.ContentionError:
            assert self.locked, NOT_LOCKED
            return
        keys = {job.key for job in batch.jobs}
        self.edited(keys)  # a batch is leased again, with a new time, after a lost response
        if lost:
            self.unqueued |= keys
            return
        self.unqueued -= keys
        worker.jobs += batch.jobs

    async def _insert_unqueued(self) -> None:
        """Insert rows that only a scan finds, as a load without triggers does."""
        await self.world.sql(
            "insert into notes values (1, 'A'), (2, 'B'), (3, 'A') on conflict do nothing"
        )
        rows = await self.world.sql(
            "with cut as (update backline.changes l set keys = '{}', amount = 0 "
            "from (select xid, id, keys from backline.changes where kind = '+') o "
            "where l.xid = o.xid and l.id = o.id returning o.keys), "
            "gone as (select distinct unnest(keys) as key from cut), "
            "stamps as (delete from backline.stamps s using gone g where s.key = g.key) "
            "select key from gone"
        )
        self.unqueued |= {row["key"] for row in rows}

    @rule(index=indexes, subset=subsets, repeat=st.booleans(), cache=st.booleans())
    def complete(self, index: int, subset: int, repeat: bool, cache: bool) -> None:
        """Write vectors; with `repeat` the worker keeps the jobs and may write them again."""
        worker, jobs = self.some_jobs(index, subset)
        rows = [new_vector(job) for job in jobs]
        try:
            outcomes = dict(
                self.do(
                    self.world.store.complete(
                        self.world.collection, worker.lease.worker, None, rows, cache=cache
                    )
                )
            )
        except errors.ContentionError:
            assert self.locked, NOT_LOCKED
            return
        for job in jobs:
            if outcomes.get(job.key) == "busy":
                assert self.locked, f"{job} is busy, but {NOT_LOCKED}"
            elif not repeat:
                worker.jobs.remove(job)

    @rule(index=indexes, subset=subsets, retry=st.booleans())
    def fail(self, index: int, subset: int, retry: bool) -> None:
        worker, jobs = self.some_jobs(index, subset)
        attempts = [
            FailedAttempt(
                job.key, job.content_hash, "rejected", "no", 0.0 if retry else None, job.lease
            )
            for job in jobs
            if job.content_hash is not None
        ]
        busy = self.do(
            self.world.store.fail(self.world.collection, worker.lease.worker, None, attempts)
        )
        assert not busy or self.locked
        for job in jobs:
            if job.key not in busy:
                worker.jobs.remove(job)


class AdministrationRules(WorkerRules):
    """Crashes and expired leases of workers, and maintenance of the collection."""

    @rule(action=st.sampled_from(ADMINISTRATION), index=indexes)
    def administer(self, action: str, index: int) -> None:
        self.do(getattr(self, action)(self.worker(index)))

    async def apply(self, _worker: WorkerState) -> None:
        await self.world.sql("select backline.apply_changes(%s)", self.world.collection.id)

    async def release(self, worker: WorkerState) -> None:
        await self.world.release(worker.lease.worker)

    async def unregister(self, worker: WorkerState) -> None:
        if not worker.dead:
            worker.dead = True
            await self.world.store.unregister(worker.lease)

    async def crash(self, worker: WorkerState) -> None:
        """Cut its connection; its results may still arrive over another one."""
        worker.dead = True
        await self.world.store.close_session(worker.lease)

    async def expire_lease(self, worker: WorkerState) -> None:
        await self.world.sql(
            "update backline.workers set expires_at = now() - interval '1 s' where id = %s",
            worker.lease.worker,
        )

    async def renew_lease(self, worker: WorkerState) -> None:
        """Replace a lost lease by a new one; the worker keeps its jobs."""
        lost, worker.dead = worker.lease, False
        worker.lease = await self.world.store.register(self.world.collection, None, 30, lost.worker)
        await self.world.store.close_session(lost)

    async def remove_dead(self, worker: WorkerState) -> None:
        if worker.dead:
            self.workers.remove(worker)

    async def end_batches(self, worker: WorkerState) -> None:
        await self.world.store.end_finished_batches(worker.lease.worker, worker.batch_leases)

    async def release_dead_workers(self, _worker: WorkerState) -> None:
        await self.world.store.release_dead_workers(self.world.collection)

    async def retry_failures(self, _worker: WorkerState) -> None:
        await self.world.store.retry_failures(self.world.collection, None)

    async def drop_failures(self, _worker: WorkerState) -> None:
        self.unqueued |= (await self.world.failures()).keys()
        await self.world.store.drop_failures(self.world.collection, None)

    async def compact(self, _worker: WorkerState) -> None:
        await self.world.store.compact(self.world.collection)

    async def recount(self, _worker: WorkerState) -> None:
        corrections = await self.world.store.recount(self.world.collection.id)
        assert corrections == {}, "the counters were wrong"

    async def clear_cache(self, _worker: WorkerState) -> None:
        await self.world.sql("delete from backline.vectors")

    async def enqueue_all(self, _worker: WorkerState) -> None:
        try:
            await self.world.enqueue()
        except errors.ContentionError:
            assert self.locked, NOT_LOCKED

    async def reconcile(self, _worker: WorkerState) -> None:
        """Only rows that may be unqueued can have drifted."""
        store, collection = self.world.store, self.world.collection
        try:
            page = await store.reconcile_page(collection, None, 100, repair=True)
            drift = {key for _, key in page.drift}
            for table in ("stamps", "jobs", "failures"):
                page = await store.reconcile_orphans(collection, table, None, 100, repair=True)
                drift |= {key for _, key in page.drift}
        except errors.ContentionError:
            assert self.locked, NOT_LOCKED
            return
        assert drift <= self.unqueued


class Protocol(UserRules, AdministrationRules):
    """Every rule is one statement or verb; none may wait for another's open transaction."""


@pytest.mark.timeout(900)
def test_every_history_keeps_the_invariants_and_can_be_completed(database: str) -> None:
    loop = asyncio.new_event_loop()

    class ProtocolOnDatabase(Protocol):
        pass

    ProtocolOnDatabase.url, ProtocolOnDatabase.loop = database, loop
    try:
        run_state_machine_as_test(
            ProtocolOnDatabase,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            ),
        )
    finally:
        loop.close()
