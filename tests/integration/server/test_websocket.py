"""The WebSocket: every frame, every refusal, and what happens to who does not read."""

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
    PATIENCE_S,
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


async def test_a_client_is_greeted_with_the_status(s: Served, world: World) -> None:
    connection = await websockets.connect(
        s.url.replace("http", "ws") + "/ws", open_timeout=PATIENCE_S
    )
    async with connection:
        hello = Socket(connection)
        connected = await hello.read()
        assert connected["type"] == "connected"
        assert set(connected["data"]) == {"client_id", "server_version", "heartbeat_seconds"}
        status = await hello.read()
        assert status["type"] == "server_status"
        assert {c["name"] for c in status["data"]["collections"]} >= {"notes"}


async def test_questions_are_answered_under_their_id(s: Served, world: World) -> None:
    await world.insert("alpha one", "alpha two")
    await world.fill()
    await search.ensure_index(world.store, world.collection)
    client = await s.socket()
    assert await client.ask("ping", "pong", at=7) == {"at": 7}
    status = await client.ask("get_status", "status")
    assert status["clients"] == 1
    asked = {"query": "alpha two", "collection": "notes", "limit": 1}
    over_http = await s.post("/api/search", asked)
    over_socket = await client.ask("search", "search_results", **asked)
    assert over_socket["hits"] == over_http["hits"]
    assert over_socket["hits"][0]["key"] == "2"
    nothing = await client.ask("suggest", "suggestions", prompt="alpha", collection="notes")
    assert "timestamp" in nothing


@pytest.mark.parametrize(
    ("sent", "said"),
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
async def test_what_is_malformed_is_explained_and_ends_nothing(
    s: Served, sent: Any, said: str
) -> None:
    client = await s.socket()
    await client.connection.send(sent)
    error = await client.until("error")
    assert said in error["detail"]
    assert error["status"] in (404, 422) and error["title"]
    await client.ask("ping", "pong")


async def test_a_request_that_is_no_socket_is_told_so(s: Served) -> None:
    answer = await s.http.get("/ws", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert "proxy" in answer.json()["detail"]


async def test_edits_runs_and_failures_are_told_to_who_asked(
    paid: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="poison")
    async with served(paid.store, **with_provider(provider)) as s:
        client = await s.socket()
        deaf = await s.socket()
        topics = ["run_progress", "coverage_changed", "failure_added"]
        told = await client.ask("subscribe", "subscribed", topics=topics, collection="notes")
        assert told["topics"] == sorted(topics)
        await eventually(
            lambda: "notes" in s.services.change_feed._failures_until, "a first look", 60
        )
        await paid.insert("good", "poison")
        changed = await client.until("coverage_changed")
        assert changed["collection"] == "notes"
        assert changed["coverage"]["pending"] == 2
        run = (await s.post("/api/runs", {"collection": "notes"}, 202))["run"]
        async with asyncio.timeout(120):
            seen = await told_until_the_end(client)
        assert seen["failure_added"]["failure"]["key"] == "2"
        assert seen["ended"]["run"]["id"] == run["id"]
        assert seen["ended"]["run"]["embedded"] == 1
        assert seen["ended"]["coverage"]["failed"] == 1
        assert await client.ask("unsubscribe", "unsubscribed", topics=topics) == {"topics": []}
        assert await deaf.told() == ["server_status"]


async def test_a_run_that_is_over_before_anybody_looks_is_told_to_who_asked(s: Served) -> None:
    client = await s.socket()
    await eventually(lambda: s.services.change_feed._polled_at is not None, "a look for nobody", 60)
    await client.ask("subscribe", "subscribed", topics=["run_progress"])
    run = (await s.post("/api/runs", {"collection": "notes"}, 202))["run"]
    async with asyncio.timeout(60):
        while (told := await client.until("run_progress"))["run"]["state"] != "completed":
            pass
    assert told["run"]["id"] == run["id"]


async def told_until_the_end(client: Socket) -> dict[str, Any]:
    """What came last under each type, once a failure was told and a run has ended."""
    seen: dict[str, Any] = {}
    while not {"failure_added", "ended"} <= set(seen):
        frame = await client.read()
        seen[frame["type"]] = frame["data"]
        if frame["type"] == "run_progress" and frame["data"]["run"]["state"] == "completed":
            seen["ended"] = frame["data"]
    return seen


async def test_actions_go_to_all_others(s: Served) -> None:
    page, host, other = [await s.socket() for _ in range(3)]
    action = {"action_id": 44100, "name": "view.ask", "parameters": {"a": 1}}
    assert await page.ask("action", "action_ack", **action) == {"delivered": 2, "hosts": 0}
    for client in (host, other):
        got = await client.until("action")
        assert {**action, "source": got["source"]} == got
    assert "action" not in await page.told()


async def test_who_sends_an_action_learns_whether_a_host_was_sent_it(s: Served) -> None:
    page, other, host = [await s.socket() for _ in range(3)]
    welcome = {"role": "studio", "hosts": []}
    assert await page.ask("hello", "welcome", role="studio") == welcome
    assert await page.ask("action", "action_ack", action_id=1) == {"delivered": 2, "hosts": 0}
    welcome = {"role": "host", "hosts": ["Plugin"]}
    assert await host.ask("hello", "welcome", role="host", name=" Plugin ") == welcome
    assert await page.until("hosts_changed") == {"hosts": ["Plugin"]}
    assert await page.ask("action", "action_ack", action_id=2) == {"delivered": 2, "hosts": 1}
    assert (await s.get("/ws/status"))["hosts"] == ["Plugin"]
    assert (await s.get("/api/status"))["hosts"] == ["Plugin"]
    # Its own action goes to no host; who said nothing is told of nothing new.
    assert await host.ask("action", "action_ack", action_id=3) == {"delivered": 2, "hosts": 0}
    assert "hosts_changed" not in await other.told()
    await host.connection.close()
    assert await page.until("hosts_changed") == {"hosts": []}
    assert await page.ask("action", "action_ack", action_id=4) == {"delivered": 1, "hosts": 0}
    for wrong in ({"role": "boss"}, {}, {"role": "host", "name": "x" * 200}):
        assert (await page.ask("hello", "error", **wrong))["status"] == 422


async def test_a_host_needs_the_key_that_writing_needs(world: World) -> None:
    async with served(world.store, key="the key") as s:
        client = await s.socket()
        assert (await client.ask("hello", "error", role="host"))["status"] == 401
        await client.ask("hello", "welcome", role="studio")
        await client.ask("auth", "authenticated", key="the key")
        assert (await client.ask("hello", "welcome", role="host"))["hosts"] == ["host"]


async def test_a_key_opens_what_it_guards(world: World) -> None:
    async with served(world.store, key="the key", protect_reads=True) as s:
        client = await s.socket()
        host = await s.socket(additional_headers={"X-API-Key": "the key"})
        assert (await host.read())["type"] == "server_status"
        await client.ask("ping", "pong")
        for kind in ("get_status", "search", "subscribe", "action"):
            error = await client.ask(kind, "error")
            assert error["status"] == 401
        assert (await client.ask("auth", "error", key="guess"))["status"] == 401
        assert (await host.ask("action", "action_ack", action_id=1))["delivered"] == 0
        await client.ask("auth", "authenticated", key="the key")
        await client.ask("get_status", "status")
        assert (await host.ask("action", "action_ack", action_id=1))["delivered"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://studio.example"}, 101),
    ],
)
async def test_foreign_pages_and_names_are_refused(
    world: World, headers: dict[str, str], status: int
) -> None:
    async with served(world.store, cors_origins=("https://studio.example",)) as s:
        _, _, port = s.url.rpartition(":")
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


async def test_too_large_a_frame_ends_the_connection(s: Served) -> None:
    client = await s.socket()
    with pytest.raises(websockets.ConnectionClosed):
        await client.connection.send("x" * 300_000)
        while True:
            await client.read()
    assert (await s.get("/health"))["status"] == "ok"


async def test_a_client_that_never_reads_is_dropped(
    s: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket takes a few hundred kilobytes; what comes then waits in an outbox with an end."""
    monkeypatch.setattr("backline.server.uvicorn.ABORT_SECONDS", 0.5)
    silent = sockets.socket()
    silent.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    silent.setblocking(False)
    host, port = s.url.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(silent, (host, int(port)))
    request = (
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await asyncio.get_running_loop().sock_sendall(silent, request.encode())
    await eventually(lambda: len(s.services.broadcaster) == 1, "the client to be there")
    talker = await s.socket()
    parameters = {"filling": "x" * 200_000}
    for n in range(200):
        await talker.ask("action", "action_ack", action_id=n, parameters=parameters)
        if s.services.broadcaster.dropped:
            break
    assert s.services.broadcaster.dropped == 1
    assert n < 120, "a client that reads nothing was sent more than its outbox and buffers hold"
    await eventually(lambda: len(s.services.broadcaster) == 1, "the silent client to be gone")
    await talker.ask("ping", "pong")
    connections = [c for c in psutil.Process().net_connections("tcp") if c.laddr.port == int(port)]
    await eventually(lambda: not _held(silent, int(port)), "its connection to be cut")
    assert connections
    silent.close()


def _held(client: sockets.socket, port: int) -> bool:
    """Whether the server's end of a connection is still open."""
    mine = client.getsockname()[1]
    return any(
        c.laddr.port == port and c.raddr and c.raddr.port == mine and c.status == "ESTABLISHED"
        for c in psutil.Process().net_connections("tcp")
    )


async def test_heartbeats(s: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_sockets, "HEARTBEAT_SECONDS", 0.1)
    client = await s.socket()
    await client.until("heartbeat")
    await client.say("heartbeat_ack")
    await client.until("heartbeat")


async def test_there_is_an_end_to_clients(s: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "MAX_CLIENTS", 2)
    await s.socket()
    await s.socket()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await s.socket()
    assert refused.value.response.status_code == 429
    status = await s.get("/ws/status")
    assert status["clients"] == 2


async def test_500_subscribers_see_a_backfill_of_20_000_rows_end(store: Store) -> None:
    """Each reads every frame, in one task; the server's memory stays as it is."""
    uvicorn.allow_many_sockets()
    async with notes(store) as world, served(world.store) as s:
        await world.sql(
            "insert into notes (id, body) select n, 'text ' || n from generate_series(1, 20000) n"
        )
        clients = await asyncio.gather(*(s.socket() for _ in range(500)))
        await asyncio.gather(
            *(c.ask("subscribe", "subscribed", topics=["run_progress"]) for c in clients)
        )
        process = psutil.Process()
        before = process.memory_info().rss
        run = (await s.post("/api/runs", {"collection": "notes"}, 202))["run"]["id"]
        ends = await asyncio.gather(*(seen_to_the_end(c, run) for c in clients))
        assert all(end["run"]["embedded"] == 20_000 for end in ends)
        assert all(end["coverage"]["complete"] for end in ends)
        grown = process.memory_info().rss - before
        assert grown < 150e6, f"{grown / 1e6:.0f} MB more, clients included"
        assert (await s.get("/ws/status"))["dropped"] == 0


async def seen_to_the_end(client: Socket, run: int) -> dict[str, Any]:
    async with asyncio.timeout(270):
        async for text in client.connection:
            frame = json.loads(text)
            shown = frame["data"].get("run", {})
            if shown.get("id") == run and shown["state"] == "completed":
                return dict(frame["data"])
    raise AssertionError("the connection ended before the run")
