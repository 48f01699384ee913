"""The seam to a Supabase project: its URL, its keys, and calls of functions over PostgREST.

The errors of the gateway and of PostgREST become ours here and nowhere else: by the code in the
answer, else by its HTTP status.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from backline import errors, extras
from backline.postgres.sqlstate import kind_of
from backline.supabase.keys import ApiKey

# The platform ends a request after 60 s, so nothing is heard of it later.
TIMEOUT: Final = httpx.Timeout(65, connect=10, pool=60)
# A call that nobody answered is made again after these pauses, in seconds; then it is the engine
# that waits.
PAUSES: Final = (0.1, 0.4, 1.0, 2.0)
LONGEST_PAUSE: Final = 30.0
SAID: Final = 300

# Codes of PostgREST's own, beside those of Postgres; versions 12 and 16 have different ones for the
# same: https://docs.postgrest.org/en/stable/references/errors.html
_KEY_CODES: Final = frozenset({"PGRST300", "PGRST301", "PGRST302", "PGRST303"})
_BUSY_CODES: Final = frozenset({"PGRST000", "PGRST001", "PGRST002", "PGRST003"})
_SQLSTATE: Final = re.compile("[0-9A-Z]{5}")
_TABLE_MISSING: Final = frozenset({"PGRST205", "42P01"})
_NOT_MIGRATED: Final = (
    "This project has no Backline functions, or those of another version. Apply the migrations, "
    "with `supabase db push` or with `backline migrate --database-url …`. If they were applied a "
    "moment ago, PostgREST has not read them yet: run in SQL, notify pgrst, 'reload schema'."
)


class _Refused(Exception):  # noqa: N818  an answer, before it is known what it means
    """An answer that is no success."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Project:
    """A Supabase project with one key, over the official client.

    The client retries reads only and does not show an answer's status, so that both are done here:
    every function that is called may be called again.
    """

    def __init__(self, url: str, key: ApiKey) -> None:
        self.where = urlsplit(url).netloc
        self.key = key
        self._url = url
        self._http = httpx.AsyncClient(
            timeout=TIMEOUT,
            event_hooks={"request": [self._authorize], "response": [_refuse]},
            limits=httpx.Limits(max_connections=20, max_keepalive_connections=20),
        )
        self._client: Any = None

    async def open(self) -> None:
        """Make the client; nothing is sent.

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
        # The client sends every key as a bearer token too; the platform wants that of JWTs only.
        if not self.key.is_jwt:
            request.headers.pop("Authorization", None)

    async def call(self, function: str, *, repeated: str | None = None, **values: Any) -> Any:
        """The answer of `public.backline_<function>`; arguments go without their p_.

        Where no answer comes, the same call is made again a few times, with the argument that
        `repeated` names set to true.

        Raises:
            DatabaseUnavailableError: there was no answer to any of them.
            BacklineError: Postgres, PostgREST or the gateway refused it.

        """
        arguments = {f"p_{name}": value for name, value in values.items()}
        for pause in (*PAUSES, None):
            try:
                return await self._once(function, arguments)
            except _Unanswered as error:
                if pause is None:
                    raise errors.DatabaseUnavailableError(str(error)) from error
                await asyncio.sleep(min(LONGEST_PAUSE, max(pause, error.retry_after)))
            if repeated is not None:
                arguments[f"p_{repeated}"] = True
        raise AssertionError

    async def _once(self, function: str, arguments: Mapping[str, Any]) -> Any:
        try:
            answer = await self._client.rpc(f"backline_{function}", dict(arguments)).execute()
        except _Refused as refused:
            raise translate(refused.response, self.where, self.key) from None
        except httpx.HTTPError as error:
            raise _Unanswered(
                f"The project at {self.where} cannot be reached: {error or type(error).__name__}. "
                "Check SUPABASE_URL and the network; a paused or deleted project has no address."
            ) from error
        return answer.data


class _Unanswered(errors.DatabaseUnavailableError):
    """Nobody knows whether the call was carried out."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


async def _refuse(response: httpx.Response) -> None:
    if not response.is_success:
        await response.aread()
        raise _Refused(response)


def translate(response: httpx.Response, where: str, key: ApiKey) -> errors.BacklineError:
    """The Backline error for an answer that is no success."""
    body = _body(response)
    code, said = str(body.get("code") or ""), str(body.get("message") or "")[:SAID]
    status = response.status_code
    if code == "PGRST202":
        return errors.NotMigratedError(_NOT_MIGRATED)
    if code in _TABLE_MISSING:
        return errors.TableNotFoundError(f"The project at {where} says: {said} [{code}].")
    if code in _KEY_CODES:
        return _key_refused(where, said, code)
    if code in _BUSY_CODES:
        return _Unanswered(f"The project at {where} is not ready: {said} [{code}].")
    if _SQLSTATE.fullmatch(code):
        return _by_sqlstate(code, said, where, key)
    return _by_status(response, status, said or response.text[:SAID], where)


def _by_sqlstate(code: str, said: str, where: str, key: ApiKey) -> errors.BacklineError:
    kind = kind_of(code)
    if code.startswith("BL"):
        return kind(said)
    if kind is errors.NotMigratedError:
        return errors.NotMigratedError(_NOT_MIGRATED)
    if kind is errors.PermissionDeniedError:
        role = "service_role" if key.access == "write" else "anon"
        return kind(
            f"The project at {where} says: {said} [{code}]. The key acts as {role}; grant that "
            "role what is missing, or use another key."
        )
    if issubclass(kind, errors.DatabaseUnavailableError):
        return _Unanswered(f"The project at {where} says: {said} [{code}].")
    remedy = (inspect.getdoc(kind) or "").partition(". ")[2]
    return kind(f"Postgres behind {where} says: {said} [{code}]. {remedy}".strip())


def _by_status(
    response: httpx.Response, status: int, said: str, where: str
) -> errors.BacklineError:
    if status in (401, 403):
        return _key_refused(where, said, str(status))
    if status in (402, 540):
        return errors.ProjectPausedError(
            f"The project at {where} is paused or suspended ({status}: {said}). Restore it in the "
            "dashboard, then run the command again; what is embedded is kept."
        )
    if status == 404 or response.is_redirect:
        return errors.ConfigurationError(
            f"There is no Supabase project at {where} ({status}: {said}). Set SUPABASE_URL to "
            "https://PROJECT.supabase.co, without a path."
        )
    if status == 429 or status >= 500:
        return _Unanswered(
            f"The gateway of {where} answers {status}: {said or response.reason_phrase}.",
            _retry_after(response),
        )
    return errors.DatabaseError(f"The project at {where} answers {status}: {said}.")


def _key_refused(where: str, said: str, code: str) -> errors.ProjectKeyError:
    return errors.ProjectKeyError(
        f"The project at {where} refuses the key: {said.rstrip('.')} [{code}]. Check that it is a "
        "key of this very project and was not revoked or rotated (dashboard, Settings, API Keys)."
    )


def _body(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


@asynccontextmanager
async def open_project(url: str, key: ApiKey) -> AsyncIterator[Project]:
    project = Project(url, key)
    try:
        await project.open()
        yield project
    finally:
        await project.aclose()
