"""What the routes and sockets of one server share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from backline.config import Settings
from backline.postgres.store import Store
from backline.search.indexes import KeywordIndexer
from backline.server.auth import Guard, Rate
from backline.server.backfills import Followers, Runs
from backline.server.broadcast import Hub
from backline.server.change_feed import Watch
from backline.server.embedder_pool import Models
from backline.server.facets import FacetCache
from backline.server.map import Maps
from backline.server.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Services:
    """One server. `where` is the database as a person knows it."""

    settings: Settings
    open_store: Store
    where: str
    guard: Guard
    rate: Rate
    metrics: Metrics
    models: Models
    hub: Hub
    watch: Watch
    runs: Runs
    followers: Followers | None
    maps: Maps
    facets: FacetCache
    keywords: KeywordIndexer
    started_at: datetime

    @property
    def store(self) -> Store:
        """The store, where the database answers.

        Raises:
            DatabaseUnavailableError: it does not at this moment; nobody is made to wait for it.
        """
        self.watch.check()
        return self.open_store


def make_services(store: Store, settings: Settings, *, worker: bool, where: str) -> Services:
    """Everything of one server, not started yet.

    Raises:
        ConfigurationError: the settings would leave the server open to anybody.
    """
    metrics = Metrics()
    models = Models(settings, metrics)
    hub = Hub(metrics)
    return Services(
        settings=settings,
        open_store=store,
        where=where,
        guard=Guard(settings),
        rate=Rate.of(settings),
        metrics=metrics,
        models=models,
        hub=hub,
        watch=Watch(store, hub, metrics),
        runs=Runs(store, settings, models),
        followers=Followers(store, settings, models) if worker else None,
        maps=Maps(),
        facets=FacetCache(),
        keywords=KeywordIndexer(),
        started_at=datetime.now(UTC),
    )


# These are coroutines, because FastAPI sends dependencies that are none to a thread each time.


async def services_of(connection: HTTPConnection) -> Services:
    """The server that a request or a socket has come to."""
    found: Services = connection.app.state.services
    return found


async def require_read(connection: HTTPConnection) -> None:
    """A dependency of everything that reads."""
    guard = (await services_of(connection)).guard
    guard.check_read(authorized=guard.authorized(connection.headers))


async def require_write(connection: HTTPConnection) -> None:
    """A dependency of everything that writes or spends."""
    guard = (await services_of(connection)).guard
    guard.check_write(authorized=guard.authorized(connection.headers))


def backline_version() -> str:
    return version("backline")


TheServices = Annotated[Services, Depends(services_of)]
READ = Depends(require_read)
WRITE = Depends(require_write)
