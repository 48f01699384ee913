"""The four transports between a worker and its rows, and what differs between them as data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.integration.harness import World
from tests.provider import StandInProvider
from tests.supabase.function import NAME, function_running, provider_variables
from tests.supabase.gateway import Gateway
from tests.supabase.server import API_KEY, server_running
from tests.supabase.stack import Project
from tests.supabase.world import api_world, edge_world, postgres_world, rest_world

# Settings of the command line by environment variable. None unsets a variable.
Variables: TypeAlias = Mapping[str, str | None]

NOTHING_LISTENS: Final = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Fault:
    """Settings with which a command fails, its message and its exit code."""

    variables: Callable[[Project], Variables]
    message: str
    code: int = 2


@dataclass(frozen=True)
class Transport:
    """One transport.

    Attributes:
        start: starts the process that embeds and writes, if there is one, and returns the settings
            of a command that uses the transport.
        connect: makes a world with a worker that uses the transport.
        wrong_key: a key that the other side refuses.
        unreachable: an address on which nothing listens.
        interrupt: makes the gateway fail requests of a backfill with a status, if the transport
            uses the gateway.
        refusal: a pattern in the error of a row that a check constraint of the table refuses.
    """

    name: str
    start: Callable[[Project, StandInProvider], AbstractContextManager[Variables]]
    connect: Callable[[Project, StandInProvider, Variables], AbstractAsyncContextManager[World]]
    wrong_key: Fault
    unreachable: Fault
    refusal: str
    interrupt: Callable[[Gateway, int], None] | None = None

    @asynccontextmanager
    async def world(self, project: Project, provider: StandInProvider) -> AsyncIterator[World]:
        """Start the transport, and make a world that uses it."""
        with self.start(project, provider) as settings:
            async with self.connect(project, provider, settings) as world:
                yield world


# --- starting -------------------------------------------------------------------------------------


@contextmanager
def _database(project: Project, provider: StandInProvider) -> Iterator[Variables]:
    yield {"DATABASE_URL": project.url}


@contextmanager
def _postgrest(project: Project, provider: StandInProvider) -> Iterator[Variables]:
    yield {}


@contextmanager
def _server(project: Project, provider: StandInProvider) -> Iterator[Variables]:
    variables = provider_variables(provider.base_url, provider.api_key)
    with server_running(project, **variables) as address:
        yield {"BACKLINE_API_URL": address, "BACKLINE_API_KEY": API_KEY}


@contextmanager
def _function(project: Project, provider: StandInProvider) -> Iterator[Variables]:
    with function_running(project, **provider_variables(provider.base_url, provider.api_key)):
        yield {}


# --- interrupting ---------------------------------------------------------------------------------

RETRY_AFTER: Final = {"Retry-After": "0.2"}


def _interrupt_postgrest(gateway: Gateway, status: int) -> None:
    for verb in ("claim_batch", "complete", "complete", "heartbeat", "coverage", "start_run"):
        gateway.fail_next(status, path=f"/rest/v1/rpc/backline_{verb}", headers=RETRY_AFTER)


def _interrupt_function(gateway: Gateway, status: int) -> None:
    path = f"/functions/v1/{NAME}"
    gateway.fail_next(status, path=path, times=3, headers=RETRY_AFTER)
    gateway.cut_next(path=path, times=2, after=True)


# --- the transports -------------------------------------------------------------------------------

POSTGRES: Final = Transport(
    "postgres",
    _database,
    lambda project, provider, _: postgres_world(project, provider),
    wrong_key=Fault(
        lambda project: {"DATABASE_URL": project.url.replace(":postgres@", ":wrong@")},
        "refused the login",
    ),
    unreachable=Fault(
        lambda _: {"DATABASE_URL": "postgresql://postgres:postgres@127.0.0.1:9/postgres"},
        "127.0.0.1:9",
    ),
    refusal="notes_check",
)
REST: Final = Transport(
    "rest",
    _postgrest,
    lambda project, provider, _: rest_world(project, provider),
    wrong_key=Fault(
        lambda _: {"SUPABASE_SECRET_KEY": "sb_secret_of_another_project"},
        "refuses the key: Invalid API",
    ),
    unreachable=Fault(lambda _: {"SUPABASE_URL": NOTHING_LISTENS}, "cannot be reached"),
    refusal="notes_check",
    interrupt=_interrupt_postgrest,
)
API: Final = Transport(
    "api",
    _server,
    lambda project, provider, settings: api_world(
        project, provider, str(settings["BACKLINE_API_URL"])
    ),
    wrong_key=Fault(
        lambda _: {"BACKLINE_API_KEY": "wrong"},
        "Set BACKLINE_API_KEY to the server's key",
    ),
    unreachable=Fault(lambda _: {"BACKLINE_API_URL": NOTHING_LISTENS}, "does not answer", code=1),
    refusal="notes_check",
)
EDGE: Final = Transport(
    "edge",
    _function,
    lambda project, provider, _: edge_world(project, provider),
    wrong_key=Fault(
        lambda project: {
            "DATABASE_URL": project.url,
            "SUPABASE_SECRET_KEY": None,
            "FUNCTION_SECRET": "wrong",
        },
        "FUNCTION_SECRET",
    ),
    unreachable=Fault(
        lambda _: {"USE_LOCAL_API": "true", "BACKLINE_API_URL": NOTHING_LISTENS},
        "does not answer",
        code=1,
    ),
    refusal="^Postgres refuses the row",
    interrupt=_interrupt_function,
)
TRANSPORTS: Final = {transport.name: transport for transport in (POSTGRES, REST, API, EDGE)}
# Transports that also read rows. The other two only embed and write them.
STORES: Final = (POSTGRES.name, REST.name)
