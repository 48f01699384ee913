"""Search in all modes: scores, filters, row level security, pages, snippets and odd queries."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from psycopg import sql
from tests.integration.search.conftest import DIMENSIONS, Documents

from backline import errors, pgvector, search
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import open_store
from backline.search import Query
from backline.search.query import rank_rows


def directions(count: int) -> NDArray[np.float32]:
    """Return unit vectors with growing angles to the first."""
    angles = np.linspace(0, np.pi / 2, count, dtype=np.float32)
    vectors = np.zeros((count, DIMENSIONS), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    return vectors


FIRST = [1.0] + [0.0] * (DIMENSIONS - 1)


@pytest.fixture
async def filled(docs: Documents) -> Documents:
    """200 rows with growing distances to FIRST."""
    await docs.edit(
        "insert into docs (body, kind, rating, facts) select 'tuba number ' || n, "
        "case n %% 4 when 0 then 'brass' else 'wood' end, n / 200.0, "
        "jsonb_build_object('ratio', n, 'name', 'n' || n, "
        "  'deep', jsonb_build_object('even', n %% 2 = 0)) "
        "from generate_series(1, 200) n"
    )
    await docs.embed(directions(200))
    return docs


async def nearest(docs: Documents, query: Query, vector: list[float] | None = None) -> list[str]:
    query_vector = vector if query.mode != "keyword" else None
    hits = await rank_rows(docs.store, docs.collection, query, query.text, query_vector or FIRST)
    return [hit.key for hit in hits]


async def test_query_vector_keeps_every_bit(docs: Documents) -> None:
    made = np.random.default_rng(1).normal(size=384).tolist()
    sent = np.array([*made, 0, -0.0, 1e-45, 3.4e38, np.inf, -np.inf], np.float32)
    for vector in (sent, sent.tolist(), sent[:0]):
        [row] = await docs.store.connector.fetch(
            "select %(v)s::real[] as v", {"v": pgvector.reals(vector)}
        )
        came = np.array(row["v"], np.float32)
        assert came.tobytes() == np.array(vector, np.float32).tobytes()


async def test_semantic_search_ranks_by_cosine(filled: Documents) -> None:
    query = Query("x", "semantic", 5)
    hits = await rank_rows(filled.store, filled.collection, query, "x", FIRST)
    expected = directions(200) @ np.array(FIRST, np.float32)
    assert [hit.key for hit in hits] == ["1", "2", "3", "4", "5"]
    assert [hit.score for hit in hits] == pytest.approx(expected[:5].tolist(), abs=1e-6)
    assert hits[0].parts == {"dense": pytest.approx(1.0)}
    assert hits[0].content == "tuba number 1"
    assert hits[0].row["kind"] == "wood"
    assert "embedding" not in hits[0].row


def fused(
    vectors: NDArray[np.float32],
    query: NDArray[np.float32],
    words: NDArray[np.float64],
    weight: float,
) -> NDArray[np.float64]:
    """Return the expected hybrid scores of these rows; `words` is their BM25."""
    dense = (vectors @ query).astype(np.float64)
    keys = np.array([str(row + 1) for row in range(len(dense))])  # keys break ties
    of_best = words / words.max()
    agreement = max(float(of_best[np.lexsort((keys, -dense))[:3]].mean()), 0.2)
    factor = max(1 - float(dense.max()), 0.1) ** 0.5 / agreement
    share = weight * factor / (1 - weight + weight * factor)
    return np.asarray((1 - share) * dense + share * words / max(words.max(), 2))


async def bm25(docs: Documents, text: str, count: int) -> NDArray[np.float64]:
    """Return the keyword scores of the rows 1 to `count`, 0 without a match."""
    scores = np.zeros(count)
    for hit in await search.keyword(docs.store, docs.collection, text, count):
        scores[int(hit.key) - 1] = hit.score
    return scores


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.4, 1.0])
@pytest.mark.parametrize("gap", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("text", ["number 150", "tuba 3 4 5 6 7 8 9", "tuba"])
async def test_hybrid_score_is_the_weighted_sum(
    filled: Documents, text: str, gap: float, weight: float
) -> None:
    """The nearest row's cosine is 1 - gap; a wider gap gives the words more weight."""
    vector = np.zeros(DIMENSIONS, np.float32)
    vector[0], vector[2] = 1 - gap, np.sqrt(1 - (1 - gap) ** 2)
    query = Query(text, "hybrid", 200, weight=weight)
    hits = await rank_rows(filled.store, filled.collection, query, text, vector.tolist())
    vectors, words = directions(200), await bm25(filled, text, 200)
    expected = fused(vectors, vector, words, weight)
    assert len(hits) == 200
    for hit in hits:
        row = int(hit.key) - 1
        assert hit.parts["dense"] == pytest.approx(float(vectors[row] @ vector), abs=1e-6)
        assert hit.parts.get("keyword", 0) == pytest.approx(words[row])
        assert hit.score == pytest.approx(expected[row], abs=1e-5)
    assert sorted(hits, key=lambda hit: (-hit.score, hit.key)) == hits


async def test_hybrid_adds_keyword_scores_to_semantic_candidates(filled: Documents) -> None:
    """Every row has the word, and the nearest ten are not among the first fifty by key."""
    query = Query("number", "hybrid", 10, weight=0.05)
    vector = directions(200)[150].tolist()
    hits = await rank_rows(filled.store, filled.collection, query, query.text, vector)
    words = await bm25(filled, query.text, 200)
    assert min(int(hit.key) for hit in hits) > 100
    for hit in hits:
        assert hit.parts["keyword"] == pytest.approx(words[int(hit.key) - 1])


async def test_rare_words_have_more_weight(docs: Documents) -> None:
    """One row has the word, the other is nearer; the word's frequency decides."""
    order = {}
    for others in ("zither", "oboe"):
        await docs.edit("truncate docs restart identity")
        await docs.insert("oboe solo", "zither solo", *([f"{others} solo"] * 60))
        vectors = directions(600)[[60, 0, *range(300, 360)]]
        await docs.embed(vectors)
        order[others] = (await nearest(docs, Query("oboe", "hybrid", 2, weight=0.4)))[0]
    assert order == {"zither": "1", "oboe": "2"}


async def test_best_hit_opposite_to_the_query_gives_finite_scores(docs: Documents) -> None:
    """A cosine of -1 makes the widest gap."""
    await docs.insert("oboe solo", "tuba solo")
    vectors = np.zeros((2, DIMENSIONS), np.float32)
    vectors[:, 0], vectors[1, 1] = (-1, 0), 1
    await docs.embed(vectors)
    query = Query("oboe", "hybrid", 2, weight=0.999)
    hits = await rank_rows(docs.store, docs.collection, query, "oboe", FIRST)
    assert hits[0].key == "1"
    assert all(abs(hit.score) <= 1 for hit in hits)


async def test_zero_vector_has_no_cosine(docs: Documents) -> None:
    """One such row must not break the order of the others; a zero query leaves only keywords."""
    await docs.insert("oboe solo", "tuba solo", "cello solo")
    vectors = np.zeros((3, DIMENSIONS), np.float32)
    vectors[0, :2], vectors[1, :2] = (0.8, 0.6), (0.6, 0.8)
    await docs.embed(vectors)
    queries: list[tuple[search.Mode, str]] = [
        ("hybrid", "cello"), ("semantic", "cello"), ("hybrid", "drum"),
    ]  # fmt: skip
    for mode, text in queries:
        query = Query(text, mode, 3, weight=0.99)  # the zero row is best if it has the word
        hits = await rank_rows(docs.store, docs.collection, query, text, FIRST)
        parts = {hit.key: hit.parts for hit in hits}
        assert [key for key in parts if key != "3"] == ["1", "2"]
        assert ("3" in parts) == (mode == "hybrid" and text == "cello")
        assert "dense" not in parts.get("3", {})
        assert all(np.isfinite(hit.score) for hit in hits)
    query = Query("oboe", "hybrid", 3)
    hits = await rank_rows(docs.store, docs.collection, query, "oboe", [0.0] * DIMENSIONS)
    assert [hit.key for hit in hits] == ["1"]
    assert np.isfinite(hits[0].score)


async def test_hybrid_scores_every_candidate_by_both_parts(filled: Documents) -> None:
    """Row 200 is not among the nearest hundred; only its words make it a candidate."""
    query = Query("200", "hybrid", 1, weight=0.9)
    [hit] = await rank_rows(filled.store, filled.collection, query, "200", FIRST)
    assert hit.key == "200"
    assert hit.parts["dense"] == pytest.approx(0, abs=1e-6)


async def test_equal_texts_have_equal_keyword_scores(docs: Documents) -> None:
    """This holds for semantic and other candidates, although their sums run in another order."""
    await docs.insert(*["warm tape hiss under a brittle choir"] * 120, *["a brittle harp"] * 7)
    every_other_is_far = [row + 300 * (row % 2) for row in range(120)]
    await docs.embed(directions(600)[[*every_other_is_far, *[599] * 7]])
    query = Query("hiss choir tape brittle", "hybrid", 40, weight=1.0)
    hits = await rank_rows(docs.store, docs.collection, query, query.text, FIRST)
    assert len({hit.parts["keyword"] for hit in hits}) == 1
    assert {int(hit.key) % 2 for hit in hits} == {0, 1}  # neither near nor far rows come first
    assert [hit.key for hit in hits] == sorted(hit.key for hit in hits)


async def test_keywords_match_rows_without_a_vector(filled: Documents) -> None:
    await filled.insert("a brand new oboe")
    for mode in ("hybrid", "keyword"):
        query = Query("oboe", mode, 1, weight=1.0)
        assert await nearest(filled, query) == ["201"]


FILTERS: list[tuple[str, Callable[[int], bool]]] = [
    ("kind = 'brass'", lambda n: n % 4 == 0),
    ("kind != 'brass' and rating >= 0.75", lambda n: n % 4 != 0 and n >= 150),
    ("id in (7, 9, 200)", lambda n: n in (7, 9, 200)),
    ("facts.ratio > 190 or facts.name = 'n3'", lambda n: n > 190 or n == 3),
    ("facts.deep.even = true and id <= 10", lambda n: n % 2 == 0 and n <= 10),
    ("not (id > 5)", lambda n: n <= 5),
    ("facts.missing is null and facts.ratio is not null and id < 4", lambda n: n < 4),
    ("body like '%ber 19_'", lambda n: 190 <= n <= 199),
    ("facts.name > 'n98'", lambda n: f"n{n}" > "n98"),
    ("facts.ratio = 'n3'", lambda n: False),
    ("rating < 0", lambda n: False),
    ("body = 'tuba number 7'' or ''1''=''1'", lambda n: False),
]


@pytest.mark.parametrize("mode", search.MODES)
async def test_filter_returns_exactly_the_matching_rows(
    filled: Documents, mode: search.Mode
) -> None:
    for where, holds in FILTERS:
        keys = await nearest(filled, Query("tuba", mode, 200, where=where))
        assert sorted(map(int, keys)) == [n for n in range(1, 201) if holds(n)], where


REFUSED = [
    ("colour = 'red'", errors.ColumnNotFoundError, "Its columns: id, body, kind"),
    ("rating >= 'high'", errors.UsageError, 'of type real with "high"'),
    ("kind.part = 1", errors.UsageError, "only jsonb has parts"),
    ("embedding = 'x'", errors.UsageError, "cannot compare the column 'embedding'"),
    ("id = 99999999999999999999", errors.UsageError, "of type bigint"),
]


async def test_invalid_filters_are_rejected(filled: Documents) -> None:
    for where, error, message in REFUSED:
        with pytest.raises(error, match=message):
            await nearest(filled, Query("tuba", "hybrid", where=where))


async def test_pages_concatenate_to_one_ranking(filled: Documents) -> None:
    whole = await nearest(filled, Query("tuba number 42", "hybrid", 60))
    pages = [
        key for offset in range(0, 60, 7)
        for key in await nearest(filled, Query("tuba number 42", "hybrid", 7, offset))
    ]  # fmt: skip
    assert pages[:60] == whole
    assert await nearest(filled, Query("tuba", "hybrid", 10, 200)) == []


async def test_vectors_of_other_models_are_ignored(filled: Documents) -> None:
    [other] = await filled.sql(
        "select backline.model_id('hash', 'other', 'v0', %s) as id", DIMENSIONS
    )
    await filled.sql(
        "update backline.stamps set model_id = %s where key <= '150' returning 1", other["id"]
    )
    kept = {
        row["key"] for row in await filled.sql("select key from backline.stamps where key > '150'")
    }
    assert set(await nearest(filled, Query("x", "semantic", 200))) == kept
    query = Query("tuba", "hybrid", 200)
    hits = await rank_rows(filled.store, filled.collection, query, "tuba", FIRST)
    assert {hit.key for hit in hits if "dense" in hit.parts} == kept
    assert len(hits) == 200


async def test_query_of_another_model_is_rejected(filled: Documents) -> None:
    with pytest.raises(errors.ModelMismatchError, match="cannot be compared"):
        await search.semantic(filled.store, filled.collection, HashEmbedder(8), "tuba")


@pytest.mark.parametrize("mode", search.MODES)
async def test_row_level_security_applies_in_every_mode(
    filled: Documents, database: str, mode: search.Mode
) -> None:
    """A role that may read 20 of 200 rows gets exactly those 20."""
    await filled.sql("alter table docs enable row level security; select 1")
    await filled.sql("create policy few on docs for select using (id > 180); select 1")
    await filled.sql("drop role if exists searcher; create role searcher; select 1")
    await filled.sql("grant select on docs to searcher; select backline.allow_search('searcher')")
    vector = None if mode == "keyword" else FIRST
    statement = "select key from backline.search(%s, %s, 'tuba', %s::real[], 50)"
    with psycopg.connect(database) as connection:
        connection.execute("set role searcher")
        rows = connection.execute(statement, [filled.collection.id, mode, vector]).fetchall()
        assert sorted(int(key) for (key,) in rows) == list(range(181, 201))
        for table in ("stamps", "postings", "documents", "collections"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(
                    sql.SQL("select * from backline.{}").format(sql.Identifier(table))
                )
        connection.rollback()
        connection.execute("revoke select on docs from searcher")
        connection.execute("set role searcher")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement, [filled.collection.id, mode, vector])
        connection.rollback()
    await filled.sql("drop owned by searcher; drop role searcher; select 1")


async def test_snippets_mark_matches_and_escape_the_rest(docs: Documents) -> None:
    await docs.insert(
        "Cut 3 dB and the vocals get clearer, <b>200</b> Hz & up. " + "Filler words here. " * 60
    )
    for text in ("vocal", "vocl"):
        [hit] = await search.search(
            docs.store, docs.collection, None, Query(text, "keyword", snippets=True)
        )
        assert hit.snippet is not None
        assert "<mark>vocals</mark>" in hit.snippet
        assert "Hz &amp; up" in hit.snippet
        assert "<b>" not in hit.snippet
        assert len(hit.snippet) < 400


QUERIES = [
    "'", '"', "\\", "'; drop table docs; --", "a' & 'b", "a | b & !c <-> d:*", "(((", "%s %(x)s {}",
    "tuba:*A", "🎺🎷 tuba", "\u0000tuba\u0000", "\ud800", "\u202etuba", "-", "...", "tuba " * 2000,
    "x" * 10_000, "a-" * 5000, "word" * 3000, "$1 $2 $$", "\n\t tuba \r", "ﷺ" * 500, "1" * 400,
    "' || (select 1) || '", "\x01\x02", "the of and", "<script>alert(1)</script>", "tuba\\'",
]  # fmt: skip


@pytest.mark.parametrize("mode", search.MODES)
async def test_odd_queries_do_not_fail(docs: Documents, mode: search.Mode) -> None:
    await docs.insert("a tuba", "an oboe", "x-y z")
    await docs.embed()
    for query in QUERIES:
        hits = await search.search(
            docs.store, docs.collection, docs.embedder, Query(query, mode, snippets=True)
        )
        if mode == "semantic":
            assert len(hits) == 3
        elif "tuba" in query.split():
            [tuba] = [hit for hit in hits if "keyword" in hit.parts]
            assert tuba.content == "a tuba", query


async def test_empty_query_is_rejected(docs: Documents) -> None:
    for query in ("", "   ", "\0", "\n\t"):
        with pytest.raises(errors.UsageError, match="empty"):
            await search.search(docs.store, docs.collection, docs.embedder, query)


async def test_options_out_of_range_are_rejected(docs: Documents) -> None:
    for query, message in (
        (Query("x", limit=0), "limit"),
        (Query("x", limit=1001), "limit"),
        (Query("x", offset=-1), "offset"),
        (Query("x", weight=1.5), "weight"),
        (Query("x", mode="fuzzy"), "hybrid, semantic, keyword"),  # type: ignore[arg-type]
    ):
        with pytest.raises(errors.UsageError, match=message):
            await search.search(docs.store, docs.collection, docs.embedder, query)


async def test_empty_table_has_no_hits(docs: Documents) -> None:
    for mode in search.MODES:
        assert (
            await search.search(docs.store, docs.collection, docs.embedder, Query("x", mode)) == []
        )


async def test_search_is_read_only(docs: Documents, database: str) -> None:
    """A read-only search runs on a replica, and PostgREST may call it by GET."""
    await docs.insert("a tuba")
    await docs.embed()
    async with open_store(database) as other, other.connector.transaction() as transaction:
        await transaction.execute("set transaction read only")
        rows = await transaction.fetch(
            "select key from backline.search(%s, 'hybrid', 'tuba', %s::real[], 5, 0, %s::jsonb)",
            [docs.collection.id, FIRST, json.dumps({"op": "=", "path": ["id"], "value": 1})],
        )
    assert [row["key"] for row in rows] == ["1"]
