"""HTTP/1.1 over asyncio streams with h11, which can cut a connection within a response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import h11


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` None cuts the connection; `cut` cuts it halfway through the body.

    With `trickle_s`, the body is sent in twenty parts over that many seconds.
    """

    status: int | None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    trickle_s: float = 0.0


Handler = Callable[[Request], Awaitable[Answer]]


async def serve_connection(
    handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve requests in turn until the peer disconnects or the connection is cut."""
    connection = h11.Connection(h11.SERVER)
    try:
        with suppress(ConnectionError, h11.RemoteProtocolError):
            while (request := await _receive(connection, reader)) is not None:
                await _send(connection, writer, await handler(request))
                if connection.our_state is not h11.DONE:
                    break
                connection.start_next_cycle()
    finally:
        writer.transport.abort()


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, body)
        else:
            return None


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
    if answer.status is None:
        writer.transport.abort()
        return
    headers = {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        **answer.headers,
    }
    head = connection.send(h11.Response(status_code=answer.status, headers=list(headers.items())))
    body = answer.body[: len(answer.body) // 2] if answer.cut else answer.body
    writer.write(head or b"")
    size = len(body) // 20 + 1 if answer.trickle_s else len(body) or 1
    for start in range(0, len(body), size):
        writer.write(connection.send(h11.Data(data=body[start : start + size])) or b"")
        await writer.drain()
        await asyncio.sleep(answer.trickle_s / 20)
    if answer.cut:
        await asyncio.sleep(0.02)  # so that the first half arrives before the reset
        writer.transport.abort()
        return
    connection.send(h11.EndOfMessage())
