"""The lease of a worker, its sessions and its transactions, and how each of them is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from backline.postgres.store import Store
from backline.store import Lease, LeasedBatch, NewVector
from backline.types import Collection, Job
from tests.simulation.history import Step
from tests.simulation.payments import Payments
from tests.simulation.scheduler import Actor, OneConnection, Scheduler, connect

LEASE_SECONDS: Final = 3600.0
# The next step may come late on a machine with other work.
_NEVER_ENDS: Final = "set local idle_in_transaction_session_timeout = 0"


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
class LeaseHolder(Actor):
    """A session of Backline that holds a lease.

    Attributes:
        jobs: what it believes to hold, also after it has lost its lease.
        on_commit: what it learns when its open transaction commits.
        after: where its scan of the table continues.
        lost_page: the size of the page whose lease it has not received, and asks for again.
        left_open: sessions of workers that vanished.
        expired: its lease has ended since its last heartbeat. A real worker knows that by its
            clock, and sends a heartbeat before it embeds.
    """

    shared: Shared = field(kw_only=True)
    lease: Lease | None = None
    jobs: list[Held] = field(default_factory=list)
    on_commit: Callable[[], None] | None = None
    after: str | None = None
    lost_page: int | None = None
    left_open: list[AsyncConnection[DictRow]] = field(default_factory=list)
    expired: bool = False

    def __post_init__(self) -> None:
        self.collection = self.shared.collection
        self.payments = self.shared.payments
        self.store = Store(OneConnection(self.url, self.connection))

    async def register(self, replaces: int | None = None) -> None:
        """Register, with a session of its own."""
        self.expired = False
        self.lease = await self.store.register(self.collection, None, LEASE_SECONDS, replaces)

    async def heartbeat(self, lease: Lease) -> None:
        """Renew the lease. A lost one is replaced, and its jobs are kept."""
        alive, _ = await self.store.heartbeat(lease, None, LEASE_SECONDS, 1.0)
        self.expired = False
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
        if self.in_transaction or self.busy:
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

    async def call(
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
            await self.connection.execute(_NEVER_ENDS)
            self.on_commit = None if lost else partial(learn, response)
        elif not lost:
            learn(response)

    async def commit(self) -> None:
        """Commit the open transaction, and learn its result."""
        await self.connection.execute("commit")
        if self.on_commit is not None:
            self.on_commit()
            self.on_commit = None

    async def roll_back(self) -> None:
        """End a failed call."""
        if self.in_transaction:
            await self.connection.execute("rollback")

    @property
    def worker_id(self) -> int:
        """The id under which it is registered."""
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
