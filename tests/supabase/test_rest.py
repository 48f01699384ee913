"""The engine over PostgREST: a real one, behind a gateway that can fail on demand."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from pydantic import SecretStr

from backline import errors, search
from backline.search.indexes import ensure_keywords
from backline.supabase.keys import choose_key
from backline.supabase.store import open_rest_store
from backline.verification import verify
from tests.integration.harness import overpaid, running
from tests.provider import StandInProvider
from tests.supabase.stack import Project
from tests.supabase.worlds import RestWorld, rest_store, rest_world

RPC = "/rest/v1/rpc/backline_"


def texts(count: int, word: str = "note") -> list[str]:
    return [f"{word} number {n}" for n in range(count)]


async def as_found(world: RestWorld) -> None:
    """The table as it was before it was declared: nothing is enqueued, and only a walk finds it."""
    await world.sql("delete from backline.jobs")


# --- the job --------------------------------------------------------------------------------------


async def test_more_rows_than_postgrest_answers_at_once(
    project: Project, provider: StandInProvider
) -> None:
    async with rest_world(project, provider) as world:
        await world.insert(*texts(2500), None, "  ", "note number 7")
        await as_found(world)
        report = await world.fill(batch_size=500)
        assert (report.scanned, report.embedded, report.reused) == (2503, 2501, 1)
        assert report.complete
        assert report.index.state == "not needed"  # and nobody is sent to make one
        await world.check_complete()
        assert overpaid(provider) == Counter()
        again = await world.fill()
        assert (again.embedded, again.batches) == (0, 0)


@pytest.mark.parametrize("kind", ["secret", "service_jwt"])
async def test_both_kinds_of_key_work(project: Project, kind: str) -> None:
    async with rest_world(project, key=getattr(project.keys, kind)) as world:
        await world.insert(*texts(3))
        report = await world.fill()
        assert (report.embedded, report.complete) == (3, True)


async def test_an_opaque_key_travels_in_apikey_only(project: Project) -> None:
    async with rest_store(project) as store:
        await store.collections()
    seen = [request.headers for request in project.gateway.seen]
    assert seen
    assert {headers["apikey"] for headers in seen} == {project.keys.secret}
    assert [headers for headers in seen if "authorization" in headers] == []


async def test_texts_of_every_awkward_kind(project: Project) -> None:
    awkward = [
        "ⓐ ünïcode 🎛️",
        'quote " and \\ backslash',
        "tab\tand\nline",
        "<|endoftext|>",
        "{a,b}",
    ]
    async with rest_world(project) as world:
        await world.insert(*awkward, "long " * 6_000)
        report = await world.fill()
        assert (report.embedded, report.failed) == (6, 0)
        await world.check_complete()


async def test_vectors_arrive_to_the_last_bit(project: Project) -> None:
    async with rest_world(project) as world:
        await world.insert(*texts(40))
        await world.fill()
        rows = await world.sql("select body, embedding::text as vector from notes")
        made = await world.embedder.embed([row["body"] for row in rows])
        for row, vector in zip(rows, made, strict=True):
            assert [float(x) for x in json.loads(row["vector"])] == pytest.approx(
                vector.tolist(), abs=0, rel=1e-7
            )


async def test_search_and_verify_and_runs(project: Project) -> None:
    async with rest_world(project) as world:
        await world.insert("muddy vocals", "punchy drums", "wide pads")
        report = await world.fill()
        hits = await search.search(
            world.rest,
            world.collection,
            world.embedder,
            search.Query("punchy drums", limit=2, snippets=True),
        )
        assert (hits[0].key, hits[0].row["body"]) == ("2", "punchy drums")
        assert hits[0].snippet is not None and "<mark>" in hits[0].snippet
        found = await verify(world.rest, world.collection)
        assert (found.rows, found.embedded, found.passed) == (3, 3, True)
        [run] = await world.rest.runs(world.collection)
        assert (run.id, run.state, run.embedded) == (report.run, "completed", 3)
        assert run.finished_at is not None and run.finished_at >= run.started_at
        await world.sql("update notes set body = 'tight drums' where id = 2")
        assert (await world.rest.coverage(world.collection)).pending == 1
        assert (await verify(world.rest, world.collection)).problems == {"stale text": 1}


async def test_a_big_table_s_keywords_are_indexed_on_its_first_search(project: Project) -> None:
    said: list[str] = []
    async with rest_world(project) as world:
        await world.sql("update backline.keyword_indexes set built_at = null")
        await world.sql("delete from backline.documents; delete from backline.postings")
        await world.sql("alter table notes disable trigger user")
        await world.insert(*texts(1200))
        await world.sql("alter table notes enable trigger user")
        question = search.Query("number 1107", "keyword", limit=1)
        with pytest.raises(errors.UsageError, match="not built yet"):
            await search.search(world.rest, world.collection, None, question)
        project.gateway.cut_next(path=RPC + "build_keywords_page", after=True)
        await ensure_keywords(world.rest, world.collection, notice=said.append)
        [hit] = await search.search(world.rest, world.collection, None, question)
        assert hit.content == "note number 1107"
        await ensure_keywords(world.rest, world.collection, notice=said.append)
        assert said == ["Indexing the keywords of notes, once."]


async def test_an_edit_between_embedding_and_writing_wins(
    project: Project, provider: StandInProvider
) -> None:
    async with rest_world(project, provider) as world:
        await world.insert(*texts(5))
        with provider.held():
            async with running(world.fill()) as filling:
                await asyncio.to_thread(provider.wait_in_flight)
                await world.sql("update notes set body = 'edited meanwhile' where id = 3")
                await world.sql("delete from notes where id = 4")
                provider.behave(held=False)
                await filling
        await world.check_complete()
        assert provider.texts_embedded["edited meanwhile"] == 1


async def test_a_rejected_text_harms_its_own_row_alone(
    project: Project, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="BAD")
    async with rest_world(project, provider) as world:
        await world.insert(*texts(20), "BAD one", *texts(20, "more"))
        report = await world.fill()
        assert (report.embedded, report.failed) == (40, 1)
        [failure] = [f async for f in world.rest.failures(world.collection)]
        assert (failure.key, failure.kind, failure.run_id) == ("21", "rejected", report.run)
        await world.check_complete(dead=["21"])
        provider.behave(reject_marker=None)
        assert await world.rest.retry_failures(world.collection, ["21"]) == 1
        assert (await world.fill()).complete
        await world.check_complete()


async def test_a_row_that_postgres_refuses_is_a_dead_letter(project: Project) -> None:
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


@pytest.mark.parametrize("status", [429, 503])
async def test_a_gateway_that_fails_costs_nothing(
    project: Project, provider: StandInProvider, status: int
) -> None:
    async with rest_world(project, provider) as world:
        await world.insert(*texts(300))
        await as_found(world)
        for verb in ("claim_batch", "complete", "complete", "heartbeat", "coverage", "start_run"):
            project.gateway.fail_next(status, path=RPC + verb, headers={"Retry-After": "0.2"})
        report = await world.fill()
        assert (report.embedded, report.failed, report.complete) == (300, 0, True)
        await world.check_complete()
        assert overpaid(provider) == Counter()


@pytest.mark.parametrize(
    "verb",
    ["start_run", "register_worker", "claim", "claim_batch", "complete", "fail", "finish_run"],
)
async def test_a_lost_answer_counts_once_and_loses_nothing(
    project: Project, provider: StandInProvider, verb: str
) -> None:
    """The work was done and the answer was cut: the same call is made again."""
    provider.behave(reject_marker="BAD")
    async with rest_world(project, provider) as world:
        await world.insert(*texts(120), "BAD one")
        await as_found(world)
        await world.sql("update notes set body = body || '!' where id <= 10")
        project.gateway.cut_next(path=RPC + verb, times=2, after=True)
        report = await world.fill()
        cut = [s.path for s in project.gateway.seen if s.status is None]
        assert cut == [RPC + verb] * 2
        assert (report.embedded, report.failed) == (120, 1)
        assert report.scanned <= 121
        calls = [call for call in provider.calls if call.status == 200]
        tokens = sum(world.embedder.count_tokens([t for call in calls for t in call.texts]))
        assert (report.batches, report.tokens) == (len(calls), tokens)
        assert overpaid(provider) == Counter()
        await world.check_complete(dead=["121"])
        assert len(await world.rest.runs(world.collection)) == 1


async def test_answers_are_kept_for_a_while_only(project: Project) -> None:
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


async def test_a_claim_that_commits_after_its_caller_gave_up(
    project: Project, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were leased by an answer nobody heard are given back at the next claim."""
    monkeypatch.setattr("backline.supabase.client.PAUSES", (0.01, 0.01, 0.01, 0.01))
    async with rest_world(project, provider) as world:
        await world.insert(*texts(30))
        await as_found(world)
        lease = await world.rest.register(world.collection, None, 20)
        first = await world.rest.claim_batch(world.collection, lease.worker, None, None, 10)
        known = {job.lease for job in first.jobs if job.lease is not None}
        project.gateway.cut_next(path=RPC + "claim_batch", times=5, after=True)
        with pytest.raises(errors.DatabaseUnavailableError):
            await world.rest.claim_batch(
                world.collection, lease.worker, None, first.last_key, 10, known
            )
        assert len(await world.jobs()) == 20
        again = await world.rest.claim_batch(
            world.collection, lease.worker, None, first.last_key, 10, known
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
async def test_a_slow_statement_makes_the_pages_smaller(project: Project, verb: str) -> None:
    """Postgres ends a statement at the role's limit; half the page may pass."""
    async with rest_world(project) as world:
        await world.insert(*texts(200))
        if verb == "claim_batch":
            await as_found(world)
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
        assert timeouts, "nothing was too slow"


async def test_a_key_that_is_revoked_in_mid_run_ends_it(
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


async def test_anon_s_three_seconds(project: Project) -> None:
    """A visitor's search that takes longer ends with words that say why."""
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
