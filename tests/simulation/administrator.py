"""Maintenance, as the commands and every worker do it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import psycopg

from tests.simulation.history import Step
from tests.simulation.lease import LeaseHolder, Shared
from tests.simulation.scheduler import Actor

STATEMENTS: Final = {
    "release dead workers": "select backline.release_dead_workers(%s)",
    "recount": "select backline.recount(%s) as found",
    "compact": "select backline.compact_counters(%s)",
    "enqueue a page": "select backline.enqueue_page(%s, null, 100)",
    "reconcile": "select problems as found from backline.reconcile_page(%s, null, 100, true)",
    "retry failures": "select backline.retry_failures(%s)",
    "apply changes": "select backline.apply_changes(%s)",
}
_SET_MODEL: Final = "select backline.set_model(%s, %s, %s, %s, %s)"
# Another transaction held a lock, or has changed the definition while the statement waited for it.
_OVERTAKEN: Final = ("55P03", "40P01", "40001", "42703", "42P01")


@dataclass(eq=False)
class Administrator(Actor):
    """Runs one statement of maintenance at a time.

    Attributes:
        honest: nothing bypasses the triggers, so reconcile must find nothing.
    """

    shared: Shared = field(kw_only=True)
    honest: bool = field(kw_only=True)

    async def step(self, step: Step) -> None:
        """Run the statement of a step."""
        try:
            await self._run(step)
        except psycopg.Error as error:
            if error.sqlstate not in _OVERTAKEN:
                self.violations.append(f"{step.action} fails: {error}")

    async def _run(self, step: Step) -> None:
        if step.action == "clear cache":
            self.shared.payments.events_of_all += 1
            await self.connection.execute("delete from backline.vectors")
        elif step.action == "change model":
            await self._change_model()
        else:
            cursor = await self.connection.execute(
                STATEMENTS[step.action], [self.shared.collection.id]
            )
            row = await cursor.fetchone()
            if row and row.get("found") and (self.honest or step.action == "recount"):
                self.violations.append(f"{step.action} finds {row['found']}")

    async def _change_model(self) -> None:
        collection = self.shared.collection
        model = replace(
            collection.model, revision="v2" if collection.model.revision == "v1" else "v1"
        )
        values = [collection.id, *model.identity]
        await self.connection.execute(_SET_MODEL, values)
        cursor = await self.connection.execute(
            "select model_id from backline.collections where id = %s", [collection.id]
        )
        row = await cursor.fetchone()
        assert row is not None
        self.shared.collection = replace(collection, model=model, model_id=row["model_id"])

    async def expire(self, worker: LeaseHolder) -> None:
        """Let the lease of a worker end, as its silence does."""
        if worker.lease is not None:
            worker.excuse()
            worker.expired = True
            await self.connection.execute(
                "update backline.workers set expires_at = '-infinity' where id = %s",
                [worker.lease.worker],
            )
