"""Who is connected, who wants to hear of what; nobody who reads slowly is waited for."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from backline.server.metrics import Metrics

OUTBOX: Final = 64
MOST_CLIENTS: Final = 2000
TOPICS: Final = ("run_progress", "coverage_changed", "failure_added")

Role = Literal["host", "studio"]


class Delivery(NamedTuple):
    """How many were sent an action, and how many of these are hosts."""

    clients: int
    hosts: int


def frame(kind: str, data: Mapping[str, Any], request: Any = None) -> str:
    """One message on the wire; `request` is the id of the frame that it answers."""
    found: dict[str, Any] = {"type": kind, "data": data}
    if request is not None:
        found["id"] = request
    return json.dumps(found, default=str, ensure_ascii=False, separators=(",", ":"))


@dataclass(eq=False, slots=True)
class Client:
    """One connection. What it is to be sent waits in `outbox`, which has an end.

    `topics` maps a topic to the collections of interest, None for all. `role` is what it said that
    it is: a host does what actions say, a studio is a page that sends them; most say nothing.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    authorized: bool = False
    role: Role | None = None
    name: str = ""
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(OUTBOX))
    topics: dict[str, frozenset[str] | None] = field(default_factory=dict)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    def wants(self, topic: str, collection: str) -> bool:
        if topic not in self.topics:
            return False
        only = self.topics[topic]
        return only is None or collection in only


class Hub:
    """All connections of a server."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._clients: dict[str, Client] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def full(self) -> bool:
        return len(self._clients) >= MOST_CLIENTS

    def join(self, *, authorized: bool) -> Client:
        client = Client(authorized=authorized)
        self._clients[client.id] = client
        self._metrics.clients.set(len(self._clients))
        return client

    def leave(self, client: Client) -> None:
        self._clients.pop(client.id, None)
        self._metrics.clients.set(len(self._clients))
        if client.role == "host":
            self._tell_of_hosts()

    @property
    def hosts(self) -> list[str]:
        """The names of the hosts, as they gave them; 'host' where one gave none."""
        return [c.name or "host" for c in self._clients.values() if c.role == "host"]

    def declare(self, client: Client, role: Role, name: str) -> None:
        """Take note of what a client is; studios are told where that changes who can be sent to."""
        before = self.hosts
        client.role, client.name = role, name
        if self.hosts != before:
            self._tell_of_hosts()

    def _tell_of_hosts(self) -> None:
        studios = [each for each in self._clients.values() if each.role == "studio"]
        self._send(studios, frame("hosts_changed", {"hosts": self.hosts}))

    def subscribers(self) -> dict[str, int]:
        return {
            topic: sum(topic in client.topics for client in self._clients.values())
            for topic in TOPICS
        }

    def wanted(self, topic: str, collection: str) -> bool:
        return any(client.wants(topic, collection) for client in self._clients.values())

    def publish(self, topic: str, collection: str, data: Mapping[str, Any]) -> int:
        """Tell everybody who asked; returns how many."""
        wanting = [c for c in self._clients.values() if c.wants(topic, collection)]
        return self._send(wanting, frame(topic, data)) if wanting else 0

    def pass_on(
        self, sender: Client, kind: str, data: Mapping[str, Any], *, known_only: bool
    ) -> Delivery:
        """Tell everybody but the sender, or of these who gave the key."""
        others = [
            client
            for client in self._clients.values()
            if client is not sender and (client.authorized or not known_only)
        ]
        text = frame(kind, data)
        hosts = self._send((each for each in others if each.role == "host"), text)
        rest = self._send((each for each in others if each.role != "host"), text)
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
        """Give up on a client that does not read what it asked for."""
        if not client.dropped.is_set():
            client.dropped.set()
            self.dropped += 1
            self._metrics.dropped.inc()
