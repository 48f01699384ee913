"""Fixtures that run a test once per transport.

A test that applies to some of them names those:
`@pytest.mark.parametrize("transport", STORES, indirect=True)`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.harness import World
from tests.provider import StandInProvider
from tests.supabase.stack import Project
from tests.transports.transport import TRANSPORTS, Transport, Variables


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each transport in turn."""
    return TRANSPORTS[request.param]


@pytest.fixture
async def world(
    transport: Transport, project: Project, provider: StandInProvider
) -> AsyncIterator[World]:
    """An empty collection `notes` in a project, and a worker that uses the transport."""
    async with transport.world(project, provider) as world:
        yield world


@pytest.fixture
def settings(
    transport: Transport, project: Project, provider: StandInProvider
) -> Iterator[Variables]:
    """Start the service of the transport; return the settings of a command that uses it."""
    with transport.start(project, provider) as settings:
        yield settings
