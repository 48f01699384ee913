"""The Edge Function, under a real Deno and over a real PostgREST, and what drives it."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from backline import errors
from backline.supabase.keys import read_key
from backline.worker.remote import Remote, edge_target
from tests.integration.harness import overpaid, running
from tests.provider import StandInProvider
from tests.supabase.function import (
    FUNCTIONS,
    NAME,
    SECRET,
    deno_environment,
    function_running,
    legacy_key,
    provider_variables,
)
from tests.supabase.stack import PATIENCE_S, Project, require
from tests.supabase.worlds import RestWorld, rest_world

TRIMMED = "note number 1"


@pytest.fixture
def function(project: Project, provider: StandInProvider) -> Iterator[str]:
    """The function, whose provider is the stand-in; yields its URL."""
    variables = provider_variables(provider.base_url, provider.api_key)
    with function_running(project, **variables) as url:
        yield url


@asynccontextmanager
async def edge_world(
    project: Project, provider: StandInProvider | None
) -> AsyncIterator[RestWorld]:
    """A world whose worker drives the function."""
    async with rest_world(project, provider) as w:
        key = read_key(SecretStr(project.keys.secret), "key")
        w.remote = Remote(edge_target(project.api_url, key, None), w.collection)
        yield w
        await w.remote.aclose()


def call(url: str, rows: Any, collection: str = "notes") -> httpx.Response:
    body = {"rows": rows, "collection": collection}
    return httpx.post(
        url, json=body, headers={"Authorization": f"Bearer {SECRET}"}, timeout=PATIENCE_S
    )


def texts(count: int) -> list[str]:
    return [f"note number {n}" for n in range(count)]


# --- the function ---------------------------------------------------------------------------------


def test_its_own_parts(project: Project) -> None:
    done = subprocess.run(
        [require("deno"), "test", "--no-remote", "--no-npm", "--no-lock", "--quiet",
         "--config", FUNCTIONS / NAME / "deno.json", FUNCTIONS / "tests"],
        capture_output=True, text=True, env=deno_environment(project), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 passed" in done.stdout


@pytest.mark.parametrize("check", ["lint", "fmt --check", "check"])
def test_it_is_clean(project: Project, check: str) -> None:
    verb, *flags = check.split()
    sources = [*FUNCTIONS.glob("*/*.ts")]
    assert len(sources) > 8
    done = subprocess.run(
        [require("deno"), verb, *flags, "--config", FUNCTIONS / NAME / "deno.json", *sources],
        capture_output=True, text=True, env=deno_environment(project), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


async def test_each_row_is_answered_for(
    project: Project, provider: StandInProvider, function: str
) -> None:
    provider.behave(reject_marker="BAD")
    async with rest_world(project, provider) as w:
        await w.insert("one", "two", "three", "", "BAD", "one", "seven")
        rows = [
            {"id": 1, "text": " one\n"},
            {"id": "2", "text": "another text than the table has"},
            {"id": 3, "text": "three"},
            {"id": 4, "text": " "},
            {"id": 5, "text": "BAD"},
            {"id": 6, "text": "one"},
            {"id": 99, "text": "nobody"},
            {"id": "seven", "text": "seven"},
            {"id": "007", "text": "seven"},
            {"id": 3, "text": "three again"},
        ]
        answer = call(function, rows)
        body = answer.json()
        assert (answer.status_code, body["success"]) == (207, False)
        assert (body["processed"], body["updated"], body["dimensions"]) == (10, 5, 8)
        assert {each["id"]: each["reason"][:12] for each in body["skipped"]} == {
            "2": "The row's te", "99": "There is no ", "seven": "There is no ", "3": "This id came",
        }  # fmt: skip
        assert [each["id"] for each in body["failed"]] == ["5"]
        assert "rejects the text" in body["failed"][0]["error"]
        assert provider.texts_embedded == Counter({"one": 1, "three": 1, "seven": 1})
        await w.check_consistent()
        assert sorted(await w.jobs()) == ["2", "5"]
        again = call(function, [{"id": 1, "text": "one"}, {"id": 3, "text": "three"}])
        assert (again.status_code, again.json()["updated"]) == (200, 0)
        assert overpaid(provider) == Counter()


async def test_who_may_call(project: Project, provider: StandInProvider, function: str) -> None:
    keys = project.keys
    allowed = [
        {"Authorization": f"Bearer {SECRET}"},
        {"X-API-Key": SECRET},
        {"apikey": keys.secret},
        {"apikey": legacy_key(project)},
    ]
    refused: list[dict[str, str]] = [
        {},
        {"apikey": keys.publishable},
        {"apikey": keys.anon_jwt, "Authorization": f"Bearer {keys.user_jwt()}"},
        {"Authorization": f"Bearer {SECRET}x"},
        {"Authorization": f"Bearer {keys.jwt('service_role', 60)}"},
    ]

    def answered(headers: dict[str, str]) -> httpx.Response:
        body = {"rows": [{"id": 1, "text": "x"}], "collection": "notes"}
        return httpx.post(function, json=body, headers=headers, timeout=PATIENCE_S)

    async with rest_world(project, provider):
        for headers in allowed:
            assert answered(headers).status_code == 207
        for headers in refused:
            answer = answered(headers)
            assert answer.status_code == 401
            assert answer.json()["type"] == "urn:backline:problem:Unauthorized"
            assert answer.headers["content-type"] == "application/problem+json"


def test_what_it_does_not_take(project: Project, function: str) -> None:
    answer = httpx.put(function, headers={"X-API-Key": SECRET}, timeout=PATIENCE_S)
    assert answer.status_code == 405
    rows = [{"id": n, "text": "x"} for n in range(201)]
    assert call(function, rows).status_code == 413
    assert call(function, [{"id": 1, "text": "x" * (1 << 20)}]).status_code == 413
    assert call(function, rows[:1], collection="nope").status_code == 404
    assert call(function, []).status_code == 422


def test_a_collection_that_no_function_can_embed(project: Project, function: str) -> None:
    answer = call(function, [{"id": "x", "text": "x"}], collection="music_knowledge")
    assert answer.status_code == 409
    assert (
        "local/all-MiniLM-L6-v2 (384 dimensions), which an Edge Function cannot run"
        in (answer.json()["detail"])
    )


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        ({"status": 429, "retry_after": 7}, 429, "RateLimitedError"),
        ({"status": 500}, 503, "ProviderUnavailableError"),
        ({"status": 401, "message": "Incorrect key sk-abc123"}, 502, "ProviderRefusedError"),
    ],
)
async def test_the_provider_s_trouble_has_a_status(
    project: Project, provider: StandInProvider, function: str, failure: dict[str, Any],
    status: int, kind: str,
) -> None:  # fmt: skip
    async with rest_world(project, provider) as w:
        await w.insert("one")
        provider.fail_next(**failure)
        answer = call(function, [{"id": 1, "text": "one"}])
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, kind)
        assert "sk-abc123" not in answer.text
        if status == 429:
            assert answer.headers["retry-after"] == "7"
        assert call(function, [{"id": 1, "text": "one"}]).json()["updated"] == 1


async def test_gte_small_is_the_collection_s_choice(project: Project, function: str) -> None:
    """The runtime's own model, stubbed: it exists in Supabase's runtime only."""
    async with rest_world(project) as w:
        await w.insert("one", "two", "one")
        project.execute(
            "update backline.collections set model_id = "
            "backline.model_id('supabase', 'gte-small', 'edge-runtime', 384) where name = 'notes'"
        )
        project.execute("alter table notes alter embedding type extensions.vector(384)")
        answer = call(function, [{"id": n, "text": t} for n, t in [(1, "one"), (2, "two")]])
        assert (answer.status_code, answer.json()["updated"]) == (200, 2)
        [row] = await w.sql("select extensions.vector_norm(embedding) as n from notes where id = 2")
        assert row["n"] == pytest.approx(1, abs=1e-5)


async def test_a_lost_answer_of_postgrest_is_asked_for_again(
    project: Project, provider: StandInProvider, function: str
) -> None:
    async with rest_world(project, provider) as w:
        await w.insert("one")
        project.gateway.cut_next(path="/rest/v1/rpc/backline_complete", times=2, after=True)
        project.gateway.fail_next(503, path="/rest/v1/rpc/backline_inspect")
        answer = call(function, [{"id": 1, "text": "one"}])
        assert (answer.status_code, answer.json()["updated"]) == (200, 1)
        assert overpaid(provider) == Counter()


# --- what drives it -------------------------------------------------------------------------------


async def test_a_backfill(project: Project, provider: StandInProvider, function: str) -> None:
    provider.behave(reject_marker="BAD")
    async with edge_world(project, provider) as w:
        await w.insert(*texts(230), "BAD one", "", *texts(20))
        report = await w.fill(batch_size=50)
        assert (report.embedded, report.failed, report.state) == (250, 1, "completed")
        assert [failure[:2] for failure in report.failures] == [("231", "rejected")]
        await w.check_complete(dead=["231"])
        assert overpaid(provider) == Counter()
        again = await w.fill()
        assert (again.embedded, again.batches) == (0, 0)


async def test_a_row_edited_and_one_deleted_meanwhile(
    project: Project, provider: StandInProvider, function: str
) -> None:
    async with edge_world(project, provider) as w:
        await w.insert(*texts(6))
        with provider.held():
            async with running(w.fill()) as filling:
                await asyncio.to_thread(provider.wait_in_flight)
                await w.sql("update notes set body = 'edited meanwhile' where id = 3")
                await w.sql("delete from notes where id = 4")
                provider.behave(held=False)
                await filling
        await w.check_complete()
        assert provider.texts_embedded["edited meanwhile"] == 1


@pytest.mark.parametrize("status", [429, 503, 546])
async def test_a_function_that_fails_costs_nothing(
    project: Project, provider: StandInProvider, function: str, status: int
) -> None:
    async with edge_world(project, provider) as w:
        await w.insert(*texts(100))
        path = f"/functions/v1/{NAME}"
        project.gateway.fail_next(status, path=path, times=3, headers={"Retry-After": "0.3"})
        project.gateway.cut_next(path=path, times=2, after=True)
        report = await w.fill()
        assert (report.embedded, report.failed) == (100, 0)
        await w.check_complete()
        assert overpaid(provider) == Counter()


async def test_a_function_of_another_database_is_found_out(
    project: Project, provider: StandInProvider, function: str
) -> None:
    """It answers that all is stored, and nothing is: that ends the run at the first batch."""
    async with edge_world(project, provider) as w:
        await w.insert(*texts(100))
        lie = {"success": True, "processed": 20, "updated": 20, "skipped": [], "failed": []}
        project.gateway.fail_next(200, path=f"/functions/v1/{NAME}", times=99, body=lie)
        report = await w.fill()
        assert (report.state, report.embedded) == ("interrupted", 0)
        assert "the remote service works on another database" in str(report.stopped_by)


async def test_a_row_that_postgres_refuses(
    project: Project, provider: StandInProvider, function: str
) -> None:
    async with edge_world(project, provider) as w:
        await w.sql("alter table notes add check (id <> 3 or embedding is null)")
        await w.insert(*texts(8), "note number 2")
        report = await w.fill()
        assert (report.embedded, report.failed) == (8, 1)
        assert (await w.failures())["3"].startswith("Postgres refuses the row")
        await w.check_complete(dead=["3"])
        assert overpaid(provider) == Counter()


async def test_what_is_found_before_anything_is_spent(
    project: Project, provider: StandInProvider, function: str
) -> None:
    async with edge_world(project, provider) as w:
        remote = w.remote
        assert remote is not None
        await remote.check()
        wrong = Remote(edge_target(project.api_url, None, SecretStr("wrong")), w.collection)
        with pytest.raises(errors.ProviderRefusedError, match="FUNCTION_SECRET"):
            await wrong.check()
        project.gateway.functions.clear()
        with pytest.raises(errors.ProviderRefusedError, match="supabase functions deploy"):
            await remote.check()
        project.gateway.paused = True
        with pytest.raises(errors.ProviderRefusedError, match="540"):
            await remote.check()
        await wrong.aclose()
        assert provider.calls == []
