"""The connection to a Supabase project: calls of database functions over PostgREST."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from backline import errors, extras
from backline.supabase.errors import UnansweredError, translate
from backline.supabase.keys import ApiKey

# The platform ends a request after 60 s.
TIMEOUT: Final = httpx.Timeout(65, connect=10, pool=60)
# The limits of httpx apply to each read, so that a response that trickles in has none.
WHOLE_SECONDS: Final = 70.0
# After this time an unanswered call is not repeated.
REPEAT_SECONDS: Final = 60.0
# An unanswered call is repeated after these pauses, in seconds. Then the engine waits instead.
PAUSES: Final = (0.1, 0.4, 1.0, 2.0)
LONGEST_PAUSE: Final = 30.0


class _Refused(Exception):  # noqa: N818  carries a response that is yet to be translated
    """An unsuccessful response."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Project:
    """A Supabase project with one key, over the official client.

    The client retries only reads and hides the status of a response. This class does both: every
    function that it calls may be called again.
    """

    def __init__(self, url: str, key: ApiKey) -> None:
        self.where = urlsplit(url).netloc
        self.key = key
        self._url = url
        self._http = httpx.AsyncClient(
            timeout=TIMEOUT,
            follow_redirects=False,  # rows and keys go to the configured address only
            event_hooks={"request": [self._authorize], "response": [_refuse]},
            limits=httpx.Limits(max_connections=20, max_keepalive_connections=20),
        )
        self._client: Any = None

    async def open(self) -> None:
        """Create the client. Sends nothing.

        Raises:
            MissingExtraError: the official client is not installed.

        """
        extras.require("supabase")
        from supabase import AsyncClientOptions, create_async_client

        options = AsyncClientOptions(
            httpx_client=self._http, auto_refresh_token=False, persist_session=False
        )
        self._client = await create_async_client(self._url, self.key.text, options)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _authorize(self, request: httpx.Request) -> None:
        # The client sends every key as a bearer token too. The platform accepts only JWTs there.
        if not self.key.is_jwt:
            request.headers.pop("Authorization", None)

    async def call(self, function: str, *, repeated: str | None = None, **values: Any) -> Any:
        """Return the result of `public.backline_<function>`; arguments have no prefix p_.

        Repeats an unanswered call up to four times, with the argument `repeated` set to true. No
        repetition begins after `REPEAT_SECONDS`.

        Raises:
            DatabaseUnavailableError: none of the calls was answered.
            BacklineError: Postgres, PostgREST or the gateway refused the call.

        """
        arguments = {f"p_{name}": value for name, value in values.items()}
        started = time.monotonic()
        for pause in (*PAUSES, None):
            try:
                return await self._once(function, arguments)
            except UnansweredError as error:
                if pause is None or time.monotonic() - started > REPEAT_SECONDS:
                    raise errors.DatabaseUnavailableError(str(error)) from error
                await asyncio.sleep(min(LONGEST_PAUSE, max(pause, error.retry_after)))
            if repeated is not None:
                arguments[f"p_{repeated}"] = True
        raise AssertionError

    async def _once(self, function: str, arguments: Mapping[str, Any]) -> Any:
        try:
            async with asyncio.timeout(WHOLE_SECONDS):
                response = await self._client.rpc(f"backline_{function}", dict(arguments)).execute()
        except _Refused as refused:
            raise translate(refused.response, self.where, self.key) from None
        except (httpx.HTTPError, TimeoutError) as error:
            raise UnansweredError(
                f"The project at {self.where} cannot be reached: {error or type(error).__name__}. "
                "Check SUPABASE_URL and the network; a paused or deleted project has no address."
            ) from error
        return response.data


async def _refuse(response: httpx.Response) -> None:
    if not response.is_success:
        await response.aread()
        raise _Refused(response)


@asynccontextmanager
async def open_project(url: str, key: ApiKey) -> AsyncIterator[Project]:
    """Open a project, and close it at the end of the block.

    Raises:
        MissingExtraError: the official client is not installed.

    """
    project = Project(url, key)
    try:
        await project.open()
        yield project
    finally:
        await project.aclose()
