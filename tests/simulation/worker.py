"""A worker at the granularity of its calls: it can crash, stall or lose a response between two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import uuid4

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from backline import errors
from backline.postgres.store import Store
from backline.store import Lease, LeasedBatch, NewVector
from backline.types import Collection, FailedAttempt, Job
from tests.integration.harness import new_vector
from tests.simulation.history import Step
from tests.simulation.scheduler import Actor, OneConnection, Scheduler, connect

LEASE_SECONDS: Final = 3600.0
NO_WORKER: Final = 0
# Another transaction held a lock, or has changed the definition while the call waited for it.
OVERTAKEN: Final = (errors.ContentionError, errors.ColumnNotFoundError, errors.TableNotFoundError)


@dataclass
class Payments:
    """Counts what the embedder was paid for, between two events that explain a second payment.

    Such an event is an edit of the row, a crash, a lost lease, a failed attempt or an empty cache.
    Each begins a new generation of the row. What was claimed before it is not counted after it.
    """

    paid: Counter[tuple[str, str, tuple[int, int]]] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    events_of_all: int = 0

    def excuse(self, keys: Iterable[str]) -> None:
        """Record an event of some rows."""
        self.events.update(set(keys))

    def generation(self, key: str) -> tuple[int, int]:
        """Return the present generation of a row."""
        return self.events_of_all, self.events[key]

    def pay(self, key: str, text: str, claimed: tuple[int, int]) -> None:
        """Record that a worker has embedded the text of a row, claimed in a generation."""
        if claimed == self.generation(key):
            self.paid[key, text, claimed] += 1

    def violations(self) -> list[str]:
        """Return the texts that were embedded again without a reason."""
        return [
            f"row {key} was embedded {count} times as {text!r}"
            for (key, text, _), count in self.paid.items()
            if count > 1
        ]


@dataclass
class Held:
    """A job that a worker believes to hold."""

    job: Job
    generation: tuple[int, int]
    row: NewVector | None = None


@dataclass
class Shared:
    """What the actors of a history share."""

    collection: Collection
    scheduler: Scheduler
    payments: Payments = field(default_factory=Payments)


@dataclass(eq=False)
class Worker(Actor):
    """A worker, or the remote service that embeds for it.

    Attributes:
        jobs: what it believes to hold, also after it has lost its lease.
        on_commit: what it learns when its open transaction commits.
        after: where its scan of the table continues.
        lost_page: the size of the page whose lease it has not received, and asks for again.
    """

    shared: Shared = field(kw_only=True)
    lease: Lease | None = None
    jobs: list[Held] = field(default_factory=list)
    on_commit: Callable[[], None] | None = None
    after: str | None = None
    lost_page: int | None = None
    left_open: list[AsyncConnection[DictRow]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.collection = self.shared.collection
        self.payments = self.shared.payments
        self.store = Store(OneConnection(self.url, self.connection))

    async def step(self, step: Step) -> None:
        """Make the call of a step, if it is possible now."""
        if step.action in ("crash", "vanish"):
            await (self.crash() if step.action == "crash" else self.vanish())
        elif self.in_transaction:
            await self.commit()
        elif self.lease is None:
            await self.register()
        else:
            await self._registered(self.lease, step)

    async def _registered(self, lease: Lease, step: Step) -> None:
        calls: dict[str, Callable[[], Awaitable[None]]] = {
            "go on": partial(self._go_on, step),
            "claim": partial(self.claim, step),
            "claim a page": partial(self.claim_page, step),
            "complete": partial(self.complete, step, self._some(step)),
            "fail": partial(self.fail, step, self._some(step)),
            "confirm": partial(self.confirm, self._some(step)),
            "upsert": partial(self.upsert, self._some(step)),
            "heartbeat": partial(self.heartbeat, lease),
            "release": partial(self.release, lease),
            "unregister": partial(self.unregister, lease),
            "end pages": self.end_pages,
        }
        try:
            await calls[step.action]()
        except errors.ModelMismatchError:
            await self._roll_back()
            await self.unregister(lease)
        except OVERTAKEN as error:
            self.notes.append(f"gives up: {error}")
            await self._roll_back()
        except errors.DatabaseUnavailableError:  # its session was ended while it waited
            return
        except errors.BacklineError as error:
            await self._roll_back()
            self.violations.append(f"{self.name}: {step.action} fails: {error}")
        finally:
            self.gives_up = False

    async def _go_on(self, step: Step) -> None:
        """Make the call that a worker makes next."""
        if any(held.row is None for held in self.jobs):
            self.embed()
        elif self.jobs:
            await self.complete(step, self.jobs)
        else:
            await self.claim(step)

    def _some(self, step: Step) -> list[Held]:
        """Return a subset of the jobs, at least one if there is any."""
        chosen = [held for n, held in enumerate(self.jobs) if step.a >> n % 8 & 1]
        return chosen or self.jobs[-1:]

    # --- its lease ---

    async def register(self, replaces: int | None = None) -> None:
        """Register, with a session of its own."""
        self.lease = await self.store.register(self.collection, None, LEASE_SECONDS, replaces)

    async def heartbeat(self, lease: Lease) -> None:
        """Renew the lease. A lost one is replaced, and its jobs are kept."""
        alive, _ = await self.store.heartbeat(lease, None, LEASE_SECONDS, 1.0)
        if not alive:
            self.excuse()
            await self.register(lease.worker)
            await self._end_session(lease)

    async def release(self, lease: Lease) -> None:
        """Return the jobs to the queue, and forget them."""
        self.excuse()
        await self.store.connector.fetch("select backline.release(%s)", [lease.worker])
        self.jobs = []

    async def unregister(self, lease: Lease) -> None:
        """End as a worker does that is stopped; the next step registers a new one."""
        self.excuse()
        await self.store.connector.fetch("select backline.unregister_worker(%s)", [lease.worker])
        await self._end_session(lease)
        self._begin_anew()

    async def _end_session(self, lease: Lease) -> None:
        if lease.session is not None:
            await self.shared.scheduler.end(lease.session)

    async def crash(self) -> None:
        """End every session. Postgres rolls back what is open."""
        self.excuse()
        sessions = [self.lease.session] if self.lease and self.lease.session else []
        await self.shared.scheduler.end(self.connection, *sessions)
        await self._reconnect()

    async def vanish(self) -> None:
        """Never call again, and leave the sessions open, as a machine without network does."""
        if self.in_transaction:
            await self.crash()
            return
        self.excuse()
        self.left_open.append(self.connection)
        if self.lease and self.lease.session:
            self.left_open.append(self.lease.session)
        await self._reconnect()

    async def _reconnect(self) -> None:
        self.connection = await connect(self.url, self.name)
        self.store = Store(OneConnection(self.url, self.connection))
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.lease, self.jobs, self.on_commit = None, [], None
        self.after, self.lost_page = None, None
        self.collection = self.shared.collection

    def excuse(self) -> None:
        """Record that another worker may embed again what this one holds."""
        self.payments.excuse(held.job.key for held in self.jobs)

    # --- transactions and responses ---

    async def _call(
        self,
        step: Step,
        call: Callable[[], Awaitable[Any]],
        learn: Callable[[Any], None],
        *,
        gives_up: bool = False,
    ) -> None:
        """Make a call. Its transaction may stay open until a later step.

        `learn` applies the response. A response that is lost is not applied: the worker makes the
        call again.
        """
        lost, open_ = step.b % 8 == 0, step.b // 8 % 4 == 0
        if open_:
            await self.connection.execute("begin")
        self.gives_up = gives_up
        response = await call()
        self.notes.append(
            f"receives {_words(response)}{' and loses it' * lost}{' without commit' * open_}"
        )
        if open_:
            self.on_commit = None if lost else partial(learn, response)
        elif not lost:
            learn(response)

    async def commit(self) -> None:
        """Commit the open transaction, and learn its result."""
        await self.connection.execute("commit")
        if self.on_commit is not None:
            self.on_commit()
            self.on_commit = None

    async def _roll_back(self) -> None:
        if self.in_transaction:
            await self.connection.execute("rollback")

    # --- rows ---

    async def has_work(self) -> bool:
        """Return whether a claim would find work, as a worker asks before each."""
        return bool(await self.store.has_work([self.collection.id]))

    async def claim(self, step: Step) -> None:
        """Claim jobs from the queue."""
        call = partial(self.store.claim, self.collection, self._id, step.a % 6 + 1)
        await self._call(step, call, self._hold_claimed)

    def _hold_claimed(self, jobs: Sequence[Job]) -> None:
        self.jobs += [Held(job, self.payments.generation(job.key)) for job in jobs]

    async def claim_page(self, step: Step) -> None:
        """Lease due rows of the next page of the table."""
        limit = self.lost_page or step.a % 4 + 1
        call = partial(
            self.store.claim_batch, self.collection, self._id, None, self.after, limit,
            {held.job.lease for held in self.jobs},
        )  # fmt: skip
        self.lost_page = limit
        await self._call(step, call, partial(self._hold_page, limit), gives_up=True)

    def _hold_page(self, limit: int, page: LeasedBatch) -> None:
        self.lost_page = None
        self._hold_claimed(page.jobs)
        self.after = None if page.scanned < limit else page.last_key

    async def end_pages(self) -> None:
        """End the batch leases that are finished, unless one has not been received."""
        if self.lost_page is not None:
            return
        await self.store.end_finished_batches(self._id, {held.job.lease for held in self.jobs})

    def embed(self) -> None:
        """Embed every job that needs a vector."""
        for held in self.jobs:
            if held.row is None:
                held.row = new_vector(held.job)
                if held.job.action == "embed":
                    text = f"{held.job.content} ({self.collection.model.revision})"
                    self.payments.pay(held.job.key, text, held.generation)

    async def complete(self, step: Step, some: Sequence[Held]) -> None:
        """Store the vectors of jobs."""
        rows = [held.row for held in some if held.row is not None]
        if rows:
            call = partial(self.store.complete, self.collection, self._id, None, rows, cache=True)
            await self._call(step, call, partial(self._completed, rows), gives_up=True)

    def _completed(self, rows: Sequence[NewVector], left: Sequence[tuple[str, str]]) -> None:
        busy = {key for key, outcome in left if outcome == "busy"}
        done = {id(row) for row in rows if row.key not in busy}
        self.jobs = [held for held in self.jobs if id(held.row) not in done]

    async def fail(self, step: Step, some: Sequence[Held]) -> None:
        """Record failed attempts, which are final or are repeated at once."""
        attempts = [
            FailedAttempt(
                held.job.key, held.job.content_hash, "rejected", "no",
                0.0 if step.b % 2 else None, held.job.lease,
            )
            for held in some
            if held.job.content_hash is not None
        ]  # fmt: skip
        if attempts:
            self.payments.excuse(attempt.key for attempt in attempts)
            call = partial(self.store.fail, self.collection, self._id, None, attempts)
            await self._call(step, call, partial(self._failed, {a.key for a in attempts}))

    def _failed(self, failed: set[str], busy: Sequence[str]) -> None:
        done = failed - set(busy)
        self.jobs = [held for held in self.jobs if held.job.key not in done]

    async def upsert(self, some: Sequence[Held]) -> None:
        """Store vectors as a server does, which holds no job."""
        self.embed()
        rows = [held.row._replace(lease=None) for held in some if held.row is not None]
        self.gives_up = True
        await self.store.complete(self.collection, NO_WORKER, None, rows, cache=True)

    async def confirm(self, some: Sequence[Held]) -> None:
        """End the jobs of rows that a server has stored."""
        rows = [
            NewVector(held.job.key, "up_to_date", held.job.content_hash, lease=held.job.lease)
            for held in some
            if held.job.content_hash is not None
        ]
        if not rows:
            return
        left = await self.store.confirm(self.collection, self._id, None, rows, uuid4())
        kept = {key for key, outcome in left if outcome == "busy"}
        self.payments.excuse(key for key, _ in left)
        done = {row.key for row in rows} - kept
        self.jobs = [held for held in self.jobs if held.job.key not in done]

    @property
    def _id(self) -> int:
        assert self.lease is not None
        return self.lease.worker


def _words(response: Any) -> str:
    """Return a response without the numbers that differ between two runs of a history."""
    if isinstance(response, LeasedBatch):
        return f"{_words(response.jobs)} of {response.scanned} rows"
    words = (
        f"{r.key} {r.action} {r.content!r}" if isinstance(r, Job) else str(r) for r in response
    )
    return f"[{', '.join(words)}]"
