"""`--via api`: a Backline server embeds and stores, and the database is asked whether it did."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from backline import errors
from backline.worker.remote import Remote, api_target
from tests.integration.harness import overpaid, running
from tests.provider import StandInProvider
from tests.supabase.function import provider_variables
from tests.supabase.server import API_KEY, server_running
from tests.supabase.stack import Project, Stack
from tests.supabase.worlds import RestWorld, rest_world


@pytest.fixture
def server(project: Project, provider: StandInProvider) -> Iterator[str]:
    with server_running(
        project, **provider_variables(provider.base_url, provider.api_key)
    ) as address:
        yield address


@asynccontextmanager
async def api_world(
    project: Project, provider: StandInProvider, address: str, key: str = API_KEY
) -> AsyncIterator[RestWorld]:
    """A world whose worker drives the server."""
    async with rest_world(project, provider) as w:
        w.remote = Remote(api_target(address, SecretStr(key)), w.collection)
        yield w
        await w.remote.aclose()


def texts(count: int) -> list[str]:
    return [f"note number {n}" for n in range(count)]


async def test_a_backfill(project: Project, provider: StandInProvider, server: str) -> None:
    provider.behave(reject_marker="BAD")
    async with api_world(project, provider, server) as w:
        await w.insert(*texts(230), "BAD one", "", *texts(20))
        report = await w.fill(batch_size=50)
        assert (report.embedded, report.failed, report.state) == (250, 1, "completed")
        assert [failure[:2] for failure in report.failures] == [("231", "rejected")]
        await w.check_complete(dead=["231"])
        assert overpaid(provider) == Counter()
        again = await w.fill()
        assert (again.embedded, again.batches) == (0, 0)


async def test_a_provider_that_limits_and_fails(
    project: Project, provider: StandInProvider, server: str
) -> None:
    """What the server says of its provider is waited for here, and is no failure of a row's."""
    async with api_world(project, provider, server) as w:
        await w.insert(*texts(100))
        provider.fail_next(429, times=3, retry_after=1)
        provider.fail_next(503, times=2)
        report = await w.fill()
        assert (report.embedded, report.failed) == (100, 0)
        await w.check_complete()
        assert overpaid(provider) == Counter()


async def test_a_row_edited_and_one_deleted_meanwhile(
    project: Project, provider: StandInProvider, server: str
) -> None:
    async with api_world(project, provider, server) as w:
        await w.insert(*texts(6))
        with provider.held():
            async with running(w.fill()) as filling:
                await asyncio.to_thread(provider.wait_in_flight)
                await w.sql("update notes set body = 'edited meanwhile' where id = 3")
                await w.sql("delete from notes where id = 4")
                provider.behave(held=False)
                await filling
        await w.check_complete()
        assert provider.texts_embedded["edited meanwhile"] == 1


async def test_a_row_that_postgres_refuses(
    project: Project, provider: StandInProvider, server: str
) -> None:
    async with api_world(project, provider, server) as w:
        await w.sql("alter table notes add check (id <> 3 or embedding is null)")
        await w.insert(*texts(8))
        report = await w.fill()
        assert (report.embedded, report.failed) == (7, 1)
        assert "notes_check" in (await w.failures())["3"]
        await w.check_complete(dead=["3"])


async def test_a_wrong_key_is_found_before_anything_is_spent(
    project: Project, provider: StandInProvider, server: str
) -> None:
    async with api_world(project, provider, server, key="wrong") as w:
        await w.insert(*texts(3))
        report = await w.fill()
        assert report.embedded == 0
        assert "Set BACKLINE_API_KEY to the server's key" in str(report.stopped_by)
        assert provider.calls == []


async def test_a_server_on_another_database(
    stack: Stack, project: Project, provider: StandInProvider
) -> None:
    """It has no such collection; or it has one of the same name, and stores into its own table."""
    variables = provider_variables(provider.base_url, provider.api_key)
    with stack.project() as other, server_running(other, **variables) as address:
        async with api_world(project, provider, address) as w:
            assert w.remote is not None
            with pytest.raises(errors.CollectionNotFoundError, match="works on another database"):
                await w.remote.check()
            async with rest_world(other, provider) as same:
                await same.insert(*texts(40))
                await w.remote.check()
                await w.insert(*texts(40))
                report = await w.fill()
                assert "works on another database" in str(report.stopped_by)
                assert len(provider.calls) <= 2


async def test_nothing_answers(project: Project, provider: StandInProvider) -> None:
    async with api_world(project, provider, "http://127.0.0.1:9") as w:
        assert w.remote is not None
        with pytest.raises(errors.ProviderUnavailableError, match="does not answer"):
            await w.remote.check()
