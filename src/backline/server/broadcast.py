"""Broadcasts events to WebSocket clients by topic.

Each client has a bounded outbox and is disconnected when it overflows.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from backline.server.metrics import Metrics

OUTBOX: Final = 64
MAX_CLIENTS: Final = 2000
TOPICS: Final = ("run_progress", "coverage_changed", "failure_added")

Role = Literal["host", "studio"]


class Delivery(NamedTuple):
    """How many clients received an action, and how many of them are hosts."""

    clients: int
    hosts: int


def frame(kind: str, data: Mapping[str, Any], request: Any = None) -> str:
    """Serialize one message; `request` is the id of the frame that it answers."""
    message: dict[str, Any] = {"type": kind, "data": data}
    if request is not None:
        message["id"] = request
    return json.dumps(message, default=str, ensure_ascii=False, separators=(",", ":"))


@dataclass(eq=False, slots=True)
class Client:
    """One connection, with its outbox of frames to send.

    `topics` maps a topic to the collections subscribed to, or None for all. `role` is what the
    client declared: a host executes actions, a studio is a page that sends them. Most declare none.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    authorized: bool = False
    role: Role | None = None
    name: str = ""
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(OUTBOX))
    topics: dict[str, frozenset[str] | None] = field(default_factory=dict)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    def subscribes(self, topic: str, collection: str) -> bool:
        if topic not in self.topics:
            return False
        collections = self.topics[topic]
        return collections is None or collection in collections


class Broadcaster:
    """The connected clients of a server."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._clients: dict[str, Client] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def full(self) -> bool:
        return len(self._clients) >= MAX_CLIENTS

    def join(self, *, authorized: bool) -> Client:
        client = Client(authorized=authorized)
        self._clients[client.id] = client
        self._metrics.clients.set(len(self._clients))
        return client

    def leave(self, client: Client) -> None:
        self._clients.pop(client.id, None)
        self._metrics.clients.set(len(self._clients))
        if client.role == "host":
            self._publish_hosts()

    @property
    def hosts(self) -> list[str]:
        """The names of the connected hosts; 'host' for a host without a name."""
        return [c.name or "host" for c in self._clients.values() if c.role == "host"]

    def declare(self, client: Client, role: Role, name: str) -> None:
        """Set a client's role, and notify studios if the list of hosts changes."""
        before = self.hosts
        client.role, client.name = role, name
        if self.hosts != before:
            self._publish_hosts()

    def _publish_hosts(self) -> None:
        studios = [client for client in self._clients.values() if client.role == "studio"]
        self._send(studios, frame("hosts_changed", {"hosts": self.hosts}))

    def subscribers(self) -> dict[str, int]:
        return {
            topic: sum(topic in client.topics for client in self._clients.values())
            for topic in TOPICS
        }

    def publish(self, topic: str, collection: str, data: Mapping[str, Any]) -> int:
        """Send an event to its subscribers; returns how many were reached."""
        subscribers = [c for c in self._clients.values() if c.subscribes(topic, collection)]
        return self._send(subscribers, frame(topic, data)) if subscribers else 0

    def forward(
        self, sender: Client, kind: str, data: Mapping[str, Any], *, authorized_only: bool
    ) -> Delivery:
        """Send a frame to all other clients, or only to those that gave the key."""
        others = [
            client
            for client in self._clients.values()
            if client is not sender and (client.authorized or not authorized_only)
        ]
        text = frame(kind, data)
        hosts = self._send((client for client in others if client.role == "host"), text)
        rest = self._send((client for client in others if client.role != "host"), text)
        return Delivery(hosts + rest, hosts)

    def _send(self, clients: Iterable[Client], text: str) -> int:
        sent = 0
        for client in clients:
            if client.dropped.is_set():
                continue
            try:
                client.outbox.put_nowait(text)
                sent += 1
            except asyncio.QueueFull:
                self.drop(client)
        return sent

    def drop(self, client: Client) -> None:
        """Mark a client that does not read for disconnection."""
        if not client.dropped.is_set():
            client.dropped.set()
            self.dropped += 1
            self._metrics.dropped.inc()
