"""Run one history against a database, and judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from tests.simulation.administrator import Administrator
from tests.simulation.checks import Judge
from tests.simulation.history import ADMINISTRATOR, HOSTS, History, Step
from tests.simulation.host import Host, Names
from tests.simulation.lease import Shared
from tests.simulation.scheduler import Actor, Scheduler, Wait
from tests.simulation.worker import Worker

# Rounds of claims that bring every collection of a history to rest.
MOST_ROUNDS: Final = 40
GO_ON: Final = Step("worker 1", "go on", 5, 9)
ONE_PAGE: Final = Step("worker 1", "claim a page", 3, 9)


@dataclass
class Simulation:
    """The actors of one history, their database, and what they have done."""

    history: History
    monitor: AsyncConnection[DictRow]
    hosts: dict[str, Host]
    workers: dict[str, Worker]
    administrator: Administrator
    shared: Shared
    names: Names
    done: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    # --- the steps ---

    async def run(self) -> list[str]:
        """Run the steps, bring the collection to rest, and return what is wrong."""
        for worker in self.workers.values():
            await worker.register()
        for step in self.history.steps:
            await self._step(step)
            if self.violations:
                return self.violations
        await self._end_hosts()
        if not self.violations:
            await self._come_to_rest()
        if not self.violations:
            self.violations += await self._judge().violations()
            self.violations += self.shared.payments.violations()
        return self.violations

    async def _step(self, step: Step) -> None:
        actor = self._actor(step.actor)
        if actor.busy and step.action not in ("crash", "vanish"):
            return
        if not self._possible(step):
            return
        self.done.append(str(step))
        if step.action in ("crash", "vanish"):
            await self._worker(step).step(step)
            await self._observe(await self.scheduler.settle())
        elif step.action == "expire":
            await self._start(self.administrator, self.administrator.expire(self._worker(step)))
        else:
            await self._start(actor, actor.step(step))

    def _possible(self, step: Step) -> bool:
        """Return whether the action is possible now."""
        if step.action == "expire":
            return not self.administrator.busy
        return not (self.names.changing and step.action in ("write", "change schema"))

    async def _start(self, actor: Any, work: Any) -> None:
        await self._observe(await self.scheduler.run(actor, work))

    # --- what is observed ---

    async def _observe(self, waits: Sequence[Wait]) -> None:
        """Collect what the actors noticed, and what coverage says at this moment."""
        for actor in self.scheduler.actors:
            self.done += [f"    {actor.name}: {note}" for note in actor.notes]
            self.violations += actor.violations
            actor.notes.clear()
            actor.violations.clear()
        for wait in waits:
            self.done.append(f"    {wait.actor.name} waits")
            if wait.actor.name in HOSTS:
                await self._judge_wait(wait)
        await self._judge_coverage()

    async def _judge_wait(self, wait: Wait) -> None:
        """A session of the application may wait for a row or a table, not for Backline's records.

        A worker locks a row while it writes the row's vector.
        """
        ours = {actor.pid for actor in (*self.workers.values(), self.administrator)}
        if not wait.blockers & ours:
            return
        values = {"waiting": wait.actor.pid, "blocking": list(wait.blockers)}
        cursor = await self.monitor.execute(_LOCKS, values)
        row = await cursor.fetchone()
        if row is not None and not row["on_the_table"]:
            self.violations.append(f"{wait.actor.name} waits for Backline: {row['locks']}")

    async def _judge_coverage(self) -> None:
        """Compare what coverage says with the rows, in one snapshot."""
        self.violations += await self._judge().coverage_violations()

    def _judge(self) -> Judge:
        return Judge(self.monitor, self.shared.collection, self.names)

    # --- the end ---

    async def _end_hosts(self) -> None:
        """End every transaction, first those that no other statement waits for."""
        for _ in range(4 * len(self.workers) * len(self.hosts)):
            for actor in (*self.workers.values(), *self.hosts.values()):
                if actor.in_transaction and not actor.busy:
                    await self._start(actor, self._end_transaction(actor))
            for host in self.hosts.values():
                if host.prepared:
                    await host.commit_prepared(self.monitor)
                    await self._observe(await self.scheduler.settle())
            if not any(actor.busy or actor.in_transaction for actor in self.scheduler.actors):
                return
        self.violations.append("a statement waits for ever")

    async def _end_transaction(self, actor: Actor) -> None:
        if isinstance(actor, Worker):
            await actor.commit()
        elif isinstance(actor, Host):
            await actor.execute("rollback" if actor.aborted else "commit")

    async def _come_to_rest(self) -> None:
        """Stop every worker, and let one finish the work."""
        worker, *others = self.workers.values()
        for other in others:
            await other.crash()
        if worker.lease is not None:
            await worker.unregister(worker.lease)
        for statement in ("update backline.workers set expires_at = '-infinity'",
                          "update backline.jobs set not_before = now()"):  # fmt: skip
            await self.monitor.execute(statement)
        await self.administrator.step(Step(ADMINISTRATOR, "release dead workers", 0, 0))
        await worker.register()
        if self.history.backfill:
            await self._scan(worker)
        for _ in range(MOST_ROUNDS):
            await worker.step(Step("worker 1", "claim", 5, 9))
            if not worker.jobs and not await worker.has_work():
                break
            await worker.step(GO_ON)
            await worker.step(GO_ON)
        else:
            self.violations.append("the queue never becomes empty")
        self.violations += worker.violations

    async def _scan(self, worker: Worker) -> None:
        """Lease and finish every due row of the table, as a backfill does."""
        for _ in range(MOST_ROUNDS):
            await worker.step(ONE_PAGE)
            await worker.step(GO_ON)
            await worker.step(GO_ON)
            if worker.after is None:
                break
        await worker.end_pages()

    # --- the actors ---

    @property
    def scheduler(self) -> Scheduler:
        return self.shared.scheduler

    def _actor(self, name: str) -> Any:
        if name == ADMINISTRATOR:
            return self.administrator
        return self.hosts.get(name) or self.workers[name]

    def _worker(self, step: Step) -> Worker:
        return self.workers[step.actor]

    async def close(self) -> None:
        """End the sessions of workers that are gone and, after a failure, every session."""
        ended = [each for worker in self.workers.values() for each in worker.left_open]
        ended += [w.lease.session for w in self.workers.values() if w.lease and w.lease.session]
        if self.violations:
            ended += [actor.connection for actor in self.scheduler.actors]
        await self.scheduler.end(*ended)
        for host in self.hosts.values():
            if host.prepared:
                await self.monitor.execute(f"rollback prepared '{host.name}'")


_LOCKS: Final = """
with tables as (
  select k.oid from pg_class k join pg_namespace n on n.oid = k.relnamespace
  where n.nspname in ('app', 'other') and k.relkind = 'r'
)
select coalesce(bool_or(
    l.pid = %(waiting)s and (l.locktype = 'tuple' or not l.granted)
    or l.pid = any (%(blocking)s) and l.mode in ('RowExclusiveLock', 'RowShareLock'))
  filter (where l.relation in (select t.oid from tables t)), false) as on_the_table,
  string_agg(distinct l.locktype || ' ' || coalesce(l.relation::regclass::text, ''), ', ')
    filter (where l.pid = %(waiting)s and (l.locktype = 'tuple' or not l.granted)) as locks
from pg_locks l
"""
