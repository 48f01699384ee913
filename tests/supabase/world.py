"""A world in a Supabase project, with a worker that uses one of the four transports.

The user and the oracle always connect to Postgres.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import SecretStr

from backline.backfill import Backfill
from backline.postgres.store import open_store
from backline.supabase.keys import choose_key, read_key
from backline.supabase.store import RestStore, open_rest_store
from backline.worker.remote import Remote, RemoteBatches, Target, api_target, edge_target
from tests.integration.harness import NOTES, World, make_world
from tests.provider import StandInProvider
from tests.supabase.server import API_KEY
from tests.supabase.stack import Project

GRANTED = f"{NOTES}; grant select, update on notes to service_role"


@dataclass
class RestWorld(World):
    """A world with a RestStore; with `remote`, another process embeds and writes the rows."""

    remote: Remote | None = None

    def backfill(self, **options: Any) -> Backfill:
        """Return a backfill that uses the remote service, if the world has one."""
        handler = None if self.remote is None else RemoteBatches(self.remote)
        return Backfill(
            self.store, self.collection, self.embedder, self.limiter,
            replace(self.options, **options), handler=handler,
        )  # fmt: skip

    @property
    def rest(self) -> RestStore:
        """The store as a RestStore."""
        return cast(RestStore, self.store)

    @property
    def service(self) -> Remote:
        """The remote service, which this world must have."""
        assert self.remote is not None
        return self.remote


@asynccontextmanager
async def rest_store(project: Project, key: str | None = None) -> AsyncIterator[RestStore]:
    """Open a store over the project's API, with its secret key or with `key`."""
    chosen = choose_key(None, SecretStr(key or project.keys.secret), "write")
    async with open_rest_store(project.api_url, chosen) as store:
        yield store


@asynccontextmanager
async def postgres_world(project: Project, provider: StandInProvider) -> AsyncIterator[World]:
    """Make a world with a worker that connects to Postgres."""
    async with open_store(project.url) as store, make_world(store, provider, ddl=GRANTED) as world:
        yield world


@asynccontextmanager
async def rest_world(
    project: Project, provider: StandInProvider | None = None, *, ddl: str = GRANTED,
    key: str | None = None, **declaration: Any,
) -> AsyncIterator[RestWorld]:  # fmt: skip
    """Make a world with a worker that uses PostgREST."""
    async with (
        open_store(project.url) as postgres,
        make_world(postgres, provider, ddl=ddl, **declaration) as world,
        rest_store(project, key) as store,
    ):
        yield RestWorld(cast(Any, store), world.collection, world.embedder, world.user)


@asynccontextmanager
async def api_world(
    project: Project, provider: StandInProvider, address: str, key: str = API_KEY
) -> AsyncIterator[RestWorld]:
    """Make a world with a worker that sends rows to a Backline server."""
    async with _remote_world(project, provider, api_target(address, SecretStr(key))) as world:
        yield world


@asynccontextmanager
async def edge_world(project: Project, provider: StandInProvider) -> AsyncIterator[RestWorld]:
    """Make a world with a worker that sends rows to the Edge Function."""
    key = read_key(SecretStr(project.keys.secret), "key")
    target = edge_target(project.api_url, key, None)
    async with _remote_world(project, provider, target) as world:
        yield world


@asynccontextmanager
async def _remote_world(
    project: Project, provider: StandInProvider, target: Target
) -> AsyncIterator[RestWorld]:
    async with rest_world(project, provider) as world:
        world.remote = Remote(target, world.collection)
        try:
            yield world
        finally:
            await world.remote.aclose()
