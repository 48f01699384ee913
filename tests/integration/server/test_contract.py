"""The OpenAPI document is true: schemathesis makes requests from it, right ones and wrong ones."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.integration.harness import World
from tests.integration.server.harness import Served

from backline import search
from backline.server.problems import TITLES

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance"
)


async def test_no_answer_that_the_document_does_not_have(
    s: Served, world: World, tmp_path: Path
) -> None:
    await world.insert(*(f"alpha {n}" for n in range(20)))
    await world.fill()
    await search.ensure_index(world.store, world.collection)
    await world.sql("select backline.drop_collection(id, false) from backline.collections "
                "where name = 'music_knowledge'")  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")), "run", f"{s.url}/openapi.json",
        "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "8",
        "--generation-deterministic", "--continue-on-failure", "--no-color",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-6000:]
    assert "Tested: 23" in out.decode(), out.decode()[-1500:]
    await world.check_consistent()


async def test_every_error_is_declared_as_a_problem(s: Served) -> None:
    document = (await s.http.get("/openapi.json")).json()
    assert document["components"]["schemas"]["Problem"]["required"] == [
        "type", "title", "status", "detail", "instance", "request_id",
    ]  # fmt: skip
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"] or operation["summary"], path
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)
                    assert answer["description"] == TITLES[int(status)]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/search", "GET, POST"),
        ("GET", "/api/suggest", "POST"),
        ("PUT", "/codette/suggest", "POST"),
        ("POST", "/api/status", "GET"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("GET", "/api/runs/1/cancel", "POST"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    s: Served, method: str, path: str, allowed: str
) -> None:
    answer = await s.http.request(method, path, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert allowed.replace(", ", " or ") in answer.json()["detail"]


async def test_every_problem_has_the_shape_and_the_id(s: Served) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404), ("DELETE", "/api/status", 405), ("POST", "/api/search", 422),
        ("GET", "/api/runs/9", 404), ("GET", "/api/runs/nine", 422),
        ("POST", "/v1/embeddings", 422),
    ):  # fmt: skip
        answer = await s.http.request(method, path, headers={"X-Request-ID": "my-id.1"})
        problem: dict[str, Any] = answer.json()
        assert answer.status_code == problem["status"] == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-request-id"] == problem["request_id"] == "my-id.1"
        assert problem["instance"] == path
        assert problem["detail"] and problem["title"] and problem["type"].startswith("urn:")
        assert ("error" in problem) == path.startswith("/v1/")
