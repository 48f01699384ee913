"""Changes of the model under random histories: edits, steps and kills in any order.

A model of the states says which steps are permitted. After every step, exactly one target serves
the name, and no answer has vectors of two models. At the end of a history the serving target is
complete, and nothing is left of the dropped ones.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from tests.integration.harness import NOTES, declare, make_world
from tests.integration.model_changes import SIDE, Changing, left_of
from tests.nightly import first_at_once

from backline import errors, model_change
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.postgres.connector import Transaction
from backline.postgres.store import open_store
from backline.reconcile import Reconciliation
from backline.search.query import Query, search

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "12"))
STATES: Final = ("filling", "indexing", "ready")
# The states from which a step is permitted. Repeating it where it has led is permitted too.
STEPS: Final = {
    "begin": ("none",),
    "finish": STATES,
    "cutover": ("ready", "serving"),
    "rollback": ("serving", "ready"),
    "freeze": ("serving",),
    "retire": ("serving", "retiring", "retired"),
    "cancel": (*STATES, "cancelling", "cancelled"),
}
ENDED: Final = ("retired", "cancelled")


class KilledError(Exception):
    """The process ended before its next statement."""


class History(RuleBasedStateMachine):
    """The world, and the state that the change must have."""

    url: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]
    place: ClassVar[dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.stack = AsyncExitStack()
        self.dimensions = 8
        self.at: Changing

    def do(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize()
    def set_up(self) -> None:
        self.do(self._set_up())

    async def _set_up(self) -> None:
        store = await self.stack.enter_async_context(open_store(self.url))
        await store.connector.execute("delete from backline.model_changes")
        await store.connector.execute(
            "select backline.drop_collection(c.id, true) from backline.collections c"
        )
        world = await self.stack.enter_async_context(
            make_world(
                store,
                ddl=f"drop table if exists notes; {NOTES}",
                embedder=HashEmbedder(8),
                **self.place,
            )
        )
        await world.insert("A", "B", "C")
        await world.fill()
        self.at = Changing(world, HashEmbedder(9))

    async def state(self) -> str:
        changes = await self.at.store.changes("notes")
        return changes[0].state if changes else "none"

    # --- rules ---

    @rule(
        edit=st.sampled_from(["insert", "update", "delete"]), key=st.integers(1, 5),
        text=st.sampled_from(["A", "B", "C", "", None]),
    )  # fmt: skip
    def edit(self, edit: str, key: int, text: str | None) -> None:
        statement = {
            "insert": "insert into notes values (%(key)s, %(text)s) on conflict do nothing",
            "update": "update notes set body = %(text)s where id = %(key)s",
            "delete": "delete from notes where id = %(key)s",
        }[edit]
        self.do(self.at.world.user.execute(statement, {"key": key, "text": text}))

    @rule()
    def fill(self) -> None:
        self.do(self._fill())

    @rule(step=st.sampled_from(sorted(STEPS)), statements=st.none() | st.integers(0, 12))
    def step(self, step: str, statements: int | None) -> None:
        """Take a step, killed before some statement; it is refused in other states."""
        before = self.do(self.state())
        permitted = before in STEPS[step] or (step == "begin" and before in ENDED)
        try:
            self.do(killed(statements, getattr(self, f"_{step}")))
        except KilledError:
            return
        except errors.ModelChangeError:
            assert not permitted, f"{step} was refused in {before}"
        except errors.NotFilledError:
            assert step in ("finish", "cutover")
        else:
            assert permitted, f"{step} was permitted in {before}"

    @rule()
    def drop(self) -> None:
        """Drop the collection and declare it again, which an open change does not permit."""
        state = self.do(self.state())
        try:
            self.do(self._drop())
        except errors.ModelChangeError:
            assert state not in ("none", *ENDED)
        else:
            assert state in ("none", *ENDED)

    # --- steps ---

    async def _begin(self) -> None:
        former = (await self.at.store.collection("notes")).model.dimensions
        self.dimensions = 9 if former == 8 else 8
        self.at.embedder = HashEmbedder(self.dimensions)
        await self.at.begin(model=self.at.embedder.model)

    async def _finish(self) -> None:
        change = await model_change.find(self.at.store, "notes")
        if change is None or change.state not in STATES:
            raise errors.ModelChangeError
        await (await self.target("notes@next")).fill()
        if change.state != "ready":
            await model_change.finish(self.at.store, change)

    async def _cutover(self) -> None:
        await self.at.store.cutover("notes", despite_failures=False)

    async def _freeze(self) -> None:
        await self.at.store.freeze("notes")

    async def _rollback(self) -> None:
        await model_change.rollback(self.at.store, "notes")
        serving = await self.at.store.collection("notes")
        await Reconciliation(self.at.store, serving).run()

    async def _retire(self) -> None:
        await model_change.discard(self.at.store, "notes", retire=True)

    async def _cancel(self) -> None:
        await model_change.discard(self.at.store, "notes", retire=False)

    async def _drop(self) -> None:
        store, world = self.at.store, self.at.world
        await store.drop_collection(await store.collection("notes"), drop_column=True)
        assert await store.changes() == []
        world.collection = await declare(store, world.embedder, **self.place)

    async def _fill(self) -> None:
        for collection in await self.at.store.collections():
            if not collection.frozen and not collection.unusable:
                await (await self.target(collection.name)).fill()

    async def target(self, name: str) -> Any:
        world = await self.at.target(name)
        world.embedder = HashEmbedder(world.collection.model.dimensions)
        return world

    # --- invariants ---

    @invariant()
    def one_target_serves_vectors_of_one_model(self) -> None:
        if hasattr(self, "at"):
            self.do(self._check())

    async def _check(self) -> None:
        collections = await self.at.store.collections()
        assert [c.role for c in collections].count("serving") == 1
        assert len(collections) <= 2
        world = await self.target("notes")
        model = world.collection.model.dimensions
        hits = await search(
            world.store, world.collection, world.embedder, Query("Q", "semantic", 9)
        )
        query, *vectors = hash_vectors(["Q", "A", "B", "C"], model)
        possible = [float(np.dot(query, vector)) for vector in vectors]
        for hit in hits:
            assert any(abs(hit.score - each) < 1e-4 for each in possible), (hit, model)

    def teardown(self) -> None:
        try:
            if hasattr(self, "at"):
                self.do(self._end())
        finally:
            self.do(self.stack.aclose())

    async def _end(self) -> None:
        """End the change as its state permits; the serving target must be complete."""
        state = await self.state()
        if state in ("serving", "retiring"):
            await self._retire()
        elif state in (*STATES, "cancelling"):
            await self._cancel()
        serving = await self.target("notes")
        await Reconciliation(serving.store, serving.collection).run()
        await (await self.target("notes")).fill()
        await (await self.target("notes")).check_complete()
        assert len(await serving.store.collections()) == 1
        for number in range(1, serving.collection.id):
            assert await left_of(serving, number) == {}


async def killed(statements: int | None, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`, and fail each statement after the first `statements`."""
    if statements is None:
        await work()
        return
    left = statements

    def dying(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(self: Transaction, *arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return await original(self, *arguments)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for verb in ("fetch", "fetch_tuples", "execute"):
            patch.setattr(Transaction, verb, dying(getattr(Transaction, verb)))
        await work()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", first_at_once(["column", "side"]))
def test_every_history_has_one_complete_target(database: str, place: str) -> None:
    loop = asyncio.new_event_loop()

    class HistoryOnDatabase(History):
        pass

    HistoryOnDatabase.url, HistoryOnDatabase.loop = database, loop
    HistoryOnDatabase.place = {"column": {"column": "embedding"}, "side": SIDE}[place]
    try:
        run_state_machine_as_test(
            HistoryOnDatabase,
            settings=settings(
                max_examples=EXAMPLES, stateful_step_count=14, deadline=None,
                suppress_health_check=list(HealthCheck), print_blob=True,
            ),
        )  # fmt: skip
    finally:
        loop.close()
