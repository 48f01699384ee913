"""The vector index: built concurrently, only for large tables, and without losing rows."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.integration.search.conftest import Documents, declare

from backline import errors, search
from backline.postgres.store import Store, open_store
from backline.search import Query, indexes
from backline.search.query import rank_rows

COUNT = 3000


def clustered(count: int, dimensions: int, seed: int = 3) -> NDArray[np.float32]:
    """Return unit vectors around 40 centers, which resemble texts of 40 subjects."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, dimensions))
    vectors = centres[rng.integers(0, 40, count)] + 0.6 * rng.standard_normal((count, dimensions))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
        np.float32
    )
    return unit


async def filled(docs: Documents, dimensions: int, count: int = COUNT) -> NDArray[np.float32]:
    await docs.edit(
        "insert into docs (body) select 'n ' || n from generate_series(1, %s) n", count
    )  # fmt: skip
    vectors = clustered(count, dimensions)
    await docs.embed(vectors)
    return vectors


async def plan(docs: Documents, vector: NDArray[np.float32], *, exact: bool = False) -> str:
    """Return the plan of the statement that a search runs for the nearest rows."""
    [row] = await docs.sql(
        "select finding as statement from backline.search_statement(%s, 'semantic', null, %s)",
        docs.collection.id, exact,
    )  # fmt: skip
    statement = str(row["statement"]).replace("%", "%%")
    for number, value in {
        "$1": "%(collection)s::int", "$2": "%(vector)s::real[]", "$3": "''::text", "$4": "100",
        "$5": "null::jsonb", "$6": "'semantic'", "$7": "0.4", "$8": "10",
    }.items():  # fmt: skip
        statement = statement.replace(number, value)
    async with docs.store.connector.transaction() as transaction:
        await transaction.execute("set local enable_seqscan = off")
        rows = await transaction.fetch(
            "explain " + statement, {"collection": docs.collection.id, "vector": vector.tolist()}
        )
    return "\n".join(row["QUERY PLAN"] for row in rows)


@pytest.mark.parametrize(
    ("dimensions", "column_type"), [(32, "vector"), (32, "halfvec"), (2100, "vector")]
)
async def test_index_is_used_with_high_recall(
    store: Store, dimensions: int, column_type: str
) -> None:
    docs = await declare(store, dimensions, column_type)
    count = COUNT if dimensions < 100 else 300
    vectors = await filled(docs, dimensions, count)
    built = await search.ensure_index(docs.store, docs.collection, smallest=100)
    assert built.vectors.state == "built"
    assert "docs_embedding_hnsw" in await plan(docs, vectors[0])
    recalled = await search.recall(docs.store, docs.collection, 30)
    assert recalled.queries == 30
    assert recalled.mean >= 0.98
    hits = await rank_rows(
        docs.store, docs.collection, Query("x", "semantic", 1), "x", vectors[7].tolist()
    )
    assert hits[0].key == "8"
    assert hits[0].score == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("column", ["embedding", "(embedding::extensions.vector(16))"])
async def test_existing_index_in_full_precision_is_used(docs: Documents, column: str) -> None:
    """A column with an index needs no second one."""
    if column != "embedding":
        await docs.sql("alter table docs alter embedding type extensions.vector")
    vectors = await filled(docs, 16, 300)
    where = "" if column == "embedding" else " where extensions.vector_dims(embedding) = 16"
    await docs.store.connector.execute(
        f"create index mine on docs using hnsw ({column} extensions.vector_cosine_ops){where}"
    )
    result = await search.ensure_index(docs.store, docs.collection, smallest=100)
    assert result.vectors.state == "in place"
    assert "Index Scan using mine" in await plan(docs, vectors[0])


@pytest.mark.parametrize(
    "index",
    [
        "(embedding extensions.vector_l2_ops)",
        "((embedding::extensions.halfvec(16)) extensions.halfvec_cosine_ops) where rating > 0.6",
    ],
)
async def test_unusable_index_is_not_used(docs: Documents, index: str) -> None:
    """A partial or mismatching index must not cast the scan of all rows to half precision."""
    vectors = await filled(docs, 16, 300)
    await docs.store.connector.execute(f"create index mine on docs using hnsw {index}")
    assert "halfvec" not in await plan(docs, vectors[0])
    result = await search.ensure_index(docs.store, docs.collection, smallest=100)
    assert result.vectors.state == "built"
    assert "Index Scan using docs_embedding_hnsw" in await plan(docs, vectors[0])


async def test_index_results_are_reranked_in_full_precision(docs: Documents) -> None:
    """Half precision distinguishes 8 of the 30 rows; the last is the nearest."""
    await docs.edit("insert into docs (body) select 'n' from generate_series(1, 30)")
    vectors = np.zeros((30, 16), np.float32)
    vectors[:, 0], vectors[:, 1] = 1, np.linspace(0.1005, 0.1, 30)
    await docs.embed(vectors)
    await search.ensure_index(docs.store, docs.collection, smallest=10)
    best = [str(key) for key in range(30, 20, -1)]
    query = np.eye(16, dtype=np.float32)[0]
    assert "halfvec" in await plan(docs, query)
    assert "halfvec" not in await plan(docs, query, exact=True)
    hits = await rank_rows(docs.store, docs.collection, Query("n", "semantic"), "n", query.tolist())
    assert [hit.key for hit in hits] == best
    nearest = await docs.sql(
        "select key from backline.nearest(%s, %s::real[], 10, true)",
        docs.collection.id, query.tolist(),
    )  # fmt: skip
    assert [row["key"] for row in nearest] == best


async def test_recall_detects_a_bad_index(docs: Documents) -> None:
    """A graph with two neighbours a row is too sparse to navigate."""
    await filled(docs, 16)
    await docs.store.connector.execute(
        "create index docs_embedding_hnsw on docs using hnsw "
        "(embedding extensions.vector_cosine_ops) with (m = 2, ef_construction = 4)"
    )
    recalled = await search.recall(docs.store, docs.collection, 30)
    assert recalled.mean < 0.98
    assert recalled.worst < recalled.mean


async def test_small_table_needs_no_index_and_a_second_call_does_nothing(docs: Documents) -> None:
    await filled(docs, 16, 50)
    first = await search.ensure_index(docs.store, docs.collection)
    assert first.vectors.state == "not needed"
    assert (
        await search.ensure_index(docs.store, docs.collection, smallest=10)
    ).vectors.state == "built"
    again = await search.ensure_index(docs.store, docs.collection, smallest=10)
    assert again.vectors.state == "in place"
    anew = await search.ensure_index(docs.store, docs.collection, smallest=10, rebuild=True)
    assert anew.vectors.state == "built"
    assert anew.keywords.documents == 50


@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
async def test_narrow_filter_returns_all_matching_rows(docs: Documents, mode: search.Mode) -> None:
    """Ten of three thousand rows match, all far from the query."""
    vectors = await filled(docs, 16)
    await search.ensure_index(docs.store, docs.collection, smallest=1000)
    distances = vectors @ vectors[0]
    far = np.argsort(distances)[:10] + 1
    await docs.edit("update docs set kind = 'rare' where id = any(%s)", far.tolist())
    query = Query("n", mode, 50, where="kind = 'rare'")
    hits = await rank_rows(docs.store, docs.collection, query, "n", vectors[0].tolist())
    assert {int(hit.key) for hit in hits} == set(far.tolist())


async def test_search_continues_after_an_abandoned_index_scan(docs: Documents) -> None:
    """hnsw.max_scan_tuples ends an iterative scan, but must not end the search."""
    vectors = await filled(docs, 16)
    await search.ensure_index(docs.store, docs.collection, smallest=1000)
    far = np.argsort(vectors @ vectors[0])[:10] + 1
    await docs.edit("update docs set kind = 'rare' where id = any(%s)", far.tolist())
    async with docs.store.connector.transaction() as transaction:
        await transaction.execute("set local hnsw.max_scan_tuples = 100")
        await transaction.execute("set local enable_seqscan = off")
        rows = await transaction.fetch(
            "select key from backline.search(%s, 'semantic', null, %s::real[], 50, 0, %s::jsonb)",
            [docs.collection.id, vectors[0].tolist(),
             '{"op": "=", "path": ["kind"], "value": "rare"}'],
        )  # fmt: skip
    assert {int(row["key"]) for row in rows} == set(far.tolist())


async def test_locked_table_aborts_the_build_and_the_next_call_builds_it(
    docs: Documents, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(docs, 16, 50)
    monkeypatch.setattr(indexes, "LOCK_TIMEOUT", "1500ms")
    async with open_store(database) as other, other.connector.transaction() as holder:
        await holder.execute("update docs set rating = 0 where id = 1")
        blocker = rf"held by process {holder.backend} \(role postgres, backline, idle in trans"
        with pytest.raises(errors.ContentionError, match=blocker):
            await search.ensure_index(docs.store, docs.collection, smallest=10)
        assert await docs.sql(VALID) == []
    built = await search.ensure_index(docs.store, docs.collection, smallest=10)
    assert built.vectors.state == "built"
    assert await docs.sql(VALID) == [{"valid": True}]


VALID = (
    "select indisvalid as valid from pg_index "
    "where indexrelid = to_regclass('docs_embedding_hnsw') and indisvalid"
)


async def test_writes_continue_during_the_build(docs: Documents) -> None:
    await filled(docs, 16)
    building = asyncio.create_task(search.ensure_index(docs.store, docs.collection, smallest=1000))
    for n in range(20):
        await docs.edit("update docs set rating = %s where id = 5", n)
    assert (await building).vectors.state == "built"


async def test_invalid_index_is_replaced(docs: Documents) -> None:
    await filled(docs, 16, 50)
    await search.ensure_index(docs.store, docs.collection, smallest=10)
    await docs.sql(
        "update pg_index set indisvalid = false where indexrelid = 'docs_embedding_hnsw'::regclass "
        "returning 1"
    )
    result = await search.ensure_index(docs.store, docs.collection, smallest=10)
    assert result.vectors.state == "built"
