"""The WebSocket: every frame type, every refusal, and clients that do not read."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from typing import Any

import psutil
import pytest
import websockets
from tests.integration.harness import World, eventually
from tests.integration.server.harness import (
    TIMEOUT_S,
    Served,
    Socket,
    notes,
    served,
    with_provider,
)
from tests.provider import StandInProvider

from backline import search
from backline.postgres.store import Store
from backline.server import broadcast, uvicorn
from backline.server import websocket as server_sockets


async def test_client_is_greeted_with_the_status(server: Served, world: World) -> None:
    connection = await websockets.connect(
        server.url.replace("http", "ws") + "/ws", open_timeout=TIMEOUT_S
    )
    async with connection:
        client = Socket(connection)
        connected = await client.read()
        assert connected["type"] == "connected"
        assert set(connected["data"]) == {"client_id", "server_version", "heartbeat_seconds"}
        status = await client.read()
        assert status["type"] == "server_status"
        assert {c["name"] for c in status["data"]["collections"]} >= {"notes"}


async def test_replies_carry_the_id_of_the_request(server: Served, world: World) -> None:
    await world.insert("alpha one", "alpha two")
    await world.fill()
    await search.ensure_index(world.store, world.collection)
    client = await server.socket()
    assert await client.request("ping", "pong", at=7) == {"at": 7}
    status = await client.request("get_status", "status")
    assert status["clients"] == 1
    query = {"query": "alpha two", "collection": "notes", "limit": 1}
    over_http = await server.post("/api/search", query)
    over_socket = await client.request("search", "search_results", **query)
    assert over_socket["hits"] == over_http["hits"]
    assert over_socket["hits"][0]["key"] == "2"
    suggestions = await client.request("suggest", "suggestions", prompt="alpha", collection="notes")
    assert "timestamp" in suggestions


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not as documented"),
        ('{"type": "dance"}', "no frame of type 'dance'"),
        ('{"type": "ping", "extra": 1}', "extra"),
        ('{"type": "search", "data": {"query": ""}}', "query"),
        ('{"type": "search", "data": {"query": "x", "collection": "none"}}', "'none'"),
        ('{"type": "subscribe", "data": {"topics": ["weather"]}}', "topics"),
        ('{"type": "action", "data": {}}', "action_id"),
        (b"\x00\x01", "not binary"),
        ("[" * 5000, "not JSON"),
        ('{"type": "ping", "id": %s}' % ("9" * 5000), "not JSON"),
        ('{"type": "ping", "data": {"a": "\\ud800"}}', "surrogate"),
        ('{"type": "action", "data": {"action_id": 1, "parameters": {"a": NaN}}}', "NaN"),
        ('{"type": "action", "data": {"action_id": "\\ud800"}}', "surrogate"),
        ('{"type": "ping", "data": {"a": 1e999}}', "infinity"),
    ],
)
async def test_malformed_frames_are_explained_and_do_not_disconnect(
    server: Served, sent: Any, message: str
) -> None:
    client = await server.socket()
    await client.connection.send(sent)
    error = await client.until("error")
    assert message in error["detail"]
    assert error["status"] in (404, 422) and error["title"]
    await client.request("ping", "pong")


async def test_plain_request_gets_upgrade_required(server: Served) -> None:
    response = await server.http.get("/ws", headers={"Accept": "text/html"})
    assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
    assert "proxy" in response.json()["detail"]


async def test_edits_runs_and_failures_are_published_to_subscribers(
    paid: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="poison")
    async with served(paid.store, **with_provider(provider)) as server:
        client = await server.socket()
        other = await server.socket()
        topics = ["run_progress", "coverage_changed", "failure_added"]
        subscribed = await client.request(
            "subscribe", "subscribed", topics=topics, collection="notes"
        )
        assert subscribed["topics"] == sorted(topics)
        await eventually(
            lambda: bool(server.services.change_feed._failures_until), "a first poll", 60
        )
        await paid.insert("good", "poison")
        changed = await client.until("coverage_changed")
        assert changed["collection"] == "notes"
        assert changed["coverage"]["pending"] == 2
        run = (await server.post("/api/runs", {"collection": "notes"}, 202))["run"]
        async with asyncio.timeout(120):
            last = await frames_until_the_end(client)
        assert last["failure_added"]["failure"]["key"] == "2"
        assert last["ended"]["run"]["id"] == run["id"]
        assert last["ended"]["run"]["embedded"] == 1
        assert last["ended"]["coverage"]["failed"] == 1
        assert await client.request("unsubscribe", "unsubscribed", topics=topics) == {"topics": []}
        assert await other.received() == ["server_status"]


async def test_run_that_ends_before_the_next_poll_is_published(server: Served) -> None:
    client = await server.socket()
    await eventually(
        lambda: server.services.change_feed._polled_at is not None, "a poll without subscribers", 60
    )
    await client.request("subscribe", "subscribed", topics=["run_progress"])
    run = (await server.post("/api/runs", {"collection": "notes"}, 202))["run"]
    async with asyncio.timeout(60):
        while (event := await client.until("run_progress"))["run"]["state"] != "completed":
            pass
    assert event["run"]["id"] == run["id"]


async def frames_until_the_end(client: Socket) -> dict[str, Any]:
    """Return the last data of each type, once a failure and the end of a run were published."""
    last: dict[str, Any] = {}
    while not {"failure_added", "ended"} <= set(last):
        frame = await client.read()
        last[frame["type"]] = frame["data"]
        if frame["type"] == "run_progress" and frame["data"]["run"]["state"] == "completed":
            last["ended"] = frame["data"]
    return last


async def test_actions_are_forwarded_to_all_other_clients(server: Served) -> None:
    page, host, other = [await server.socket() for _ in range(3)]
    action = {"action_id": 44100, "name": "view.ask", "parameters": {"a": 1}}
    assert await page.request("action", "action_ack", **action) == {"delivered": 2, "hosts": 0}
    for client in (host, other):
        received = await client.until("action")
        assert {**action, "source": received["source"]} == received
    assert "action" not in await page.received()


async def test_acknowledgement_counts_the_hosts_reached(server: Served) -> None:
    page, other, host = [await server.socket() for _ in range(3)]
    welcome = {"role": "studio", "hosts": []}
    assert await page.request("hello", "welcome", role="studio") == welcome
    assert await page.request("action", "action_ack", action_id=1) == {"delivered": 2, "hosts": 0}
    welcome = {"role": "host", "hosts": ["Plugin"]}
    assert await host.request("hello", "welcome", role="host", name=" Plugin ") == welcome
    assert await page.until("hosts_changed") == {"hosts": ["Plugin"]}
    assert await page.request("action", "action_ack", action_id=2) == {"delivered": 2, "hosts": 1}
    assert (await server.get("/ws/status"))["hosts"] == ["Plugin"]
    assert (await server.get("/api/status"))["hosts"] == ["Plugin"]
    # A host does not receive its own action. Clients without a role get no hosts_changed.
    assert await host.request("action", "action_ack", action_id=3) == {"delivered": 2, "hosts": 0}
    assert "hosts_changed" not in await other.received()
    await host.connection.close()
    assert await page.until("hosts_changed") == {"hosts": []}
    assert await page.request("action", "action_ack", action_id=4) == {"delivered": 1, "hosts": 0}
    for wrong in ({"role": "boss"}, {}, {"role": "host", "name": "x" * 200}):
        assert (await page.request("hello", "error", **wrong))["status"] == 422


async def test_host_needs_the_key(world: World) -> None:
    async with served(world.store, key="the key") as server:
        client = await server.socket()
        assert (await client.request("hello", "error", role="host"))["status"] == 401
        await client.request("hello", "welcome", role="studio")
        await client.request("auth", "authenticated", key="the key")
        assert (await client.request("hello", "welcome", role="host"))["hosts"] == ["host"]


async def test_key_authorizes_reads_and_actions(world: World) -> None:
    async with served(world.store, key="the key", protect_reads=True) as server:
        client = await server.socket()
        host = await server.socket(additional_headers={"X-API-Key": "the key"})
        assert (await host.read())["type"] == "server_status"
        await client.request("ping", "pong")
        for kind in ("get_status", "search", "subscribe", "action"):
            error = await client.request(kind, "error")
            assert error["status"] == 401
        assert (await client.request("auth", "error", key="guess"))["status"] == 401
        assert (await host.request("action", "action_ack", action_id=1))["delivered"] == 0
        await client.request("auth", "authenticated", key="the key")
        await client.request("get_status", "status")
        assert (await host.request("action", "action_ack", action_id=1))["delivered"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://studio.example"}, 101),
    ],
)
async def test_foreign_origins_and_hosts_are_refused(
    world: World, headers: dict[str, str], status: int
) -> None:
    async with served(world.store, cors_origins=("https://studio.example",)) as server:
        _, _, port = server.url.rpartition(":")
        lines = {"Host": f"127.0.0.1:{port}", **headers}
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        sent = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(
            f"GET /ws HTTP/1.1\r\n{sent}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        line = await reader.readline()
        assert line.startswith(f"HTTP/1.1 {status} ".encode()), line
        writer.close()
        await writer.wait_closed()


async def test_too_large_frame_closes_the_connection(server: Served) -> None:
    client = await server.socket()
    with pytest.raises(websockets.ConnectionClosed):
        await client.connection.send("x" * 300_000)
        while True:
            await client.read()
    assert (await server.get("/health"))["status"] == "ok"


async def test_client_that_never_reads_is_dropped(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket buffers some hundred kilobytes; the rest fills its bounded outbox."""
    monkeypatch.setattr("backline.server.uvicorn.ABORT_SECONDS", 0.5)
    silent = sockets.socket()
    silent.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    silent.setblocking(False)
    host, port = server.url.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(silent, (host, int(port)))
    request = (
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await asyncio.get_running_loop().sock_sendall(silent, request.encode())
    await eventually(lambda: len(server.services.broadcaster) == 1, "the client to connect")
    talker = await server.socket()
    parameters = {"filling": "x" * 200_000}
    for n in range(200):
        await talker.request("action", "action_ack", action_id=n, parameters=parameters)
        if server.services.broadcaster.dropped:
            break
    assert server.services.broadcaster.dropped == 1
    assert n < 120, "more frames were accepted than outbox and buffers hold"
    await eventually(
        lambda: len(server.services.broadcaster) == 1, "the silent client to be dropped"
    )
    await talker.request("ping", "pong")
    connections = [c for c in psutil.Process().net_connections("tcp") if c.laddr.port == int(port)]
    await eventually(lambda: not _is_open(silent, int(port)), "its connection to be aborted")
    assert connections
    silent.close()


def _is_open(client: sockets.socket, port: int) -> bool:
    """Return whether the server's end of a connection is open."""
    port_of_client = client.getsockname()[1]
    return any(
        c.laddr.port == port
        and c.raddr
        and c.raddr.port == port_of_client
        and c.status == "ESTABLISHED"
        for c in psutil.Process().net_connections("tcp")
    )


async def test_heartbeats_are_sent(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_sockets, "HEARTBEAT_SECONDS", 0.1)
    client = await server.socket()
    await client.until("heartbeat")
    await client.send("heartbeat_ack")
    await client.until("heartbeat")


async def test_number_of_clients_is_limited(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "MAX_CLIENTS", 2)
    await server.socket()
    await server.socket()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await server.socket()
    assert refused.value.response.status_code == 429
    status = await server.get("/ws/status")
    assert status["clients"] == 2


async def test_500_subscribers_see_the_end_of_a_backfill_of_20_000_rows(store: Store) -> None:
    """Every client reads every frame, and memory stays flat."""
    uvicorn.allow_many_sockets()
    async with notes(store) as world, served(world.store) as server:
        await world.sql(
            "insert into notes (id, body) select n, 'text ' || n from generate_series(1, 20000) n"
        )
        clients = await asyncio.gather(*(server.socket() for _ in range(500)))
        await asyncio.gather(
            *(c.request("subscribe", "subscribed", topics=["run_progress"]) for c in clients)
        )
        process = psutil.Process()
        before = process.memory_info().rss
        run = (await server.post("/api/runs", {"collection": "notes"}, 202))["run"]["id"]
        ends = await asyncio.gather(*(end_of_run(c, run) for c in clients))
        assert all(end["run"]["embedded"] == 20_000 for end in ends)
        assert all(end["coverage"]["complete"] for end in ends)
        grown = process.memory_info().rss - before
        assert grown < 150e6, f"{grown / 1e6:.0f} MB more, clients included"
        assert (await server.get("/ws/status"))["dropped"] == 0


async def end_of_run(client: Socket, run: int) -> dict[str, Any]:
    async with asyncio.timeout(270):
        async for text in client.connection:
            frame = json.loads(text)
            record = frame["data"].get("run", {})
            if record.get("id") == run and record["state"] == "completed":
                return dict(frame["data"])
    raise AssertionError("the connection ended before the run")
