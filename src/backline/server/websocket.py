"""The WebSocket protocol: frames, subscriptions, and the session of one client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, TypeVar

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from backline import errors
from backline.server import handlers, schemas
from backline.server.broadcast import Role, frame
from backline.server.middleware import address_of
from backline.server.problems import Problem, problem_of
from backline.server.services import Services, backline_version
from backline.worker.tasks import end_tasks

HEARTBEAT_SECONDS: Final = 15.0
# A client that takes longer to accept a frame is disconnected.
SEND_SECONDS: Final = 10.0

log = structlog.get_logger("backline.ws")

Data = Mapping[str, Any]
Id = str | int | None
M = TypeVar("M", bound=BaseModel)


class Frame(schemas.Body):
    """A frame from a client."""

    type: Annotated[str, Field(max_length=100)]
    # Sent back in a pong and forwarded in an action, so every client must be able to parse it.
    data: Annotated[dict[str, Any], AfterValidator(schemas.portable_json)] = Field(
        default_factory=dict
    )
    id: Annotated[str, Field(max_length=200)] | int | None = None


class Subscription(schemas.Body):
    topics: Annotated[list[schemas.Topic], Field(min_length=1, max_length=20)]
    collection: schemas.Name | None = None


class Action(schemas.Body):
    """An action that other clients are to execute."""

    action_id: int | str
    name: Annotated[str, Field(max_length=200)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Hello(schemas.Body):
    """The role that a client declares."""

    role: Role
    name: Annotated[str, Field(max_length=100)] = ""


class Key(schemas.Body):
    key: Annotated[str, Field(max_length=1000)]


class Session:
    """The session of one client."""

    def __init__(self, services: Services, socket: WebSocket) -> None:
        self._services = services
        self._socket = socket
        self._access = services.policy.access(socket.headers)
        self._client = services.broadcaster.join(authorized=self._access.may("read"))
        self._handlers: dict[str, Callable[[Data, Id], Awaitable[None]]] = {
            "ping": self._ping, "get_status": self._status, "auth": self._auth,
            "hello": self._hello, "suggest": self._suggest, "search": self._search,
            "subscribe": self._subscribe, "unsubscribe": self._unsubscribe, "action": self._action,
            "heartbeat_ack": self._heartbeat_ack,
        }  # fmt: skip

    async def run(self) -> None:
        """Serve the client until it leaves or is dropped."""
        client = self._client
        loops = (self._receive(), self._send(), self._send_heartbeats(), client.dropped.wait())
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            await self._greet()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._services.broadcaster.leave(client)
            await end_tasks(*tasks)
        if client.dropped.is_set():
            log.warning("client dropped because it does not read", client=client.id)

    # --- connection ---

    async def _send(self) -> None:
        while True:
            text = await self._client.outbox.get()
            try:
                await asyncio.wait_for(self._socket.send_text(text), SEND_SECONDS)
            except TimeoutError:
                self._services.broadcaster.drop(self._client)
                return
            except (WebSocketDisconnect, RuntimeError):
                return
            self._services.metrics.messages.labels("out").inc()

    async def _receive(self) -> None:
        with suppress(WebSocketDisconnect):
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                self._services.metrics.messages.labels("in").inc()
                await self._answer(message.get("text"))

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._reply("heartbeat", {})

    async def _reply(self, kind: str, data: Data, request: Id = None) -> None:
        """Queue a frame. Waiting for room slows a client that sends requests without reading."""
        await self._client.outbox.put(frame(kind, data, request))

    async def _greet(self) -> None:
        await self._reply("connected", {
            "client_id": self._client.id, "server_version": backline_version(),
            "heartbeat_seconds": HEARTBEAT_SECONDS,
        })  # fmt: skip
        if self._may_read:
            await self._reply("server_status", await self._current_status())

    @property
    def _may_read(self) -> bool:
        return self._client.authorized or not self._services.policy.key_required_for_reads

    async def _answer(self, text: str | None) -> None:
        """Answer one frame, with an error frame if it fails."""
        request: Id = None
        try:
            self._services.rate_limit.take(address_of(self._socket.scope), self._access)
            received = _parse(text)
            request = received.id
            await self._handle(received)
        except Exception as error:
            problem = problem_of(error)
            if problem.kind == "internal":
                log.exception("bug")
            await self._reply("error", _error_data(problem), request)

    async def _handle(self, received: Frame) -> None:
        handler = self._handlers.get(received.type)
        if handler is None:
            raise errors.UsageError(
                f"There is no frame of type {received.type[:50]!r}. "
                f"The types are {', '.join(self._handlers)}."
            )
        if received.type not in ("ping", "auth", "heartbeat_ack"):
            self._services.policy.check(self._access, "read")
        await handler(received.data, received.id)

    # --- frame types ---

    async def _ping(self, data: Data, request: Id) -> None:
        await self._reply("pong", data, request)

    async def _heartbeat_ack(self, _data: Data, _request: Id) -> None: ...

    async def _status(self, _data: Data, request: Id) -> None:
        await self._reply("status", await self._current_status(), request)

    async def _current_status(self) -> Data:
        status = await handlers.status(self._services, self._access)
        return status.model_dump(mode="json")

    async def _auth(self, data: Data, request: Id) -> None:
        access = self._services.policy.access_of_key(_validate(Key, data).key)
        if access.role is None:
            raise errors.UnauthorizedError(access.problem)
        self._access = access
        self._client.authorized = True
        await self._reply("authenticated", {}, request)

    async def _hello(self, data: Data, request: Id) -> None:
        """Set the client's role. A host receives actions, so it needs the right to write."""
        hello = _validate(Hello, data)
        if hello.role == "host":
            self._services.policy.check(self._access, "write")
        broadcaster = self._services.broadcaster
        broadcaster.declare(self._client, hello.role, hello.name.strip())
        await self._reply("welcome", {"role": hello.role, "hosts": broadcaster.hosts}, request)

    async def _search(self, data: Data, request: Id) -> None:
        query = _validate(schemas.SearchRequest, data)
        results = await handlers.search_rows(self._services, query)
        await self._reply("search_results", results.model_dump(mode="json"), request)

    async def _suggest(self, data: Data, request: Id) -> None:
        query = _validate(schemas.SuggestRequest, data)
        results = await handlers.suggestions(self._services, query)
        await self._reply("suggestions", results.model_dump(mode="json"), request)

    async def _subscribe(self, data: Data, request: Id) -> None:
        subscription = _validate(Subscription, data)
        for topic in subscription.topics:
            before = self._client.topics.get(topic, frozenset())
            if subscription.collection is None or before is None:
                self._client.topics[topic] = None
            else:
                self._client.topics[topic] = before | {subscription.collection}
        await self._reply("subscribed", {"topics": sorted(self._client.topics)}, request)

    async def _unsubscribe(self, data: Data, request: Id) -> None:
        for topic in _validate(Subscription, data).topics:
            self._client.topics.pop(topic, None)
        await self._reply("unsubscribed", {"topics": sorted(self._client.topics)}, request)

    async def _action(self, data: Data, request: Id) -> None:
        """Forward an action to the hosts and the other pages."""
        self._services.policy.check(self._access, "write")
        action = _validate(Action, data)
        body = {**action.model_dump(), "source": self._client.id}
        protected = self._services.policy.key_required_for_reads
        delivered = self._services.broadcaster.forward(
            self._client, "action", body, authorized_only=protected
        )
        ack = {"delivered": delivered.clients, "hosts": delivered.hosts}
        await self._reply("action_ack", ack, request)


def _parse(text: str | None) -> Frame:
    """Parse a frame.

    Raises:
        UsageError: the text is not JSON.
        RequestValidationError: the JSON is not a frame.
    """
    if text is None:
        raise errors.UsageError("Frames are JSON texts, not binary.")
    try:
        return _validate(Frame, json.loads(text))
    except (ValueError, RecursionError) as error:  # ValueError also for a number of 5,000 digits
        raise errors.UsageError(f"This is not JSON: {error}.") from None


def _validate(kind: type[M], data: Any) -> M:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_context=False)) from None


def _error_data(problem: Problem) -> dict[str, Any]:
    return {"title": problem.title, "detail": problem.detail, "status": problem.status}


async def serve(services: Services, socket: WebSocket) -> None:
    """Accept a connection from an allowed host and origin, and serve it until it ends."""
    host = socket.headers.get("host")
    try:
        services.policy.check_host(host)
        services.policy.check_origin(socket.headers.get("origin"), host)
        access = services.policy.access(socket.headers)
        services.rate_limit.take(address_of(socket.scope), access)
        if services.broadcaster.full:
            raise errors.OverloadedError("Too many WebSockets are open. Try again later.")
    except errors.BacklineError as error:
        response = problem_of(error).response("/ws", "")
        await socket.send_denial_response(response)
        return
    await socket.accept()
    await Session(services, socket).run()
