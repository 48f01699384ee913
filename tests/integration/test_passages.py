"""Texts that are split into passages: each has its vector, and an edit sends what changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.integration.harness import World, make_world, overpaid
from tests.provider import StandInProvider

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.estimation import estimate
from backline.postgres.store import Store
from backline.reconcile import Reconciliation
from backline.search.indexes import ensure_index, ensure_vectors
from backline.search.query import Mode, Query, search
from backline.server.map import MapCache
from backline.types import SearchHit, Splitting
from backline.verification import verify

SPLITTING = Splitting("auto", 48)
SIDE = "backline_vectors.note_passages"


def paragraph(number: int) -> str:
    """Return a paragraph that fills a passage by itself."""
    return " ".join(f"w{number:03}x{n}" for n in range(7)) + "."


def document(first: int = 0, count: int = 100) -> list[str]:
    """Return the paragraphs of a document."""
    return [paragraph(n) for n in range(first, first + count)]


def text_of(first: int = 0, count: int = 100) -> str:
    return "\n\n".join(document(first, count))


@pytest.fixture
async def world(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    """An empty collection `notes` of passages, embedded by the stand-in provider."""
    async with make_world(store, provider, into="note_passages", splitting=SPLITTING) as world:
        yield world


async def passages(world: World, key: int = 1) -> list[dict[str, Any]]:
    """Return the passages of a row with their texts, in order."""
    return await world.sql(
        "select p.ordinal, p.hash, p.heading, p.embedding::text, "
        'substr(n.body, p.start + 1, p."end" - p.start) as text '
        f"from {SIDE} p join notes n on n.id = p.key_1 where p.key_1 = %s order by p.ordinal",
        key,
    )


async def find(world: World, text: str, mode: Mode = "semantic", **options: Any) -> list[SearchHit]:
    """Search the world's collection."""
    if mode != "semantic":
        await ensure_index(world.store, world.collection)
    query = replace(Query(text, mode), **options)
    return await search(world.store, world.collection, world.embedder, query)


async def edit(world: World, provider: StandInProvider, parts: list[str]) -> int:
    """Change the text of row 1, and return how many texts were sent for it."""
    before = sum(provider.texts_embedded.values())
    await world.sql("update notes set body = %s where id = 1", "\n\n".join(parts))
    await world.fill()
    await world.check_complete()
    assert [each["text"] for each in await passages(world)] == parts
    return sum(provider.texts_embedded.values()) - before


# --- edits ----------------------------------------------------------------------------------------


async def test_edits_of_a_document_send_at_most_three_texts(
    world: World, provider: StandInProvider
) -> None:
    parts = document()
    await world.insert("\n\n".join(parts), "short", "")
    report = await world.fill()
    assert (report.embedded, report.failed, report.complete) == (2, 0, True)
    [run] = await world.store.runs(world.collection)
    assert run.passages == 101
    found = await passages(world)
    assert [each["text"] for each in found] == parts
    for each in found:
        assert each["hash"] == hashlib.sha256(each["text"].encode()).digest()
    await world.check_complete()

    parts[50] = paragraph(200)
    assert 1 <= await edit(world, provider, parts) <= 3
    parts.insert(0, paragraph(300))
    assert 1 <= await edit(world, provider, parts) <= 3
    del parts[40]
    assert await edit(world, provider, parts) <= 3
    assert overpaid(provider) == {}


async def test_moved_passages_keep_their_vectors(store: Store, provider: StandInProvider) -> None:
    """Also without the cache: the vectors are those of the row."""
    async with make_world(store, provider, into="note_passages", splitting=SPLITTING) as world:
        world.options = replace(world.options, cache_bytes=0)
        parts = document(0, 30)
        await world.insert("\n\n".join(parts))
        await world.fill()
        assert await world.sql("select 1 from backline.vectors") == []
        before = {each["hash"]: each["embedding"] for each in await passages(world)}
        assert await edit(world, provider, parts[::-1]) == 0
        assert {each["hash"]: each["embedding"] for each in await passages(world)} == before
        assert await edit(world, provider, [*parts[15:], *parts[:15]]) == 0


async def test_shorter_and_blank_texts_leave_no_passages(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(text_of(0, 20), text_of(20, 20), text_of(40, 20))
    await world.fill()
    assert await edit(world, provider, document(0, 5)) == 0
    await world.sql("update notes set body = '' where id = 2")
    await world.sql("delete from notes where id = 3")
    await world.fill()
    await world.check_complete()
    rows = await world.sql(f"select key_1, count(*) as n from {SIDE} group by 1")
    assert [(row["key_1"], row["n"]) for row in rows] == [(1, 5)]


async def test_headings_are_embedded_with_their_passages(
    world: World, provider: StandInProvider
) -> None:
    body = f"# Manual\n\n{text_of(0, 3)}\n\n## Faders\n\n{text_of(3, 3)}"
    await world.insert(body)
    await world.fill()
    await world.check_complete()
    assert f"Manual > Faders\n{paragraph(4)}" in provider.texts_embedded
    assert {each["heading"] for each in await passages(world)} == {"Manual", "Manual > Faders"}


async def test_key_with_any_name_finds_the_passages_of_its_row(
    store: Store, provider: StandInProvider
) -> None:
    ddl = 'create table notes ("e.id, or e.key" int primary key, body text)'
    options: dict[str, Any] = {"into": "note_passages", "splitting": SPLITTING}
    async with make_world(store, provider, ddl=ddl, **options) as world:
        await world.sql("insert into notes values (1, %s)", text_of(count=3))
        await world.fill()
        await world.sql("update notes set body = body || %s", "\n\n" + paragraph(3))
        await world.fill()
        await world.check_complete()
    assert sum(provider.texts_embedded.values()) == 4


async def test_text_of_several_rows_is_sent_once(world: World, provider: StandInProvider) -> None:
    await world.insert(*[text_of(0, 10)] * 5, text_of(5, 10))
    await world.fill()
    await world.fill()
    await world.check_complete()
    [row] = await world.sql(f"select count(*) as n from {SIDE}")
    assert row["n"] == 60
    assert max(provider.texts_embedded.values()) <= 2


async def test_edit_during_a_call_is_not_overwritten(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(text_of(0, 30))
    with provider.held():
        filling = asyncio.create_task(world.fill())
        await asyncio.to_thread(provider.wait_in_flight)
        await world.sql("update notes set body = %s where id = 1", text_of(10, 30))
    await filling
    await world.fill()
    await world.check_complete()
    assert [each["text"] for each in await passages(world)] == document(10, 30)


async def test_change_of_model_embeds_every_passage_again(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(text_of(0, 10))
    await world.fill()
    model = replace(world.collection.model, revision="2")
    await world.store.set_model(world.collection, model)
    world.collection = await world.store.collection("notes")
    known = await world.store.known_passages(
        world.collection, [("1", each["hash"]) for each in await passages(world)]
    )
    assert known == [False] * 10


# --- failures -------------------------------------------------------------------------------------


async def test_rejected_passage_makes_its_row_alone_a_dead_letter(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON", reject_message="I will not embed this.")
    poisoned = [*document(0, 9), "POISON", *document(9, 9)]
    await world.insert(text_of(20, 20), "\n\n".join(poisoned), text_of(40, 20))
    report = await world.fill()
    assert (report.embedded, report.failed) == (2, 1)
    [(key, error)] = (await world.failures()).items()
    assert key == "2"
    assert "I will not embed this." in error
    assert await passages(world, 2) == []
    await world.check_consistent()
    await world.sql("update notes set body = %s where id = 2", text_of(0, 18))
    await world.fill()
    await world.check_complete()


async def test_failed_replacement_leaves_the_earlier_passages(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(text_of(0, 20))
    await world.fill()
    await world.sql(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin if new.ordinal = 15 then raise 'not this one'; end if; return new; end $$"
    )
    await world.sql(
        f"create trigger refuse before insert or update on {SIDE} "
        "for each row execute function refuse()"
    )
    before = await passages(world)
    await world.sql("update notes set body = %s where id = 1", text_of(1, 20))
    await world.fill()
    after = await world.sql(f"select ordinal, embedding::text from {SIDE} order by ordinal")
    assert [row["embedding"] for row in after] == [row["embedding"] for row in before]
    assert list(await world.failures()) == ["1"]
    await world.sql(f"drop trigger refuse on {SIDE}")
    await world.store.retry_failures(world.collection, None)
    await world.fill()
    await world.check_complete()


# --- verify and reconcile -------------------------------------------------------------------------

DAMAGE = {
    "update {side} set embedding = (select embedding from {side} where ordinal = 3) "
    "where ordinal = 5": "not the vector that was written",
    "update {side} a set embedding = b.embedding from {side} b "
    "where a.ordinal in (3, 5) and b.ordinal = 8 - a.ordinal": "not the vector that was written",
    "update {side} set embedding = '[1,1,1,1,1,1,1,1]' where ordinal = 7": "not unit length",
    "delete from {side} where ordinal = 4": "passages missing or added",
    "delete from {side} where ordinal = 9": "passages missing or added",
    "delete from {side} where ordinal = 0 and key_1 = 1": "no vector",
    'insert into {side} select key_1, 10, start, "end", heading, hash, embedding from {side} '
    "where ordinal = 9": "passages missing or added",
    "update {side} set start = start + 1 where ordinal = 2": "not the passages of the text",
    "update {side} set heading = 'Another' where ordinal = 2": "not the passages of the text",
}


@pytest.mark.parametrize("statement", DAMAGE)
async def test_damaged_passages_are_found_and_repaired(world: World, statement: str) -> None:
    await world.insert(text_of(0, 10), "short")
    await world.fill()
    await world.sql(statement.format(side=SIDE))
    assert (await verify(world.store, world.collection)).problems == {DAMAGE[statement]: 1}
    result = await Reconciliation(world.store, world.collection).run()
    assert sum(result.found.values()) == 1
    await world.fill()
    await world.check_complete()
    assert (await Reconciliation(world.store, world.collection).run()).found == {}


async def test_passages_of_rows_that_do_not_exist_are_removed(world: World) -> None:
    await world.insert(text_of(0, 10))
    await world.fill()
    await world.sql(
        f'insert into {SIDE} select k, ordinal, start, "end", heading, hash, embedding '
        f"from {SIDE}, generate_series(7, 40) k"
    )
    result = await Reconciliation(world.store, world.collection).run()
    assert result.found == {"vector of a row that does not exist": 34}
    [row] = await world.sql(f"select count(*) as n from {SIDE}")
    assert row["n"] == 10
    await world.check_complete()


async def test_damaged_vectors_are_not_reused(world: World, provider: StandInProvider) -> None:
    world.options = replace(world.options, cache_bytes=0)
    parts = document(0, 10)
    await world.insert("\n\n".join(parts))
    await world.fill()
    await world.sql(f"update {SIDE} set embedding = '[1,0,0,0,0,0,0,0]' where ordinal = 5")
    parts[0] = paragraph(500)
    assert await edit(world, provider, parts) == 10


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
async def test_search_returns_rows_with_their_best_passages(world: World, mode: Mode) -> None:
    await world.insert(text_of(0, 20), text_of(20, 20), "short", "")
    await world.fill()
    hits = await find(world, paragraph(25), mode, limit=3, snippets=True)
    assert sorted(hit.key for hit in hits) == ["1", "2", "3"]
    assert hits[0].key == "2"
    best = hits[0].passages[0]
    assert (best.ordinal, best.text) == (5, paragraph(25))
    assert best.score == pytest.approx(1, abs=1e-3)
    assert hits[0].parts["dense"] == pytest.approx(1, abs=1e-3)
    assert hits[0].content[best.start : best.end] == best.text
    assert [len(hit.passages) for hit in hits if hit.key != "3"] == [3, 3]
    assert "<mark>" in (hits[0].snippet or "")
    scores = [each.score for each in hits[0].passages]
    assert scores == sorted(scores, reverse=True)


async def test_row_with_many_near_passages_hides_no_other_row(world: World) -> None:
    """The nearest passages are all of one row: the search goes on until it has enough rows."""
    await world.insert(text_of(0, 600), *[paragraph(n) for n in range(900, 920)])
    await world.fill()
    hits = await find(world, paragraph(3), limit=15)
    assert len({hit.key for hit in hits}) == 15


async def test_search_by_keyword_returns_rows(world: World) -> None:
    await world.insert(text_of(0, 20), text_of(20, 20))
    await world.fill()
    hits = await find(world, "w025x3", "keyword", snippets=True)
    assert [(hit.key, hit.passages) for hit in hits] == [("2", ())]


@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
async def test_search_returns_passages_themselves(world: World, mode: Mode) -> None:
    await world.insert(text_of(0, 20), text_of(20, 20))
    await world.fill()
    hits = await find(world, paragraph(25), mode, limit=8, passages=True)
    assert len({(hit.key, hit.passages[0].ordinal) for hit in hits}) == len(hits) == 8
    assert (hits[0].key, hits[0].passages[0].ordinal) == ("2", 5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    second = await find(world, paragraph(25), mode, limit=4, offset=4, passages=True)
    assert [hit.passages for hit in second] == [hit.passages for hit in hits[4:]]


@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
async def test_search_shows_no_passages_of_hidden_rows(world: World, mode: Mode) -> None:
    await world.insert(text_of(0, 20), text_of(20, 20), text_of(40, 20))
    await world.fill()
    await ensure_index(world.store, world.collection)
    await world.sql("alter table notes enable row level security")
    await world.sql("create policy visible on notes for select using (id <> 2)")
    await world.sql("drop role if exists reader_of_passages")
    await world.sql("create role reader_of_passages")
    await world.sql("grant select on notes to reader_of_passages")
    await world.sql("grant usage on schema backline_vectors to reader_of_passages")
    await world.sql(f"grant select on {SIDE} to reader_of_passages")
    await world.sql("select backline.allow_search('reader_of_passages')")
    [vector] = (await world.embedder.embed([paragraph(25)])).tolist()
    async with world.another_user() as reader:
        await reader.execute("set role reader_of_passages")
        cursor = await reader.execute(
            "select key, passages from backline.search(%s, %s, %s, %s::real[], 5)",
            [world.collection.id, mode, paragraph(25), vector],
        )
        rows = await cursor.fetchall()
        assert sorted(row["key"] for row in rows) == ["1", "3"]
        assert all(len(row["passages"]) == 3 for row in rows)
        cursor = await reader.execute(f"select distinct key_1 from {SIDE} order by 1")
        assert [row["key_1"] for row in await cursor.fetchall()] == [1, 3]


async def test_passages_that_cannot_be_ranked_are_refused(
    world: World, store: Store, provider: StandInProvider
) -> None:
    with pytest.raises(errors.UsageError, match="Passages are ranked by meaning"):
        await find(world, "any", "keyword", passages=True)
    await world.store.drop_collection(world.collection, drop_column=True)
    await world.sql("drop table notes")
    async with make_world(store, provider, into="whole") as plain:
        with pytest.raises(errors.UsageError, match="not split into passages"):
            await find(plain, "any", passages=True)


# --- costs ----------------------------------------------------------------------------------------


async def test_estimate_counts_the_passages_to_send(world: World) -> None:
    await world.insert(text_of(0, 50), text_of(0, 50), "short")
    preview = await estimate(world.store, world.collection, world.embedder)
    report = await world.fill()
    assert (preview.unique, preview.long) == (2, 0)
    assert preview.tokens == report.tokens


async def test_program_that_does_not_split_is_refused(store: Store) -> None:
    embedder = HashEmbedder(8)
    async with make_world(
        store, embedder=embedder, into="note_passages", splitting=SPLITTING
    ) as world:
        await world.insert("one")
        await world.enqueue()
        [vector] = (await embedder.embed(["one"])).tolist()
        with pytest.raises(errors.UsageError, match="split into passages"):
            await world.store.connector.execute(
                "select backline.complete(%s, 0, null, false, array['1'], array['embed'], "
                "array[sha256('one')], array[%s::real[]::extensions.vector])",
                [world.collection.id, vector],
            )


# --- comparisons of whole rows --------------------------------------------------------------------


async def test_row_is_compared_by_the_mean_of_its_passages(world: World) -> None:
    """The first passages of rows 1 and 2 are equal, the rest are those of row 3."""
    await world.insert(
        "\n\n".join([paragraph(0), *document(10, 6)]),
        "\n\n".join([paragraph(0), *document(20, 6)]),
        "\n\n".join([paragraph(1), *document(10, 6)]),
    )
    await world.fill()
    vectors = await world.sql(
        "select key_1, extensions.l2_normalize(extensions.avg(embedding))::text as mean "
        f"from {SIDE} group by 1 order by 1"
    )
    one, two, three = (np.array(json.loads(row["mean"])) for row in vectors)
    rows = await world.sql(
        "select one, other, similarity from backline.similarities(%s, '{1,2,3}')",
        world.collection.id,
    )
    found = {(row["one"], row["other"]): row["similarity"] for row in rows}
    assert found == pytest.approx(
        {("1", "2"): one @ two, ("1", "3"): one @ three, ("2", "3"): two @ three}, abs=1e-5
    )
    assert found["1", "3"] > found["1", "2"]


async def test_map_places_a_row_at_the_mean_of_its_passages(world: World) -> None:
    await world.insert(*(text_of(10 * n, 5) for n in range(6)))
    await world.fill()
    before = await MapCache().get(world.store, world.collection, 100)
    assert before.keys == [str(n) for n in range(1, 7)]
    await world.sql(f"update {SIDE} set embedding = (select embedding from {SIDE} where key_1 = 6 "
                    "and ordinal = 1) where key_1 = 1 and ordinal = 2")  # fmt: skip
    after = await MapCache().get(world.store, world.collection, 100)
    assert (after.x[0], after.y[0]) != (before.x[0], before.y[0])


@pytest.mark.parametrize("exact", [True, False])
async def test_nearest_row_is_that_of_the_nearest_passage(world: World, exact: bool) -> None:
    await world.insert(*(text_of(10 * n, 5) for n in range(6)))
    await world.fill()
    await ensure_vectors(world.store, world.collection, smallest=1)
    [last] = await world.sql(f"select embedding::real[] as v from {SIDE} where key_1 = 4 "
                             "order by ordinal desc limit 1")  # fmt: skip
    rows = await world.sql(
        "select key, distance from backline.nearest(%s, %s::real[], 3, %s)",
        world.collection.id, last["v"], exact,
    )  # fmt: skip
    assert rows[0]["key"] == "4" and rows[0]["distance"] < 1e-6
    assert len({row["key"] for row in rows}) == len(rows) == 3


async def test_two_workers_share_the_documents(world: World, provider: StandInProvider) -> None:
    await world.insert(*(text_of(5 * n, 5) for n in range(60)))
    reports = await asyncio.gather(world.fill(), world.fill())
    assert sum(report.embedded for report in reports) >= 60
    await world.check_complete()
    assert overpaid(provider) == Counter()
