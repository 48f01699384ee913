"""The model of a collection is changed over HTTP while it is searched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.integration.harness import World, eventually, running
from tests.integration.server.harness import Served, served, with_provider
from tests.provider import StandInProvider

from backline import model_change
from backline.model_change import NewTarget
from backline.server import handlers, live_sync, model_changes
from backline.types import Model

CHANGE = "/api/collections/notes/model-change"
PAID = {"model": "openai/text-embedding-3-small@16"}


async def fill(world: World, rows: int = 12) -> None:
    await world.insert(*(f"alpha {n}" for n in range(rows)))
    await world.fill()


async def until(server: Served, state: str) -> dict[str, Any]:
    """Wait for a state of the change, and return its status."""

    async def reached() -> bool:
        return bool((await server.get(CHANGE))["change"]["state"] == state)

    await eventually(reached, f"the state {state}", 60)
    return dict(await server.get(CHANGE))


async def search(server: Served, **more: Any) -> dict[str, Any]:
    body = {"query": "alpha 7", "collection": "notes", "mode": "semantic", **more}
    return dict(await server.post("/api/search", body))


def dimensions_of(answer: dict[str, Any]) -> str:
    return str(answer["model"])


@pytest.mark.parametrize("freeze", [False, True])
async def test_model_is_changed_cut_over_rolled_back_and_retired(
    world: World, server: Served, freeze: bool
) -> None:
    await fill(world)
    assert (await server.get(CHANGE))["change"] is None
    plan = await server.post(CHANGE + "/plan", {"model": "hash@16"})
    assert (plan["rows"], plan["texts"], plan["dollars"]) == (12, 12, 0.0)
    assert {"name": "dimensions", "present": "8", "new": "16"} in plan["differences"]
    assert await world.store.changes() == []

    begun = await server.post(CHANGE, {"model": "hash@16"}, 202)
    assert begun["change"]["state"] == "filling"
    ready = await until(server, "ready")
    assert ready["permitted"] == ["cutover", "continue", "cancel"]
    assert ready["target"]["coverage"]["embedded"] == 12
    assert "8 dimensions" in (await search(server))["model"]

    serving = await server.post(CHANGE + "/cutover", {"freeze": freeze})
    assert (serving["change"]["state"], serving["target"]["role"]) == ("serving", "retired")
    assert (serving["change"]["frozen"], serving["target"]["frozen"]) == (freeze, freeze)
    after = await search(server)
    assert "16 dimensions" in after["model"]
    assert len(after["hits"]) == 10
    assert (await server.post(CHANGE + "/rollback"))["change"]["state"] == "ready"
    assert "8 dimensions" in (await search(server))["model"]
    await server.post(CHANGE + "/cutover")
    ended = await server.post(CHANGE + "/retire")
    assert (ended["change"]["state"], ended["target"], ended["permitted"]) == ("retired", None, [])
    assert [each.name for each in await world.store.collections()] == ["notes"]


async def test_price_is_named_before_anything_is_changed(
    world: World, provider: StandInProvider
) -> None:
    await fill(world)
    async with served(world.store, **with_provider(provider)) as server:
        refused = await server.post(CHANGE, PAID, 422)
        assert "will cost about $0.00. Nothing was changed." in refused["detail"]
        assert '"yes": true' in refused["detail"]
        assert await world.store.changes() == []
        await server.post(CHANGE, {**PAID, "yes": True}, 202)
        ready = await until(server, "ready")
        assert "openai/text-embedding-3-large" in ready["models"]
        # Again: the open change, and no other one.
        again = await server.post(CHANGE, {**PAID, "yes": True}, 202)
        assert again["change"]["id"] == ready["change"]["id"]
        other = await server.post(CHANGE, {"model": "hash@4"}, 409)
        assert "backline model cancel notes" in other["detail"]
        await server.post(CHANGE, {"column_type": "halfvec"}, 409)
        await server.post(CHANGE + "/cancel")
    assert len(await world.store.collections()) == 1


async def test_wrong_request_changes_nothing(world: World, server: Served) -> None:
    await fill(world)
    for body, status, words in (
        ({"model": "hash@8"}, 409, "already"),
        ({"model": "local:/etc"}, 422, "A folder of weights is not accepted"),
        ({"model": "nothing"}, 404, "There is no model"),
        ({"model": "openai"}, 409, "OPENAI_API_KEY"),
        ({"into": "a\0b"}, 422, "control characters"),
        ({"text": "{no_such}"}, 422, "no_such"),
    ):
        assert words in (await server.post(CHANGE, body, status))["detail"], body
    for verb in ("cutover", "rollback", "retire", "cancel"):
        assert "is open" in (await server.post(f"{CHANGE}/{verb}", {}, 409))["detail"]
    await server.get("/api/collections/no%20such/model-change", 404)
    assert len(await world.store.collections()) == 1


@asynccontextmanager
async def open_change(world: World, server: Served, state: str) -> AsyncIterator[dict[str, Any]]:
    await fill(world)
    await server.post(CHANGE, {"model": "hash@16"}, 202)
    await until(server, "ready")
    if state == "serving":
        await server.post(CHANGE + "/cutover")
    yield await server.get("/api/status")


@pytest.mark.parametrize(("state", "role"), [("ready", "filling"), ("serving", "retired")])
async def test_other_target_is_shown_under_its_collection(
    world: World, server: Served, state: str, role: str
) -> None:
    other = {"filling": "notes@next", "retired": "notes@old"}[role]
    async with open_change(world, server, state) as status:
        [listed] = status["collections"]
        assert (listed["name"], listed["change"]["state"]) == ("notes", state)
        assert (listed["target"]["name"], listed["target"]["role"]) == (other, role)
        assert [each["name"] for each in (await server.get("/api/coverage"))["collections"]] == [
            "notes"
        ]
        named = await server.get("/api/coverage", collection=other)
        assert named["collections"][0]["coverage"]["embedded"] == 12
        # A request without a name means the one that serves.
        for path in ("/api/facets", "/api/map"):
            assert (await server.get(path))["collection"] == "notes"
        assert (await server.get("/api/search", q="alpha"))["collection"] == "notes"
        text = (await server.http.get("/metrics")).text
        assert f'backline_rows{{collection="{other}"' not in text
        assert f'backline_model_change_rows{{collection="notes",role="{role}",state="embedded"}} 12.0' in text  # noqa: E501  # fmt: skip
        assert f'backline_model_change_ratio{{collection="notes",role="{role}"}} 1.0' in text
        assert f'former_model="hash/hash@8",new_model="hash/hash@16",state="{state}"}} 1.0' in text
        assert 'backline_rows_embedded_by_runs{collection="notes"} 24.0' in text


async def test_answers_of_caches_are_those_of_the_name_after_the_cut_over(
    world: World, server: Served
) -> None:
    await fill(world)
    await world.sql("update notes set kind = 'a', title = 'one'")
    await server.post(CHANGE, {"model": "hash@16"}, 202)
    await until(server, "ready")
    await server.get("/api/facets", collection="notes@next")
    await server.get("/api/map", collection="notes@next")
    await search(server, mode="hybrid")
    await server.post(CHANGE + "/cutover")
    facets = await server.get("/api/facets", collection="notes")
    assert facets["collection"] == "notes"
    assert (await server.get("/api/map"))["total"] == 12
    hits = (await search(server, query="7", mode="keyword"))["hits"]
    assert [hit["content"] for hit in hits] == ["alpha 7"]
    place = await server.get("/api/map/query", q="alpha 7")
    assert -1 <= place["x"] <= 1


@pytest.mark.parametrize("retired", [False, True])
async def test_search_in_flight_ends_with_the_vectors_that_it_began_with(
    paid: World, provider: StandInProvider, retired: bool
) -> None:
    """Or begins anew, if these were retired before it could read them."""
    await fill(paid)
    async with served(paid.store, **with_provider(provider)) as server:
        await server.post(CHANGE, {**PAID, "yes": True}, 202)
        await until(server, "ready")
        with provider.held():
            async with running(search(server, mode="hybrid")) as first:
                await asyncio.to_thread(provider.wait_in_flight)
                await server.post(CHANGE + "/cutover")
                if retired:
                    await server.post(CHANGE + "/retire")
                assert not first.done()
                provider.behave(held=False)
                answer = await first
        dimensions = 16 if retired else paid.collection.model.dimensions
        assert f"{dimensions} dimensions" in answer["model"]
        assert len(answer["hits"]) == 10
        assert "16 dimensions" in (await search(server))["model"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_changes, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(model_changes, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(live_sync, "POLL_SECONDS", 0.1)


async def test_server_that_restarts_goes_on_with_an_open_change(
    world: World, provider: StandInProvider, quick: None
) -> None:
    """Another process began it, or this one before its restart."""
    await fill(world)
    model = Model("openai", "text-embedding-3-small", "v1", 16)
    await model_change.begin(world.store, world.collection, NewTarget(model))
    settings = with_provider(provider)
    async with served(world.store, **settings) as server:  # without a worker
        await asyncio.sleep(0.3)
        assert (await server.get(CHANGE))["change"]["state"] == "filling"
    async with served(world.store, worker=True, **settings) as server:
        assert (await until(server, "ready"))["target"]["coverage"]["embedded"] == 12
    assert [each.state for each in await world.store.changes()] == ["ready"]


async def test_missing_key_stops_the_server_until_it_is_asked_again(
    world: World, quick: None
) -> None:
    await fill(world)
    model = Model("openai", "text-embedding-3-small", "v1", 16)
    await model_change.begin(world.store, world.collection, NewTarget(model))
    async with served(world.store, worker=True) as server:

        async def stopped() -> bool:
            return "OPENAI_API_KEY" in ((await server.get(CHANGE))["stopped"] or "")

        await eventually(stopped, "the missing key to be named", 60)
        assert (await server.get(CHANGE))["permitted"] == ["continue", "cancel"]


async def test_dead_letters_stop_the_change_until_they_are_accepted(
    world: World, provider: StandInProvider, quick: None
) -> None:
    await fill(world)
    async with served(world.store, worker=True, **with_provider(provider)) as server:
        provider.behave(reject_marker="alpha 7")
        await server.post(CHANGE, {**PAID, "yes": True}, 202)

        async def stopped() -> bool:
            return (await server.get(CHANGE))["stopped"] is not None

        await eventually(stopped, "the dead letter", 60)
        status = await server.get(CHANGE)
        assert (status["change"]["state"], status["running"]) == ("filling", False)
        assert "dead letters" in status["stopped"]
        await server.post(CHANGE, {"despite_failures": True}, 202)
        await until(server, "ready")
        await server.post(CHANGE + "/cutover", status=409)
        await server.post(CHANGE + "/cutover", {"despite_failures": True})


async def test_change_is_cancelled_while_it_is_filled(
    world: World, provider: StandInProvider, quick: None
) -> None:
    await fill(world, 40)
    async with served(world.store, worker=True, **with_provider(provider)) as server:
        with provider.held():
            provider.let(1)  # the probe
            await server.post(CHANGE, {**PAID, "yes": True}, 202)
            await asyncio.to_thread(provider.wait_in_flight)
            cancelling = asyncio.create_task(server.post(CHANGE + "/cancel"))
            await asyncio.sleep(0.2)
            provider.behave(held=False)
            assert (await cancelling)["change"]["state"] == "cancelled"
        assert (await server.get(CHANGE))["target"] is None
    await world.check_complete()


async def test_edit_is_embedded_in_both_targets_by_the_server(world: World, quick: None) -> None:
    await fill(world)
    async with served(world.store, worker=True) as server:
        await server.post(CHANGE, {"model": "hash@16"}, 202)
        await until(server, "ready")
        await server.post(CHANGE + "/cutover")
        await world.sql("update notes set body = 'edited' where id = 1")

        async def both() -> bool:
            [each] = (await server.get("/api/status"))["collections"]
            return all(c["coverage"]["complete"] for c in (each, each["target"]))

        await eventually(both, "both targets to be complete", 60)
        await server.post(CHANGE + "/rollback")
        hits = (await search(server, query="edited"))["hits"]
        assert hits[0]["key"] == "1"


@pytest.mark.parametrize("cached", [False, True])
async def test_status_leaves_out_a_target_that_is_dropped_meanwhile(
    world: World, server: Served, cached: bool
) -> None:
    async with open_change(world, server, "serving"):
        old = await world.store.collection("notes@old")
        if not cached:
            server.services.problems._read.clear()
        await server.post(CHANGE + "/retire")
        assert await handlers.target(server.services, old) is None
