"""Vectors that a table holds when it is declared are adopted, refused or overwritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import numpy as np
import pytest
from tests.integration.harness import (
    DIMENSIONS,
    NOTES,
    QUICK,
    World,
    connect,
    execute,
    quick_limiter,
    standin_embedder,
)
from tests.integration.processes import read_line, worker_process
from tests.provider import StandInProvider

from backline import errors
from backline.adoption import PAGE, Adopted, adopt
from backline.backfill import Backfill
from backline.collections import check
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder, hash_vectors
from backline.postgres.store import Store
from backline.reconcile import Reconciliation
from backline.types import Collection
from backline.verification import verify

MEMORIES = """
create table memories (id uuid primary key default gen_random_uuid(), user_id uuid,
  content text not null, embedding extensions.halfvec(8), created_at timestamptz default now());
insert into memories (user_id, content) select gen_random_uuid(),
  'Remember that order ' || i || ' was returned because the cable was too short.'
from generate_series(1, 300) i
"""


@pytest.fixture
async def user(store: Store) -> AsyncIterator[Any]:
    """A connection of a user of the table."""
    async with await connect(store.connector.conninfo) as connection:
        yield connection


async def fill_by_hand(
    user: Any, *, table: str = "memories", text: str = "content", scale: float = 1.0,
    where: str = "true", dimensions: int = DIMENSIONS,
) -> None:  # fmt: skip
    """Store the vectors of the stand-in provider's model, as another pipeline has."""
    rows = await execute(user, f"select id::text, {text} as text from {table} where {where}")
    vectors = hash_vectors([row["text"] for row in rows], dimensions) * scale
    async with user.cursor() as cursor:
        await cursor.executemany(
            f"update {table} set embedding = %s::real[]::extensions.vector where id::text = %s",
            [(v.tolist(), row["id"]) for row, v in zip(rows, vectors, strict=True)],
        )


async def leave_every_tenth_empty(user: Any) -> None:
    await execute(
        user,
        "update memories set embedding = null where id in (select id from (select id, "
        "row_number() over (order by id) as n from memories) x where n % 10 = 0)",
    )


async def held(user: Any, table: str = "memories") -> dict[str, str]:
    rows = await execute(user, f"select id::text, embedding::text as v from {table}")
    return {row["id"]: row["v"] for row in rows}


async def adopting(
    store: Store, embedder: Embedder, table: str = "memories", **declaration: Any
) -> Adopted:
    """Adopt the vectors of a table."""
    record = await store.find_table(table)
    parts = {
        "key": None, "template": "{content}", "column": "embedding", "column_type": "vector",
        "long_text": "truncate", "published": False, "into": None,
    }  # fmt: skip
    return await adopt(
        store, embedder, quick_limiter(), table, record["oid"], give_up_after=20,
        **{**parts, **declaration},
    )  # fmt: skip


async def declare(store: Store, table: str = "memories", **parts: Any) -> None:
    record = await store.find_table(table)
    values: dict[str, Any] = {
        "key": None, "template": "{content}", "column": "embedding",
        "model": HashEmbedder(DIMENSIONS).model,
    }  # fmt: skip
    await store.add_collection(table, record["oid"], **{**values, **parts})


async def test_column_with_vectors_is_refused_and_nothing_is_changed(
    store: Store, user: Any
) -> None:
    await execute(user, MEMORIES)
    await fill_by_hand(user)
    await leave_every_tenth_empty(user)
    before = await held(user)
    with pytest.raises(errors.VectorsExistError, match=r"270 vectors.*--adopt.*--overwrite"):
        await declare(store)
    assert await store.collections() == []
    assert await held(user) == before


async def test_vectors_are_adopted_after_a_sample_agrees(
    store: Store, user: Any, provider: StandInProvider
) -> None:
    await execute(user, MEMORIES)
    await fill_by_hand(user)
    await leave_every_tenth_empty(user)
    before = await held(user)
    embedder = standin_embedder(provider)
    done = await adopting(store, embedder)
    assert (done.held, done.adopted) == (270, 270)
    assert done.agreement is not None
    assert (done.agreement.compared, done.agreement.agreeing) == (200, 200)
    assert sum(provider.texts_embedded.values()) == 200
    assert await held(user) == before
    collection = await store.collection("memories")
    assert collection.column_type == "halfvec"
    coverage = await store.coverage(collection)
    assert (coverage.rows, coverage.embedded, coverage.missing) == (300, 270, 30)
    report = await Backfill(store, collection, embedder, quick_limiter(), QUICK).run()
    assert (report.embedded, report.complete) == (30, True)
    checked = await verify(store, collection)
    assert checked.passed
    after = await held(user)
    assert {key: after[key] for key, v in before.items() if v} == {
        key: v for key, v in before.items() if v
    }
    await embedder.aclose()


async def test_vectors_of_another_model_are_found_by_the_sample(
    store: Store, user: Any, provider: StandInProvider
) -> None:
    await execute(user, MEMORIES)
    await fill_by_hand(user, text="'another prefix: ' || content")
    before = await held(user)
    embedder = standin_embedder(provider)
    with pytest.raises(errors.ModelMismatchError, match=r"of 200 texts .* 0 have.*median cosine"):
        await adopting(store, embedder)
    assert await store.collections() == []
    assert await execute(user, "select 1 from backline.stamps") == []
    assert await execute(user, "select 1 from pg_trigger where tgname like 'backline_c%'") == []
    assert await held(user) == before
    await embedder.aclose()


async def test_few_stale_vectors_do_not_prevent_an_adoption_and_are_due(
    store: Store, user: Any
) -> None:
    await execute(user, MEMORIES)
    await fill_by_hand(user)
    await execute(
        user,
        "update memories set content = content || ' edited' where id in "
        "(select id from memories order by id limit 3)",
    )
    done = await adopting(store, HashEmbedder(DIMENSIONS))
    assert done.agreement is not None
    differing = 200 - done.agreement.agreeing
    assert done.adopted == 300 - differing
    coverage = await store.coverage(await store.collection("memories"))
    assert coverage.pending == differing


async def test_vectors_of_another_length_are_adopted_and_verified(store: Store, user: Any) -> None:
    await execute(user, MEMORIES.replace("halfvec(8)", "vector"))
    await fill_by_hand(user, scale=30.0)
    done = await adopting(store, HashEmbedder(DIMENSIONS))
    assert done.adopted == 300
    collection = await store.collection("memories")
    assert collection.column_dimensions is None
    assert (await verify(store, collection)).passed
    assert (await Reconciliation(store, collection).run()).found == {}
    await execute(user, "update memories set embedding = extensions.l2_normalize(embedding)")
    assert not (await verify(store, collection)).passed


async def test_vectors_of_other_dimensions_are_reported(store: Store, user: Any) -> None:
    await execute(user, MEMORIES.replace("halfvec(8)", "vector"))
    await fill_by_hand(user, dimensions=16)
    with pytest.raises(errors.ModelMismatchError, match="some have 16 dimensions"):
        await adopting(store, HashEmbedder(DIMENSIONS))
    assert await store.collections() == []


async def test_vectors_of_rows_without_text_cannot_be_compared(store: Store, user: Any) -> None:
    await execute(user, MEMORIES + "; update memories set content = ''")
    await fill_by_hand(user, text="id::text")
    with pytest.raises(errors.ModelMismatchError, match="None of the 300 vectors"):
        await adopting(store, HashEmbedder(DIMENSIONS))
    assert await store.collections() == []


@pytest.mark.parametrize("kind", ["halfvec(8)", "vector", "halfvec", "vector(8)"])
async def test_empty_column_of_any_vector_type_is_declared_as_it_is(
    store: Store, user: Any, kind: str
) -> None:
    await execute(user, MEMORIES.replace("halfvec(8)", kind))
    await declare(store)
    collection = await store.collection("memories")
    embedder = HashEmbedder(DIMENSIONS)
    report = await Backfill(store, collection, embedder, quick_limiter(), QUICK).run()
    assert report.complete
    assert collection.column_type == kind.partition("(")[0]
    assert (await verify(store, collection)).passed


async def test_overwrite_replaces_vectors(store: Store, user: Any) -> None:
    await execute(user, MEMORIES)
    await fill_by_hand(user, text="'wrong ' || content")
    await declare(store, existing="overwrite")
    collection = await store.collection("memories")
    embedder = HashEmbedder(DIMENSIONS)
    report = await Backfill(store, collection, embedder, quick_limiter(), QUICK).run()
    assert report.embedded == 300
    assert (await verify(store, collection)).passed


async def test_interrupted_adoption_is_continued_and_protects_the_vectors(
    store: Store, user: Any, provider: StandInProvider
) -> None:
    rows = PAGE + 500
    await execute(
        user,
        f"{NOTES}; alter table notes add embedding extensions.vector({DIMENSIONS}); "
        f"insert into notes select i, 'text ' || i from generate_series(1, {rows}) i",
    )
    await fill_by_hand(user, table="notes", text="body")
    embedder = standin_embedder(provider)
    page = store.adopt_page

    async def killed(collection: Any, after: str | None, limit: int) -> Any:
        if after is not None:
            raise asyncio.CancelledError
        return await page(collection, after, limit)

    store.adopt_page = killed  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await adopting(store, embedder, "notes", template="{body}")
    store.adopt_page = page  # type: ignore[method-assign]
    collection = await store.collection("notes")
    assert collection.adopting
    assert "adoption" in [each.kind for each in await store.problems(collection)]
    with pytest.raises(errors.UsageError, match="--adopt"):
        check(collection, embedder.model)
    with pytest.raises(errors.UsageError, match="--adopt"):
        await Backfill(store, collection, embedder, quick_limiter(), QUICK).run()
    # Edits go on: one of a row that is stamped, one of a row that is not, and one applied already.
    await execute(user, "update notes set body = 'edited' where id in (1, 2400)")
    await execute(user, "select backline.apply_changes(%s)", collection.id)
    await execute(user, "update notes set body = 'edited again' where id in (2, 2401)")
    await execute(user, "delete from notes where id in (3, 2402)")
    await execute(user, "insert into notes values (9999, 'new')")
    paid = sum(provider.texts_embedded.values())
    done = await adopting(store, embedder, "notes", template="{body}")
    assert sum(provider.texts_embedded.values()) == paid == 200
    assert done.adopted == 500 - 3
    world = World(store, await store.collection("notes"), embedder, user)
    await world.check_consistent_except_unqueued()
    report = await world.fill()
    assert report.embedded == 5
    await world.check_complete()
    await embedder.aclose()


@pytest.mark.parametrize(
    "step",
    ["adoption_sample:after", "adopt_page:before", "adopt_page:after", "finish_adoption:before"],
)
async def test_killed_adoption_loses_nothing_and_is_finished_by_the_next_run(
    store: Store, user: Any, provider: StandInProvider, step: str
) -> None:
    rows = PAGE + 100
    await execute(
        user,
        f"{NOTES}; alter table notes add embedding extensions.vector({DIMENSIONS}); "
        f"insert into notes select i, 'text ' || i from generate_series(1, {rows}) i",
    )
    await fill_by_hand(user, table="notes", text="body")
    before = await held(user, "notes")
    embedder = standin_embedder(provider)
    empty = World(store, cast(Collection, None), embedder, user)  # there is no collection yet
    async with worker_process(empty, provider, "adopt", "--pause", step) as victim:
        assert await read_line(victim) == "ready"
        assert await read_line(victim) == "paused"
        victim.kill()
        await victim.wait()
    assert await held(user, "notes") == before
    await adopting(store, embedder, "notes", template="{body}")
    world = World(store, await store.collection("notes"), embedder, user)
    assert not world.collection.adopting
    report = await world.fill()
    assert report.embedded == 0
    await world.check_complete()
    assert await held(user, "notes") == before
    assert sum(provider.texts_embedded.values()) <= 400  # two samples
    await embedder.aclose()


async def test_outage_during_the_sample_is_waited_out(
    store: Store, user: Any, provider: StandInProvider
) -> None:
    await execute(user, MEMORIES)
    await fill_by_hand(user)
    provider.fail_next(status=503, times=2)
    embedder = standin_embedder(provider)
    assert (await adopting(store, embedder)).adopted == 300
    await embedder.aclose()


def test_mean_of_a_sample_is_not_enough() -> None:
    """A share of 5 % may differ: 190 of 200 agree, 189 do not."""
    from backline.adoption import Agreement

    def agreement(agreeing: int) -> Agreement:
        return Agreement(200, agreeing, float(np.float32(1)), (), (), (1.0, 1.0))

    assert agreement(190).sufficient
    assert not agreement(189).sufficient
