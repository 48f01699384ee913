"""The comparison of two collections over one table, against searches of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.harness import (
    QUICK,
    World,
    declare,
    make_world,
    quick_limiter,
    standin_embedder,
)
from tests.provider import StandInProvider

from backline import errors, model_change, search
from backline.backfill import Backfill
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder
from backline.postgres.store import Store
from backline.search import Query, agreement, compare, evaluate, query_sets
from backline.search.compare import CollectionComparison, Side
from backline.search.query_sets import QuerySet, listed_queries

DDL = "create table notes (id bigint primary key, title text, body text)"
WORDS = ("tuba", "oboe", "harp", "bell", "drum")
ROWS = 30


@dataclass
class Pair:
    """A table with two collections of different models."""

    world: World
    serving: Side
    candidate: Side

    @property
    def store(self) -> Store:
        return self.world.store

    async def fill_candidate(self) -> None:
        await fill(self.store, self.candidate)

    async def compare(self, asked: QuerySet, *, partial: bool = False) -> CollectionComparison:
        return await compare.compare(
            self.store, self.serving, self.candidate, asked, partial=partial
        )


async def fill(store: Store, side: Side) -> None:
    await Backfill(store, side.collection, side.embedder, side.limiter, QUICK).run()


async def begin_change(world: World, embedder: Embedder) -> Side:
    """Begin a change of the model, and return the target to fill."""
    target = model_change.NewTarget(embedder.model)
    change = await model_change.begin(world.store, world.collection, target)
    collection = await model_change.new_target(world.store, change)
    return Side(collection, embedder, quick_limiter())


async def second(store: Store, embedder: Embedder, name: str) -> Side:
    """Declare another collection over the table."""
    collection = await declare(store, embedder, name=name, column=f"e{embedder.model.dimensions}")
    return Side(collection, embedder, quick_limiter())


@pytest.fixture
async def pair(store: Store) -> AsyncIterator[Pair]:
    """A serving collection that is filled, and a candidate without vectors."""
    async with make_world(store, ddl=DDL, into=None) as world:
        for n in range(1, ROWS + 1):
            words = f"{WORDS[n % 5]} {WORDS[n % 3]} number {n}"
            await world.sql("insert into notes values (%s, %s, %s)", n, f"Note {n}", words)
        serving = Side(world.collection, world.embedder)
        await fill(store, serving)
        yield Pair(world, serving, await begin_change(world, HashEmbedder(16)))


def judged(relevant: Mapping[str, Mapping[str, int]]) -> QuerySet:
    return QuerySet("judged", {text: text for text in relevant}, relevant, "a set")


ASKED = listed_queries(["tuba tuba number 3", "oboe", "harp bell", "drum number 9"], "a list")


async def test_a_collection_agrees_fully_with_itself(pair: Pair) -> None:
    result = await compare.compare(pair.store, pair.serving, pair.serving, ASKED)
    for mode in result.as_dict()["modes"]:
        assert mode["overlap"] == {
            "mean": 1.0, "median": 1.0, "p10": 1.0, "histogram": [0] * 10 + [len(ASKED.texts)],
        }  # fmt: skip
        assert mode["rbo"] == {"mean": 1.0, "median": 1.0, "p10": 1.0}
        assert (mode["unchanged"], mode["moved"], mode["ndcg"]) == (len(ASKED.texts), [], None)


async def test_rankings_are_those_of_the_public_search(pair: Pair) -> None:
    await pair.fill_candidate()
    result = await pair.compare(ASKED)
    assert [mode.mode for mode in result.modes] == ["semantic", "hybrid"]
    for mode in result.modes:
        for compared in mode.queries:
            rankings = [
                await search.search(
                    pair.store, side.collection, side.embedder, Query(compared.query, mode.mode)
                )
                for side in (pair.serving, pair.candidate)
            ]
            one, other = ([hit.key for hit in hits] for hits in rankings)
            assert one != other
            assert compared.rbo == agreement.rank_biased_overlap(one, other)
            assert compared.overlap == len(set(one) & set(other)) / 10
            assert [row.key for row in compared.serving] == one[:3]
            assert [row.key for row in compared.candidate] == other[:3]
            assert compared.serving[0].title == f"Note {one[0]}"
        moved = mode.moved()
        assert [each.rbo for each in moved] == sorted(each.rbo for each in mode.queries)


async def test_ndcg_and_its_bootstrap_agree_with_eval(pair: Pair) -> None:
    await pair.fill_candidate()
    relevant = {
        "tuba tuba number 3": {"3": 2, "15": 1},
        "oboe": {"1": 1, "6": 1, "11": 2},
        "harp bell": {"2": 1},
        "drum oboe number 4": {"4": 1, "9": 1},
        "bell": {"8": 1},
    }
    result = await pair.compare(judged(relevant))
    dataset = evaluate.Dataset("a set", "test", None, {text: text for text in relevant}, relevant)
    for mode in result.modes:
        serving, candidate = [
            await evaluate.evaluate(pair.store, side.collection, side.embedder, dataset, mode.mode)
            for side in (pair.serving, pair.candidate)
        ]
        test = evaluate.compare(candidate.ndcg_10, serving.ndcg_10)
        ndcg = mode.as_dict()["ndcg"]
        assert ndcg["serving"] == round(float(serving.ndcg_10.mean()), 4)
        assert ndcg["candidate"] == round(float(candidate.ndcg_10.mean()), 4)
        assert [ndcg[name] for name in ("difference", "low", "high", "p_value")] == [
            round(value, 4) for value in (test.difference, test.low, test.high, test.p_value)
        ]
        losses = candidate.ndcg_10 - serving.ndcg_10
        assert [each["query"] for each in ndcg["worse"]] == [
            text for loss, text in sorted(zip(losses, relevant, strict=True)) if loss < 0
        ]


async def test_incomplete_candidate_is_refused_unless_partial(pair: Pair) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"0 of 30 rows.*--partial"):
        await pair.compare(ASKED)
    await pair.fill_candidate()
    await pair.world.sql("insert into notes values (31, 'new', 'new')")
    with pytest.raises(errors.ConfigurationError, match="30 of 31 rows"):
        await pair.compare(ASKED)
    result = (await pair.compare(ASKED, partial=True)).as_dict()
    assert result["candidate"]["vectors"] == 30
    assert (result["candidate"]["rows"], result["candidate"]["complete"]) == (31, False)


async def test_rows_that_wait_for_a_newer_vector_count_as_filled(pair: Pair) -> None:
    """Otherwise a table with live edits could never be compared."""
    await pair.fill_candidate()
    await pair.world.sql("update notes set body = body || ' edited'")
    for side in (pair.serving, pair.candidate):
        await pair.world.sql("select backline.apply_changes(%s)", side.collection.id)
    coverage = await pair.store.coverage(pair.candidate.collection)
    assert coverage.pending == ROWS
    assert (await pair.compare(ASKED)).filled.complete


async def test_vectors_of_the_former_model_do_not_count(pair: Pair) -> None:
    await pair.fill_candidate()
    other = HashEmbedder(16).model
    await pair.store.set_model(
        pair.candidate.collection, type(other)("hash", "hash", "v2", 16, other.max_tokens)
    )
    with pytest.raises(errors.ConfigurationError, match="0 of 30 rows"):
        await compare.filled(pair.store, await pair.store.collection("notes@next"))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("77", r"no row with the key '77', which a set judges; 1 of 2 judged keys"),
        ("03", r"no row with the key '03'"),
        ("three", r"no row with the key 'three'"),
    ],
)
async def test_judged_key_without_a_row_is_refused(pair: Pair, key: str, message: str) -> None:
    await pair.fill_candidate()
    with pytest.raises(errors.UsageError, match=message):
        await pair.compare(judged({"tuba": {"3": 1, key: 1}}))


async def test_pair_is_named_or_the_filling_target(pair: Pair) -> None:
    names = [each.name for each in await compare.pair(pair.store, "notes", None)]
    assert names == ["notes", "notes@next"]
    await second(pair.store, HashEmbedder(4), "another")
    names = [each.name for each in await compare.pair(pair.store, "notes", "another")]
    assert names == ["notes", "another"]
    with pytest.raises(errors.CollectionNotFoundError, match=r"'another@next'.*--with NAME"):
        await compare.pair(pair.store, "another", None)
    await pair.world.sql("create table songs (id bigint primary key, body text)")
    await declare(pair.store, HashEmbedder(4), table="songs")
    with pytest.raises(errors.UsageError, match=r"public\.notes \(id\).*public\.songs \(id\)"):
        await compare.pair(pair.store, "notes", "songs")


async def test_embedder_of_another_model_is_refused(pair: Pair) -> None:
    await pair.fill_candidate()
    wrong = Side(pair.candidate.collection, pair.serving.embedder)
    with pytest.raises(errors.ModelMismatchError):
        await compare.compare(pair.store, pair.serving, wrong, ASKED)


async def test_queries_are_embedded_in_batches_and_again_after_a_refusal(
    pair: Pair, provider: StandInProvider
) -> None:
    side = await second(pair.store, standin_embedder(provider, 12), "paid")
    try:
        await fill(pair.store, side)
        provider.reset()
        provider.fail_next(429)
        provider.fail_next(500)
        asked = listed_queries([f"tuba number {n}" for n in range(70)], "a list")
        result = await compare.compare(pair.store, pair.serving, side, asked)
        assert len(result.modes[0].queries) == 70
        assert len(provider.calls) == 4  # two that fail, and batches of 50 and 20
    finally:
        await side.embedder.aclose()


async def test_latest_five_evaluations_are_kept(pair: Pair) -> None:
    collection = pair.serving.collection
    assert await compare.latest_evaluation(pair.store, collection) is None
    for n in range(7):
        asked = listed_queries([f"tuba {n}"], f"list {n}")
        result = await compare.compare(pair.store, pair.serving, pair.serving, asked)
        made_at = await compare.store_evaluation(pair.store, result)
    latest = await compare.latest_evaluation(pair.store, collection)
    assert latest is not None
    assert (latest.made_at, latest.result) == (made_at, result.as_dict())
    rows = await pair.world.sql(
        "select result ->> 'name' as n from backline.evaluations order by id"
    )
    assert [row["n"] for row in rows] == [f"list {n}" for n in range(2, 7)]
    await model_change.discard(pair.store, "notes", retire=False)
    await pair.store.drop_collection(collection, drop_column=False)
    assert await pair.world.sql("select from backline.evaluations") == []


# --- the files of queries -------------------------------------------------------------------------


def test_queries_are_read_from_lines_and_from_json_lines(tmp_path: Path) -> None:
    lines = tmp_path / "queries.txt"
    lines.write_text("tuba\n\n  oboe \ntuba\n{not json}\n")
    assert list(query_sets.read_queries(lines).texts.values()) == ["tuba", "oboe", "{not json}"]
    records = tmp_path / "queries.jsonl"
    records.write_text('{"_id": "q1", "text": "tuba"}\n{"text": "oboe"}\n')
    assert list(query_sets.read_queries(records).texts.values()) == ["tuba", "oboe"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n", "no query with text in empty.txt"),
        ("bad.jsonl", b'{"text": "a"}\n["b"]\n', "line 2 is not a JSON object"),
        ("bad.txt", b"\xff\xfe\xff", "cannot be read"),
        ("missing.txt", None, "cannot be read"),
    ],
)
def test_unreadable_files_of_queries_are_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.ConfigurationError, match=message):
        query_sets.read_queries(tmp_path / name)
