"""The objects that the routes and WebSockets of one server share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from backline.config import Settings
from backline.postgres.store import Store
from backline.problems import ProblemCache
from backline.server.auth import AccessPolicy, RateLimit
from backline.server.backfills import Backfills
from backline.server.broadcast import Broadcaster
from backline.server.change_feed import ChangeFeed
from backline.server.embedder_pool import EmbedderPool
from backline.server.evaluations import Evaluations
from backline.server.facets import FacetCache
from backline.server.live_sync import LiveSync
from backline.server.map import MapCache
from backline.server.metrics import Metrics
from backline.server.model_changes import ModelChanges
from backline.server.query_log import QueryLog


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one server. `where` names the database for people."""

    settings: Settings
    open_store: Store
    where: str
    policy: AccessPolicy
    rate_limit: RateLimit
    metrics: Metrics
    embedder_pool: EmbedderPool
    broadcaster: Broadcaster
    change_feed: ChangeFeed
    problems: ProblemCache
    backfills: Backfills
    model_changes: ModelChanges
    evaluations: Evaluations
    query_log: QueryLog
    live_sync: LiveSync | None
    maps: MapCache
    facets: FacetCache
    started_at: datetime

    @property
    def store(self) -> Store:
        """The store, if the database is up.

        Raises:
            DatabaseUnavailableError: the database is down. The request fails without waiting.
        """
        self.change_feed.check()
        return self.open_store


def make_services(store: Store, settings: Settings, *, worker: bool, where: str) -> Services:
    """Create the services of one server without starting them.

    Raises:
        ConfigurationError: the server would accept writes from the network without a key.
    """
    metrics = Metrics()
    pool = EmbedderPool(settings, metrics)
    broadcaster = Broadcaster(metrics)
    problems = ProblemCache(store)
    backfills = Backfills(store, settings, pool)
    return Services(
        settings=settings,
        open_store=store,
        where=where,
        policy=AccessPolicy(settings),
        rate_limit=RateLimit.of(settings),
        metrics=metrics,
        embedder_pool=pool,
        broadcaster=broadcaster,
        change_feed=ChangeFeed(store, broadcaster, metrics, problems),
        problems=problems,
        backfills=backfills,
        model_changes=ModelChanges(store, pool, backfills),
        evaluations=Evaluations(store, pool),
        query_log=QueryLog(store, enabled=settings.keep_queries),
        live_sync=LiveSync(store, settings, pool) if worker else None,
        maps=MapCache(),
        facets=FacetCache(),
        started_at=datetime.now(UTC),
    )


# The dependencies are coroutines: FastAPI runs plain functions in a thread on every request.


async def services_of(connection: HTTPConnection) -> Services:
    """Return the services of the server that received a request or WebSocket."""
    services: Services = connection.app.state.services
    return services


async def require_read(connection: HTTPConnection) -> None:
    """Check the key of a request that reads."""
    policy = (await services_of(connection)).policy
    policy.check(policy.access(connection.headers), "read")


async def require_write(connection: HTTPConnection) -> None:
    """Check the key of a request that writes or causes costs."""
    policy = (await services_of(connection)).policy
    policy.check(policy.access(connection.headers), "write")


async def require_admin(connection: HTTPConnection) -> None:
    """Check the key of a request that starts or stops work for everyone."""
    policy = (await services_of(connection)).policy
    policy.check(policy.access(connection.headers), "admin")


def backline_version() -> str:
    return version("backline")


TheServices = Annotated[Services, Depends(services_of)]
READ = Depends(require_read)
WRITE = Depends(require_write)
ADMIN = Depends(require_admin)
