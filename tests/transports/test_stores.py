"""Every verb of a store returns the same over Postgres and over PostgREST."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.pgvector import vector_elements
from backline.postgres.store import Store, open_store
from backline.search import Query, search
from backline.store import JobStore, NewVector, Usage
from backline.supabase.store import RestStore
from backline.types import Collection, FailedAttempt, Job
from backline.verification import verify
from tests.integration.harness import DIMENSIONS, connect, declare, execute
from tests.supabase.stack import Project
from tests.supabase.world import rest_store

TEXTS = ["muddy vocals", "punchy drums", "wide pads", "", "muddy vocals", "dry guitar", "deep bass"]


async def new_vectors(
    embedder: HashEmbedder, jobs: Sequence[Job], *, long: bool
) -> list[NewVector]:
    """Return what a worker stores for jobs."""
    elements = vector_elements(await embedder.embed([job.content for job in jobs]))
    return [
        NewVector(job.key, "embed", job.content_hash, element, job.lease, long)
        for job, element in zip(jobs, elements, strict=True)
    ]


def comparable(jobs: Sequence[Job]) -> list[Any]:
    """Return the jobs with their leases numbered, as a lease depends on the time of the claim."""
    leases = sorted({job.lease for job in jobs})
    return [(*job[:-1], leases.index(job.lease)) for job in sorted(jobs)]


async def record_transcript(
    store: JobStore, user: Any, table: str, embedder: HashEmbedder
) -> list[Any]:
    """Call the verbs in the order of a backfill, and return their results."""
    transcript: list[Any] = []
    collection = await store.collection(table)
    [listed] = [c for c in await store.collections() if c.name == table]
    transcript += [listed == collection, replace(collection, id=0, name="", table_name="")]
    transcript.append([asdict(row) for row in await store.scan_page(collection, None, 3)])

    transcript += [await store.follow(collection), await store.problems(collection)]

    run = await store.start_run(collection, {"via": "test"})
    lease = await store.register(collection, run, 30)
    transcript.append(await store.heartbeat(lease, run, 30, 1.5))
    page = await store.claim_batch(collection, lease.worker, run, None, 4)
    transcript += [page.scanned, page.last_key, comparable(page.jobs)]
    transcript += await _outcomes(
        store, user, table, embedder, collection, lease.worker, run, page.jobs
    )

    [bad, *rest] = (await store.claim_batch(collection, lease.worker, run, "4", 10)).jobs
    transcript.append(comparable([bad, *rest]))
    attempt = FailedAttempt(bad.key, bad.content_hash or b"", "rejected", "no", None, bad.lease)
    transcript.append(await store.fail(collection, lease.worker, run, [attempt]))
    transcript.append(await store.run_failures(run))
    transcript.append(
        [replace(f, failed_at=datetime.min, run_id=0) async for f in store.failures(collection)]
    )
    transcript.append([f.failed_at.tzinfo is not None async for f in store.failures(collection)])
    transcript.append(await release(store, lease.worker, [rest[0].key]))
    transcript.append(comparable(await store.claim(collection, lease.worker, 10)))
    transcript.append((await store.outstanding(collection, datetime.now(UTC)))[0])
    transcript.append(await store.retry_failures(collection, ["no such key"]))
    transcript.append(await store.retry_failures(collection, None))
    transcript.append(await store.drop_failures(collection, None))

    await store.unregister(lease)
    coverage = await store.coverage(collection)
    transcript.append(replace(coverage, lag_seconds=0))
    transcript.append(await store.release_dead_workers(collection))
    transcript.append(await store.recount(collection.id))
    await store.compact(collection)
    assert store.capabilities.cache
    transcript += [await store.trim_cache(1 << 20), await store.trim_cache(0)]
    transcript.append(await verify(cast(Store, store), collection))
    hits = await search(store, collection, embedder, Query("punchy drums", where="id < 4"))
    transcript.append([asdict(hit) for hit in hits])
    transcript.append(await store.cancel_run(run))
    await store.finish_run(run, "cancelled", {"some": "report"})
    transcript.append(await store.cancel_run(run))
    [record] = await store.runs(collection, run)
    assert record.finished_at is not None
    assert record.started_at <= record.finished_at <= await store.now()
    transcript.append(
        replace(record, id=0, collection="", started_at=datetime.min, finished_at=None, seconds=0)
    )
    return transcript


async def _outcomes(
    store: JobStore, user: Any, table: str, embedder: HashEmbedder, collection: Collection,
    worker: int, run: int, jobs: Sequence[Job],
) -> list[Any]:  # fmt: skip
    """Complete and confirm rows after an edit and a deletion; one row is blank."""
    transcript: list[Any] = []
    first, second, third, blank = sorted(jobs)
    await execute(user, f"update {table} set body = 'edited' where id = 2")
    await execute(user, f"delete from {table} where id = 3")
    rows = await new_vectors(embedder, [first, second, third], long=True)
    rows.append(NewVector(blank.key, "blank", blank.content_hash, lease=blank.lease))
    usage = Usage(1, 9, 3)
    for _ in range(2):  # the second call repeats the first, as after a lost response
        left = await store.complete(collection, worker, run, rows, cache=True, usage=usage)
        transcript += sorted(left)
    stored = NewVector(first.key, "up_to_date", first.content_hash, lease=first.lease)
    unstored = NewVector("6", "up_to_date", b"\1" * 32, lease=0)
    call = uuid4()
    for _ in range(2):
        transcript += await store.confirm(collection, worker, run, [stored, unstored], call)
    transcript.append(await _refusal(store, collection, worker))
    return transcript


async def release(store: JobStore, worker: int, keys: list[str]) -> int:
    """Release leased jobs through the public SQL function or PostgREST; return their number."""
    if isinstance(store, Store):
        row = await store.connector.fetch_one(
            "select backline.release(%s, %s) as count", [worker, keys]
        )
        return int(row["count"])
    return int(await cast(RestStore, store).project.call("release", worker=worker, keys=keys))


async def _refusal(store: JobStore, collection: Collection, worker: int) -> tuple[str, str]:
    """Return the error of a claim by a worker with another model."""
    try:
        await store.claim(replace(collection, model_id=1), worker, 1)
    except errors.ModelMismatchError as error:
        return type(error).__name__, str(error)
    return "no error", ""


async def test_both_stores_return_the_same_transcript(project: Project) -> None:
    embedder = HashEmbedder(DIMENSIONS)
    async with AsyncExitStack() as opened:
        postgres = await opened.enter_async_context(open_store(project.url))
        rest = await opened.enter_async_context(rest_store(project))
        user = await opened.enter_async_context(await connect(project.url))
        transcripts = []
        stores: list[tuple[JobStore, str]] = [(postgres, "one"), (rest, "two")]
        for store, table in stores:
            await execute(user, "truncate backline.vectors")
            await execute(user, f"create table {table} (id bigint primary key, body text)")
            await execute(user, f"grant select, update on {table} to service_role")
            await declare(postgres, embedder, table=table)
            for at, text in enumerate(TEXTS, start=1):
                await execute(user, f"insert into {table} values (%s, %s)", at, text)
            await execute(user, "delete from backline.jobs")
            transcripts.append(await record_transcript(store, user, table, embedder))
    over_postgres, over_rest = transcripts
    assert len(over_postgres) == len(over_rest)
    for line, (expected, result) in enumerate(zip(over_postgres, over_rest, strict=True)):
        assert result == expected, line
