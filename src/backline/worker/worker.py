"""claim → embed → guarded write → finish: the one engine behind backfill, sync and the server.

Three things run side by side and never wait for one another more than they must: one task claims,
`concurrency` lanes embed, one writer stores. No transaction is open while an embedder works.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from backline import errors, pgvector
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.store import JobStore, Lease, NewVector, Usage
from backline.types import Action, Collection, FailedAttempt, Job
from backline.worker import batching
from backline.worker.backlog import Backlog, PendingText, Rejection, cut_to_fit, too_long
from backline.worker.options import LARGEST_CLAIM, WorkerOptions
from backline.worker.scan import TableScan
from backline.worker.tasks import end_tasks
from backline.worker.writer import Write, Writer

T = TypeVar("T")

MOST_IN_HAND: Final = 8000
# While a table is walked, live edits are looked for this often.
LIVE_EVERY: Final = 0.1
# Where edits never cease, this often it is asked whether the work that was asked for is done.
ASK_EVERY: Final = 1.0
# Pages that somebody is editing are tried again this often.
WAIT_FOR_PAGES: Final = 0.2
# A batch that failed this often with server errors is halved: one of its texts may be the cause.
FAULTS_BEFORE_SPLITTING: Final = 3
# That many texts rejected one by one, and none accepted, is not the rows' fault.
REJECTIONS_BEFORE_GIVING_UP: Final = 25
ERROR_LENGTH: Final = 2000
# Rows named in a report for a text that is longer than the model reads.
KEYS_KEPT: Final = 1000

log = structlog.get_logger("backline.worker")


@dataclass(slots=True)
class WorkerStats:
    """What this worker saw: for rates, for the limit and for its report, never for coverage."""

    settled: int = 0
    long: list[str] = field(default_factory=list)  # keys, the first KEYS_KEPT of them
    requests: int = 0
    shared: int = 0


class Worker:
    """Works on one collection until told to stop, or until what it was asked for is done."""

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        embedder: Embedder,
        limiter: Limiter,
        options: WorkerOptions,
        run: int | None = None,
    ) -> None:
        self.stats = WorkerStats()
        self.run_state: str | None = None
        self._store = store
        self._collection = collection
        self._embedder = embedder
        self._limiter = limiter
        self._options = options
        self._run = run
        self._lease = Lease(0, None)
        budget = replace(options.budget, max_items=options.batch_size)
        self._backlog = Backlog(budget, sort_by_length=True)
        self._writer = Writer(
            store,
            collection,
            lambda: self._lease.worker,
            run=run,
            cache=not embedder.free and options.cache_bytes > 0,
            patiently=self._patiently,
            settled=self._settled,
            busy=self._check_progress,
        )
        self._walk: TableScan | None = None
        self._claimed_at = 0.0
        self._in_hand = 0
        self._pages: Counter[int] = Counter()  # rows in hand of each page, by its lease
        self._stuck_since: float | None = None
        self._rate = 0.0
        self._rejections = 0
        self._accepted_at = 0.0
        self._failing_since: float | None = None
        self._until: datetime | None = None
        self._stopping = asyncio.Event()
        self._nudge = asyncio.Event()

    # --- what callers do ---

    def stop(self) -> None:
        """Take no new work; what is in flight is finished or given back. Idempotent."""
        self._stopping.set()
        self._nudge.set()

    def nudge(self) -> None:
        """Say that there may be new work."""
        self._nudge.set()

    async def drain(self, walk: TableScan | None = None) -> None:
        """Work until everything that was enqueued up to now, or is found by `walk`, is settled.

        Raises:
            ProviderRefusedError: the provider refuses every request.
            ProviderUnavailableError: no answer for `give_up_after` seconds.
            DatabaseError: Postgres is gone for that long, or its disk is full.
        """
        self._walk = walk
        await self._work(self._drained)

    async def follow(self) -> None:
        """Work as edits come in, until `stop`."""
        await self._work(self._never_done)

    # --- lifecycle ---

    async def _work(self, done: Callable[[], Awaitable[bool]]) -> None:
        self._lease = await self._register()
        helpers = [
            asyncio.create_task(self._writer.run(), name="writer"),
            asyncio.create_task(self._beat(), name="heartbeat"),
            *(
                asyncio.create_task(self._lane(), name=f"lane {n}")
                for n in range(self._options.concurrency)
            ),
        ]
        claiming = asyncio.create_task(self._claim_all(done), name="claims")
        try:
            await _first_failure(claiming, helpers)
        finally:
            await self._wind_down(claiming, helpers)

    async def _wind_down(
        self, claiming: asyncio.Task[None], helpers: Sequence[asyncio.Task[None]]
    ) -> None:
        """Finish what is in flight within the grace period, store it, give back the rest."""
        self.stop()
        claiming.cancel()
        await self._backlog.close()
        lanes = [task for task in helpers if task.get_name().startswith("lane")]
        with suppress(asyncio.CancelledError):
            await asyncio.wait(lanes, timeout=self._options.grace)
        await end_tasks(*lanes)
        if not _failed(helpers[0]):  # the writer: what was paid for is stored
            with suppress(TimeoutError):
                await asyncio.wait_for(self._writer.drain(), self._options.grace)
        await end_tasks(claiming, *helpers)
        with suppress(errors.DatabaseError):  # else the lease runs out by itself
            await self._store.unregister(self._lease)
            await self._trim_cache()

    async def _trim_cache(self) -> None:
        if self._store.capabilities.cache and not self._embedder.free:
            await self._store.trim_cache(self._options.cache_bytes)

    async def _register(self, replaces: int | None = None) -> Lease:
        return await self._store.register(
            self._collection, self._run, self._options.lease, replaces
        )

    async def _beat(self) -> None:
        """Renew the lease, learn of a cancelled run, keep the ledger short."""
        pause = min(self._options.lease / 6, 1.0)
        settled, beats = 0, 0
        while True:
            await asyncio.sleep(pause)
            recent = (self.stats.settled - settled) / pause
            settled = self.stats.settled
            self._rate = recent if self._rate == 0 else 0.7 * self._rate + 0.3 * recent
            await self._patiently(self._renew)
            if self.run_state == "cancelling":
                self.stop()
            beats += 1
            if beats % 10 == 1:
                await self._patiently(self._release_dead_workers)
                await self._patiently(partial(self._store.compact, self._collection))
                await self._patiently(self._trim_cache)

    async def _renew(self) -> None:
        try:
            alive, self.run_state = await self._store.heartbeat(
                self._lease, self._run, self._options.lease, self._rate
            )
        except errors.DatabaseUnavailableError:
            alive = False
        if not alive:
            # The server was restarted, or this process slept past its lease. What is in hand goes
            # on under a new lease; the guard on every write keeps it right either way.
            lost = self._lease
            self._lease = await self._register(replaces=lost.worker)
            await self._store.close_session(lost)

    async def _release_dead_workers(self) -> None:
        """Free what other workers left; this one, whatever its lease is by now, lives."""
        await self._store.release_dead_workers(self._collection, self._lease.worker)

    async def _patiently(self, verb: Callable[[], Awaitable[T]]) -> T:
        """Try a verb until the database answers: a restart of the server loses nothing."""
        pause, began = 0.05, time.monotonic()
        while True:
            try:
                return await verb()
            except (errors.ContentionError, errors.DatabaseUnavailableError) as error:
                limit = self._options.give_up_after
                if limit is not None and time.monotonic() - began > limit:
                    raise
                log.warning("database not ready, trying again", error=str(error), pause=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    # --- claim ---

    async def _claim_all(self, done: Callable[[], Awaitable[bool]]) -> None:
        asked = time.monotonic()
        while not self._stopping.is_set():
            limit = self._claim_limit()
            if limit <= 0:
                if self._in_hand == 0 and self._spent():
                    return
                if len(self._backlog) < self._options.batch_size:
                    await self._backlog.flush()  # nothing more is coming: what is there may go
                await self._wait(0.02)
                continue
            with self._backlog.remembering():
                jobs = await self._next_jobs(limit)
                self._backlog.more_coming = self._exploring or (
                    len(jobs) == limit and self._allowed() > len(jobs)
                )
                await self._sort_out(jobs)
            if self._exploring:
                continue
            if not jobs:
                await self._backlog.flush()
            if self._walking:
                self._check_progress()
                await self._wait(WAIT_FOR_PAGES)
            elif self._in_hand == 0 or time.monotonic() - asked > ASK_EVERY:
                asked = time.monotonic()
                if await done():
                    return
            elif not jobs:
                await self._wait(self._options.poll)

    @property
    def _walking(self) -> bool:
        return self._walk is not None and not self._walk.finished and not self._spent()

    @property
    def _exploring(self) -> bool:
        """Whether there are pages that the walk has not seen."""
        return self._walking and self._walk is not None and not self._walk.explored

    async def _next_jobs(self, limit: int) -> list[Job]:
        """Live edits first, then the next page of the walk."""
        jobs: list[Job] = []
        if not self._walking or time.monotonic() - self._claimed_at > LIVE_EVERY:
            self._claimed_at = time.monotonic()
            # Who asks is looked up at each try: between two, the lease may have been replaced.
            jobs = await self._patiently(
                lambda: self._store.claim(self._collection, self._lease.worker, limit)
            )
        walk = self._walk
        if walk is not None and self._walking and len(jobs) < limit:
            page = await self._patiently(
                lambda: walk.claim(
                    self._store, self._collection, self._lease.worker,
                    self._run, limit - len(jobs), self._pages,
                )
            )  # fmt: skip
            if page:
                self._pages[page[0].lease] = len(page)
            jobs += page
        return jobs

    def _spent(self) -> bool:
        return self._options.max_rows is not None and self._allowed() <= 0

    def _allowed(self) -> int:
        if self._options.max_rows is None:
            return sys.maxsize
        return self._options.max_rows - self.stats.settled - self._in_hand

    def _claim_limit(self) -> int:
        """Rows to claim now, so that no lane ever waits for the database.

        Two rounds of the lanes, or two seconds' work, stand ready; more would only keep it from
        other workers. Zero where that is so, or where the writer is behind.
        """
        ahead = 2 * self._options.batch_size * self._options.concurrency
        ahead = min(LARGEST_CLAIM, max(ahead, self._options.ahead, int(2 * self._rate)))
        if len(self._backlog) > ahead // 2:
            return 0
        room = min(ahead, MOST_IN_HAND - self._in_hand)
        return 0 if room < ahead // 4 else min(room, self._allowed())

    async def _wait(self, seconds: float) -> None:
        """Sleep, but not past a nudge."""
        # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the nudge.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudge.wait()
        self._nudge.clear()

    async def _never_done(self) -> bool:
        await self._wait(self._options.poll)
        return False

    async def _drained(self) -> bool:
        """Whether all is settled; sleeps a little where it is not."""
        before = await self._mark()
        if self._walk is not None:
            await self._patiently(
                lambda: self._store.end_finished_batches(self._lease.worker, self._pages)
            )
        remain, due_in = await self._patiently(
            partial(self._store.outstanding, self._collection, before)
        )
        if not remain:
            return True
        await self._patiently(self._release_dead_workers)
        if due_in == 0 and self._in_hand == 0:  # there is work, and somebody holds all of it
            self._check_progress()
        else:
            self._stuck_since = None
        await self._wait(min(1.0, max(0.05, due_in if due_in is not None else 0.2)))
        return False

    async def _mark(self) -> datetime:
        """The moment up to which work counts: edits that come later are not this drain's."""
        if self._until is None:
            self._until = await self._patiently(self._store.now)
        return self._until

    async def _sort_out(self, jobs: Sequence[Job]) -> None:
        """Send each claimed row where its action says."""
        self._in_hand += len(jobs)
        texts = [job for job in jobs if job.action == "embed"]
        others = [job for job in jobs if job.action != "embed"]
        if others:
            rows = [
                NewVector(job.key, job.action, job.content_hash, lease=job.lease) for job in others
            ]
            await self._writer.put([Write(row) for row in rows])
        fresh = [job for job in texts if not await self._joined(job)]
        if fresh:
            units = await self._units(fresh)
            if self._collection.long_text == "reject":
                units = [unit for unit in units if not await self._too_long(unit)]
            await self._backlog.add(units)

    async def _joined(self, job: Job) -> bool:
        """Whether the row's text is on its way already, for another row."""
        unit = self._backlog.known(job.content_hash or b"")
        if unit is None:
            return False
        unit.jobs.append(job)
        unit.unsettled += 1
        self.stats.shared += 1
        if unit.element is not None:
            row = NewVector(job.key, "reuse", job.content_hash, unit.element, job.lease, unit.long)
            await self._writer.put([Write(row, unit)])
        elif unit.verdict is not None:
            await self._writer.put([_failed_write(unit, job, unit.verdict)])
        return True

    async def _units(self, jobs: Sequence[Job]) -> list[PendingText]:
        """One unit for each different text, cut to what the model reads."""
        firsts, inverse = batching.unique([job.content_hash for job in jobs])
        contents = [jobs[i].content for i in firsts]
        tokens = await asyncio.to_thread(self._embedder.count_tokens, contents)
        units = [self._unit(jobs[i], count) for i, count in zip(firsts, tokens, strict=True)]
        if any(unit.long for unit in units):
            await asyncio.to_thread(cut_to_fit, units, self._embedder, self._collection.long_text)
        for job, at in zip(jobs, inverse, strict=True):
            units[at].jobs.append(job)
            units[at].unsettled += 1
        self.stats.shared += len(jobs) - len(units)
        return units

    def _unit(self, job: Job, tokens: int) -> PendingText:
        long = tokens > self._embedder.model.max_tokens
        return PendingText(job.content_hash or b"", job.content, tokens, long=long)

    async def _too_long(self, unit: PendingText) -> bool:
        """Send a text that is longer than the model reads to the dead letters."""
        if unit.long:
            await self._record(unit, "too long", too_long(unit, self._embedder), retry_in=None)
        return unit.long

    # --- embed ---

    async def _lane(self) -> None:
        while (batch := await self._backlog.next_batch()) is not None:
            if self._claim_limit() > 0:
                self._nudge.set()
            await self._deliver(batch)

    async def _deliver(self, units: list[PendingText]) -> None:
        """Embed a batch, and see to it whatever the provider answers."""
        try:
            async with self._limiter.slot(sum(unit.tokens for unit in units)):
                answer = await self._ask(units)
        except errors.RateLimitedError as error:
            self._limiter.defer(error.retry_after)
            self._check_patience(error)
            await self._backlog.put_back(units)
        except errors.InputRejectedError as error:
            await self._rejected(units, error)
        except errors.ProviderRefusedError:
            raise
        except errors.EmbedderError as error:
            await self._unavailable(units, error)
        else:
            self._limiter.succeeded()
            self._accepted_at = time.monotonic()
            self._failing_since = None
            self._rejections = -1
            await self._accepted(units, answer)

    async def _ask(self, units: list[PendingText]) -> Any:
        """One request for a batch; what it answers is for `_accepted`."""
        return await self._embedder.embed([unit.text for unit in units])

    async def _accepted(self, units: list[PendingText], vectors: Any) -> None:
        """Hand a batch to the writer, each vector with every row that waits for it."""
        self.stats.requests += 1
        usage = Usage(1, sum(u.tokens for u in units), sum(u.long for u in units))
        writes: list[Write] = []
        for at, (unit, element) in enumerate(
            zip(units, pgvector.vector_elements(vectors), strict=True)
        ):
            if unit.whole is None:
                writes += self._writes(unit, element)
                continue
            unit.vector = vectors[at]
            if (mean := unit.whole.mean()) is not None:
                writes += self._writes(unit.whole, pgvector.vector_elements(mean)[0])
        await self._writer.put(writes, usage)

    def _writes(self, unit: PendingText, element: bytes) -> list[Write]:
        """The vector of a text for every row that has it."""
        unit.element = element
        if unit.long:
            self.stats.long.extend(job.key for job in unit.jobs)
            del self.stats.long[KEYS_KEPT:]
        writes = []
        action: Action = "embed"
        for job in unit.jobs:
            row = NewVector(job.key, action, job.content_hash, element, job.lease, unit.long)
            writes.append(Write(row, unit))
            action = "reuse"  # the second row of a text is no purchase
        return writes

    def _settled(self, writes: Sequence[Write]) -> None:
        """These rows are done with, whatever the outcome."""
        for write in writes:
            if write.unit is not None:
                self._backlog.settle(write.unit)
        if self._pages:
            self._end_pages(writes)
        self._in_hand -= len(writes)
        self.stats.settled += len(writes)
        self._stuck_since = None
        if self._in_hand == 0 or self._claim_limit() > 0:
            self._nudge.set()

    def _end_pages(self, writes: Sequence[Write]) -> None:
        """A page of which nothing is in hand any more need not be kept."""
        for lease, count in Counter([write.row.lease for write in writes]).items():
            if lease is not None and lease in self._pages:
                self._pages[lease] -= count
                if self._pages[lease] <= 0:
                    del self._pages[lease]

    # --- faults ---

    async def _rejected(self, units: list[PendingText], error: errors.EmbedderError) -> None:
        """The provider will not take one of these texts: find it, and embed the others."""
        self._limiter.succeeded()  # it answered; its pace is not the trouble
        self._failing_since = None
        if len(units) > 1:
            await self._split(units)
            return
        await self._record(units[0], "rejected", error, retry_in=None)
        if self._rejections >= 0:
            self._rejections += 1
        if self._rejections >= REJECTIONS_BEFORE_GIVING_UP:
            raise errors.ProviderRefusedError(
                f"The provider rejected each of the first {self._rejections} texts, one by one, "
                f"and accepted none: {error}. Check the model and the base URL; then send the "
                "dead letters again with: backline failures retry."
            )

    async def _unavailable(self, units: list[PendingText], error: errors.EmbedderError) -> None:
        """No answer, or a server error: usually the provider's trouble, rarely one text's."""
        self._limiter.unavailable()
        self._check_patience(error)
        for unit in units:
            unit.faults_since = unit.faults_since or time.monotonic()
            unit.faults += 1
        # A text that failed while others passed, in this round or in an earlier one, is the cause.
        suspect = units[0].jobs[0].attempts > 0 or self._accepted_at > units[0].faults_since
        if len(units) == 1 and suspect and units[0].faults >= self._faults_allowed(units[0]):
            units[0].faults, units[0].faults_since = 0, 0.0
            wait = min(60, 2.0 ** units[0].jobs[0].attempts)
            await self._record(units[0], "unavailable", error, retry_in=wait)
        elif len(units) > 1 and units[0].faults >= FAULTS_BEFORE_SPLITTING:
            await self._split(units)
        else:
            await self._backlog.put_back(units)

    def _faults_allowed(self, unit: PendingText) -> int:
        """A text that was counted out before is not given three more calls each time."""
        return 1 if unit.jobs[0].attempts > 0 else FAULTS_BEFORE_SPLITTING

    async def _split(self, units: list[PendingText]) -> None:
        for half in batching.bisect(range(len(units))):
            await self._deliver([units[i] for i in half])

    async def _record(
        self, unit: PendingText, kind: str, error: Exception, *, retry_in: float | None
    ) -> None:
        """Report every row of a text; rows that join it later share the verdict."""
        unit = unit.settles
        if unit.verdict is not None:  # another window of the text failed as well
            return
        unit.verdict = Rejection(kind, str(error)[:ERROR_LENGTH], retry_in)
        await self._writer.put([_failed_write(unit, job, unit.verdict) for job in unit.jobs])

    def _check_progress(self) -> None:
        """Called where all that is left to do waits for somebody's open transaction."""
        limit = self._options.give_up_after
        self._stuck_since = self._stuck_since or time.monotonic()
        stuck = time.monotonic() - self._stuck_since
        if limit is not None and stuck > limit:
            raise _held_too_long(stuck)

    def _check_patience(self, error: errors.EmbedderError) -> None:
        limit = self._options.give_up_after
        self._failing_since = self._failing_since or time.monotonic()
        silent = time.monotonic() - self._failing_since
        if limit is not None and silent > limit:
            raise errors.ProviderUnavailableError(
                f"The provider has embedded nothing for {silent:.0f} s; last it said: {error}. "
                "Nothing is lost: run the same command again when it is back."
            )


def _held_too_long(seconds: float) -> errors.ContentionError:
    return errors.ContentionError(
        f"For {seconds:.0f} s, all the rows that are left have been held by somebody's open "
        "transaction. Nothing is lost: end that transaction (pg_stat_activity shows it as "
        "'idle in transaction'), and run the same command again."
    )


def _failed_write(unit: PendingText, job: Job, verdict: Rejection) -> Write:
    failure = FailedAttempt(job.key, unit.content_hash, *verdict, lease=job.lease)
    row = NewVector(job.key, job.action, unit.content_hash, lease=job.lease)
    return Write(row, unit, failure)


async def _first_failure(main: asyncio.Task[None], helpers: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `main`; a helper that fails first ends the wait with its error."""
    await asyncio.wait({main, *helpers}, return_when=asyncio.FIRST_COMPLETED)
    while not main.done():
        for helper in helpers:
            if helper.done():
                helper.result()
        await asyncio.wait(
            {main, *(h for h in helpers if not h.done())}, return_when=asyncio.FIRST_COMPLETED
        )
    main.result()


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
