"""Responses conform to the OpenAPI document, for valid and invalid generated requests."""

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


async def test_responses_conform_to_the_document(
    server: Served, world: World, tmp_path: Path
) -> None:
    await world.insert(*(f"alpha {n}" for n in range(20)))
    await world.fill()
    await search.ensure_index(world.store, world.collection)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")), "run", f"{server.url}/openapi.json",
        "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "8",
        "--generation-deterministic", "--continue-on-failure", "--no-color",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-6000:]
    assert "Tested: 33" in out.decode(), out.decode()[-1500:]
    await world.check_consistent()


async def test_every_error_is_declared_as_a_problem(server: Served) -> None:
    document = (await server.http.get("/openapi.json")).json()
    assert document["components"]["schemas"]["Problem"]["required"] == [
        "type", "title", "status", "detail", "instance", "request_id",
    ]  # fmt: skip
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"] or operation["summary"], path
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"], (path, status)
                    assert response["description"] == TITLES[int(status)]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/search", "GET, HEAD, POST"),
        ("GET", "/api/suggest", "POST"),
        ("PUT", "/codette/suggest", "POST"),
        ("POST", "/api/status", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
        ("GET", "/api/runs/1/cancel", "POST"),
    ],
)
async def test_wrong_method_gets_the_allowed_ones(
    server: Served, method: str, path: str, allowed: str
) -> None:
    response = await server.http.request(method, path, headers={"Accept": "text/html"})
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert allowed.replace(", ", " or ") in response.json()["detail"]


async def test_every_problem_has_all_members_and_the_request_id(server: Served) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404), ("DELETE", "/api/status", 405), ("POST", "/api/search", 422),
        ("GET", "/api/runs/9", 404), ("GET", "/api/runs/nine", 422),
        ("POST", "/v1/embeddings", 422),
    ):  # fmt: skip
        response = await server.http.request(method, path, headers={"X-Request-ID": "my-id.1"})
        problem: dict[str, Any] = response.json()
        assert response.status_code == problem["status"] == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"] == problem["request_id"] == "my-id.1"
        assert problem["instance"] == path
        assert problem["detail"] and problem["title"] and problem["type"].startswith("urn:")
        assert ("error" in problem) == path.startswith("/v1/")
