"""The worker over a real PostgREST, behind a gateway that fails on demand."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from backline import errors, search
from backline.search.indexes import ensure_keywords
from backline.supabase.keys import choose_key
from backline.supabase.store import open_rest_store
from backline.verification import verify
from backline.worker import retry
from tests.integration.harness import not_stored, overpaid, running
from tests.integration.proxy import Stall, tcp_relay
from tests.nightly import first_at_once
from tests.provider import StandInProvider
from tests.supabase.stack import Project
from tests.supabase.world import RestWorld, rest_store, rest_world

RPC = "/rest/v1/rpc/backline_"


def texts(count: int) -> list[str]:
    return [f"note number {n}" for n in range(count)]


async def clear_queue(world: RestWorld) -> None:
    """Delete the jobs that triggers enqueued, so that only a scan finds the rows."""
    await world.apply_changes()
    await world.sql("delete from backline.jobs")


# --- a backfill -----------------------------------------------------------------------------------


async def test_table_larger_than_postgrests_row_limit_is_filled(
    project: Project, provider: StandInProvider
) -> None:
    async with rest_world(project, provider) as world:
        await world.insert(*texts(2500), None, "  ", "note number 7")
        await clear_queue(world)
        report = await world.fill(batch_size=500)
        assert (report.scanned, report.embedded, report.reused) == (2503, 2501, 1)
        assert report.complete
        assert report.index.state == "not needed"
        await world.check_complete()
        assert overpaid(provider) == Counter()
        again = await world.fill()
        assert (again.embedded, again.batches) == (0, 0)


@pytest.mark.parametrize("kind", ["secret", "service_jwt"])
async def test_both_kinds_of_secret_key_may_write(project: Project, kind: str) -> None:
    async with rest_world(project, key=getattr(project.keys, kind)) as world:
        await world.insert(*texts(3))
        report = await world.fill()
        assert (report.embedded, report.complete) == (3, True)


async def test_opaque_key_is_sent_in_the_apikey_header_only(project: Project) -> None:
    async with rest_store(project) as store:
        await store.collections()
    sent = [request.headers for request in project.gateway.seen]
    assert sent
    assert {headers["apikey"] for headers in sent} == {project.keys.secret}
    assert [headers for headers in sent if "authorization" in headers] == []


async def test_text_of_thirty_kilobytes_is_embedded(project: Project) -> None:
    async with rest_world(project) as world:
        await world.insert("long " * 6_000)
        report = await world.fill()
        assert (report.embedded, report.failed) == (1, 0)
        await world.check_complete()


async def test_worker_indexes_keywords_that_a_search_lacks(project: Project) -> None:
    async with rest_world(project) as world:
        await world.sql("update backline.keyword_indexes set built_at = null")
        await world.sql("delete from backline.documents; delete from backline.postings")
        await world.sql("alter table notes disable trigger user")
        await world.insert(*texts(1200))
        await world.sql("alter table notes enable trigger user")
        query = search.Query("number 1107", "keyword", limit=1)
        assert await search.search(world.rest, world.collection, None, query) == []
        project.gateway.cut_next(path=RPC + "build_keywords_page", after=True)
        assert await ensure_keywords(world.rest, world.collection)
        [hit] = await search.search(world.rest, world.collection, None, query)
        assert hit.content == "note number 1107"
        assert not await ensure_keywords(world.rest, world.collection)


async def test_error_of_a_trigger_is_the_error_of_the_dead_letter(project: Project) -> None:
    async with rest_world(project) as world:
        await world.sql(
            "create function refuse() returns trigger language plpgsql as "
            "$$ begin if new.id = 3 and new.embedding is not null then "
            "raise exception 'no vector for 3'; end if; return new; end $$"
        )
        await world.sql(
            "create trigger refuse before update on notes for each row execute function refuse()"
        )
        await world.insert(*texts(8))
        report = await world.fill()
        assert (report.embedded, report.failed) == (7, 1)
        assert "no vector for 3" in (await world.failures())["3"]
        await world.check_complete(dead=["3"])
        assert await world.rest.drop_failures(world.collection, None) == 1


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    ["start_run", "register_worker", "claim", "claim_batch", "complete", "fail", "finish_run"],
)
async def test_call_whose_response_was_lost_is_counted_once(
    project: Project, provider: StandInProvider, verb: str
) -> None:
    """The gateway cuts the response of a call that succeeded, and the client repeats the call."""
    provider.behave(reject_marker="BAD")
    async with rest_world(project, provider) as world:
        await world.insert(*texts(120), "BAD one")
        await clear_queue(world)
        await world.sql("update notes set body = body || '!' where id <= 10")
        project.gateway.cut_next(path=RPC + verb, times=2, after=True)
        report = await world.fill()
        lost = [s.path for s in project.gateway.seen if s.status is None]
        assert lost == [RPC + verb] * 2
        assert (report.embedded, report.failed) == (120, 1)
        assert report.scanned <= 121
        calls = [call for call in provider.calls if call.status == 200]
        tokens = sum(world.embedder.count_tokens([t for call in calls for t in call.texts]))
        assert (report.batches, report.tokens) == (len(calls), tokens)
        assert overpaid(provider) == Counter()
        await world.check_complete(dead=["121"])
        assert len(await world.rest.runs(world.collection)) == 1


async def test_records_of_calls_are_deleted_after_sixteen_minutes(project: Project) -> None:
    async with rest_world(project) as world:
        await world.insert(*texts(5))
        await world.fill()
        [row] = await world.sql("select count(*) as calls from backline.calls")
        assert row["calls"] > 0
        await world.sql("update backline.calls set called_at = now() - interval '16 minutes'")
        await world.sql("insert into backline.calls (id) values (gen_random_uuid())")
        await world.rest.release_dead_workers(world.collection)
        [row] = await world.sql("select count(*) as calls from backline.calls")
        assert row["calls"] == 1


async def test_claim_that_commits_without_its_client_is_returned_by_the_next_claim(
    project: Project, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The responses of five attempts are lost; the rows that they leased are claimed again."""
    monkeypatch.setattr("backline.supabase.client.PAUSES", (0.01, 0.01, 0.01, 0.01))
    async with rest_world(project, provider) as world:
        await world.insert(*texts(30))
        await clear_queue(world)
        lease = await world.rest.register(world.collection, None, 20)
        first = await world.rest.claim_batch(world.collection, lease.worker, None, None, 10)
        acknowledged = {job.lease for job in first.jobs if job.lease is not None}
        project.gateway.cut_next(path=RPC + "claim_batch", times=5, after=True)
        with pytest.raises(errors.DatabaseUnavailableError):
            await world.rest.claim_batch(
                world.collection, lease.worker, None, first.last_key, 10, acknowledged
            )
        assert len(await world.jobs()) == 20
        again = await world.rest.claim_batch(
            world.collection, lease.worker, None, first.last_key, 10, acknowledged
        )
        assert len(again.jobs) == 10
        assert await world.jobs() == {job.key: lease.worker for job in [*first.jobs, *again.jobs]}
        assert await world.rest.project.call("release", worker=lease.worker, keys=None) == 20
        project.gateway.cut_next(path=RPC + "claim", times=5, after=True)
        with pytest.raises(errors.DatabaseUnavailableError):
            await world.rest.claim(world.collection, lease.worker, 5)
        jobs = await world.rest.claim(world.collection, lease.worker, 100)
        assert await world.jobs() == {job.key: lease.worker for job in jobs}
        assert len(jobs) == 20
        await world.rest.unregister(lease)
        await world.fill()
        await world.check_complete()


@pytest.mark.parametrize("verb", ["claim_batch", "claim", "verify_page"])
async def test_statement_timeout_is_retried_with_a_smaller_page(
    project: Project, verb: str
) -> None:
    """A page that exceeds the statement timeout of the role is halved."""
    async with rest_world(project) as world:
        await world.insert(*texts(200))
        if verb == "claim_batch":
            await clear_queue(world)
        project.execute(f"alter function public.backline_{verb} set statement_timeout = '300ms'")
        await world.sql(
            "create function slow(text) returns text language plpgsql immutable as "
            "$$ begin perform pg_sleep(0.004); return $1; end $$; "
            "grant execute on function slow to service_role; "
            "update backline.collections set text_sql = 'public.slow(' || text_sql || ')'"
        )
        project.wait_for_schema()
        report = await world.fill(batch_size=100)
        assert (report.embedded, report.complete) == (200, True)
        assert (await verify(world.rest, world.collection)).passed
        timeouts = [s for s in project.gateway.seen if s.path == RPC + verb and s.status != 200]
        assert timeouts, "no statement timed out"


async def test_key_revoked_in_mid_run_ends_the_run(
    project: Project, provider: StandInProvider
) -> None:
    async with rest_world(project, provider) as world:
        await world.insert(*texts(200))
        with provider.held():
            async with running(world.fill()) as filling:
                await asyncio.to_thread(provider.wait_in_flight)
                project.gateway.fail_next(
                    401, times=100, path=RPC, body={"message": "Invalid API key"}
                )
                provider.behave(held=False)
                with pytest.raises(
                    errors.ProjectKeyError, match="refuses the key: Invalid API key"
                ):
                    await filling
        project.gateway.reset()
        project.execute("update backline.workers set expires_at = now() + interval '2 seconds'")
        report = await world.fill()
        assert report.complete
        await world.wait_until_idle()


async def test_search_beyond_the_statement_timeout_of_anon_names_the_timeout(
    project: Project,
) -> None:
    """Supabase ends a statement of `anon` after 3 s."""
    async with rest_world(project) as world:
        await world.insert("muddy vocals", "muddy drums")
        await world.fill()
        await world.sql(
            "create function slow(text) returns text language plpgsql as "
            "$$ begin perform pg_sleep(2); return $1; end $$; "
            "grant execute on function slow to anon; grant select on notes to anon; "
            "update backline.collections set text_sql = 'public.slow(' || text_sql || ')'"
        )
        key = choose_key(SecretStr(project.keys.publishable), None, "read")
        async with open_rest_store(project.api_url, key) as store:
            collection = await store.collection("notes")
            with pytest.raises(errors.StatementTimeoutError, match="statement timeout"):
                await search.search(store, collection, None, search.Query("muddy", "keyword"))


# --- a network that delivers nothing --------------------------------------------------------------


@pytest.mark.parametrize("verb", first_at_once(["complete", "claim", "claim_batch", "heartbeat"]))
async def test_backfill_gives_up_on_a_stalled_gateway(
    project: Project, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(retry, "SHORTEST_LIMIT", 2.0)
    provider.behave(delay_s=0.3)
    port = urlsplit(project.api_url).port
    assert port is not None
    key = choose_key(None, SecretStr(project.keys.secret), "write")
    async with rest_world(project, provider) as world, tcp_relay("127.0.0.1", port) as relay:
        await world.insert(*texts(200))
        direct = world.store
        async with open_rest_store(relay.url, key) as stalling:
            world.store = cast(Any, stalling)
            relay.stall = Stall(f"/rpc/backline_{verb} ".encode(), everywhere=True)
            started = time.monotonic()
            with pytest.raises(errors.DatabaseUnavailableError):
                await asyncio.wait_for(world.fill(give_up_after=2, lease=3, grace=1), 45)
            assert time.monotonic() - started < 40
            assert relay.stalled
        world.store = direct
        await world.check_consistent()
        unstored = await not_stored(world, provider.texts_embedded)
        await world.wait_until_released()
        assert (await world.fill()).complete
        await world.check_complete()
        assert overpaid(provider).keys() <= unstored
