"""A world with the table notes, and a server over it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from tests.integration.harness import World
from tests.integration.server.harness import Served, notes, served, with_provider
from tests.provider import StandInProvider

from backline.postgres.store import Store


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log warnings only, not every request."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()


@pytest.fixture
async def world(store: Store) -> AsyncIterator[World]:
    async with notes(store) as made:
        yield made


@pytest.fixture
async def server(world: World) -> AsyncIterator[Served]:
    """A server without a worker, on loopback, without a key."""
    async with served(world.store) as made:
        yield made


@pytest.fixture
async def paid(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    """Notes embedded by the stand-in provider."""
    async with notes(store, provider) as made:
        yield made


@pytest.fixture
async def paid_server(paid: World, provider: StandInProvider) -> AsyncIterator[Served]:
    async with served(paid.store, **with_provider(provider)) as made:
        yield made
