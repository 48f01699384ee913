"""One WebSocket: what it may say, what it is told, when it is dropped."""

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
# A frame that the client's side does not take within this is the last one that it is sent.
SEND_SECONDS: Final = 10.0

log = structlog.get_logger("backline.ws")

Data = Mapping[str, Any]
Id = str | int | None
M = TypeVar("M", bound=BaseModel)


class Frame(schemas.Body):
    """What a client sends."""

    type: Annotated[str, Field(max_length=100)]
    # A pong and an action are passed on as they are, an action to everybody.
    data: Annotated[dict[str, Any], AfterValidator(schemas.passable)] = Field(default_factory=dict)
    id: Annotated[str, Field(max_length=200)] | int | None = None


class Subscription(schemas.Body):
    topics: Annotated[list[schemas.Topic], Field(min_length=1, max_length=20)]
    collection: schemas.Name | None = None


class Action(schemas.Body):
    """Something that another client is asked to do."""

    action_id: int | str
    name: Annotated[str, Field(max_length=200)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class Hello(schemas.Body):
    """What a client says that it is."""

    role: Role
    name: Annotated[str, Field(max_length=100)] = ""


class Key(schemas.Body):
    key: Annotated[str, Field(max_length=1000)]


class Session:
    """The conversation with one client."""

    def __init__(self, services: Services, socket: WebSocket) -> None:
        self._services = services
        self._socket = socket
        authorized = services.guard.authorized(socket.headers)
        self._client = services.hub.join(authorized=authorized)
        self._handlers: dict[str, Callable[[Data, Id], Awaitable[None]]] = {
            "ping": self._ping, "get_status": self._status, "auth": self._auth,
            "hello": self._hello, "suggest": self._suggest, "search": self._search,
            "subscribe": self._subscribe, "unsubscribe": self._unsubscribe, "action": self._action,
            "heartbeat_ack": self._nothing,
        }  # fmt: skip

    async def run(self) -> None:
        """Until the client leaves or is dropped."""
        client = self._client
        parts = [
            asyncio.create_task(part)
            for part in (self._receive(), self._send(), self._beat(), client.dropped.wait())
        ]
        try:
            await self._greet()
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._services.hub.leave(client)
            await end_tasks(*parts)
        if client.dropped.is_set():
            log.warning("client dropped: it does not read", client=client.id)

    # --- the wire ---

    async def _send(self) -> None:
        while True:
            text = await self._client.outbox.get()
            try:
                await asyncio.wait_for(self._socket.send_text(text), SEND_SECONDS)
            except TimeoutError:
                self._services.hub.drop(self._client)
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
                await self._hear(message.get("text"))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._say("heartbeat", {})

    async def _say(self, kind: str, data: Data, request: Id = None) -> None:
        """An answer waits for its turn, and with it whoever sends more questions than they read."""
        await self._client.outbox.put(frame(kind, data, request))

    async def _greet(self) -> None:
        await self._say("connected", {
            "client_id": self._client.id, "server_version": backline_version(),
            "heartbeat_seconds": HEARTBEAT_SECONDS,
        })  # fmt: skip
        if self._may_read:
            await self._say("server_status", await self._current_status())

    @property
    def _may_read(self) -> bool:
        return self._client.authorized or not self._services.guard.key_required_for_reads

    async def _hear(self, text: str | None) -> None:
        """Answer one frame, whatever it is."""
        request: Id = None
        try:
            self._services.rate.take(address_of(self._socket.scope))
            found = _parse(text)
            request = found.id
            await self._handle(found)
        except Exception as error:
            problem = problem_of(error)
            if problem.kind == "internal":
                log.exception("bug")
            await self._say("error", _shown(problem), request)

    async def _handle(self, found: Frame) -> None:
        handler = self._handlers.get(found.type)
        if handler is None:
            raise errors.UsageError(
                f"There is no frame of type {found.type[:50]!r}. "
                f"There are: {', '.join(self._handlers)}."
            )
        if found.type not in ("ping", "auth", "heartbeat_ack"):
            self._services.guard.check_read(authorized=self._client.authorized)
        await handler(found.data, found.id)

    # --- what a client may say ---

    async def _ping(self, data: Data, request: Id) -> None:
        await self._say("pong", data, request)

    async def _nothing(self, _data: Data, _request: Id) -> None: ...

    async def _status(self, _data: Data, request: Id) -> None:
        await self._say("status", await self._current_status(), request)

    async def _current_status(self) -> Data:
        return (await handlers.status(self._services)).model_dump(mode="json")

    async def _auth(self, data: Data, request: Id) -> None:
        if not self._services.guard.knows(_read(Key, data).key):
            raise errors.UnauthorizedError
        self._client.authorized = True
        await self._say("authenticated", {}, request)

    async def _hello(self, data: Data, request: Id) -> None:
        """A host may be sent what people apply, so it has to be one who may write."""
        said = _read(Hello, data)
        if said.role == "host":
            self._services.guard.check_write(authorized=self._client.authorized)
        hub = self._services.hub
        hub.declare(self._client, said.role, said.name.strip())
        await self._say("welcome", {"role": said.role, "hosts": hub.hosts}, request)

    async def _search(self, data: Data, request: Id) -> None:
        asked = _read(schemas.SearchRequest, data)
        found = await handlers.hits(self._services, asked)
        await self._say("search_results", found.model_dump(mode="json"), request)

    async def _suggest(self, data: Data, request: Id) -> None:
        asked = _read(schemas.SuggestRequest, data)
        found = await handlers.suggestions(self._services, asked)
        await self._say("suggestions", found.model_dump(mode="json"), request)

    async def _subscribe(self, data: Data, request: Id) -> None:
        asked = _read(Subscription, data)
        for topic in asked.topics:
            before = self._client.topics.get(topic, frozenset())
            wider = asked.collection is None or before is None
            self._client.topics[topic] = (
                None if wider or before is None else before | {str(asked.collection)}
            )
        await self._say("subscribed", {"topics": sorted(self._client.topics)}, request)

    async def _unsubscribe(self, data: Data, request: Id) -> None:
        for topic in _read(Subscription, data).topics:
            self._client.topics.pop(topic, None)
        await self._say("unsubscribed", {"topics": sorted(self._client.topics)}, request)

    async def _action(self, data: Data, request: Id) -> None:
        """Pass an action on to the studio's host and to other pages."""
        self._services.guard.check_write(authorized=self._client.authorized)
        action = _read(Action, data)
        body = {**action.model_dump(), "source": self._client.id}
        delivered = self._services.hub.pass_on(
            self._client, "action", body, known_only=self._services.guard.key_required_for_reads
        )
        ack = {"delivered": delivered.clients, "hosts": delivered.hosts}
        await self._say("action_ack", ack, request)


def _parse(text: str | None) -> Frame:
    """A frame from the wire.

    Raises:
        UsageError: it is not JSON, or not a frame.
    """
    if text is None:
        raise errors.UsageError("Frames are JSON texts, not binary.")
    try:
        return _read(Frame, json.loads(text))
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        raise errors.UsageError(f"This is not JSON: {error}.") from None


def _read(kind: type[M], data: Any) -> M:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_context=False)) from None


def _shown(problem: Problem) -> dict[str, Any]:
    return {"title": problem.title, "detail": problem.detail, "status": problem.status}


async def serve(services: Services, socket: WebSocket) -> None:
    """Accept a connection if its host and origin may, and talk until it ends."""
    host = socket.headers.get("host")
    try:
        services.guard.check_host(host)
        services.guard.check_origin(socket.headers.get("origin"), host)
        services.rate.take(address_of(socket.scope))
        if services.hub.full:
            raise errors.OverloadedError("Too many WebSockets are open. Try again later.")
    except errors.BacklineError as error:
        response = problem_of(error).response("/ws", "")
        await socket.send_denial_response(response)
        return
    await socket.accept()
    await Session(services, socket).run()
