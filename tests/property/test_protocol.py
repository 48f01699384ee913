"""The protocol under any history: users, workers, crashes and late answers in every order.

Hypothesis makes up histories over a handful of rows and texts, so that they collide all the time.
After every step the witness of the integration tests looks for a fault; at the end of a history
everything is drained, and must verify.
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
from tests.integration.harness import NOTES, World, connect, execute, make_world

from backline import errors, pgvector
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.postgres.store import Store, open_store
from backline.reconcile import Reconciliation
from backline.store import Lease, NewVector
from backline.types import FailedAttempt, Job

T = TypeVar("T")

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "40"))

keys = st.integers(1, 3)
texts = st.sampled_from(["A", "B", "C", "", None, " A "])

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
ONE_ROW: Final = ("insert", "upsert", "update", "delete", "change a key")
TROUBLES: Final = (
    "release", "unregister", "crash", "sleep_past_the_lease", "come_back", "forget",
    "release_dead_workers",
    "retry_failures", "drop_failures", "compact", "recount", "lose_the_cache", "enqueue_all",
    "reconcile", "end_pages",
)  # fmt: skip

positions = st.integers(0, 100)  # of a worker, or of a job in its hands: modulo what there is


@dataclass
class Hand:
    """A worker as it sees itself: what it claimed, also what it has lost since without knowing."""

    lease: Lease
    jobs: list[Job] = field(default_factory=list)
    dead: bool = False

    @property
    def pages(self) -> set[int]:
        """What it is still at."""
        return {job.lease for job in self.jobs if job.lease is not None}


class Protocol(RuleBasedStateMachine):
    """Every rule is one statement or verb; none may wait for another's open transaction."""

    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.hands: list[Hand] = []
        self.dropped: set[str] = set()
        self.held: set[int] = set()
        self.waiting: dict[str, datetime] = {}  # rows to embed, since when we saw them unedited
        self.open: AsyncConnection[DictRow] | None = None
        self.stack = AsyncExitStack()
        self.world: World

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    @initialize()
    def begin(self) -> None:
        self.do(self._begin())

    async def _begin(self) -> None:
        store: Store = await self.stack.enter_async_context(open_store(self.url))
        embedder = HashEmbedder(8)
        # What a history that failed left behind would hide the failure.
        await store.connector.execute(
            "select backline.drop_collection(c.id, false) from backline.collections c"
        )
        ddl = f"drop table if exists notes; {NOTES}"
        self.world = await self.stack.enter_async_context(
            make_world(store, ddl=ddl, embedder=embedder)
        )
        await self.world.sql("set lock_timeout = '2s'")

    # --- users ---

    @rule(edit=st.sampled_from(list(EDITS)), key=keys, other=keys, text=texts)
    def edit(self, edit: str, key: int, other: int, text: str | None) -> None:
        touched = {key, other} if edit == "change a key" else {key}
        if not self.held & (touched if edit in ONE_ROW else self.held):
            values = {"key": key, "other": other, "text": text}
            self.do(self.world.user.execute(EDITS[edit], values))
            self.no_longer_waiting(touched if edit in ONE_ROW else {1, 2, 3})

    @precondition(lambda self: not self.held)
    @rule()
    def count_views(self) -> None:
        before = self.do(self.world.jobs())
        self.user("update notes set views = views + 1")
        assert self.do(self.world.jobs()) == before

    def user(self, statement: str, *params: Any) -> None:
        self.do(self.world.sql(statement, *params))

    # --- a user whose transaction stays open ---

    @precondition(lambda self: self.open is None)
    @rule(key=keys, text=texts)
    def begin_edit(self, key: int, text: str | None) -> None:
        self.open = self.do(connect(self.url))
        self.do(self.open.set_autocommit(value=False))
        self.held = {key}
        self.no_longer_waiting({key})
        statement = "insert into notes values (%s, %s) on conflict (id) do update set body = %s"
        self.do(execute(self.open, statement, key, text, text))

    @precondition(lambda self: self.open is not None)
    @rule(keep=st.booleans())
    def end_edit(self, keep: bool) -> None:
        assert self.open is not None
        self.do(self.open.commit() if keep else self.open.rollback())
        self.do(self.open.close())
        self.open, self.held = None, set()

    # --- workers ---

    def hand(self, at: int) -> Hand:
        """One of three workers, started when it is first needed."""
        if len(self.hands) <= at % 3:
            self.hands.append(
                Hand(self.do(self.world.store.register(self.world.collection, None, 30)))
            )
        return self.hands[at % len(self.hands)]

    def some_jobs(self, at: int, mask: int) -> tuple[Hand, list[Job]]:
        hand = self.hand(at)
        chosen = [job for n, job in enumerate(hand.jobs) if mask >> n % 7 & 1]
        return hand, chosen or hand.jobs[-1:]

    @rule(at=positions, limit=st.integers(1, 5))
    def claim(self, at: int, limit: int) -> None:
        hand = self.hand(at)
        hand.jobs += self.do(
            self.world.store.claim(self.world.collection, hand.lease.worker, limit)
        )

    @rule(
        at=positions, after=st.none() | keys, limit=st.integers(1, 5), loaded=st.booleans(),
        lost=st.sampled_from([False, False, True]),
    )  # fmt: skip
    def claim_batch(
        self, at: int, after: int | None, limit: int, *, loaded: bool, lost: bool
    ) -> None:
        """Also of rows that were never enqueued, and with an answer that never arrives."""
        if loaded and not self.held:
            self.do(self.load())
        hand = self.hand(at)
        place = None if after is None else str(after)
        try:
            page = self.do(
                self.world.store.claim_batch(
                    self.world.collection, hand.lease.worker, None, place, limit, hand.pages
                )
            )
        except errors.ContentionError:
            assert self.held, "nobody was in the way"
            return
        # What this worker was given before and never heard of, it has been given anew.
        self.no_longer_waiting(job.key for job in page.jobs)
        if lost:  # until somebody walks there again
            self.dropped |= {job.key for job in page.jobs}
            return
        self.dropped -= {job.key for job in page.jobs}
        hand.jobs += page.jobs

    @rule(at=positions, mask=st.integers(1, 127), again=st.booleans(), cache=st.booleans())
    def complete(self, at: int, mask: int, again: bool, cache: bool) -> None:
        """Also late, twice, and by the dead."""
        hand, jobs = self.some_jobs(at, mask)
        rows = [new_vector(job) for job in jobs]
        try:
            outcomes = dict(
                self.do(
                    self.world.store.complete(
                        self.world.collection, hand.lease.worker, None, rows, cache=cache
                    )
                )
            )
        except errors.ContentionError:
            assert self.held, "nobody was in the way"
            return
        for job in jobs:
            if outcomes.get(job.key) == "busy":
                assert self.held, f"{job} is busy, and nobody is editing"
            elif not again:
                hand.jobs.remove(job)

    @rule(at=positions, mask=st.integers(1, 127), retry=st.booleans())
    def fail(self, at: int, mask: int, retry: bool) -> None:
        hand, jobs = self.some_jobs(at, mask)
        attempts = [
            FailedAttempt(
                job.key, job.content_hash, "rejected", "no", 0.0 if retry else None, job.lease
            )
            for job in jobs
            if job.content_hash is not None
        ]
        busy = self.do(
            self.world.store.fail(self.world.collection, hand.lease.worker, None, attempts)
        )
        assert not busy or self.held
        for job in jobs:
            if job.key not in busy:
                hand.jobs.remove(job)

    # --- trouble ---

    @rule(what=st.sampled_from(TROUBLES), at=positions)
    def trouble(self, what: str, at: int) -> None:
        self.do(getattr(self, what)(self.hand(at)))

    async def release(self, hand: Hand) -> None:
        await self.world.release(hand.lease.worker)

    async def unregister(self, hand: Hand) -> None:
        if not hand.dead:
            hand.dead = True
            await self.world.store.unregister(hand.lease)

    async def crash(self, hand: Hand) -> None:
        """Its connection is cut; what it computed may still arrive over another one."""
        hand.dead = True
        await self.world.store.close_session(hand.lease)

    async def sleep_past_the_lease(self, hand: Hand) -> None:
        await self.world.sql(
            "update backline.workers set expires_at = now() - interval '1 s' where id = %s",
            hand.lease.worker,
        )

    async def come_back(self, hand: Hand) -> None:
        """A process that lost its lease goes on under a new one, with all that it has in hand."""
        lost, hand.dead = hand.lease, False
        hand.lease = await self.world.store.register(self.world.collection, None, 30, lost.worker)
        await self.world.store.close_session(lost)

    async def forget(self, hand: Hand) -> None:
        if hand.dead:
            self.hands.remove(hand)

    async def release_dead_workers(self, _hand: Hand) -> None:
        await self.world.store.release_dead_workers(self.world.collection)

    async def retry_failures(self, _hand: Hand) -> None:
        await self.world.store.retry_failures(self.world.collection, None)

    async def drop_failures(self, _hand: Hand) -> None:
        self.dropped |= (await self.world.failures()).keys()
        await self.world.store.drop_failures(self.world.collection, None)

    async def load(self) -> None:
        """Rows that only a walk finds, as after a load with triggers off."""
        await self.world.sql(
            "insert into notes values (1, 'A'), (2, 'B'), (3, 'A') on conflict do nothing"
        )
        gone = await self.world.sql(
            "with gone as (delete from backline.jobs where worker_id is null returning key), "
            "stamps as (delete from backline.stamps s using gone g where s.key = g.key) "
            "select key from gone"
        )
        self.dropped |= {row["key"] for row in gone}

    async def end_pages(self, hand: Hand) -> None:
        await self.world.store.end_finished_batches(hand.lease.worker, hand.pages)

    async def compact(self, _hand: Hand) -> None:
        await self.world.store.compact(self.world.collection)

    async def recount(self, _hand: Hand) -> None:
        assert await self.world.store.recount(self.world.collection.id) == {}, (
            "the ledger was wrong"
        )

    async def lose_the_cache(self, _hand: Hand) -> None:
        await self.world.sql("delete from backline.vectors")

    async def enqueue_all(self, _hand: Hand) -> None:
        try:
            await self.world.enqueue()
        except errors.ContentionError:
            assert self.held, "nobody was in the way"

    async def reconcile(self, _hand: Hand) -> None:
        """All drift there can be is a row whose dead letter was dropped."""
        try:
            page = await self.world.store.reconcile_page(
                self.world.collection, None, 100, repair=True
            )
            drift = {key for _, key in page.drift}
            for of in ("stamps", "jobs", "failures"):
                page = await self.world.store.reconcile_orphans(
                    self.world.collection, of, None, 100, repair=True
                )
                drift |= {key for _, key in page.drift}
        except errors.ContentionError:
            assert self.held, "nobody was in the way"
            return
        assert drift <= self.dropped

    @precondition(lambda self: not self.held)
    @rule(edit=st.sampled_from(list(EDITS)), key=keys, other=keys, text=texts)
    def go_past_the_triggers(self, edit: str, key: int, other: int, text: str | None) -> None:
        """Whatever a load or a restore does, reconcile leaves nothing wrong behind it."""
        values = {"key": key, "other": other, "text": text}
        self.user("set session_replication_role = replica")
        self.do(self.world.user.execute(EDITS[edit], values))
        self.user("set session_replication_role = origin")
        self.waiting.clear()
        done = self.do(Reconciliation(self.world.store, self.world.collection).run())
        assert done.sound

    # --- what must hold ---

    @invariant()
    def nothing_is_wrong(self) -> None:
        faults = self.do(self.world.faults())
        dropped = tuple(f"row {key} " for key in self.dropped)
        faults = [
            fault
            for fault in faults
            if not (fault.startswith(dropped) and "nothing waits for it" in fault)
        ]
        assert not faults, "\n".join(faults)

    def no_longer_waiting(self, keys: Iterable[object]) -> None:
        for key in keys:
            self.waiting.pop(str(key), None)

    @invariant()
    def what_has_waited_is_outstanding(self) -> None:
        """Or a drain that began before would end with rows left."""
        now, jobs = self.do(self.world.store.now()), self.do(self.world.jobs())
        self.waiting = {key: self.waiting.get(key, now) for key in jobs}
        if self.waiting:
            began = min(self.waiting.values())
            remain, _ = self.do(self.world.store.outstanding(self.world.collection, began))
            assert remain, f"nothing is left from before {began}, of {self.waiting}"

    def teardown(self) -> None:
        try:
            self.do(self._drain())
        finally:
            self.do(self.stack.aclose())

    async def _drain(self) -> None:
        if self.open is not None:
            await self.open.rollback()
            await self.open.close()
        for hand in self.hands:
            await self.world.store.close_session(hand.lease)
        await self.world.sql("update backline.workers set expires_at = '-infinity'")
        await self.world.store.retry_failures(self.world.collection, None)
        await self.world.fill()
        await self.world.check_complete()
        await self.world.store.drop_collection(self.world.collection, drop_column=False)


def new_vector(job: Job) -> NewVector:
    """What a worker brings for a job; for a reuse it brings nothing but the hash."""
    if job.action != "embed":
        return NewVector(job.key, job.action, job.content_hash, lease=job.lease)
    [element] = pgvector.vector_elements(hash_vectors([job.content], 8))
    return NewVector(job.key, job.action, job.content_hash, element, job.lease)


@pytest.mark.timeout(900)
def test_any_history_leaves_the_truth(database: str) -> None:
    loop = asyncio.new_event_loop()

    class Machine(Protocol):
        pass

    Machine.url, Machine.loop = database, loop
    try:
        run_state_machine_as_test(
            Machine,
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
