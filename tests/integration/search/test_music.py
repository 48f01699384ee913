"""The packaged advice base with the default model: its suggestions, and off-topic prompts.

The lower bounds are slightly below the measured values: they detect a regression, but not rounding.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.conftest import Postgres

from backline import search
from backline.backfill import Backfill
from backline.cli import demo
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.embedders.providers import open_embedder
from backline.postgres.store import Store, open_store
from backline.search import Context, evaluate
from backline.types import Collection
from backline.worker.options import WorkerOptions

QUESTIONS = Path(str(resources.files("backline") / "data" / "music_questions"))


@pytest.fixture(scope="module")
def music(postgres: Postgres) -> Iterator[str]:
    """The URL of a database with the advice base, filled by the local model."""
    name = postgres.create()
    asyncio.run(_fill(postgres.url(name)))
    yield postgres.url(name)
    postgres.drop(name)


async def _fill(url: str) -> None:
    async with open_store(url) as store:
        await demo.seed(store)
        collection = await store.collection()
        embedder = await open_embedder("local")
        limiter = Limiter(max_concurrency=2)
        report = await Backfill(store, collection, embedder, limiter, WorkerOptions()).run()
        await embedder.aclose()
        assert report.complete


@pytest.fixture
async def filled(music: str) -> AsyncIterator[tuple[Store, Collection, Embedder]]:
    embedder = await open_embedder("local")
    async with open_store(music) as store:
        yield store, await store.collection(), embedder
    await embedder.aclose()


Filled = tuple[Store, Collection, Embedder]


async def test_ranking_quality_on_the_judged_questions(filled: Filled) -> None:
    """Uses a third of the questions for speed; `backline eval` runs all."""
    store, collection, embedder = filled
    whole = evaluate.read_dataset(QUESTIONS)
    some = dict(list(whole.queries.items())[::3])
    part = evaluate.Dataset(whole.name, whole.split, None, some, whole.judgments)
    results = {
        mode: await evaluate.evaluate(store, collection, embedder, part, mode)
        for mode in search.MODES
    }
    means = {mode: float(result.ndcg_10.mean()) for mode, result in results.items()}
    assert means["hybrid"] >= 0.83
    assert means["hybrid"] >= max(means["keyword"], means["semantic"])
    assert results["hybrid"].first.mean() >= 0.9
    assert results["hybrid"].recall_100.mean() >= 0.95


async def test_off_topic_prompts_get_no_suggestions(filled: Filled) -> None:
    store, collection, embedder = filled
    lines = (QUESTIONS / "queries.jsonl").read_text("utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    off = [q["text"] for q in questions if q["metadata"]["kind"] == "off_topic"]
    on = [q["text"] for q in questions if q["metadata"]["kind"] != "off_topic"][::6]
    rejected = [not (await search.suggest(store, collection, embedder, text)).known for text in off]
    accepted = [(await search.suggest(store, collection, embedder, text)).known for text in on]
    assert np.mean(rejected) >= 0.88
    assert np.mean(accepted) >= 0.9


async def test_suggestion_has_parameters_confidence_and_reason(filled: Filled) -> None:
    store, collection, embedder = filled
    prompt = "my vocals sound muddy and boxy"
    result = await search.suggest(
        store, collection, embedder, prompt, Context(focus="eq", track_type="vocals")
    )
    assert result.known
    first = result.suggestions[0]
    assert first.title == "Clear muddy vocals at 200 to 400 Hz"
    assert first.parameters["frequency_hz"] == 300
    assert first.confidence == pytest.approx(0.9)
    assert "muddy" in first.reason
    assert "is about eq, as requested" in first.reason
    assert len({each.key for each in result.suggestions}) == len(result.suggestions) <= 5


async def test_unknown_topic_returns_nothing_known(filled: Filled) -> None:
    result = await search.suggest(*filled, "best pizza near me")
    assert (result.known, result.suggestions) == (False, ())
    assert result.message == "Nothing relevant is known about this."


async def test_context_raises_matching_suggestions(filled: Filled) -> None:
    prompt = "sidechain compression on the kick"
    free = await search.suggest(*filled, prompt)
    bound = await search.suggest(*filled, prompt, Context(genre="house", bpm=128))
    title = "Create an EDM pumping sidechain"
    [before], [after] = [
        [each for each in result.suggestions if each.title == title] for result in (free, bound)
    ]
    assert after.score == pytest.approx(before.score + 0.1)
    assert after.relevance == pytest.approx(before.relevance)
    assert "covers house; suits 128 bpm" in after.reason


async def test_row_without_title_and_asked_as_embeds_topic_category_and_suggestion(
    filled: Filled,
) -> None:
    store, collection, _ = filled
    [row] = await store.connector.fetch(
        "select text_sql from backline.collections where id = %s", [collection.id]
    )
    [row] = await store.connector.fetch(
        f"select {row['text_sql']} as text from (select 'eq' as topic, 'mixing' as category, "
        "'' as title, 'Cut at 300 Hz.' as suggestion, '' as asked_as) r"
    )
    assert row["text"] == "eq mixing Cut at 300 Hz."


# --- calls of the web client ----------------------------------------------------------------------


def as_anon(url: str, statement: str, *params: object) -> list[dict[str, Any]]:
    """Return the rows of a statement for the public key's role, in a read-only transaction."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.read_only = True
        connection.execute("set local role anon")
        return connection.execute(statement, params).fetchall()


def test_anon_searches_by_keywords(music: str) -> None:
    search_ = "select * from public.search_music_knowledge(%s, %s, %s)"
    rows = as_anon(music, search_, "muddy vocals", None, 3)
    assert rows[0]["title"] == "Clear muddy vocals at 200 to 400 Hz"
    assert len(rows) == 3
    assert {row["category"] for row in as_anon(music, search_, "vocals", "mixing", 5)} == {"mixing"}
    assert len(as_anon(music, search_, "", None, 7)) == 7
    assert as_anon(music, search_, "'; zzyzx --", None, 5) == []


def test_anon_gets_suggestions_or_nothing_known(music: str) -> None:
    statement = "select * from public.get_music_suggestions(%s, %s)"
    [first, *_] = as_anon(music, statement, "my vocals sound muddy and boxy", None)
    assert "vocal" in first["title"].lower()
    assert first["reason"].startswith("Shares distinctive words")
    assert as_anon(music, statement, "best pizza near me", None) == []
    assert as_anon(music, statement, " ", None) == []
    fitting = as_anon(music, statement, "my vocals sound muddy and boxy", "Gain staging")
    plain = as_anon(music, statement, "my vocals sound muddy and boxy", None)
    assert {row["topic"] for row in plain} != {None}
    assert len(fitting) <= 5


def test_anon_matches_a_vector(music: str) -> None:
    with psycopg.connect(music, row_factory=dict_row) as connection:
        one = connection.execute(
            "select id, embedding::text as v from public.music_knowledge order by id limit 1"
        ).fetchone()
    assert one is not None
    match = "select * from public.match_music_knowledge(%s::extensions.vector, %s, %s)"
    rows = as_anon(music, match, one["v"], 0.5, 5)
    assert rows[0]["id"] == one["id"]
    assert rows[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert all(row["similarity"] > 0.5 for row in rows)
    hybrid = "select * from public.hybrid_search_music_knowledge(%s, %s::extensions.vector, %s)"
    rows = as_anon(music, hybrid, "reverb", one["v"], 4)
    assert len(rows) == 4
    assert [row["score"] for row in rows] == sorted((r["score"] for r in rows), reverse=True)


def test_functions_respect_row_level_security(music: str) -> None:
    with psycopg.connect(music) as connection:
        connection.execute('drop policy "anyone reads" on public.music_knowledge')
        connection.execute(
            "create policy few on public.music_knowledge for select using (category = 'mastering')"
        )
        connection.execute("set local role anon")
        rows = connection.execute(
            "select distinct category from public.search_music_knowledge('vocal limiter', null, 50)"
        ).fetchall()
        connection.rollback()
    assert rows == [("mastering",)]


@pytest.mark.parametrize("table", ["collections", "postings", "documents", "stamps", "synonyms"])
def test_anon_cannot_read_the_private_schema(music: str, table: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_anon(music, f"select * from backline.{table}")


@pytest.mark.parametrize(
    "call",
    [
        "backline.set_keywords(1)", "backline.compact_keywords(1)",
        "backline.set_synonyms(1, '{}')", "backline.empty_keywords(1, true)",
        "backline.drop_collection(1, true)",
        "backline.allow_search('anon')", "backline.build_keywords_page(1, null, 10)",
    ],
)  # fmt: skip
def test_anon_cannot_change_anything(music: str, call: str) -> None:
    with (
        psycopg.connect(music) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for function"),
    ):
        connection.execute("set local role anon")
        connection.execute(f"select {call}")
