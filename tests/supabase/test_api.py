"""A worker that sends its rows to a Backline server: what the other transports cannot show."""

from __future__ import annotations

import pytest

from backline import errors
from tests.provider import StandInProvider
from tests.supabase.function import provider_variables
from tests.supabase.server import server_running
from tests.supabase.stack import Project, Stack
from tests.supabase.world import api_world, rest_world


async def test_server_on_another_database_is_detected(
    stack: Stack, project: Project, provider: StandInProvider
) -> None:
    """The other database has no such collection, or has one of the same name with its own rows."""
    variables = provider_variables(provider.base_url, provider.api_key)
    with stack.project() as other, server_running(other, **variables) as address:
        async with api_world(project, provider, address) as world:
            with pytest.raises(errors.CollectionNotFoundError, match="works on another database"):
                await world.service.check()
            async with rest_world(other, provider) as namesake:
                await namesake.insert(*(f"note number {n}" for n in range(40)))
                await world.service.check()
                await world.insert(*(f"note number {n}" for n in range(40)))
                report = await world.fill()
                assert "works on another database" in str(report.stopped_by)
                assert len(provider.calls) <= 2


async def test_server_that_does_not_listen_fails_the_check(
    project: Project, provider: StandInProvider
) -> None:
    async with api_world(project, provider, "http://127.0.0.1:9") as world:
        with pytest.raises(errors.ProviderUnavailableError, match="does not answer"):
            await world.service.check()
