"""Who may do what, over real HTTP; and that no secret comes out."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from tests.integration.harness import World
from tests.integration.server.harness import Served, served
from tests.provider import StandInProvider

KEY = "a-key-that-nobody-guesses"
WRITES = [
    ("/api/runs", {"collection": "notes"}),
    ("/api/runs/1/cancel", {}),
    ("/api/failures/retry", {}),
    ("/api/upsert-embeddings", {"rows": [{"id": 1, "text": "x"}]}),
    ("/v1/embeddings", {"model": "hash", "input": "x"}),
]
READS = [
    "/api/status", "/api/coverage", "/api/runs", "/api/runs/1", "/api/failures", "/api/facets",
    "/api/map", "/api/map/query?q=x", "/api/search?q=x", "/api/actions", "/v1/models", "/metrics",
    "/ws/status",
]  # fmt: skip


@pytest.mark.parametrize("headers", [
    {}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY},
    {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "schlüssel"}, {"X-API-Key": ""},
])  # fmt: skip
async def test_writes_need_the_key_and_reads_do_not(world: World, headers: dict[str, str]) -> None:
    async with served(world.store, key=KEY) as s:
        s.http.headers.pop("Authorization")
        for path, body in WRITES:
            answer = await s.http.post(path, json=body, headers=_encoded(headers))
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert KEY not in answer.text
        assert (await s.get("/api/status"))["auth"]["key_required_for_writes"] is True
    assert await world.store.runs() == []


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize("header", [("X-API-Key", KEY), ("Authorization", f"bearer {KEY}")])
async def test_the_key_opens(world: World, header: tuple[str, str]) -> None:
    async with served(world.store, key=KEY, protect_reads=True) as s:
        s.http.headers.pop("Authorization")
        for path in READS:
            assert (await s.http.get(path)).status_code == 401, path
        for path in ("/health", "/health/ready"):
            assert (await s.http.get(path)).status_code == 200
        s.http.headers[header[0]] = header[1]
        assert (await s.get("/api/status"))["auth"]["key_required_for_reads"] is True
        await s.post("/api/runs", {"collection": "notes"}, 202)


async def test_the_shared_secret_of_the_edge_function_is_the_key_where_there_is_no_other(
    world: World,
) -> None:
    async with served(world.store, function_secret=SecretStr("shared")) as s:
        await s.post("/api/failures/retry", status=401)
        s.http.headers["Authorization"] = "Bearer shared"
        await s.post("/api/failures/retry")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a b"])
async def test_another_name_for_this_machine_is_not_answered_to(s: Served, host: str) -> None:
    """A page that rebinds its own name to 127.0.0.1 gets nothing."""
    for path in ("/api/status", "/", "/metrics"):
        answer = await s.http.get(path, headers={"Host": host})
        assert answer.status_code in (400, 403), (host, answer.status_code)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:80", "LOCALHOST."]
)
async def test_this_machines_names_are_answered_to(s: Served, host: str) -> None:
    assert (await s.http.get("/api/status", headers={"Host": host})).status_code == 200


async def test_pages_of_other_origins(world: World) -> None:
    async with served(world.store, cors_origins=("https://studio.example",)) as s:
        mine = s.url
        for origin, status, allowed in (
            ("https://evil.example", 403, None), ("null", 403, None), (mine, 200, None),
            ("https://studio.example", 200, "https://studio.example"),
        ):  # fmt: skip
            headers = {"Origin": origin}
            answer = await s.http.post("/api/failures/retry", json={}, headers=headers)
            assert answer.status_code == status, origin
            read = await s.http.get("/api/status", headers=headers)
            assert read.headers.get("access-control-allow-origin") == allowed
        preflight = await s.http.options(
            "/api/runs",
            headers={
                "Origin": "https://studio.example",
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://studio.example"
        assert "access-control-allow-credentials" not in preflight.headers


async def test_a_form_of_another_page_cannot_write(s: Served, world: World) -> None:
    """A simple request needs no preflight, so its type must not be taken for JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await s.http.post(
            "/api/runs", content='{"collection": "notes"}', headers={"Content-Type": kind}
        )
        assert answer.status_code == 422, kind
    assert await world.store.runs() == []


async def test_limits_on_size_and_rate(world: World) -> None:
    async with served(world.store, max_body_bytes=2000, rate_limit=2.0) as s:
        big = {"query": "x" * 3000}
        assert "2,000 bytes" in (await s.post("/api/search", big, 413))["detail"]

        async def pieces() -> Any:
            for _ in range(30):
                yield b"x" * 100

        answer = await s.http.post(
            "/api/search", content=pieces(), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        answers = [await s.http.get("/api/actions") for _ in range(25)]
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) in range(17, 22)
        assert statuses[-1] == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert (await s.http.get("/health")).status_code == 200


async def test_headers_of_every_answer(s: Served) -> None:
    for path in ("/api/status", "/", "/nothing", "/docs", "/metrics"):
        headers = (await s.http.get(path, headers={"Accept": "text/html"})).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "script-src" not in headers["content-security-policy"]  # as default-src: none inline
        assert len(headers["x-request-id"]) == 32
        assert "server" not in headers
    odd = await s.http.get("/api/actions", headers={"X-Request-ID": "a\tb" * 40})
    assert len(odd.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", [
    "/../pyproject.toml", "/assets/../../app.py", "/%2e%2e/%2e%2e/app.py",
    "/assets/%2e%2e%2f..%2fapp.py",    "//etc/passwd", "/%00", "/assets/missing.js", "/app.py",
])  # fmt: skip
async def test_no_file_but_the_studios_is_served(s: Served, path: str) -> None:
    reader, writer = await asyncio.open_connection(*s.url.removeprefix("http://").split(":"))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]


async def test_no_secret_in_any_answer_or_log(
    paid: World, provider: StandInProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    provider.fail_next(401, times=20, message=f"Incorrect API key provided: {provider.api_key}")
    await paid.insert("one")
    password = "hunter2-hunter2"
    async with served(
        paid.store, key=KEY, openai_api_key=SecretStr(provider.api_key),
        openai_base_url=provider.base_url,
        database_url=SecretStr(f"postgresql://u:{password}@h/d"),
    ) as s:  # fmt: skip
        said = ""
        for path in READS:
            said += (await s.http.get(path)).text
        for path, body in WRITES:
            said += (await s.http.post(path, json=body)).text
        client = await s.socket()
        await client.ask("auth", "error", key=f"{KEY}x")
        await client.ask("auth", "authenticated", key=KEY)
        said += json.dumps(await client.ask("get_status", "status"))
        await s.http.get(f"/api/search?q=x&key={KEY}")
    captured = capsys.readouterr()
    logged = captured.out + captured.err
    assert '"event": "request"' in logged
    for secret in (KEY, provider.api_key, password):
        assert secret not in said
        assert secret not in logged
