"""The engine's small world, in a Supabase project, worked on over REST.

The witness reads the tables over Postgres; the engine knows the project's URL and a key only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import SecretStr

from backline.backfill import Backfill
from backline.postgres.store import open_store
from backline.supabase.keys import choose_key
from backline.supabase.store import RestStore, open_rest_store
from backline.worker.remote import Remote, RemoteBatches
from tests.integration.harness import NOTES, World, execute, make_world
from tests.provider import StandInProvider
from tests.supabase.stack import Project

GRANTED = f"{NOTES}; grant select, update on notes to service_role"


@asynccontextmanager
async def rest_store(project: Project, key: str | None = None) -> AsyncIterator[RestStore]:
    """A store over the project's API, with its secret key or another."""
    chosen = choose_key(None, SecretStr(key or project.keys.secret), "write")
    async with open_rest_store(project.api_url, chosen) as store:
        yield store


@dataclass
class RestWorld(World):
    """A world whose `store` is a RestStore, and whose rows another process may embed."""

    remote: Remote | None = None

    def backfill(self, **options: Any) -> Backfill:
        handler = None if self.remote is None else RemoteBatches(self.remote)
        return Backfill(
            self.store, self.collection, self.embedder, self.limiter,
            replace(self.options, **options), handler=handler,
        )  # fmt: skip

    @property
    def rest(self) -> RestStore:
        return cast(RestStore, self.store)


@asynccontextmanager
async def rest_world(
    project: Project, provider: StandInProvider | None = None, *, ddl: str = GRANTED,
    key: str | None = None, **declaration: Any,
) -> AsyncIterator[RestWorld]:  # fmt: skip
    async with (
        open_store(project.url) as postgres,
        make_world(postgres, provider, ddl=ddl, **declaration) as w,
        rest_store(project, key) as store,
    ):
        yield RestWorld(cast(Any, store), w.collection, w.embedder, w.user)


__all__ = ["GRANTED", "RestWorld", "execute", "rest_store", "rest_world"]
