"""The Edge Function under a real Deno and over a real PostgREST, and the worker that calls it."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from backline import errors
from backline.types import Splitting
from backline.worker.remote import Remote, edge_target
from tests.integration.harness import overpaid
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
from tests.supabase.processes import RESPONSE_TIMEOUT_S, require
from tests.supabase.stack import Project
from tests.supabase.world import edge_world, rest_world


@pytest.fixture
def function(project: Project, provider: StandInProvider) -> Iterator[str]:
    """The URL of the function, which uses the stand-in provider."""
    variables = provider_variables(provider.base_url, provider.api_key)
    with function_running(project, **variables) as url:
        yield url


def upsert(url: str, rows: Any, collection: str | None = "notes") -> httpx.Response:
    body = {"rows": rows, "collection": collection}
    return httpx.post(
        url, json=body, headers={"Authorization": f"Bearer {SECRET}"}, timeout=RESPONSE_TIMEOUT_S
    )


# --- the function ---------------------------------------------------------------------------------


def test_deno_tests_of_the_function_pass(project: Project) -> None:
    done = subprocess.run(
        [require("deno"), "test", "--no-remote", "--no-npm", "--no-lock", "--quiet",
         "--allow-net=127.0.0.1", "--config", FUNCTIONS / NAME / "deno.json", FUNCTIONS / "tests"],
        capture_output=True, text=True, env=deno_environment(project), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 passed" in done.stdout


@pytest.mark.parametrize("check", ["lint", "fmt --check", "check"])
def test_sources_of_the_function_pass_denos_checks(project: Project, check: str) -> None:
    verb, *flags = check.split()
    sources = [*FUNCTIONS.glob("*/*.ts")]
    assert len(sources) > 8
    done = subprocess.run(
        [require("deno"), verb, *flags, "--config", FUNCTIONS / NAME / "deno.json", *sources],
        capture_output=True, text=True, env=deno_environment(project), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


async def test_response_accounts_for_each_row(
    project: Project, provider: StandInProvider, function: str
) -> None:
    provider.behave(reject_marker="BAD")
    async with rest_world(project, provider) as world:
        await world.insert("one", "two", "three", "", "BAD", "one", "seven")
        rows = [
            {"id": 1, "text": " one\n"},
            {"id": "2", "text": "another text than the table has"},
            {"id": 3, "text": "three"},
            {"id": 4, "text": " "},
            {"id": 5, "text": "BAD"},
            {"id": 6, "text": "one"},
            {"id": 99, "text": "no such row"},
            {"id": "seven", "text": "seven"},
            {"id": "007", "text": "seven"},
            {"id": 3, "text": "three again"},
        ]
        response = upsert(function, rows)
        body = response.json()
        assert (response.status_code, body["success"]) == (207, False)
        assert (body["processed"], body["updated"], body["dimensions"]) == (10, 5, 8)
        assert {each["id"]: each["reason"][:12] for each in body["skipped"]} == {
            "2": "The row's te", "99": "There is no ", "seven": "There is no ", "3": "This id came",
        }  # fmt: skip
        assert [each["id"] for each in body["failed"]] == ["5"]
        assert "rejects the text" in body["failed"][0]["error"]
        assert provider.texts_embedded == Counter({"one": 1, "three": 1, "seven": 1})
        await world.check_consistent()
        assert sorted(await world.jobs()) == ["2", "5"]
        second = upsert(function, [{"id": 1, "text": "one"}, {"id": 3, "text": "three"}])
        assert (second.status_code, second.json()["updated"]) == (200, 0)
        assert overpaid(provider) == Counter()


async def test_only_a_secret_or_service_key_may_call_the_function(
    project: Project, provider: StandInProvider, function: str
) -> None:
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

    def call(headers: dict[str, str]) -> httpx.Response:
        body = {"rows": [{"id": 1, "text": "x"}], "collection": "notes"}
        return httpx.post(function, json=body, headers=headers, timeout=RESPONSE_TIMEOUT_S)

    async with rest_world(project, provider):
        for headers in allowed:
            assert call(headers).status_code == 207
        for headers in refused:
            response = call(headers)
            assert response.status_code == 401
            assert response.json()["type"] == "urn:backline:problem:Unauthorized"
            assert response.headers["content-type"] == "application/problem+json"


def test_unacceptable_requests_have_a_status_each(project: Project, function: str) -> None:
    response = httpx.put(function, headers={"X-API-Key": SECRET}, timeout=RESPONSE_TIMEOUT_S)
    assert response.status_code == 405
    rows = [{"id": n, "text": "x"} for n in range(201)]
    assert upsert(function, rows).status_code == 413
    assert upsert(function, [{"id": 1, "text": "x" * (1 << 20)}]).status_code == 413
    assert upsert(function, rows[:1], collection="nope").status_code == 404
    assert upsert(function, []).status_code == 422


async def test_one_of_several_collections_is_never_guessed(
    project: Project, function: str, provider: StandInProvider
) -> None:
    async with rest_world(project, provider) as world:
        rows = [{"id": 1, "text": "x"}]
        response = upsert(function, rows, collection=None)
        assert response.status_code == 404
        assert "Say which collection" in response.json()["detail"]
        assert "music_knowledge, notes" in response.json()["detail"]
        assert upsert(function, rows).json()["collection"] == "notes"
        await world.sql("select backline.drop_collection(id, false) from backline.collections "
                        "where name = 'music_knowledge'")  # fmt: skip
        assert upsert(function, rows, collection=None).json()["collection"] == "notes"


async def test_collection_of_passages_is_refused_before_a_text_is_paid(
    project: Project, function: str, provider: StandInProvider
) -> None:
    splitting = Splitting("sentences", 16, 0)
    async with rest_world(project, provider, into="note_parts", splitting=splitting) as world:
        await world.insert("One. Two.")
        response = upsert(function, [{"id": 1, "text": "One. Two."}])
        assert response.status_code == 422
        assert "backline backfill" in response.json()["detail"]
        assert not provider.texts_embedded


def test_collection_with_a_local_model_is_refused(project: Project, function: str) -> None:
    response = upsert(function, [{"id": "x", "text": "x"}], collection="music_knowledge")
    assert response.status_code == 409
    assert (
        "local/all-MiniLM-L6-v2 (384 dimensions), which an Edge Function cannot run"
        in (response.json()["detail"])
    )


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        ({"status": 429, "retry_after": 7}, 429, "RateLimitedError"),
        ({"status": 500}, 503, "ProviderUnavailableError"),
        ({"status": 401, "message": "Incorrect key sk-abc123"}, 502, "ProviderRefusedError"),
    ],
)
async def test_provider_faults_have_a_status_each(
    project: Project, provider: StandInProvider, function: str, failure: dict[str, Any],
    status: int, kind: str,
) -> None:  # fmt: skip
    async with rest_world(project, provider) as world:
        await world.insert("one")
        provider.fail_next(**failure)
        response = upsert(function, [{"id": 1, "text": "one"}])
        assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (status, kind)
        assert "sk-abc123" not in response.text
        if status == 429:
            assert response.headers["retry-after"] == "7"
        assert upsert(function, [{"id": 1, "text": "one"}]).json()["updated"] == 1


async def test_collection_may_use_gte_small_of_the_runtime(project: Project, function: str) -> None:
    """The model is a stub here: it exists in Supabase's runtime only."""
    async with rest_world(project) as world:
        await world.insert("one", "two", "one")
        project.execute(
            "update backline.collections set model_id = "
            "backline.model_id('supabase', 'gte-small', 'edge-runtime', 384) where name = 'notes'"
        )
        project.execute("alter table notes alter embedding type extensions.vector(384)")
        response = upsert(function, [{"id": n, "text": t} for n, t in [(1, "one"), (2, "two")]])
        assert (response.status_code, response.json()["updated"]) == (200, 2)
        [row] = await world.sql(
            "select extensions.vector_norm(embedding) as n from notes where id = 2"
        )
        assert row["n"] == pytest.approx(1, abs=1e-5)


async def test_lost_response_of_postgrest_is_requested_again(
    project: Project, provider: StandInProvider, function: str
) -> None:
    async with rest_world(project, provider) as world:
        await world.insert("one")
        project.gateway.cut_next(path="/rest/v1/rpc/backline_complete", times=2, after=True)
        project.gateway.fail_next(503, path="/rest/v1/rpc/backline_inspect")
        response = upsert(function, [{"id": 1, "text": "one"}])
        assert (response.status_code, response.json()["updated"]) == (200, 1)
        assert overpaid(provider) == Counter()


# --- the worker that calls the function -----------------------------------------------------------


async def test_function_on_another_database_is_detected(
    project: Project, provider: StandInProvider, function: str
) -> None:
    """The response says that every row is stored, and none is: the first batch ends the run."""
    async with edge_world(project, provider) as world:
        await world.insert(*(f"note number {n}" for n in range(100)))
        response = {"success": True, "processed": 20, "updated": 20, "skipped": [], "failed": []}
        project.gateway.fail_next(200, path=f"/functions/v1/{NAME}", times=99, body=response)
        report = await world.fill()
        assert (report.state, report.embedded) == ("interrupted", 0)
        assert "the remote service works on another database" in str(report.stopped_by)


async def test_wrong_key_missing_function_and_paused_project_fail_the_check(
    project: Project, provider: StandInProvider, function: str
) -> None:
    async with edge_world(project, provider) as world:
        await world.service.check()
        wrong = Remote(edge_target(project.api_url, None, SecretStr("wrong")), world.collection)
        with pytest.raises(errors.ProviderRefusedError, match="FUNCTION_SECRET"):
            await wrong.check()
        project.gateway.functions.clear()
        with pytest.raises(errors.ProviderRefusedError, match="supabase functions deploy"):
            await world.service.check()
        project.gateway.paused = True
        with pytest.raises(errors.ProviderRefusedError, match="540"):
            await world.service.check()
        await wrong.aclose()
        assert provider.calls == []
