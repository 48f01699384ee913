"""Random edits, appliers and maintenance at once leave the keyword index of a new build."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from tests.integration.search.conftest import Documents

from backline import search
from backline.postgres.store import Store, open_store

WORDS = [f"w{n}" for n in range(60)]
EDITS = 120

# The documents of each posting with its numbers, and how often it was added and removed.
POSTINGS = """
select n.term, d.key, n.times, n.inverse_tf, n.length
from (
  select p.term, u.doc, sum(sign(p.size)) as times, max(u.inverse_tf) as inverse_tf,
         max(u.length) as length
  from backline.postings p, unnest(p.docs, p.inverse_tfs, p.lengths) as u(doc, inverse_tf, length)
  where p.collection_id = %(c)s group by p.term, u.doc having sum(sign(p.size)) <> 0
) n
left join backline.documents d on d.collection_id = %(c)s and d.doc = n.doc
order by 1, 2
"""
DOCUMENTS = """
select d.key, d.length, array(select t from unnest(d.terms) t order by t) as terms
from backline.documents d where d.collection_id = %(c)s order by 1
"""
COUNTS = """
select sum(n.documents) as documents, sum(n.length) as length
from backline.document_counts n where n.collection_id = %(c)s
"""
SIZES = """
select p.term, sum(p.size) as size from backline.postings p
where p.collection_id = %(c)s group by p.term having sum(p.size) <> 0 order by 1
"""


async def contents(docs: Documents) -> list[list[dict[str, object]]]:
    """Return what the index holds, without the numbers of documents."""
    values = {"c": docs.collection.id}
    return [
        await docs.store.connector.fetch(statement, values)
        for statement in (DOCUMENTS, POSTINGS, COUNTS, SIZES)
    ]


def body(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(0, 12))) + rng.choice(["", " lo-fi", " w-1"])


async def edit(store: Store, rng: random.Random) -> None:
    """Change some rows in one statement; a third of them are rolled back."""
    some, text = rng.randint(2, 40), body(rng)
    choices: list[tuple[str, list[object]]] = [
        ("insert into docs (body, kind) select %s || n, 'w1' from generate_series(1, %s) n",
         [text, some]),
        ("update docs set body = %s where id %% %s = 1", [text, some]),
        ("update docs set body = null where id %% 50 = %s", [some]),
        ("update docs set kind = %s where id %% 60 = %s", [text, some]),
        ("update docs set views = views + 1 where id %% 20 = %s", [some]),
        ("update docs set id = id + 100000 where id %% 60 = %s", [some]),
        ("delete from docs where id %% 60 = %s", [some]),
    ]  # fmt: skip
    statement, params = rng.choice(choices)
    async with store.connector.transaction() as transaction:
        await transaction.execute("savepoint before")
        await transaction.execute(statement, params)
        await asyncio.sleep(rng.choice([0, 0, 0.02]))
        if rng.random() < 0.3:
            await transaction.execute("rollback to savepoint before")


async def apply(docs: Documents, store: Store, rng: random.Random) -> None:
    await store.connector.fetch(
        "select backline.apply_changes(%s, false, %s)", [docs.collection.id, rng.randint(1, 200)]
    )


async def maintain(docs: Documents, store: Store, rng: random.Random) -> None:
    """Do what commands and workers do to an index."""
    number = docs.collection.id
    choices: list[tuple[str, list[object]]] = [
        ("select backline.build_keywords_page(%s, %s, 300)",
         [number, rng.choice([None, "300", "900"])]),
        ("select backline.build_keywords_page(%s, null, 5000)", [number]),
        ("select backline.keywords_are_built(%s)", [number]),
        ("select backline.compact_keywords(%s, true)", [number]),
        ("select backline.compact_keywords(%s, true)", [number]),
        ("select backline.set_keywords(%s, %s, %s::text::regconfig)",
         [number, rng.choice(["{body}", "{kind} {body}", "{kind} {kind} {body}"]),
          rng.choice(["simple", "english"])]),
    ]  # fmt: skip
    statement, params = rng.choice(choices)
    await store.connector.fetch(statement, params)


async def repeat(step: Callable[[], Awaitable[None]], until: Callable[[], bool]) -> None:
    while not until():
        await step()
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(4))
async def test_index_after_concurrent_work_equals_one_built_anew(
    docs: Documents, database: str, seed: int
) -> None:
    rng = random.Random(seed)
    await docs.insert(*(body(rng) for _ in range(1100)))
    left = EDITS

    async def write() -> None:
        nonlocal left
        await edit(docs.store, rng)
        left -= 1

    def written() -> bool:
        return left <= 0

    async with open_store(database) as first, open_store(database) as second:
        await asyncio.gather(
            repeat(write, written),
            repeat(write, written),
            *(repeat(partial(work, docs, store, rng), written)
              for work in (apply, maintain) for store in (first, second)),
        )  # fmt: skip
    await docs.apply_changes()
    await search.ensure_index(docs.store, docs.collection)
    found = await contents(docs)
    assert all(row["times"] == 1 and row["key"] is not None for row in found[1])
    await search.ensure_index(docs.store, docs.collection, rebuild=True)
    assert found == await contents(docs)
