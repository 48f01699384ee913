"""BM25 over Postgres: correct scores, also after every kind of edit."""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import psycopg
import pytest
from tests.integration.harness import World, make_world
from tests.integration.search.conftest import Documents

from backline import errors, search
from backline.postgres.store import Store, open_store
from backline.search import indexes

K1, B = 1.2, 0.75
# Letters for the digits: digits inside a word are terms of their own.
LETTERS = str.maketrans("0123456789", "αβγδεζηθικ")
WORDS = [f"w{n}".translate(LETTERS) for n in range(400)]


def zipf_text(rng: random.Random, length: int) -> str:
    """Return words with the frequencies of natural language."""
    return " ".join(
        WORDS[min(int(rng.paretovariate(0.7)) - 1, len(WORDS) - 1)] for _ in range(length)
    )


def bm25(documents: dict[str, str], query: str) -> dict[str, float]:
    """Compute the textbook formula over words separated by white space."""
    counts = {key: Counter(text.split()) for key, text in documents.items()}
    average = sum(sum(c.values()) for c in counts.values()) / len(counts)
    scores: dict[str, float] = defaultdict(float)
    for word, weight in Counter(query.split()).items():
        users = [key for key, count in counts.items() if word in count]
        idf = math.log(1 + (len(counts) - len(users) + 0.5) / (len(users) + 0.5))
        for key in users:
            tf, length = counts[key][word], sum(counts[key].values())
            score = tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / average))
            scores[key] += weight * idf * score
    return scores


async def check_against_textbook(docs: Documents, query: str, limit: int = 10) -> None:
    rows = await docs.sql("select id::text as key, body from docs where body is not null")
    expected = bm25({str(row["key"]): str(row["body"]) for row in rows}, query)
    hits = await search.keyword(docs.store, docs.collection, query, limit)
    best = sorted(expected.values(), reverse=True)[:limit]
    assert [hit.score for hit in hits] == pytest.approx(best, abs=2e-4)
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.key], abs=2e-4)
        assert hit.parts == {"keyword": hit.score}


async def check_counts(docs: Documents) -> None:
    """Assert that the stored counts equal a recount."""
    [row] = await docs.sql(
        "select "
        "(select sum(documents) from backline.document_counts where collection_id = %s) as n, "
        "(select count(*) from docs) as rows, "
        "(select sum(length) from backline.document_counts where collection_id = %s) as length, "
        "(select sum(length) from backline.documents where collection_id = %s) as counted",
        *[docs.collection.id] * 3,
    )
    assert row["n"] == row["rows"]
    assert row["length"] == row["counted"]
    wrong = await docs.sql(
        "with truth as (select t.lexeme as term, count(*) as n from docs r, "
        "  unnest(backline.terms('simple', r.body)) t group by 1), "
        "kept as (select term, sum(size) as n from backline.postings "
        "  where collection_id = %s group by 1) "
        "select * from truth full join kept using (term) "
        "where coalesce(truth.n, 0) <> coalesce(kept.n, 0)",
        docs.collection.id,
    )
    assert wrong == []


async def until(docs: Documents, statement: str) -> None:
    """Wait at most ten seconds until a statement returns a row."""
    for _ in range(1000):
        if await docs.sql(statement):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"never true: {statement}")


@pytest.fixture
async def plain(docs: Documents) -> Documents:
    """Documents indexed without stemming."""
    await search.set_keywords(docs.store, docs.collection, language="simple")
    return docs


async def test_scores_equal_the_textbook_formula(plain: Documents) -> None:
    rng = random.Random(7)
    await plain.insert(*(zipf_text(rng, rng.randint(3, 60)) for _ in range(900)))
    for numbers in ([350], [0], [0, 1, 2], [399, 0, 17, 1], [5] * 3):
        await check_against_textbook(plain, " ".join(WORDS[n] for n in numbers))


async def test_pruning_loses_no_hit(plain: Documents) -> None:
    """There are enough documents that frequent words are read for candidates only."""
    rng = random.Random(11)
    await plain.insert(*(zipf_text(rng, rng.randint(3, 30)) for _ in range(9000)))
    for _ in range(12):
        query = (
            " ".join(rng.choice(WORDS[:40]) for _ in range(2))
            + f" {WORDS[0]} {WORDS[1]} "
            + rng.choice(WORDS)
        )
        await check_against_textbook(plain, query)


async def test_pruning_keeps_documents_that_later_words_can_raise(plain: Documents) -> None:
    """Twelve equally frequent words, with too many postings for one round."""
    rng = random.Random(13)
    await plain.insert(*(" ".join(rng.choices(WORDS[:12], k=5)) for _ in range(6000)))
    await check_against_textbook(plain, " ".join(WORDS[:12]), 50)


async def test_candidates_of_a_hybrid_search_are_scored_exactly(plain: Documents) -> None:
    """Fewer candidates remain than for a ranking, but each is scored by every word."""
    rng = random.Random(17)
    await plain.insert(*(zipf_text(rng, rng.randint(3, 30)) for _ in range(9000)))
    rows = await plain.sql("select id::text as key, body from docs")
    texts = {str(row["key"]): str(row["body"]) for row in rows}
    also = [str(key) for key in range(1, 9000, 300)]
    for _ in range(8):
        query = (
            " ".join(rng.choice(WORDS[:40]) for _ in range(3))
            + f" {WORDS[0]} {WORDS[1]} "
            + rng.choice(WORDS)
        )
        rows = await plain.sql(
            "select key, score from backline.keyword_candidates(%s, %s, 50, %s, p_rest => 0.3)",
            plain.collection.id, query, also,
        )  # fmt: skip
        scores = {str(row["key"]): float(str(row["score"])) for row in rows}
        expected = dict(bm25(texts, query))
        assert len(scores) >= 50
        assert {key for key in also if key in expected} <= set(scores)
        best = sorted(expected.values(), reverse=True)[:10]
        assert sorted(scores.values(), reverse=True)[:10] == pytest.approx(best, abs=2e-4)
        for key, score in scores.items():
            assert score == pytest.approx(expected.get(key, 0), abs=2e-4)


async def test_index_follows_every_edit(plain: Documents) -> None:
    rng = random.Random(3)
    await plain.insert(*(zipf_text(rng, 20) for _ in range(300)))
    for round_ in range(4):
        await plain.edit("delete from docs where id %% 7 = %s", round_)
        await plain.edit("update docs set body = %s where id %% 5 = %s", zipf_text(rng, 30), round_)
        await plain.edit("update docs set id = id + 100000 where id %% 11 = %s", round_)
        await plain.edit("update docs set body = null where id %% 13 = %s", round_)
        await plain.insert(*(zipf_text(rng, 10) for _ in range(20)), None, "")
        await check_counts(plain)
        if round_ == 2:
            merged = await plain.sql(
                "select backline.compact_keywords(%s, true)", plain.collection.id
            )
            assert merged != [{"compact_keywords": 0}]
            await check_counts(plain)
        for query in (text.translate(LETTERS) for text in ("w0 w3", "w30 w2 w77", "w1")):
            rows = await plain.sql("select id::text as key, coalesce(body, '') as body from docs")
            expected = bm25({str(r["key"]): str(r["body"]) for r in rows}, query)
            hits = await search.keyword(plain.store, plain.collection, query, 400)
            assert {hit.key: pytest.approx(hit.score, abs=2e-4) for hit in hits} == dict(expected)


async def test_rollback_leaves_the_index_unchanged(plain: Documents) -> None:
    await plain.insert("w1 w2")
    with pytest.raises(ZeroDivisionError):
        async with plain.store.connector.transaction() as transaction:
            await transaction.execute("insert into docs (body) values ('w1 w9')")
            raise ZeroDivisionError
    await plain.apply_changes()
    await check_counts(plain)
    assert await search.keyword(plain.store, plain.collection, "w9") == []


async def test_truncate_empties_the_index(plain: Documents) -> None:
    await plain.insert("w1 w2", "w3")
    await plain.store.connector.execute("truncate docs")
    await plain.insert("w3 w4")
    await check_counts(plain)
    [hit] = await search.keyword(plain.store, plain.collection, "w3")
    assert hit.content == "w3 w4"


async def test_deleted_documents_do_not_displace_existing_ones(plain: Documents) -> None:
    await plain.insert(*["w1"] * 500)
    await plain.edit("delete from docs where id <= 495")
    assert len(await search.keyword(plain.store, plain.collection, "w1", 10)) == 5


async def test_edits_of_other_columns_do_not_touch_the_index(plain: Documents) -> None:
    await plain.insert("w1 w2", "w3")
    state = "select doc, key from backline.documents order by 1"
    before = await plain.sql(state)
    await plain.edit("update docs set views = views + 1")
    await plain.embed()
    assert await plain.sql(state) == before


async def test_plan_for_one_row_compares_no_row_with_every_other(docs: Documents) -> None:
    one_row = (
        "select 'x'::text collate \"C\" as key, 'one two'::text as content, 'english' as language"
    )
    [made] = await docs.sql(
        "select backline.index_statement(%s, %s) as statement", docs.collection.id, one_row
    )
    async with docs.store.connector.transaction() as transaction:
        await transaction.execute("set local enable_seqscan = off")  # most tables are empty here
        plan = await transaction.fetch("explain " + str(made["statement"]).replace("%", "%%"))
    lines = [row["QUERY PLAN"] for row in plan]
    assert any("unnest" in line for line in lines)
    for number, line in enumerate(lines):
        if "Nested Loop" in line or "Join" in line:
            assert not re.search("CTE Scan|Seq Scan", inner(lines[number:])), "\n".join(lines)


def inner(plan: list[str]) -> str:
    """Return the inner side of the join that begins on the first line of the plan."""
    depth = plan[1].index("->")
    return [line for line in plan[1:] if line[depth : depth + 2] == "->"][1]


SCALING = {
    "index": "select backline.index_keys({c}, {keys})",
    "unindex": "select backline.unindex_keys({c}, {keys})",
    "apply": "select backline.apply_keys({c}, {keys}, array_fill(1::bigint, array[{n}]), "
    "array_fill(0::smallint, array[{n}]), array_fill(now(), array[{n}]))",
}


@pytest.mark.parametrize("work", list(SCALING))
async def test_session_that_applied_single_edits_applies_thousands(
    docs: Documents, database: str, work: str
) -> None:
    """A plan for one key must not take quadratic time for thousands; CPU time of the backend."""
    await docs.sql(
        "insert into docs (body) select 'tuba ' || n from generate_series(1, 9000) n returning 1"
    )
    await search.ensure_index(docs.store, docs.collection)

    with psycopg.connect(database, autocommit=True) as session:

        def run(first: int, count: int) -> float:
            """Return the CPU seconds per key."""
            keys = f"array(select n::text from generate_series({first}, {first + count - 1}) n)"
            statement = SCALING[work].format(c=docs.collection.id, keys=keys, n=count)
            before = cpu_seconds(session.info.backend_pid)
            session.execute(statement.encode())
            return (cpu_seconds(session.info.backend_pid) - before) / count

        for key in range(10):
            run(1 + key, 1)
        few = sum(run(100 + 500 * n, 500) for n in range(3)) / 3
        assert run(2000, 7000) <= 3 * few + 20e-6


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_writers_do_not_block_each_other(plain: Documents, database: str) -> None:
    """Neither do they wait for a session that applies the log, builds or compacts the index."""
    await plain.insert("w1 w2", "w1 w3")
    await plain.store.connector.execute("update docs set body = 'w1 w4' where id = 1")
    maintenance = (
        "select backline.apply_changes(%s)",
        "select backline.build_keywords_page(%s, null, 100)",
        "select backline.keywords_are_built(%s)",
        "select backline.compact_keywords(%s, true)",
    )
    async with (
        open_store(database) as other,
        open_store(database) as worker,
        worker.connector.transaction() as applying,
        plain.store.connector.transaction() as first,
    ):
        for statement in maintenance:
            await applying.fetch(statement, [plain.collection.id])
        await first.execute("set local lock_timeout = '100ms'")
        await first.execute("update docs set body = 'w1 w5' where id = 1")
        async with other.connector.transaction() as second:
            await second.execute("set local lock_timeout = '100ms'")
            await second.execute("update docs set body = 'w1 w5' where id = 2")
            await second.execute("insert into docs (body) values ('w1 w5')")
            await second.execute("delete from docs where id = 2")
    await plain.apply_changes()
    await check_counts(plain)
    assert len(await search.keyword(plain.store, plain.collection, "w5")) == 2


async def test_large_table_is_indexed_while_writes_continue(docs: Documents, database: str) -> None:
    """The scan indexes the previous text of an open edit, and the change log brings the new one."""
    await docs.edit("insert into docs (body) select 'tuba ' || n from generate_series(1, 5000) n")
    await search.set_keywords(docs.store, docs.collection, language="simple")
    assert await search.keyword(docs.store, docs.collection, "tuba") == []
    async with open_store(database) as other, other.connector.transaction() as open_edit:
        await open_edit.execute("update docs set body = 'oboe' where id = 77")
        built = await search.ensure_index(docs.store, docs.collection)
        assert built.keywords.built
        assert built.keywords.documents == 5000
        [hit] = await search.keyword(docs.store, docs.collection, "77")
    await docs.apply_changes()
    await check_counts(docs)
    [hit] = await search.keyword(docs.store, docs.collection, "oboe")
    assert hit.key == "77"


async def test_row_of_a_rolled_back_edit_is_indexed(docs: Documents, database: str) -> None:
    await docs.edit("insert into docs (body) select 'tuba ' || n from generate_series(1, 1500) n")
    await search.set_keywords(docs.store, docs.collection, language="simple")
    async with open_store(database) as other:
        with pytest.raises(ZeroDivisionError):
            async with other.connector.transaction() as open_edit:
                await open_edit.execute("update docs set body = 'oboe' where id = 77")
                building = asyncio.create_task(search.ensure_index(docs.store, docs.collection))
                await asyncio.sleep(0.3)
                raise ZeroDivisionError
        await building
    await docs.apply_changes()
    assert len(await search.keyword(docs.store, docs.collection, "77")) == 1
    await check_counts(docs)


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ("a lo-fi texture", "lofi"),
        ("a lofi texture", "lo-fi"),
        ("a sidechain compressor", "side chain"),
        ("Compressing the vocals", "how do I comprss a vocal"),
        ("Compressing the vocals", "vocal compression that is not about these other words at all"),
        ("set attack_ms first", "attack"),
    ],
)
async def test_query_matches_document(docs: Documents, body: str, query: str) -> None:
    await docs.insert(body, "something else entirely")
    [hit] = await search.keyword(docs.store, docs.collection, query)
    assert hit.content == body


async def test_fuzzy_matching_applies_only_to_unused_words(docs: Documents) -> None:
    await docs.insert("a warm tone", "the swarm of bees")
    [hit] = await search.keyword(docs.store, docs.collection, "swarm")
    assert hit.content == "the swarm of bees"


async def test_field_named_twice_has_twice_the_weight(store: Store) -> None:
    await store.connector.execute("create table t (id int primary key, title text, body text)")
    table = await store.find_table("t")
    from backline.embedders.hash import hash_model

    await store.add_collection(
        "t", table["oid"], key=None, template="{body}", column="v", model=hash_model(8)
    )
    collection = await store.collection("t")
    await store.connector.execute(
        "insert into t values (1, 'reverb', 'tail'), (2, 'tail', 'reverb')"
    )
    await search.set_keywords(store, collection, template="{title} {title} {body}")
    hits = await search.keyword(store, collection, "reverb")
    assert [hit.key for hit in hits] == ["1", "2"]
    assert hits[0].score > hits[1].score


def rare_letters(count: int) -> str:
    """Return hyphenated words of letters of four bytes: 100,000 characters have terms of 1.1 MB."""
    rng = random.Random(5)
    letters = [chr(0x20000 + n) for n in range(100)]
    words = ("".join(rng.choices(letters, k=4)) for _ in range(count))
    return " ".join(f"{word}-{word[::-1]}" for word in words)


@pytest.mark.parametrize("language", ["simple", "english"])
async def test_no_text_stops_the_log(docs: Documents, language: str) -> None:
    """A tsvector has at most 1 MB, a lexeme 2 kB, and a position is at most 16383."""
    await search.set_keywords(docs.store, docs.collection, language=language)
    many = " ".join(f"word{n}" for n in range(300_000))
    texts = [
        many, "x" * 3_000_000, "-".join(["ab"] * 50_000), "'\\:*&|!<->()\u0001",
        rare_letters(50_000), " ".join(f"{n}.ab/c{n}-d" for n in range(20_000)), "é" * 200_000,
        "a " * 200_000,
    ]  # fmt: skip
    await docs.insert(*texts, "last")
    assert (await search.keyword(docs.store, docs.collection, "word7"))[0].key == "1"
    assert (await search.keyword(docs.store, docs.collection, "last"))[0].content == "last"
    assert await docs.sql("select 1 from backline.changes") == []


async def test_dropped_language_does_not_stop_the_log(docs: Documents) -> None:
    """The row gets its job, and the index is incomplete until it has another language."""
    await docs.sql("create text search configuration public.mine (copy = simple); select 1")
    await search.set_keywords(docs.store, docs.collection, language="mine")
    await docs.insert("a tuba", "a harp")
    await docs.sql("drop text search configuration public.mine; select 1")
    await docs.edit("update docs set body = 'an oboe' where id = 1")
    assert len(await docs.sql("select 1 from backline.jobs")) == 2
    assert not (await indexes.keyword_index(docs.store, docs.collection)).built
    for work in (search.keyword(docs.store, docs.collection, "oboe"),
                 search.ensure_index(docs.store, docs.collection)):  # fmt: skip
        with pytest.raises(errors.DatabaseError, match=r"public\.mine"):
            await work
    await search.set_keywords(docs.store, docs.collection, language="simple")
    assert [h.key for h in await search.keyword(docs.store, docs.collection, "oboe")] == ["1"]


async def test_index_of_dates_is_built_in_every_session(store: Store, database: str) -> None:
    """The documents of a session with another date style have the same keys."""
    await store.connector.execute("create table t (day date primary key, body text)")
    table = await store.find_table("t")
    from backline.embedders.hash import hash_model

    await store.add_collection(
        "t", table["oid"], key=None, template="{body}", column="v", model=hash_model(8)
    )
    collection = await store.collection("t")
    await store.connector.execute(
        "insert into t select date '2026-01-02' + n, 'tuba' from generate_series(0, 1100) n"
    )
    await search.set_keywords(store, collection)
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("set datestyle = 'German, DMY'")
        session.execute("select backline.build_keywords_page(%s, null, 5000)", [collection.id])
        statement = "select backline.keywords_are_built(%s)"
        assert session.execute(statement, [collection.id]).fetchone() == (True,)
    keys = await store.connector.fetch("select min(key) as least from backline.documents")
    assert keys == [{"least": "2026-01-02"}]


async def test_unknown_language_is_rejected(docs: Documents) -> None:
    with pytest.raises(errors.UsageError, match="english"):
        await search.set_keywords(docs.store, docs.collection, language="klingon")


async def test_drop_removes_all_index_data(docs: Documents) -> None:
    await docs.insert("w1 w2")
    await docs.store.drop_collection(docs.collection, drop_column=False)
    for table in ("documents", "postings", "document_counts", "keyword_indexes"):
        rows = await docs.sql(
            f"select 1 from backline.{table} where collection_id = {docs.collection.id}"
        )
        assert rows == [], table
    triggers = await docs.sql(
        "select proname from pg_proc where starts_with(proname, %s)", f"c{docs.collection.id}_"
    )
    assert triggers == []
    await docs.insert("still writable")


async def test_workers_compact_the_index(docs: Documents) -> None:
    for n in range(70):
        await docs.insert(f"tuba {n}")
    await docs.store.compact(docs.collection)
    [row] = await docs.sql("select count(*) as n from backline.postings where term = 'tuba'")
    assert row["n"] == 1
    built = await indexes.keyword_index(docs.store, docs.collection)
    assert built.documents == 70


async def test_new_settings_wait_for_a_compaction(plain: Documents, database: str) -> None:
    """They delete its merged postings, which are invisible until it commits."""
    for n in range(10):
        await plain.insert(f"tuba {n}")
    with psycopg.connect(database) as holder:
        holder.execute("select backline.compact_keywords(%s, true)", [plain.collection.id])
        setting = asyncio.create_task(search.set_keywords(plain.store, plain.collection))
        await until(plain, "select 1 from pg_stat_activity where wait_event_type = 'Lock'")
    await setting
    await check_counts(plain)


async def test_concurrent_compactions_do_not_conflict(docs: Documents, database: str) -> None:
    for n in range(10):
        await docs.insert(f"tuba {n}")
    with psycopg.connect(database) as holder:
        holder.execute("select backline.compact_keywords(%s, true)", [docs.collection.id])
        [row] = await docs.sql(
            "select backline.compact_keywords(%s, true) as n", docs.collection.id
        )
        assert row["n"] == 0
    assert len(await search.keyword(docs.store, docs.collection, "tuba", 20)) == 10


TEXTS_BY_LANGUAGE = {
    "english": ["The cable was too short, so I want my money back", "How do I return it to you?"],
    "german": [
        "Das Kabel war zu kurz und ich möchte mein Geld zurück",
        "Wie schicke ich es zurück?",
    ],
    "french": [
        "Le câble était trop court et je veux être remboursé",
        "Comment le retourner à vous ?",
    ],
    "spanish": ["El cable era muy corto y quiero que me devuelvan el dinero", "¿Cómo lo devuelvo?"],
    "russian": ["Кабель был слишком короткий, я хочу вернуть деньги", "Как это вернуть?"],
    "simple": ["新製品のお知らせ 本日発売しました", "ケーブルが短すぎました 返金してください"],
}


@pytest.mark.parametrize("language", TEXTS_BY_LANGUAGE)
async def test_language_is_guessed_from_the_texts(store: Store, language: str) -> None:
    ddl = "create table notes (id int primary key, body text)"
    rows = ", ".join(f"({n}, $${body}$$)" for n, body in enumerate(TEXTS_BY_LANGUAGE[language]))
    async with make_world(store, ddl=f"{ddl}; insert into notes values {rows}") as world:
        index = await indexes.keyword_index(store, world.collection)
        assert index.language.removeprefix("pg_catalog.") == language


@pytest.mark.parametrize("bodies", [[], [None, ""], ["Microphone 12", "Cable XLR 3 m"]])
async def test_short_texts_count_as_english(store: Store, bodies: list[str | None]) -> None:
    async with make_world(store, ddl="create table notes (id int primary key, body text)") as world:
        await world.insert(*bodies)
        await indexes.set_keywords(store, world.collection, template="{body}")
        index = await indexes.keyword_index(store, world.collection)
        assert index.language.removeprefix("pg_catalog.") == "english"


async def test_declared_language_is_not_guessed(store: Store) -> None:
    ddl = (
        "create table notes (id int primary key, body text); insert into notes values (1, 'the of')"
    )
    async with make_world(store, ddl=ddl, language="german") as world:
        index = await indexes.keyword_index(store, world.collection)
        assert index.language == "german"


LANGUAGES = """
create table notes (id int primary key, lang text, body text);
insert into notes values (1, 'en', 'walking the dogs'), (2, 'de-AT', 'die Häuser der Hunde'),
  (3, 'german', 'den Hunden'), (4, 'xx', 'walking'), (5, null, 'walks'), (6, 'fr_FR', 'les chiens')
"""


async def found(world: World, query: str) -> set[str]:
    rows = await world.sql(
        "select key from backline.keyword_candidates(%s, %s, 10) where score > 0",
        world.collection.id, query,
    )  # fmt: skip
    return {row["key"] for row in rows}


async def test_each_row_is_indexed_in_its_own_language(store: Store) -> None:
    async with make_world(
        store, ddl=LANGUAGES, language="english", language_column="lang"
    ) as world:
        assert await found(world, "dog walk") == {"1", "5"}
        assert await found(world, "Hund") == {"2", "3"}
        assert await found(world, "chien") == {"6"}
        assert "4" in await found(world, "walking"), "an unknown language is not stemmed"
        await world.sql("update notes set lang = 'en' where id = 4")
        await world.apply_changes()
        assert "4" in await found(world, "walk")
        await world.sql("insert into notes values (7, 'es', 'los gatos')")
        await world.apply_changes()
        assert await found(world, "gato") == {"7"}
        await world.sql("alter table notes rename lang to language")
        await world.sql("insert into notes values (8, 'it', 'i gatti')")
        await world.apply_changes()
        assert await found(world, "gatto") == {"8"}


async def test_language_column_that_does_not_exist_is_named(store: Store) -> None:
    with pytest.raises(errors.ColumnNotFoundError, match=r"Its columns: id, lang, body"):
        async with make_world(store, ddl=LANGUAGES, language_column="locale"):
            pass
