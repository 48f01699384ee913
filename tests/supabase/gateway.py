"""A stand-in for Supabase's API gateway: one origin for /rest/v1 and /functions/v1.

As on the platform, every request needs an API key, either opaque (`sb_…`) or a legacy JWT. For
PostgREST the gateway replaces an opaque key by a short-lived JWT of its role. A user's JWT in the
Authorization header takes precedence. The gateway refuses a secret key from a browser, and PATCH
and DELETE without a filter. It responds with 540 for a paused project.

Tests script faults and inspect every request. The gateway runs in a thread of the test process.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx

from tests.provider.http import Answer, Request, serve_connection
from tests.supabase.keys import Keys

_NOT_PASSED_ON: Final = {"host", "connection", "content-length", "transfer-encoding"}
_NOT_PASSED_BACK: Final = _NOT_PASSED_ON | {"date", "server"}
_NO_FILTERS: Final = {"select", "columns", "order", "limit", "offset", "apikey", "on_conflict"}


@dataclass(frozen=True)
class Seen:
    """One request; its `status` is None if the connection was cut."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    status: int | None
    seconds: float


@dataclass
class Fault:
    """A fault of the next `times` requests to paths that begin with `path`.

    The gateway responds with `status`, or cuts the connection if that is None. With `after`, the
    upstream handles the request first, and only its response is lost.
    """

    times: int
    status: int | None
    path: str = "/"
    after: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Function:
    """An Edge Function on a port; `verify_jwt` means what it does in supabase/config.toml."""

    port: int
    verify_jwt: bool = False


class Gateway:
    """The gateway, a context manager. `url` is the URL of the project for clients."""

    def __init__(self, keys: Keys, rest_port: int | None) -> None:
        self.keys = keys
        self.rest_port = rest_port
        self.functions: dict[str, Function] = {}
        self.paused = False
        self.latency = 0.0
        self.timeout = 60.0  # seconds that the platform allows a request
        self.seen: list[Seen] = []
        self._faults: list[Fault] = []
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._upstream: httpx.AsyncClient | None = None

    # --- scripting ---

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail_next(self, status: int, *, times: int = 1, path: str = "/", **more: Any) -> None:
        """Respond to the next requests with a status; `more` are fields of Fault."""
        self._faults.append(Fault(times, status, path, **more))

    def cut_next(self, *, times: int = 1, path: str = "/", after: bool = False) -> None:
        """Cut the next connections; with `after`, once the upstream has responded."""
        self._faults.append(Fault(times, None, path, after=after))

    def reset(self) -> None:
        """Remove the faults, the delay and the recorded requests."""
        self._faults.clear()
        self.seen.clear()
        self.paused, self.latency = False, 0.0

    # --- starting and stopping ---

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("The gateway did not start.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        open_connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(serve_connection(self._handle, reader, writer))
            open_connections.add(task)
            task.add_done_callback(open_connections.discard)

        async with httpx.AsyncClient(timeout=self.timeout, trust_env=False) as self._upstream:
            server = await asyncio.start_server(connected, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()
            server.close()
            for task in open_connections:
                task.cancel()
            await asyncio.gather(*open_connections, return_exceptions=True)

    # --- handling requests ---

    async def _handle(self, request: Request) -> Answer:
        started = time.monotonic()
        url = urlsplit(request.path)
        await asyncio.sleep(self.latency)
        fault = self._fault_for(url.path)
        if fault is None or fault.after:
            response = await self._respond(request, url.path, url.query)
        if fault is not None:
            response = Answer(fault.status, json.dumps(dict(fault.body)).encode(), fault.headers)
        self.seen.append(
            Seen(
                request.method, url.path, url.query, request.headers, request.body,
                response.status, time.monotonic() - started,
            )
        )  # fmt: skip
        return response

    def _fault_for(self, path: str) -> Fault | None:
        for fault in self._faults:
            if fault.times > 0 and path.startswith(fault.path):
                fault.times -= 1
                return fault
        return None

    async def _respond(self, request: Request, path: str, query: str) -> Answer:
        if self.paused:
            return refuse(540, message="Project paused")
        if path.startswith("/rest/v1"):
            return await self._rest(request, path.removeprefix("/rest/v1"), query)
        if path.startswith("/functions/v1/"):
            return await self._function(request, path.removeprefix("/functions/v1/"), query)
        return refuse(404, message="no Route matched with those values")

    async def _rest(self, request: Request, path: str, query: str) -> Answer:
        pairs = parse_qsl(query, keep_blank_values=True)
        key = request.headers.get("apikey") or dict(pairs).get("apikey")
        if not key:
            return refuse(
                401,
                message="No API key found in request",
                hint="No `apikey` request header or url param was found.",
            )
        role = self.keys.role_of(key)
        if role is None:
            return refuse(
                401,
                message="Invalid API key",
                hint="Double check your Supabase `anon` or `service_role` API key.",
            )
        if key == self.keys.secret and "mozilla" in request.headers.get("user-agent", "").lower():
            return refuse(401, message="Forbidden use of secret API key in browser")
        if request.method in ("PATCH", "DELETE") and not {k for k, _ in pairs} - _NO_FILTERS:
            verb = "UPDATE" if request.method == "PATCH" else "DELETE"
            return refuse(
                400,
                code="21000",
                message=f"{verb} requires a WHERE clause",
                details=None,
                hint=None,
            )
        query = urlencode([(k, v) for k, v in pairs if k != "apikey"])
        return await self._forward(
            request, self.rest_port, path or "/", query, self._token(request, key, role)
        )

    def _token(self, request: Request, key: str, role: str) -> str:
        """Return the JWT for PostgREST: the user's or, without one, a JWT of the key's role."""
        scheme, _, user_token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and user_token and user_token != key:
            return user_token
        return key if key.count(".") == 2 else self.keys.jwt(role, 300)

    async def _function(self, request: Request, path: str, query: str) -> Answer:
        name, _, rest = path.partition("/")
        function = self.functions.get(name)
        if function is None:
            return refuse(404, code="NOT_FOUND", message="Requested function was not found")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if function.verify_jwt and request.method != "OPTIONS":
            if not token:
                return refuse(401, code=401, message="Missing authorization header")
            if self.keys.claims(token) is None:
                return refuse(401, code=401, message="Invalid JWT")
        return await self._forward(
            request, function.port, f"/{name}/{rest}".rstrip("/"), query, None
        )

    async def _forward(
        self, request: Request, port: int | None, path: str, query: str, token: str | None
    ) -> Answer:
        headers = {k: v for k, v in request.headers.items() if k not in _NOT_PASSED_ON}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        assert self._upstream is not None
        try:
            upstream = await self._upstream.request(
                request.method,
                f"http://127.0.0.1:{port}{path}" + (f"?{query}" if query else ""),
                headers=headers,
                content=request.body,
            )
        except httpx.TimeoutException:
            return refuse(504, message="The upstream server is timing out")
        except httpx.HTTPError:
            return refuse(503, message="name resolution failed")
        headers_back = {
            k: v
            for k, v in upstream.headers.items()
            if k not in _NOT_PASSED_BACK | {"content-encoding"}
        }
        return Answer(upstream.status_code, upstream.content, headers_back)


def refuse(status: int, **body: Any) -> Answer:
    """Return a response of the gateway itself."""
    return Answer(status, json.dumps(body).encode())
