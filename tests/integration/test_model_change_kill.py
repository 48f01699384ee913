"""A change of the model that is killed at any step ends right when its commands are run again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.conftest import postmaster_pid, server_folder
from tests.integration.harness import World, make_world, standin_embedder, texts
from tests.integration.model_changes import OTHER, Changing, columns, left_of
from tests.integration.processes import read_line, worker_process
from tests.integration.test_server_crashes import reconnect, restart
from tests.provider import StandInProvider

from backline import model_change
from backline.postgres import embedded, migrate
from backline.postgres.store import Store, open_store

ROWS = 60
CHANGE = ("model", "change", "notes", "--to", f"openai/text-embedding-3-small@{OTHER}", "--yes")
FREEZE = ("model", "cutover", "notes", "--freeze")
ROLLBACK = ("model", "rollback", "notes")
RETIRE = ("model", "retire", "notes")
CANCEL = ("model", "cancel", "notes")

# The commands before the one that is killed, and that one with its step.
KILLS = [
    pytest.param((), CHANGE, "begin_change:before", marks=pytest.mark.nightly),
    ((), CHANGE, "begin_change:after"),  # before the commit
    pytest.param((), CHANGE, "start_run:after", marks=pytest.mark.nightly),
    pytest.param((), CHANGE, "complete:before", marks=pytest.mark.nightly),
    ((), CHANGE, "complete:after"),
    pytest.param((), CHANGE, "finish_fill:before", marks=pytest.mark.nightly),
    ((), CHANGE, "finish_fill:after"),
    ((), CHANGE, "build_keywords_page:after"),
    ((), CHANGE, "finish_indexes:before"),
    pytest.param((CHANGE,), FREEZE, "cutover:before", marks=pytest.mark.nightly),
    ((CHANGE,), FREEZE, "cutover:after"),
    ((CHANGE,), FREEZE, "freeze_target:after"),
    ((CHANGE, FREEZE), ROLLBACK, "rollback_change:after"),
    pytest.param((CHANGE, FREEZE), ROLLBACK, "thaw_target:after", marks=pytest.mark.nightly),
    pytest.param((CHANGE, FREEZE), RETIRE, "begin_discard:after", marks=pytest.mark.nightly),
    ((CHANGE, FREEZE), RETIRE, "drop_place:after"),  # before the commit
    ((CHANGE, FREEZE), RETIRE, "drop_collection:before"),
    ((CHANGE, FREEZE), RETIRE, "finish_discard:before"),
    pytest.param((CHANGE, FREEZE), RETIRE, "finish_discard:after", marks=pytest.mark.nightly),
    ((CHANGE, FREEZE, ROLLBACK), CANCEL, "drop_collection:before"),
    ((CHANGE,), CANCEL, "drop_place:after"),
    ((CHANGE,), CANCEL, "finish_discard:before"),
]
ENDS = {
    CHANGE: "ready",
    FREEZE: "serving",
    ROLLBACK: "ready",
    RETIRE: "retired",
    CANCEL: "cancelled",
}


@asynccontextmanager
async def changing(store: Store, provider: StandInProvider) -> AsyncIterator[Changing]:
    async with make_world(store, provider, column="embedding") as world:
        await world.insert(*texts(ROWS))
        await world.fill()
        embedder = standin_embedder(provider, OTHER)
        yield Changing(world, embedder)
        await embedder.aclose()


async def run(at: Changing, provider: StandInProvider, command: tuple[str, ...]) -> None:
    async with worker_process(at.world, provider, "cli", "--", *command) as process:
        assert await asyncio.wait_for(process.wait(), 120) == 0, command


async def kill(
    at: Changing, provider: StandInProvider, command: tuple[str, ...], step: str
) -> None:
    """Kill a command at a step; searches are complete afterwards."""
    async with worker_process(
        at.world, provider, "cli", "--pause", step, "--", *command
    ) as process:
        while await read_line(process) != "paused":
            assert process.returncode is None, "the command ended"
        process.kill()
        await process.wait()
    await at.world.wait_until_disconnected()
    assert len(await at.found("text")) == ROWS


def paid(provider: StandInProvider) -> Counter[str]:
    """Return how often each text was sent to the new model, without the probe and queries."""
    calls = [call for call in provider.calls if call.dimensions == OTHER and call.status == 200]
    sent = Counter(text for call in calls for text in call.texts)
    del sent[model_change.PROBE], sent["text"]
    return sent


async def stored(world: World) -> set[str]:
    """Return the texts of which the new target holds a vector."""
    if "embedding_2" not in await columns(world):
        return set()
    rows = await world.sql("select body from notes where embedding_2 is not null")
    return {row["body"] for row in rows}


@pytest.mark.parametrize(("before", "command", "step"), KILLS)
async def test_killed_command_is_run_again(
    store: Store,
    provider: StandInProvider,
    before: tuple[tuple[str, ...], ...],
    command: tuple[str, ...],
    step: str,
) -> None:
    async with changing(store, provider) as at:
        for earlier in before:
            await run(at, provider, earlier)
        await kill(at, provider, command, step)
        in_flight = paid(provider).keys() - await stored(at.world) if command == CHANGE else set()
        await at.world.sql("update notes set body = 'edited' where id = 1")
        await run(at, provider, command)
        assert await at.state() == ENDS[command]
        assert len(await at.found("text")) == ROWS
        for name in [each.name for each in await store.collections() if not each.frozen]:
            target = await at.target(name)
            await target.fill()
            await target.check_complete()
        twice = {text for text, count in paid(provider).items() if count > 1}
        assert twice - {"edited"} <= in_flight
        if command in (RETIRE, CANCEL):
            assert len(await store.collections()) == 1
            gone = at.world.collection.id if command == RETIRE else at.world.collection.id + 1
            assert await left_of(at.world, gone) == {}
            assert len(await columns(at.world)) == 4


async def test_killed_server_loses_no_step(provider: StandInProvider) -> None:
    with server_folder() as data:
        url = embedded.start(data)
        async with open_store(url) as store:
            await migrate.apply(store.connector)
            async with changing(store, provider) as at:
                for state in ("filling", "ready", "serving", "retired"):
                    await reach(at, state)
                    await at.world.user.close()
                    os.kill(postmaster_pid(data), signal.SIGKILL)
                    await asyncio.to_thread(restart, data)
                    at.world.user = await reconnect(url)
                    assert await at.state() == state
                    assert len(await at.found("text")) == ROWS
                await at.check_serving()
                assert set(paid(provider).values()) == {1}
                await at.world.user.close()


async def reach(at: Changing, state: str) -> None:
    if state == "filling":
        await at.begin()
        await (await at.target("notes@next")).fill(max_rows=20)
    elif state == "ready":
        await at.fill()
    elif state == "serving":
        await model_change.cutover(at.store, "notes")
    else:
        await model_change.discard(at.store, "notes", retire=True)
