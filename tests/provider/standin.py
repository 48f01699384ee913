"""The stand-in: an HTTP server in a separate thread that records its requests."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.provider import embeddings
from tests.provider.behaviour import Behaviour, Failure, RateWindow
from tests.provider.dialects import (
    DIALECTS,
    Dialect,
    EmbeddingsRequest,
    UnknownMemberError,
    openai_write,
)
from tests.provider.http import Answer, Request, serve_connection

_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Call:
    """One request for embeddings. `status` is None if the connection was cut.

    `dimensions`, `base64`, `type` and `truncates` are those of the request; times are seconds since
    the epoch.
    """

    texts: tuple[str, ...]
    status: int | None
    model: str
    dimensions: int | None
    base64: bool
    tokens: int
    started: float
    ended: float
    type: str | None = None
    truncates: bool | None = None


class StandInProvider:
    """A server with the embeddings API of a provider on 127.0.0.1. Its methods are thread-safe.

    The vectors are those of `HashEmbedder` in the requested dimensions. A text counts as embedded
    (and billed) once its response is computed, even if the caller has disconnected.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str = "sk-stand-in",
        models: Mapping[str, int] | None = None,
        dialect: str = "openai",
    ) -> None:
        self.api_key = api_key
        self._dialect: Dialect = DIALECTS[dialect]
        self.port = port
        self._models = embeddings.MODELS | dict(models or {})
        self._lock = threading.Lock()
        self._behaviour = Behaviour()
        self._failures: deque[Failure] = deque()
        self._let = 0
        self._window = RateWindow()
        self._calls: list[Call] = []
        self._in_flight = 0
        self._peak_in_flight = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="stand-in provider")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    # --- scripting ---

    def behave(self, **changes: Any) -> None:
        """Change fields of `Behaviour`; the others stay as they are."""
        with self._lock:
            self._behaviour = dataclasses.replace(self._behaviour, **changes)

    def fail_next(
        self,
        status: int,
        *,
        times: int = 1,
        retry_after: float | str | None = None,
        message: str = "The server had an error while processing your request.",
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Fail the next `times` calls with `status`, without embedding."""
        fields = dict(headers or {})
        if retry_after is not None:
            fields["retry-after"] = str(retry_after)
        with self._lock:
            self._failures.extend([Failure(status, message, code, fields)] * times)

    def drop_next(self, *, times: int = 1, mid_answer: bool = False) -> None:
        """Cut the connections of the next `times` calls; with `mid_answer`, after embedding."""
        with self._lock:
            self._failures.extend([Failure(None, mid_answer=mid_answer)] * times)

    def go_down(self, seconds: float) -> None:
        """Cut every connection for a while."""
        self.behave(down_until=time.time() + seconds)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold responses until the end of the block, so that rows can be edited meanwhile."""
        self.behave(held=True)
        try:
            yield
        finally:
            self.behave(held=False)

    def let(self, answers: int) -> None:
        """Release that many held calls, present or future."""
        with self._lock:
            self._let += answers

    def reset(self) -> None:
        """Reset recorded calls, pending failures, limits and behaviour."""
        with self._lock:
            self._behaviour = Behaviour()
            self._failures.clear()
            self._let = 0
            self._calls.clear()
            self._window = RateWindow()
            self._peak_in_flight = self._in_flight

    # --- inspection ---

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self._dialect.base}"

    @property
    def speaks_indices(self) -> bool:
        """Whether the dialect numbers its vectors, so that their order is free."""
        return self._dialect.write is openai_write

    @property
    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    @property
    def texts_embedded(self) -> Counter[str]:
        """How often each text was embedded successfully."""
        return Counter(text for call in self.calls if call.status == 200 for text in call.texts)

    @property
    def in_flight(self) -> int:
        """Requests without a response so far."""
        with self._lock:
            return self._in_flight

    @property
    def peak_in_flight(self) -> int:
        with self._lock:
            return self._peak_in_flight

    def wait_in_flight(self, count: int = 1, *, timeout: float = 60.0) -> None:
        """Block until `count` requests are in progress or held."""
        self._wait(lambda: self.in_flight >= count, f"{count} requests in flight", timeout)

    def wait_calls(self, count: int = 1, *, timeout: float = 60.0) -> None:
        """Block until `count` requests have a response."""
        self._wait(lambda: len(self.calls) >= count, f"{count} calls", timeout)

    def report(self) -> dict[str, Any]:
        """Return the body of GET /_calls."""
        return {
            "calls": [dataclasses.asdict(call) for call in self.calls],
            "texts_embedded": dict(self.texts_embedded),
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
        }

    def _wait(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"The stand-in provider waited {timeout} s for {what}.")
            time.sleep(_POLL_S)

    # --- life cycle ---

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(60):
            raise TimeoutError("The stand-in provider did not start.")
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

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(serve_connection(self._handle, reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    # --- responses ---

    async def _handle(self, request: Request) -> Answer:
        if request.path.startswith("/_"):
            return self._handle_test(request)
        if self._behaviour.down_until > time.time():
            return Answer(None)
        key = self._dialect.key(request)
        if key != self.api_key:
            # OpenAI masks the key that it echoes. Other servers do not, so clients must mask it.
            return self._dialect.error(
                401, f"Incorrect API key provided: {key}.", "invalid_api_key"
            )
        if request.method != "POST" or not re.fullmatch(self._dialect.path, request.path):
            return self._dialect.error(
                404, f"Unknown request URL: {request.method} {request.path}.", None
            )
        try:
            parsed = self._dialect.parse(request)
        except UnknownMemberError as refused:
            return self._dialect.error(422, str(refused), None)
        return await self._handle_embeddings(parsed)

    def _handle_test(self, request: Request) -> Answer:
        """Run a method by HTTP, for tests in another process."""
        fields = json.loads(request.body or b"{}")
        match request.method, request.path:
            case "GET", "/_calls":
                return Answer(200, json.dumps(self.report()).encode())
            case "POST", "/_behave":
                self.behave(**fields)
            case "POST", "/_fail_next":
                self.fail_next(**fields)
            case "POST", "/_drop_next":
                self.drop_next(**fields)
            case "POST", "/_reset":
                self.reset()
            case _:
                return self._dialect.error(404, f"Unknown: {request.method} {request.path}.", None)
        return Answer(200, b"{}")

    async def _handle_embeddings(self, request: EmbeddingsRequest) -> Answer:
        started = time.time()
        with self._lock:
            self._in_flight += 1
            self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
        try:
            await asyncio.sleep(self._behaviour.delay_s)
            while self._is_held():  # noqa: ASYNC110  another thread releases it
                await asyncio.sleep(_POLL_S)
            answer = self._answer(request)
            self._record(request, answer.status, started)
        finally:
            with self._lock:
                self._in_flight -= 1
        return answer

    def _is_held(self) -> bool:
        with self._lock:
            if self._behaviour.held and self._let == 0:
                return True
            self._let = max(self._let - 1, 0)
            return False

    def _answer(self, request: EmbeddingsRequest) -> Answer:
        with self._lock:
            behaviour = self._behaviour
            failure = self._failures.popleft() if self._failures else None
            if failure is not None and not failure.mid_answer:
                return self._failed(failure)
            wait = self._window.admit(time.time(), request.tokens, behaviour)
            limits = self._named(self._window.headers(time.time(), behaviour))
        if wait:
            answer = self._dialect.error(
                429, "Rate limit reached.", "rate_limit_exceeded", retry_after=f"{wait:.3f}"
            )
        else:
            arguments = (self._dialect, request, behaviour, self._models)
            answer = embeddings.refusal(*arguments) or embeddings.success(*arguments)
        headers = {**limits, **answer.headers}
        return dataclasses.replace(
            answer, headers=headers, cut=failure is not None, trickle_s=behaviour.trickle_s
        )

    def _named(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return rate-limit headers under the names that the dialect has for them."""
        names = self._dialect.limit_headers
        short = {name.removeprefix("x-ratelimit-"): value for name, value in headers.items()}
        return {names[name]: value for name, value in short.items() if name in names}

    def _failed(self, failure: Failure) -> Answer:
        if failure.status is None:
            return Answer(None)
        answer = self._dialect.error(failure.status, failure.message, failure.code)
        return dataclasses.replace(answer, headers=failure.headers)

    def _record(self, request: EmbeddingsRequest, status: int | None, started: float) -> None:
        call = Call(
            texts=request.texts,
            status=status,
            model=request.model,
            dimensions=request.dimensions,
            base64=request.base64,
            tokens=request.tokens,
            started=started,
            ended=time.time(),
            type=request.type,
            truncates=request.truncates,
        )
        with self._lock:
            self._calls.append(call)
