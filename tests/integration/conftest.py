"""The fixture that the engine's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration.harness import World, make_world
from tests.provider import StandInProvider

from backline.postgres.store import Store


@pytest.fixture
async def world(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    """An empty collection `notes` whose vectors the stand-in provider makes."""
    async with make_world(store, provider) as world:
        yield world
