"""The HTTP API of the studio, each response compared with the database."""

from __future__ import annotations

import asyncio
import json
from datetime import date
from typing import Any

import pytest
from tests.integration.harness import World, declare, eventually
from tests.integration.server.harness import Served, served, with_provider

from backline import search
from backline.embedders import registry
from backline.embedders.hash import hash_model
from backline.search import Query
from backline.server import backfills
from backline.types import Model


async def fill(world: World, count: int = 12) -> None:
    for n in range(1, count + 1):
        await world.sql(
            "insert into notes (id, body, kind, title) values (%s, %s, %s, %s)",
            n, f"alpha note number {n}", "odd" if n % 2 else "even", f"Note {n}",
        )  # fmt: skip
    await world.fill()
    await search.ensure_index(world.store, world.collection)


async def test_status_says_the_announced_end_of_a_model(
    paid_server: Served, paid: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end() -> Any:
        result = await paid_server.get("/api/status")
        [collection] = [c for c in result["collections"] if c["name"] == "notes"]
        assert collection["coverage"]["problems"] == []
        return collection["model_end"]

    model = paid.collection.model
    members = {"id": f"{model.provider}/{model.name}", "dimensions": 1536, "range": [1, 1536]}
    assert await end() is None
    for ends, verb in ((date(2020, 1, 2), "ended"), (date(2999, 1, 2), "ends")):
        entry = registry.ModelEntry.model_validate({**members, "ends": ends})
        monkeypatch.setattr(registry, "_declared", (entry,))
        said = await end()
        assert said["problem"] == f"OpenAI {verb} {model.name} on {ends}."
        assert said["remedy"] == "backline model change notes --to MODEL"


async def test_status_agrees_with_the_database(server: Served, world: World) -> None:
    await fill(world)
    await world.sql("insert into notes (id, body) values (90, null), (91, 'not yet')")
    result = await server.get("/api/status")
    [collection] = [c for c in result["collections"] if c["name"] == "notes"]
    assert collection["table"] == "public.notes"
    assert collection["model"] == {
        "provider": "hash", "name": "hash", "revision": "v1", "dimensions": 8,
        "max_tokens": 8192,
    }  # fmt: skip
    coverage = collection["coverage"]
    assert (coverage["rows"], coverage["embedded"], coverage["pending"]) == (14, 12, 2)
    assert coverage["complete"] is False
    assert result["server"]["worker"] is False
    assert result["database"] == {"where": "the test's Postgres", "ok": True}
    assert result["auth"] == {
        "key_required_for_writes": False, "key_required_for_reads": False, "authorized": True,
        "role": "admin",
    }  # fmt: skip
    [only] = (await server.get("/api/coverage", collection="notes"))["collections"]
    assert only["coverage"]["rows"] == 14


async def test_rows_with_an_older_vector_are_counted_as_stale(world: World, server: Served) -> None:
    await world.insert("one", "two", "three")
    await world.fill()
    await world.store.connector.execute("insert into notes (id, body) values (4, 'four')")
    await world.store.connector.execute("update notes set body = body || '!' where id < 3")
    [only] = (await server.get("/api/coverage", collection="notes"))["collections"]
    assert (only["coverage"]["pending"], only["coverage"]["stale"]) == (3, 2)
    [collection] = [
        c for c in (await server.get("/api/status"))["collections"] if c["name"] == "notes"
    ]
    assert collection["coverage"]["stale"] == 2


@pytest.mark.parametrize("mode", ["hybrid", "semantic", "keyword"])
async def test_search_agrees_with_the_library(
    server: Served, world: World, mode: search.Mode
) -> None:
    await fill(world)
    request = {"query": "alpha note number 7", "collection": "notes", "mode": mode, "limit": 5}
    result = await server.post("/api/search", request)
    expected = await search.search(
        world.store,
        world.collection,
        world.embedder,
        Query("alpha note number 7", mode, 5, snippets=True),
    )
    assert [hit["key"] for hit in result["hits"]] == [hit.key for hit in expected]
    assert result["hits"][0]["key"] == "7"
    assert result["hits"][0]["parts"] == pytest.approx(expected[0].parts)
    assert result["hits"][0]["row"]["title"] == "Note 7"
    assert "embedding" not in result["hits"][0]["row"]
    assert result["hits"][0]["snippet"] == expected[0].snippet
    by_address = await server.get(
        "/api/search", q="alpha note number 7", collection="notes", mode=mode
    )
    assert [hit["key"] for hit in by_address["hits"]][:5] == [hit.key for hit in expected]


@pytest.mark.parametrize(
    "where",
    [
        {"kind": "odd"},
        "kind = 'odd'",
        {"op": "=", "path": ["kind"], "value": "odd"},
    ],
)
async def test_search_filters_and_pages(server: Served, world: World, where: Any) -> None:
    await fill(world)
    request = {"query": "alpha", "collection": "notes", "mode": "keyword", "where": where}
    whole = await server.post("/api/search", {**request, "limit": 100})
    keys = [hit["key"] for hit in whole["hits"]]
    assert sorted(map(int, keys)) == [1, 3, 5, 7, 9, 11]
    pages = [
        await server.post("/api/search", {**request, "limit": 4, "offset": at}) for at in (0, 4)
    ]
    assert [hit["key"] for page in pages for hit in page["hits"]] == keys


async def test_impossible_searches_are_explained(server: Served, world: World) -> None:
    await fill(world, 2)
    missing = await server.post("/api/search", {"query": "x", "collection": "songs"}, 404)
    assert "'songs'" in missing["detail"] and "notes" in missing["detail"]
    column = await server.post(
        "/api/search", {"query": "x", "collection": "notes", "where": "nope = 1"}, 422
    )
    assert "nope" in column["detail"]
    typo = await server.post("/api/search", {"query": "x", "colection": "notes"}, 422)
    assert typo["errors"][0]["field"] == "body.colection"
    assert typo["type"] == "urn:backline:problem:validation"
    assert typo["instance"] == "/api/search"
    long = await server.post("/api/search", {"query": "x" * 2001, "collection": "notes"}, 422)
    assert "2,001" in long["detail"] and "2,000" in long["detail"]


async def test_one_of_several_collections_is_never_guessed(server: Served, world: World) -> None:
    await fill(world, 2)
    ask: dict[str, Any] = {"query": "alpha"}
    rows = {"rows": [{"id": 1, "text": "alpha note number 1"}]}
    client = await server.socket()
    assert (await server.post("/api/search", ask))["collection"] == "notes"
    assert (await server.post("/api/suggest", {"prompt": "alpha"}))["collection"] == "notes"
    assert (await server.post("/api/upsert-embeddings", rows))["collection"] == "notes"
    found = await client.request("search", "search_results", **ask)
    assert found["collection"] == "notes"
    await declare(world.store, world.embedder, name="music_knowledge", column="other")
    answers = [
        await server.get("/api/search", 404, q="alpha"), await server.post("/api/search", ask, 404),
        await server.post("/api/suggest", {"prompt": "alpha"}, 404),
        await server.post("/api/upsert-embeddings", rows, 404),
        await server.post("/api/runs", {}, 404), await server.get("/api/map", 404),
        await server.get("/api/map/query", 404, q="alpha"), await server.get("/api/facets", 404),
        await client.request("search", "error", **ask),
        await client.request("suggest", "error", prompt="alpha"),
    ]  # fmt: skip
    for answer in answers:
        assert "Say which collection: music_knowledge, notes." in answer["detail"]


@pytest.mark.parametrize(
    "where",
    [
        {"op": "and", "args": []}, {"op": "in", "path": ["kind"], "value": []}, {"op": "or"},
        {"op": "not", "args": [{"op": "=", "path": ["kind"], "value": "odd"}] * 2}, {"op": "="},
        {"kind": "\0"}, {"kind": float("nan")}, {"kind": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
async def test_invalid_filters_are_client_errors(server: Served, world: World, where: Any) -> None:
    await fill(world, 2)
    body = json.dumps({"query": "alpha", "collection": "notes", "mode": "keyword", "where": where})
    response = await server.http.post(
        "/api/search", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422, response.text


async def test_null_in_a_filter_matches_null(server: Served, world: World) -> None:
    await world.sql(
        "insert into notes (id, body, kind) values (1, 'alpha', null), (2, 'alpha', 'x')"
    )
    await world.apply_changes()
    request = {"query": "alpha", "collection": "notes", "mode": "keyword", "where": {"kind": None}}
    assert [hit["key"] for hit in (await server.post("/api/search", request))["hits"]] == ["1"]


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "-Infinity", '{"a": ["\\udfff"]}'])
async def test_context_that_is_not_valid_json_is_refused(server: Served, value: str) -> None:
    response = await server.http.post(
        "/api/suggest", content=f'{{"prompt": "x", "context": {{"own": {value}}}}}',
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert response.status_code == 422, response.text
    assert "own" in response.json()["detail"]


async def test_dimension_mismatch_is_a_conflict_with_both_numbers(
    server: Served, world: World
) -> None:
    await fill(world, 2)
    await world.sql(
        "alter table notes drop column embedding, add column embedding extensions.vector(3)"
    )
    for path, body in (
        ("/api/search", {"query": "x", "collection": "notes"}),
        ("/api/runs", {"collection": "notes"}),
        ("/api/upsert-embeddings", {"collection": "notes", "rows": [{"id": 1, "text": "x"}]}),
    ):
        problem = await server.post(path, body, 409)
        assert "3 dimensions" in problem["detail"] and "8" in problem["detail"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model("local", "all-MiniLM-L6-v2", "an-old-revision", 384), "an-old-revision"),
        (Model("local", "a-custom-model", "r", 384), "BACKLINE_LOCAL_MODEL_FOLDER"),
        (Model("openai", "text-embedding-3-small", "v1", 384), "OPENAI_API_KEY"),
    ],
    ids=str,
)
async def test_unavailable_model_is_a_conflict_with_the_remedy(
    server: Served, world: World, model: Model, message: str
) -> None:
    await fill(world, 2)
    await world.sql(
        "alter table notes drop column embedding, add column embedding extensions.vector(384)"
    )
    await world.store.set_model(world.collection, model)
    row = {"id": 1, "text": "alpha note number 1"}
    for path, body in (
        ("/api/search", {"query": "x", "collection": "notes"}),
        ("/api/runs", {"collection": "notes"}),
        ("/api/upsert-embeddings", {"collection": "notes", "rows": [row]}),
    ):
        assert message in (await server.post(path, body, 409))["detail"]
    keyword = {"query": "alpha", "collection": "notes", "mode": "keyword"}
    assert len((await server.post("/api/search", keyword))["hits"]) == 2
    status = await server.get("/api/status")
    assert model.name in [c["model"]["name"] for c in status["collections"]]


async def test_run_starts_and_completes(server: Served, world: World) -> None:
    await world.insert(*(f"text {n}" for n in range(300)))
    started = (await server.post("/api/runs", {"collection": "notes", "batch_size": 7}, 202))["run"]
    assert started["settings"]["batch_size"] == 7

    async def ended() -> bool:
        return bool((await server.get(f"/api/runs/{started['id']}"))["run"]["state"] == "completed")

    await eventually(ended, "the run to end")
    run = (await server.get("/api/runs", collection="notes"))["runs"][0]
    assert (run["id"], run["embedded"], run["failed"]) == (started["id"], 300, 0)
    assert run["finished_at"] is not None
    await world.check_complete()
    problem = await server.post(f"/api/runs/{run['id']}/cancel", status=409)
    assert "has ended already" in problem["detail"]
    await server.post("/api/runs/987654/cancel", status=404)
    await server.get("/api/runs/987654", 404)


async def test_run_is_cancelled(paid_server: Served, paid: World, provider: Any) -> None:
    await paid.insert(*(f"text {n}" for n in range(500)))
    provider.behave(delay_s=0.3)
    request = {"collection": "notes", "batch_size": 5}
    run = (await paid_server.post("/api/runs", request, 202))["run"]
    again = await paid_server.post("/api/runs", {"collection": "notes"}, 409)
    assert f"under way: {run['id']}" in again["detail"]
    cancelled = (await paid_server.post(f"/api/runs/{run['id']}/cancel", status=202))["run"]
    assert cancelled["state"] == "cancelling"

    async def ended() -> bool:
        result = await paid_server.get(f"/api/runs/{run['id']}")
        return bool(result["run"]["state"] == "cancelled")

    await eventually(ended, "the run to be cancelled")
    await paid.check_consistent_except_unqueued()


async def test_next_run_waits_for_the_report_of_an_ended_run(
    server: Served, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.insert("one", "two")
    released, run_failures = asyncio.Event(), world.store.run_failures

    async def delayed(run: int) -> Any:
        await released.wait()
        return await run_failures(run)

    monkeypatch.setattr(world.store, "run_failures", delayed)
    first = (await server.post("/api/runs", {"collection": "notes"}, 202))["run"]

    async def ended() -> bool:
        return bool((await server.get(f"/api/runs/{first['id']}"))["run"]["state"] == "completed")

    await eventually(ended, "the run to end")
    monkeypatch.setattr(backfills, "REPORT_SECONDS", 0.01)
    refused = await server.post("/api/runs", {"collection": "notes"}, 409)
    assert "has ended, but its index is still being built" in refused["detail"]
    monkeypatch.setattr(backfills, "REPORT_SECONDS", 60)
    starting = asyncio.create_task(server.post("/api/runs", {"collection": "notes"}, 202))
    await asyncio.sleep(0.1)
    assert not starting.done()
    released.set()
    assert (await starting)["run"]["id"] > first["id"]


async def test_dead_letters_are_paged_and_requeued(
    paid_server: Served, paid: World, provider: Any
) -> None:
    provider.behave(reject_marker="poison")
    await paid.insert(*(f"poison {n}" for n in range(5)), "good")
    await paid.fill()
    keys: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": 2} if after is None else {"limit": 2, "after": after}
        page = await paid_server.get("/api/failures", **params)
        assert page["total"] == 5
        keys += [failure["key"] for failure in page["failures"]]
        after = page["next"]
        if after is None:
            break
    assert keys == ["1", "2", "3", "4", "5"]
    failure = (await paid_server.get("/api/failures", collection="notes"))["failures"][0]
    assert failure["kind"] == "rejected" and failure["collection"] == "notes"
    await paid_server.get("/api/failures", 422, after="1")
    provider.reset()
    some = await paid_server.post("/api/failures/retry", {"collection": "notes", "keys": ["2"]})
    assert some == {"retried": 1}
    assert await paid_server.post("/api/failures/retry") == {"retried": 4}
    await paid.fill()
    await paid.check_complete()


async def test_facets_are_the_columns_with_few_values(server: Served, world: World) -> None:
    await fill(world)
    result = await server.get("/api/facets", collection="notes")
    assert result["facets"] == {
        "kind": [{"value": "even", "count": 6}, {"value": "odd", "count": 6}]
    }


async def test_map_places_every_row_and_is_cached(server: Served, world: World) -> None:
    await fill(world)
    made = await server.get("/api/map", collection="notes")
    assert made["count"] == made["total"] == 12
    assert sorted(made["keys"], key=int) == [str(n) for n in range(1, 13)]
    assert dict(zip(made["keys"], made["titles"], strict=True))["3"] == "Note 3"
    assert set(made["categories"]) == {"odd", "even"}
    assert max(map(abs, made["x"])) == pytest.approx(1)
    assert max(map(abs, made["y"])) == pytest.approx(1)
    place = await server.get("/api/map/query", q="alpha note number 3", collection="notes")
    at = made["keys"].index("3")
    assert (place["x"], place["y"]) == pytest.approx((made["x"][at], made["y"][at]), abs=1e-3)
    assert (await server.get("/api/map", collection="notes"))["computed_at"] == made["computed_at"]
    few = await server.get("/api/map", collection="notes", limit=3)
    assert few["count"] == 3 and few["total"] == 12


async def test_live_sync_embeds_edits_and_stops_cleanly(world: World) -> None:
    async with served(world.store, worker=True) as server:
        assert (await server.get("/api/status"))["server"]["worker"] is True
        await world.insert("a live edit")
        await world.wait_until_idle()
        coverage = (await server.get("/api/coverage", collection="notes"))["collections"][0][
            "coverage"
        ]
        assert (coverage["embedded"], coverage["workers"]) == (1, 1)
    await world.check_complete()


async def test_stopped_server_releases_its_rows(paid: World, provider: Any) -> None:
    await paid.insert(*(f"text {n}" for n in range(3000)))
    async with served(paid.store, **with_provider(provider)) as server:
        provider.behave(delay_s=0.3)  # 22 s for all rows
        run = (await server.post("/api/runs", {"collection": "notes", "batch_size": 5}, 202))["run"]
        await asyncio.to_thread(provider.wait_in_flight)
    [record] = await paid.store.runs(run=run["id"])
    assert record.state == "interrupted"
    assert set((await paid.jobs()).values()) <= {None}
    provider.reset()
    await paid.fill()
    await paid.check_complete()


async def test_live_sync_picks_up_new_collections_and_models(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new collection, and a new model of an existing one."""
    monkeypatch.setattr("backline.server.live_sync.POLL_SECONDS", 0.2)
    async with served(world.store, worker=True) as server:
        await world.insert("one")
        await world.wait_until_idle()
        # Change the column first: a model that does not fit is retried only after 30 s.
        await world.sql(
            "alter table notes drop column embedding, add column embedding extensions.vector(12)"
        )
        await world.store.set_model(world.collection, hash_model(12))
        await world.sql("create table songs (id int primary key, name text)")
        table = await world.store.find_table("songs")
        await world.store.add_collection(
            "songs", table["oid"], key=None, template="{name}", column="embedding",
            model=hash_model(8),
        )  # fmt: skip
        await world.sql("insert into songs values (1, 'a song')")
        await world.insert("two", first=2)

        async def embedded() -> bool:
            found = (await server.get("/api/coverage"))["collections"]
            covered = {each["name"]: each["coverage"] for each in found}
            return bool(covered["songs"]["embedded"] == 1 == covered["notes"]["embedded"])

        await eventually(embedded, "both collections to be embedded")
        rows = await world.sql(
            "select extensions.vector_dims(embedding) as n from notes where id = 2"
        )
        assert rows[0]["n"] == 12


async def test_actions_of_the_studio_are_listed(server: Served) -> None:
    found = (await server.get("/api/actions"))["actions"]
    assert {"name", "title", "category", "contexts", "undoable"} <= set(found[0])
    assert len({each["id"] for each in found}) == len(found)


async def test_metrics_for_prometheus(server: Served, world: World) -> None:
    await fill(world)
    await server.get("/api/search", q="alpha", collection="notes")
    text = (await server.http.get("/metrics")).text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert figures['backline_rows{collection="notes",state="embedded"}'] == "12.0"
    assert figures['backline_coverage_ratio{collection="notes"}'] == "1.0"
    assert figures['backline_rows_embedded_by_runs{collection="notes"}'] == "12.0"
    assert float(figures['backline_run_tokens{collection="notes",model="hash/hash"}']) > 0
    assert figures['backline_run_cost_dollars{collection="notes",model="hash/hash"}'] == "0.0"
    assert figures["backline_database_up"] == "1.0"
    assert figures['backline_provider_seconds_count{model="hash@8",purpose="query"}'] == "1.0"
    requests = 'backline_http_requests_total{method="GET",route="/api/search",status="200"}'
    assert figures[requests] == "1.0"
