"""A worker at the granularity of its calls: it can crash, stall or lose a response between two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import uuid4

from backline import errors
from backline.store import Lease, LeasedBatch, NewVector
from backline.types import FailedAttempt, Job
from tests.integration.harness import new_vector
from tests.simulation.history import Step
from tests.simulation.lease import Held, LeaseHolder

NO_WORKER: Final = 0
# Another transaction held a lock, or has changed the definition while the call waited for it.
OVERTAKEN: Final = (errors.ContentionError, errors.ColumnNotFoundError, errors.TableNotFoundError)


@dataclass(eq=False)
class Worker(LeaseHolder):
    """A worker, or the remote service that embeds for it."""

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
            self.gives_up = False
            await self.roll_back()
            with suppress(errors.DatabaseUnavailableError):  # its session was ended while it waited
                await self.unregister(lease)
        except OVERTAKEN as error:
            self.notes.append(f"gives up: {error}")
            await self.roll_back()
        except errors.DatabaseUnavailableError:  # its session was ended while it waited
            return
        except errors.BacklineError as error:
            await self.roll_back()
            self.violations.append(f"{self.name}: {step.action} fails: {error}")
        finally:
            self.gives_up = False

    async def _go_on(self, step: Step) -> None:
        """Make the call that a worker makes next."""
        waiting = any(held.row is None for held in self.jobs)
        self.embed()
        if not self.jobs:
            await self.claim(step)
        elif not waiting or step.a % 2:
            await self.complete(step, self.jobs)

    def _some(self, step: Step) -> list[Held]:
        """Return a subset of the jobs, at least one if there is any."""
        chosen = [held for n, held in enumerate(self.jobs) if step.a >> n % 8 & 1]
        return chosen or self.jobs[-1:]

    # --- rows ---

    async def has_work(self) -> bool:
        """Return whether a claim would find work, as a worker asks before each."""
        _, seconds = await self.store.work_due([self.collection.id])
        return seconds == [0]

    async def claim(self, step: Step) -> None:
        """Claim jobs from the queue."""
        call = partial(self.store.claim, self.collection, self.worker_id, step.a % 6 + 1)
        await self.call(step, call, self._hold_claimed)

    def _hold_claimed(self, jobs: Sequence[Job]) -> None:
        self.jobs += [Held(job, self.payments.generation(job.key)) for job in jobs]

    async def claim_page(self, step: Step) -> None:
        """Lease due rows of the next page of the table."""
        limit = self.lost_page or step.a % 4 + 1
        call = partial(
            self.store.claim_batch, self.collection, self.worker_id, None, self.after, limit,
            {held.job.lease for held in self.jobs},
        )  # fmt: skip
        self.lost_page = limit
        await self.call(step, call, partial(self._hold_page, limit), gives_up=True)

    def _hold_page(self, limit: int, page: LeasedBatch) -> None:
        self.lost_page = None
        self._hold_claimed(page.jobs)
        self.after = None if page.scanned < limit else page.last_key

    async def end_pages(self) -> None:
        """End the batch leases that are finished, unless one has not been received."""
        if self.lost_page is not None:
            return
        await self.store.end_finished_batches(
            self.worker_id, {held.job.lease for held in self.jobs}
        )

    def embed(self) -> None:
        """Embed every job that needs a vector."""
        for held in self.jobs:
            if held.row is None:
                held.row = new_vector(held.job)
                if held.job.action == "embed":
                    text = f"{held.job.content} ({self.collection.model.revision})"
                    self.payments.pay(held.job.key, text, held.generation)
                    if self.expired:
                        self.payments.excuse([held.job.key])

    async def complete(self, step: Step, some: Sequence[Held]) -> None:
        """Store the vectors of jobs."""
        rows = [held.row for held in some if held.row is not None]
        if rows:
            call = partial(
                self.store.complete, self.collection, self.worker_id, None, rows, cache=True
            )
            await self.call(step, call, partial(self._completed, rows), gives_up=True)

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
            call = partial(self.store.fail, self.collection, self.worker_id, None, attempts)
            await self.call(step, call, partial(self._failed, {a.key for a in attempts}))

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
        left = await self.store.confirm(self.collection, self.worker_id, None, rows, uuid4())
        kept = {key for key, outcome in left if outcome == "busy"}
        self.payments.excuse(key for key, _ in left)
        done = {row.key for row in rows} - kept
        self.jobs = [held for held in self.jobs if held.job.key not in done]
