"""What browsers, proxies, balancers and clients of OpenAI's API expect of the server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from tests.e2e.studio import require_page
from tests.integration.harness import World
from tests.integration.server.harness import TIMEOUT_S, Served, served, with_provider
from tests.provider import StandInProvider

from backline import errors, keys
from backline.config import Settings
from backline.embedders.providers import describe
from backline.server import openai_schemas, schemas, websocket
from backline.server.uvicorn import make_server

ORIGIN = "https://studio.example"
KEY = "a-key-that-is-hard-to-guess"


# --- browsers -------------------------------------------------------------------------------------


@pytest.fixture
async def open_to_pages(world: World) -> AsyncIterator[Served]:
    async with served(
        world.store, key=KEY, cors_origins=(ORIGIN,), max_body_bytes=1024, header_timeout=1,
        body_timeout=1, rate_limit=50,
    ) as server:  # fmt: skip
        server.http.headers.pop("Authorization")
        yield server


async def test_a_preflight_allows_the_headers_of_every_client(open_to_pages: Served) -> None:
    wanted = (
        "authorization, content-type, x-stainless-arch, x-stainless-os, x-stainless-timeout, "
        "openai-organization, traceparent, x-api-key"
    )
    for origin, status in ((ORIGIN, 200), (f"{ORIGIN}:443", 400), ("https://evil.example", 400)):
        response = await open_to_pages.http.options(
            "/v1/embeddings",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": wanted,
            },
        )
        assert response.status_code == status, (origin, response.text)
    allowed = {name.strip() for name in response.headers["access-control-allow-headers"].split(",")}
    assert allowed >= {name.strip() for name in wanted.split(",")}


REFUSALS: dict[int, str] = {
    400: "GET /api/status HTTP/1.1\r\nHost: localhost\r\nX-API-Key: a\r\nX-API-Key: b",
    401: "POST /api/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0",
    403: "GET /api/status HTTP/1.1\r\nHost: evil.example",
    404: "GET /nothing HTTP/1.1\r\nHost: localhost",
    405: "DELETE /api/status HTTP/1.1\r\nHost: localhost",
    408: "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9",
    413: "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999",
    422: "GET /api/runs/nine HTTP/1.1\r\nHost: localhost",
    426: "GET /ws HTTP/1.1\r\nHost: localhost",
    431: "GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + "x" * 70_000,
}


@pytest.mark.parametrize("origin", [ORIGIN, "https://evil.example"])
async def test_a_page_can_read_every_refusal(open_to_pages: Served, origin: str) -> None:
    for status, request in REFUSALS.items():
        first, _, rest = request.partition("\r\n")
        end = "" if status == 431 else "\r\n\r\n"  # headers that do not end
        response = await exchange(open_to_pages, f"{first}\r\nOrigin: {origin}\r\n{rest}{end}")
        head = response.lower()
        # A write of a foreign page is refused for its origin first.
        expected = (status, 403) if origin != ORIGIN else (status,)
        assert int(response.split()[1]) in expected, (status, response)
        allowed = f"access-control-allow-origin: {origin}\r\n" in head
        assert allowed == (origin == ORIGIN), (status, response)
        assert not allowed or "vary: origin" in head, (status, response)


async def test_a_page_can_read_that_it_asks_too_often(world: World) -> None:
    async with served(world.store, cors_origins=(ORIGIN,), rate_limit=0.1) as server:
        for status in (200, 429):
            response = await server.http.get("/api/status", headers={"Origin": ORIGIN})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "Retry-After" in response.headers["access-control-expose-headers"]


async def exchange(server: Served, request: str) -> str:
    """Send text and return the head of the response."""
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(request.encode())
    response = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
    writer.close()
    await writer.wait_closed()
    return response.decode("latin-1")


async def test_a_bug_can_be_read_by_a_page(
    open_to_pages: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("backline.server.handlers.status", broken)
    response = await open_to_pages.http.get("/api/status", headers={"Origin": ORIGIN})
    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_a_page_of_a_default_port_may_write(server: Served) -> None:
    headers = {"Host": "localhost:80", "Origin": "http://localhost"}
    response = await server.http.post("/api/failures/retry", json={}, headers=headers)
    assert response.status_code == 200
    headers = {"Host": "localhost:81", "Origin": "http://localhost"}
    response = await server.http.post("/api/failures/retry", json={}, headers=headers)
    assert response.status_code == 403


async def test_head_is_get_without_a_body(server: Served, world: World) -> None:
    await world.insert("alpha", "beta")
    document = (await server.http.get("/openapi.json")).json()
    paths = [path for path, methods in document["paths"].items() if "get" in methods]
    paths = [path.replace("{run}", "1").replace("{model}", "hash") for path in paths]
    assert len(paths) > 12
    for path in [*paths, "/", "/docs", "/icon.svg", "/nothing", "/openapi.json", "/ws"]:
        got = await server.http.get(path, headers={"Accept": "text/html"})
        head = await server.http.head(path, headers={"Accept": "text/html"})
        assert head.status_code == got.status_code, path
        assert head.headers.get("content-type") == got.headers.get("content-type"), path
        assert head.content == b""
        if path in ("/health", "/openapi.json", "/icon.svg"):
            assert head.headers["content-length"] == got.headers["content-length"]
    response = await server.http.head("/api/suggest")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    # The connection stays in step: the next response belongs to the next request.
    assert (await server.http.get("/health")).json() == {"status": "ok"}


# --- bodies ---------------------------------------------------------------------------------------


def requests_() -> list[type[BaseModel]]:
    """Return every model of a request, also of frames."""
    models: list[type[BaseModel]] = [openai_schemas.EmbeddingsRequest]
    below: list[type[BaseModel]] = [*schemas.Body.__subclasses__()]
    while below:
        models.append(below.pop())
        below += models[-1].__subclasses__()
    assert websocket.Frame in models and schemas.SearchRequest in models
    return models


@pytest.mark.parametrize("model", requests_(), ids=lambda model: model.__name__)
def test_null_is_the_same_as_a_member_left_out(model: type[BaseModel]) -> None:
    required: dict[str, Any] = {
        "input": "x", "model": "hash", "query": "x", "id": 1, "text": "x", "key": "x",
        "rows": [{"id": 1, "text": "x"}], "type": "ping", "topics": ["run_progress"],
        "action_id": 1, "role": "host",
    }  # fmt: skip
    fields = model.model_fields
    least = {name: required[name] for name, field in fields.items() if field.is_required()}
    nulls = {name: None for name, field in fields.items() if not field.is_required()}
    assert model.model_validate({**least, **nulls}) == model.model_validate(least)
    properties = model.model_json_schema()["properties"]
    for name in nulls:
        assert {"type": "null"} in properties[name]["anyOf"], name
    for name in least:
        with pytest.raises(ValueError, match=name):
            model.model_validate({**least, name: None})


async def test_null_is_accepted_over_http(server: Served) -> None:
    body = {"query": "x", "mode": None, "limit": None, "weight": None, "passages": None}
    assert (await server.post("/api/search", body))["limit"] == 10
    body = {"input": "x", "model": "hash", "encoding_format": None, "dimensions": None}
    assert len((await server.post("/v1/embeddings", body))["data"]) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", ""], "input[1] is empty"),
        (["a", "b", 5], "input[2] is not a text but tokens"),
        ([[1, 2], [3]], "input[0] is not a text but tokens"),
        (["a", None], "input[1] is not a text"),
        (["a", {"text": "b"}], "input[1] is not a text"),
        (["a", True], "input[1] is not a text"),
        (7, "input must be a text"),
        ({"text": "a"}, "input must be a text"),
    ],
)
async def test_the_wrong_input_of_a_batch_is_named(
    server: Served, value: Any, message: str
) -> None:
    problem = await server.post("/v1/embeddings", {"input": value, "model": "hash"}, 422)
    assert message in problem["detail"] and message in problem["error"]["message"]
    assert problem["error"]["param"] == "input"


@pytest.mark.parametrize("bad", [0, 3, 6])
async def test_the_rejected_text_of_a_batch_is_named(
    paid_server: Served, provider: StandInProvider, bad: int
) -> None:
    provider.behave(reject_marker="POISON")
    model = (await paid_server.get("/v1/models"))["data"][0]["id"]
    texts = [f"text {n}" if n != bad else "POISON" for n in range(7)]
    problem = await paid_server.post("/v1/embeddings", {"input": texts, "model": model}, 422)
    assert problem["error"]["message"].startswith(f"input[{bad}] is rejected:")


async def test_truncation_is_told(paid_server: Served) -> None:
    model = (await paid_server.get("/v1/models"))["data"][0]["id"]
    body = {"input": ["short", "long " * 10_000, "short"], "model": model}
    response = await paid_server.http.post("/v1/embeddings", json=body)
    assert response.headers["x-backline-truncated"] == "1"
    [cut] = response.json()["truncated"]
    assert cut["index"] == 1 and cut["tokens"] > cut["used"] == 8192
    whole = await paid_server.http.post("/v1/embeddings", json={**body, "input": "short"})
    assert "truncated" not in whole.json() and "x-backline-truncated" not in whole.headers


async def test_dimensions_shorten_only_models_that_may_be(
    world: World, provider: StandInProvider
) -> None:
    async with served(world.store, **with_provider(provider)) as server:
        pool = server.services.embedder_pool
        small = describe("openai/text-embedding-3-small")
        ada = describe("openai/text-embedding-ada-002")
        assert small and ada
        assert (
            await pool.named("text-embedding-3-small", 256, [small])
        ).embedder.model.dimensions == 256
        for model, dimensions in ((small, 1537), (ada, 256)):
            with pytest.raises(errors.UsageError, match="cannot return"):
                await pool.named(model.name, dimensions, [model])


@pytest.mark.parametrize("name", ["hash", "hash@8", "hash%408"])
async def test_one_model_is_returned(server: Served, name: str) -> None:
    model = await server.get(f"/v1/models/{name}")
    assert model["object"] == "model" and model["id"].startswith("hash@")


async def test_names_of_models_may_have_a_slash(paid_server: Served) -> None:
    for entry in (await paid_server.get("/v1/models"))["data"]:
        for path in (entry["id"], entry["id"].replace("/", "%2F")):
            assert await paid_server.get(f"/v1/models/{path}") == entry
    problem = await paid_server.get("/v1/models/openai/nope", 404)
    assert "no model 'openai/nope'. It has: " in problem["error"]["message"]


# --- balancers and proxies ------------------------------------------------------------------------


async def test_an_idle_connection_outlives_the_balancers_and_can_be_set(world: World) -> None:
    assert Settings().keep_alive > 60
    async with served(world.store, keep_alive=1) as server:
        address = server.url.removeprefix("http://").split(":")
        assert make_server(server_app(server), Settings()).config.timeout_keep_alive > 60
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.readuntil(b'"ok"}')
        assert await asyncio.wait_for(reader.read(1), TIMEOUT_S) == b""  # closed by the server
        writer.close()


def server_app(server: Served) -> Any:
    from backline.server import create_app

    return create_app(server.services.open_store, Settings(), worker=False)


@asynccontextmanager
async def proxy(server: Served, prefix: str, *, strip: bool) -> AsyncIterator[str]:
    """Yield the address of a proxy that serves the server below a path."""
    host, port = server.url.removeprefix("http://").split(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, rest = head.split(" ", 2)
        if not path.startswith(prefix):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        path = (path.removeprefix(prefix) or "/") if strip else path
        back, there = await asyncio.open_connection(host, int(port))
        there.write(f"{method} {path} {rest}".encode())
        await asyncio.gather(pump(reader, there), pump(back, writer), return_exceptions=True)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}{prefix}"
    finally:
        listener.close()


LINK = re.compile(r'(?:href|src)="([^"#]+)"')


@pytest.mark.parametrize(
    ("strip", "root_path", "page"),
    [
        (True, "/tools/backline", ""),
        (True, "/tools/backline", "/ask"),
        (True, "/tools/backline", "/no/such/page"),
        (False, "/tools/backline", "/"),
        (False, "/tools/backline", "/docs"),
        (True, "/tools/backline/", "/docs"),
        (True, "", "/"),
        (True, "", "/ask"),
        (True, "", "/docs"),
        (True, "", "/no/such/page"),
    ],
)
async def test_page_api_and_socket_work_below_a_path(
    world: World, strip: bool, root_path: str, page: str
) -> None:
    require_page()
    async with (
        served(world.store, root_path=root_path) as server,
        proxy(server, "/tools/backline", strip=strip) as url,
        httpx2.AsyncClient(headers={"Connection": "close"}, timeout=TIMEOUT_S) as http,
    ):
        html = await http.get(url + page, headers={"Accept": "text/html"})
        assert html.status_code == 200
        links = [link for link in LINK.findall(html.text) if not link.startswith("http")]
        assert any(link.endswith(".js") for link in links)
        for link in links:
            response = await http.get(str(httpx2.URL(url + page).join(link)))
            assert response.status_code == 200, link
            assert not response.headers["content-type"].startswith("text/html"), link
        assert (await http.get(f"{url}/api/status")).json()["server"]["name"] == "backline"
        problem = (await http.get(f"{url}/v1/models/nope")).json()
        assert "no model 'nope'" in problem["error"]["message"]
        async with websockets.connect(url.replace("http", "ws") + "/ws") as socket:
            assert json.loads(await socket.recv())["type"] == "connected"
        document = (await http.get(f"{url}/openapi.json")).json()
        assert document.get("servers") == ([{"url": "/tools/backline"}] if root_path else None)


async def test_a_root_path_is_no_part_of_other_paths(world: World) -> None:
    async with served(world.store, root_path="/api") as server:
        assert (await server.http.get("/api/api/status")).status_code == 200
        assert (await server.http.get("/health")).status_code == 200
        assert (await server.http.get("/apihealth")).status_code == 404


async def test_addresses_behind_a_trusted_proxy_have_their_own_rate(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def statuses(server: Served, address: str) -> set[int]:
        headers = {"X-Forwarded-For": address}
        calls = (server.http.get("/api/status", headers=headers) for _ in range(11))
        return {response.status_code for response in await asyncio.gather(*calls)}

    for trusted, second in (("127.0.0.1", {200, 429}), ("10.9.9.9", {429})):
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
        async with served(world.store, rate_limit=0.1) as server:
            await statuses(server, "203.0.113.1")
            got = await statuses(server, "203.0.113.2")
            assert got == second, trusted


# --- keys and traces ------------------------------------------------------------------------------


async def test_roles_of_keys_apply_to_routes_and_sockets(world: World, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made: dict[str, str] = {role: keys.add_key(file, role, role) for role in keys.ROLES}
    embed = {"input": "x", "model": "hash"}
    async with served(world.store, keys_file=file, protect_reads=True) as server:
        for role, expected in {
            "": (401, 401, 401), "read": (200, 403, 403), "write": (200, 200, 403),
            "admin": (200, 200, 202),
        }.items():  # fmt: skip
            server.http.headers["X-API-Key"] = made.get(role, "unknown")
            got = (
                (await server.http.get("/api/status")).status_code,
                (await server.http.post("/v1/embeddings", json=embed)).status_code,
                (await server.http.post("/api/runs", json={"collection": "notes"})).status_code,
            )
            assert got == expected, role
        reader = await server.socket()
        await reader.request("auth", "authenticated", key=made["read"])
        await reader.request("get_status", "status")
        refused = await reader.request("action", "error", action_id=1)
        assert "has the role read; this needs the role write" in refused["detail"]
        await reader.request("auth", "authenticated", key=made["write"])
        await reader.request("action", "action_ack", action_id=1)
        status = await reader.request("get_status", "status")
        assert status["auth"]["role"] == "write"


async def test_a_key_is_revoked_without_a_restart(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.0)
    file = tmp_path / "keys.json"
    old = keys.add_key(file, "old", "admin")
    async with served(world.store, keys_file=file) as server:
        server.http.headers["X-API-Key"] = old
        await server.post("/api/failures/retry")
        new = keys.add_key(file, "new", "admin")
        keys.revoke_key(file, "old")
        await server.post("/api/failures/retry", status=401)
        server.http.headers["X-API-Key"] = new
        await server.post("/api/failures/retry")


async def test_requests_and_embeddings_are_traced_if_a_collector_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[str] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append((await reader.readline()).decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    async with served(world.store) as server:
        await server.post("/v1/embeddings", {"input": "x", "model": "hash"})
    assert [span.name for span in memory.get_finished_spans()] == ["embeddings hash@384"]
    memory.clear()
    collector = await asyncio.start_server(collect, "127.0.0.1", 0)
    port = collector.sockets[0].getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with served(world.store) as server:
        server.http.headers["traceparent"] = parent
        await server.post("/v1/embeddings", {"input": "x", "model": "hash"})
    await asyncio.to_thread(provider.shutdown)
    collector.close()
    spans = {span.name: span for span in memory.get_finished_spans()}
    request, call = spans["POST /v1/embeddings"], spans["embeddings hash@384"]
    assert request.context and call.context
    assert f"{request.context.trace_id:032x}" == parent.split("-")[1]
    assert call.context.trace_id == request.context.trace_id
    assert dict(call.attributes or {})["gen_ai.request.model"] == "hash@384"
    assert any(line.startswith("POST /v1/traces") for line in received)
