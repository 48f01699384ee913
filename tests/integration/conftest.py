"""The fixture shared by the integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration.harness import World, make_world
from tests.provider import StandInProvider

from backline.postgres.store import Store


@pytest.fixture
async def world(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    """An empty collection `notes`, embedded by the stand-in provider."""
    async with make_world(store, provider) as world:
        yield world
