"""Access control over HTTP, and that no response or log contains a secret."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from tests.integration.harness import World
from tests.integration.server.harness import Served, served
from tests.provider import StandInProvider

KEY = "a-key-that-is-hard-to-guess"
WRITES = [
    ("/api/runs", {"collection": "notes"}),
    ("/api/runs/1/cancel", {}),
    ("/api/failures/retry", {}),
    ("/api/upsert-embeddings", {"rows": [{"id": 1, "text": "x"}]}),
    ("/v1/embeddings", {"model": "hash", "input": "x"}),
    ("/api/collections/notes/model-change", {"model": "hash@4"}),
    ("/api/collections/notes/model-change/plan", {"model": "hash@4"}),
    *(
        (f"/api/collections/notes/model-change/{verb}", {})
        for verb in ("cutover", "rollback", "retire", "cancel")
    ),
]
READS = [
    "/api/status", "/api/coverage", "/api/runs", "/api/runs/1", "/api/failures", "/api/facets",
    "/api/map", "/api/map/query?q=x", "/api/search?q=x", "/api/actions", "/v1/models", "/metrics",
    "/ws/status", "/api/collections/notes/model-change",
]  # fmt: skip


@pytest.mark.parametrize("headers", [
    {}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY},
    {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "schlüssel"}, {"X-API-Key": ""},
])  # fmt: skip
async def test_writes_need_the_key_and_reads_do_not(world: World, headers: dict[str, str]) -> None:
    async with served(world.store, key=KEY) as server:
        server.http.headers.pop("Authorization")
        for path, body in WRITES:
            response = await server.http.post(path, json=body, headers=_encoded(headers))
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert KEY not in response.text
        response = await server.http.get("/api/status", headers=_encoded(headers))
        auth = response.json()["auth"]
        assert (auth["key_required_for_writes"], auth["authorized"]) == (True, False)
    assert await world.store.runs() == []


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize("header", [("X-API-Key", KEY), ("Authorization", f"bearer {KEY}")])
async def test_key_authorizes_protected_reads(world: World, header: tuple[str, str]) -> None:
    async with served(world.store, key=KEY, protect_reads=True) as server:
        server.http.headers.pop("Authorization")
        for path in READS:
            assert (await server.http.get(path)).status_code == 401, path
        for path in ("/health", "/health/ready"):
            assert (await server.http.get(path)).status_code == 200
        server.http.headers[header[0]] = header[1]
        auth = (await server.get("/api/status"))["auth"]
        assert (auth["key_required_for_reads"], auth["authorized"]) == (True, True)
        await server.post("/api/runs", {"collection": "notes"}, 202)


async def test_function_secret_is_the_default_key(
    world: World,
) -> None:
    async with served(world.store, function_secret=SecretStr("shared")) as server:
        await server.post("/api/failures/retry", status=401)
        server.http.headers["Authorization"] = "Bearer shared"
        await server.post("/api/failures/retry")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a b"])
async def test_foreign_host_names_are_refused(server: Served, host: str) -> None:
    """DNS rebinding: a page that points its own name at 127.0.0.1 is refused."""
    for path in ("/api/status", "/", "/metrics"):
        response = await server.http.get(path, headers={"Host": host})
        assert response.status_code in (400, 403), (host, response.status_code)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:80", "LOCALHOST."]
)
async def test_loopback_host_names_are_accepted(server: Served, host: str) -> None:
    assert (await server.http.get("/api/status", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("path", ["/api/status", "/ws", "/health"])
@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization", "X-API-Key", "Content-Length"])
async def test_repeated_header_is_refused(server: Served, path: str, name: str) -> None:
    """Of two Host headers, a proxy may check one and the server the other."""
    headers = {"Host": "localhost", "Content-Length": "0"}
    if path == "/ws":
        headers |= {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }  # fmt: skip
    value = headers.setdefault(name, "localhost")
    lines = [f"{key}: {text}" for key, text in [*headers.items(), (name, value)]]
    request = "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""])
    assert (await exchange(server, request.encode())).startswith(b"HTTP/1.1 400")


async def exchange(server: Served, request: bytes) -> bytes:
    """Send bytes and return the beginning of the response."""
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(request)
    response = await asyncio.wait_for(reader.read(65536), 10)
    writer.close()
    await writer.wait_closed()
    return response


@pytest.mark.parametrize("beginning", [
    "", "\r\n", "GE", "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ",
    "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT",
    "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{",
    "POST /api/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
    "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{",
])  # fmt: skip
async def test_incomplete_request_is_closed(world: World, beginning: str) -> None:
    async with served(world.store, header_timeout=0.2, body_timeout=0.3) as server:
        address = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address)
        writer.write(beginning.encode())
        with suppress(ConnectionError):
            response = await asyncio.wait_for(reader.read(), 10)
            unanswered = beginning in ("", "\r\n") or "nothing" in beginning
            assert unanswered or b"HTTP/1.1 408" in response
        writer.close()


async def test_endless_headers_are_refused(server: Served) -> None:
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 400_000
    assert (await exchange(server, request)).startswith(b"HTTP/1.1 431")


async def test_connections_over_the_limit_are_refused(world: World) -> None:
    async with served(world.store, max_connections=3) as server:
        address = server.url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(*address) for _ in range(3)]
        response = await exchange(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in response
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.1)
        assert (await server.http.get("/health")).status_code == 200


async def test_foreign_origins_may_not_write(world: World) -> None:
    async with served(world.store, cors_origins=("https://studio.example",)) as server:
        own = server.url
        for origin, status, allowed in (
            ("https://evil.example", 403, None), ("null", 403, None), (own, 200, None),
            ("https://studio.example", 200, "https://studio.example"),
        ):  # fmt: skip
            headers = {"Origin": origin}
            response = await server.http.post("/api/failures/retry", json={}, headers=headers)
            assert response.status_code == status, origin
            read = await server.http.get("/api/status", headers=headers)
            assert read.headers.get("access-control-allow-origin") == allowed
        preflight = await server.http.options(
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


async def test_form_of_a_foreign_page_cannot_write(server: Served, world: World) -> None:
    """A simple request has no preflight, so its body must not be parsed as JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = await server.http.post(
            "/api/runs", content='{"collection": "notes"}', headers={"Content-Type": kind}
        )
        assert response.status_code == 422, kind
    assert await world.store.runs() == []


async def test_body_size_and_request_rate_are_limited(world: World) -> None:
    async with served(world.store, max_body_bytes=2000, rate_limit=2.0) as server:
        big = {"query": "x" * 3000}
        assert "2,000 bytes" in (await server.post("/api/search", big, 413))["detail"]

        async def pieces() -> Any:
            for _ in range(30):
                yield b"x" * 100

        response = await server.http.post(
            "/api/search", content=pieces(), headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 413
        assert response.headers["content-type"] == "application/problem+json"
        responses = [await server.http.get("/api/actions") for _ in range(25)]
        statuses = [response.status_code for response in responses]
        assert statuses.count(200) in range(17, 22)
        assert statuses[-1] == 429
        assert int(responses[-1].headers["retry-after"]) >= 1
        assert (await server.http.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/api/search", "/nothing", "/api/status"])
async def test_rest_of_a_refused_body_is_not_read(world: World, path: str) -> None:
    """On an open connection, the server would receive the whole body to discard it."""
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    async with served(world.store, max_body_bytes=200_000) as server:
        address = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        response = asyncio.create_task(reader.read(65536))
        sent = 0
        with suppress(ConnectionError):
            while sent < 1000 * len(chunk):
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        assert sent < 200 * len(chunk)
        assert (await asyncio.wait_for(response, 10)).startswith(
            (b"HTTP/1.1 413", b"HTTP/1.1 404", b"HTTP/1.1 405")
        )
        writer.close()


async def test_every_response_has_the_security_headers(server: Served) -> None:
    for path in ("/api/status", "/", "/nothing", "/docs", "/metrics"):
        headers = (await server.http.get(path, headers={"Accept": "text/html"})).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert (
            "script-src" not in headers["content-security-policy"]
        )  # default-src applies: no inline scripts
        assert len(headers["x-request-id"]) == 32
        assert "server" not in headers
    odd = await server.http.get("/api/actions", headers={"X-Request-ID": "a\tb" * 40})
    assert len(odd.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", [
    "/../pyproject.toml", "/assets/../../app.py", "/%2e%2e/%2e%2e/app.py",
    "/assets/%2e%2e%2f..%2fapp.py",    "//etc/passwd", "/%00", "/assets/missing.js", "/app.py",
])  # fmt: skip
async def test_only_files_of_the_studio_are_served(server: Served, path: str) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert response.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), response[:200]


async def test_no_secret_in_any_response_or_log(
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
    ) as server:  # fmt: skip
        responses = ""
        for path in READS:
            responses += (await server.http.get(path)).text
        for path, body in WRITES:
            responses += (await server.http.post(path, json=body)).text
        client = await server.socket()
        await client.request("auth", "error", key=f"{KEY}x")
        await client.request("auth", "authenticated", key=KEY)
        responses += json.dumps(await client.request("get_status", "status"))
        await server.http.get(f"/api/search?q=x&key={KEY}")
    captured = capsys.readouterr()
    logged = captured.out + captured.err
    assert '"event": "request"' in logged
    for secret in (KEY, provider.api_key, password):
        assert secret not in responses
        assert secret not in logged
