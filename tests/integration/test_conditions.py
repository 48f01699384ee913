"""A collection with a condition embeds, counts and finds only the rows that meet it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.harness import DIMENSIONS, World, make_world
from tests.provider import StandInProvider

from backline import errors
from backline.embedders.hash import hash_vectors
from backline.postgres.store import Store
from backline.verification import verify

ARTICLES = """
create table articles (
  id bigint generated always as identity primary key, title text not null, body text,
  status text not null default 'draft' check (status in ('draft', 'published', 'archived')),
  deleted_at timestamptz, updated_at timestamptz not null default now());
create function touch() returns trigger language plpgsql as
  $$ begin new.updated_at := clock_timestamp(); return new; end $$;
create trigger touch before update on articles for each row execute function touch();
insert into articles (title, body, status, deleted_at)
select 'Article ' || i, 'How to record instrument number ' || i || ' in a small room.',
       (array['published', 'draft', 'archived'])[1 + i % 3], case when i % 7 = 0 then now() end
from generate_series(1, 60) i
"""
PUBLISHED = "deleted_at is null and status = 'published'"


@pytest.fixture
async def articles(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    """Sixty articles, of which 18 are published and not deleted."""
    async with make_world(
        store, provider, ddl=ARTICLES, table="articles", template="{title}\n{body}", where=PUBLISHED
    ) as world:
        yield world


async def embedded(world: World) -> list[int]:
    rows = await world.sql("select id from articles where embedding is not null order by id")
    return [row["id"] for row in rows]


async def inside(world: World, condition: str = PUBLISHED) -> list[int]:
    rows = await world.sql(f"select id from articles where {condition} order by id")
    return [row["id"] for row in rows]


async def found(world: World, mode: str, text: str) -> set[int]:
    """Return the rows that a search finds among the first hundred."""
    vector = hash_vectors([text], DIMENSIONS)[0].tolist()
    rows = await world.sql(
        "select key from backline.search(%s, %s, %s, %s::real[], 100)",
        world.collection.id, mode, text, vector,
    )  # fmt: skip
    return {int(row["key"]) for row in rows}


async def test_rows_outside_the_condition_are_not_embedded(
    articles: World, provider: StandInProvider
) -> None:
    await articles.fill()
    published = await inside(articles)
    assert await embedded(articles) == published
    assert provider.texts_embedded.total() == len(published)
    coverage = await articles.store.checked_coverage(articles.collection)
    assert (coverage.rows, coverage.embedded, coverage.excluded) == (18, 18, 42)
    assert coverage.blank == 0
    assert coverage.complete, coverage.problems
    result = await verify(articles.store, articles.collection)
    assert result.passed
    assert (result.rows, result.embedded, result.blank, result.excluded) == (18, 18, 0, 42)
    assert await articles.store.recount(articles.collection.id) == {}


@pytest.mark.parametrize("mode", ["semantic", "keyword", "hybrid"])
async def test_row_that_leaves_is_not_found_before_a_worker_comes(
    articles: World, mode: str
) -> None:
    await articles.fill()
    left, stays = (await inside(articles))[:2]
    text = "record instrument"
    assert {left, stays} <= await found(articles, mode, text)
    await articles.sql("update articles set deleted_at = now() where id = %s", left)
    results = await found(articles, mode, text)
    assert left not in results
    assert stays in results


async def test_row_that_leaves_loses_its_vector_and_its_keywords(
    articles: World, provider: StandInProvider
) -> None:
    await articles.fill()
    left = (await inside(articles))[0]
    await articles.sql("update articles set status = 'archived' where id = %s", left)
    assert list(await articles.jobs()) == [str(left)]
    await articles.fill()
    assert await embedded(articles) == await inside(articles)
    [document] = await articles.sql(
        "select terms from backline.documents where key = %s", str(left)
    )
    assert document["terms"] == []
    coverage = await articles.store.checked_coverage(articles.collection)
    assert (coverage.rows, coverage.embedded, coverage.excluded) == (17, 17, 43)
    assert coverage.complete, coverage.problems
    assert provider.texts_embedded.total() == 18


async def test_row_that_enters_is_embedded_and_found(
    articles: World, provider: StandInProvider
) -> None:
    await articles.fill()
    await articles.sql("update articles set status = 'published' where id = 2")
    coverage = await articles.store.coverage(articles.collection)
    assert (coverage.rows, coverage.pending, coverage.excluded) == (19, 1, 41)
    await articles.fill()
    assert await embedded(articles) == await inside(articles)
    assert 2 in await found(articles, "keyword", "instrument number 2")
    assert provider.texts_embedded.total() == 19


async def test_rows_outside_the_condition_are_not_written(articles: World) -> None:
    """The host's trigger would date each write: updated_at stays."""
    coverage = await articles.store.coverage(articles.collection)
    assert (coverage.rows, coverage.missing, coverage.excluded) == (18, 18, 42), "before the fill"
    statement = f"select id, updated_at from articles where ({PUBLISHED}) is not true order by id"
    before = await articles.sql(statement)
    await articles.fill()
    await articles.sql(
        "insert into articles (title, status) select 'new', 'draft' from generate_series(1, 5)"
    )
    new = await articles.sql("select id, updated_at from articles where title = 'new' order by id")
    await articles.fill()
    assert await articles.sql(statement) == before + new
    coverage = await articles.store.checked_coverage(articles.collection)
    assert (coverage.rows, coverage.excluded) == (18, 47)
    assert coverage.complete, coverage.problems


async def test_edit_outside_the_condition_sends_nothing(
    articles: World, provider: StandInProvider
) -> None:
    await articles.fill()
    await articles.sql("update articles set body = 'draft of ' || id where status = 'draft'")
    assert await articles.jobs() == {}
    assert provider.texts_embedded.total() == 18


async def test_rename_of_a_column_of_the_condition_is_followed(articles: World) -> None:
    await articles.fill()
    await articles.sql("alter table articles rename status to state")
    await articles.sql('alter table articles rename deleted_at to "it\'s gone"')
    await articles.sql("update articles set state = 'published' where id = 2")
    await articles.fill()
    condition = "\"it's gone\" is null and state = 'published'"
    assert await embedded(articles) == await inside(articles, condition)
    assert 2 in await found(articles, "keyword", "instrument number 2")
    await articles.store.follow(articles.collection)
    collection = await articles.store.collection("articles")
    assert collection.where_sql == "((r.\"it's gone\" IS NULL) AND (r.state = 'published'::text))"
    assert (await verify(articles.store, collection)).passed


async def test_drop_of_a_column_of_the_condition_is_an_error(articles: World) -> None:
    await articles.fill()
    await articles.sql("alter table articles drop column deleted_at")
    articles.collection = await articles.store.collection("articles")
    with pytest.raises(errors.ColumnNotFoundError, match="deleted_at"):
        await articles.fill()


async def test_change_of_the_condition_touches_only_rows_that_change_sides(
    articles: World, provider: StandInProvider
) -> None:
    await articles.fill()
    sent = provider.texts_embedded.total()
    before = await articles.sql("select id, updated_at from articles")
    moved = await articles.store.set_where(
        articles.collection, "deleted_at is null and status in ('published', 'draft') and id > 9"
    )
    articles.collection = await articles.store.collection("articles")
    assert len(await articles.jobs()) == moved, "without a scan"
    await articles.fill()
    now_inside = await inside(articles, "deleted_at is null and status <> 'archived' and id > 9")
    assert await embedded(articles) == now_inside
    drafts = await inside(articles, "deleted_at is null and status = 'draft' and id > 9")
    left = await inside(articles, f"{PUBLISHED} and id <= 9")
    assert moved == len(drafts) + len(left)
    assert provider.texts_embedded.total() - sent == len(drafts)
    after = await articles.sql("select id, updated_at from articles")
    touched = {row["id"] for row in after if row not in before}
    assert touched == {*drafts, *left}
    assert (await verify(articles.store, articles.collection)).passed
    coverage = await articles.store.checked_coverage(articles.collection)
    assert coverage.complete, coverage.problems
    assert coverage.excluded == 60 - len(now_inside)


async def test_removed_condition_embeds_every_row(articles: World) -> None:
    await articles.fill()
    assert await articles.store.set_where(articles.collection, None) == 42
    articles.collection = await articles.store.collection("articles")
    assert articles.collection.where_sql is None
    await articles.fill()
    coverage = await articles.store.checked_coverage(articles.collection)
    assert (coverage.rows, coverage.embedded, coverage.excluded) == (60, 60, 0)
    assert coverage.complete, coverage.problems


async def test_change_of_the_text_keeps_a_condition_on_a_renamed_column(articles: World) -> None:
    await articles.fill()
    await articles.sql("alter table articles rename deleted_at to removed_at")
    await articles.store.set_text(articles.collection, template="{title}")
    articles.collection = await articles.store.collection("articles")
    assert "removed_at" in str(articles.collection.where_sql)
    await articles.fill()
    assert await embedded(articles) == await inside(
        articles, "removed_at is null and status = 'published'"
    )
    await articles.sql("alter table articles rename removed_at to gone_at")
    await articles.fill()
    assert (await verify(articles.store, articles.collection)).passed


async def test_interrupted_change_of_the_condition_is_reported(articles: World) -> None:
    await articles.fill()
    await articles.sql("select backline.set_where(%s, 'id > 10')", articles.collection.id)
    problems = await articles.store.problems(articles.collection)
    assert "The condition was changed" in problems[0].problem
    assert "backline reconcile articles" in problems[0].remedy


async def test_new_column_of_the_condition_is_watched(articles: World) -> None:
    await articles.fill()
    await articles.sql("alter table articles add hidden boolean")
    assert await articles.store.set_where(articles.collection, "hidden is not true") == 42
    articles.collection = await articles.store.collection("articles")
    await articles.fill()
    await articles.sql("update articles set hidden = true where id = 1")
    assert list(await articles.jobs()) == ["1"]


async def test_blank_row_is_counted_on_its_side(articles: World) -> None:
    """Its text stays empty, so only the condition shows on which side it is."""
    await articles.sql("update articles set title = '', body = '' where id in (1, 3)")
    await articles.fill()
    coverage = await articles.store.coverage(articles.collection)
    assert (coverage.rows, coverage.blank, coverage.excluded) == (18, 1, 42)
    await articles.sql("update articles set status = 'published' where id = 1")
    await articles.fill()
    coverage = await articles.store.checked_coverage(articles.collection)
    assert (coverage.rows, coverage.blank, coverage.excluded) == (19, 2, 41)
    assert coverage.complete, coverage.problems
    assert (await verify(articles.store, articles.collection)).excluded == 41


async def test_side_table_holds_vectors_of_rows_in_the_condition(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(
        store, provider, ddl=ARTICLES, table="articles", template="{title}\n{body}",
        where=PUBLISHED, into="public.article_vectors",
    ) as world:  # fmt: skip
        await world.fill()
        rows = await world.sql("select key_1 as id from article_vectors order by 1")
        assert [row["id"] for row in rows] == await inside(world)
        await world.sql("update articles set deleted_at = now() where id = 3")
        await world.sql("update articles set status = 'published' where id = 1")
        assert 3 not in await found(world, "hybrid", "record instrument")
        await world.fill()
        rows = await world.sql("select key_1 as id from article_vectors order by 1")
        assert [row["id"] for row in rows] == await inside(world)
        coverage = await store.checked_coverage(world.collection)
        assert (coverage.rows, coverage.embedded, coverage.excluded) == (18, 18, 42)
        assert coverage.complete, coverage.problems
        assert (await verify(store, world.collection)).passed


FRAGILE = """
create table notes (id int primary key, body text, facts jsonb not null default '{"year": "2001"}');
insert into notes (id, body) select i, 'text ' || i from generate_series(1, 30) i
"""


@pytest.mark.parametrize("into", [None, "public.note_vectors"])
@pytest.mark.parametrize(
    "declaration",
    [
        {"where": "(facts ->> 'year')::int > 2000"},
        {"template": None, "text_sql": "body || ' ' || (100 / (facts ->> 'year')::int)"},
    ],
)
async def test_row_for_which_an_expression_fails_harms_itself_alone(
    store: Store, provider: StandInProvider, declaration: dict[str, Any], into: str | None
) -> None:
    async with make_world(store, provider, ddl=FRAGILE, into=into, **declaration) as world:
        await world.fill()
        await world.sql('update notes set facts = \'{"year": "none"}\' where id in (3, 4)')
        await world.sql("update notes set body = 'edited' where id = 5")
        await world.sql(
            "insert into notes (id, body, facts) values (31, 'new', '{\"year\": \"x\"}')"
        )
        await world.fill()
        failures = await world.failures()
        assert sorted(failures) == ["3", "31", "4"]
        assert 'invalid input syntax for type integer: "none". Correct the row' in failures["3"]
        coverage = await store.checked_coverage(world.collection)
        assert (coverage.rows, coverage.embedded, coverage.failed) == (31, 28, 3)
        assert coverage.problems == ()
        assert 5 in await found(world, "keyword", "edited")
        assert 31 not in await found(world, "keyword", "syntax")
        await world.sql('update notes set facts = \'{"year": "2002"}\'')
        await world.fill()
        coverage = await store.checked_coverage(world.collection)
        assert (coverage.embedded, coverage.failed) == (31, 0)
        assert coverage.complete, coverage.problems


async def test_row_that_fails_before_the_first_fill_is_a_dead_letter(store: Store) -> None:
    async with make_world(store, ddl=FRAGILE, where="(facts ->> 'year')::int > 2000") as world:
        await world.bypassing_triggers('update notes set facts = \'{"year": "none"}\' where id = 1')
        await world.fill()
        assert list(await world.failures()) == ["1"]
        assert (await store.coverage(world.collection)).embedded == 29


async def test_changed_condition_ends_the_guard(store: Store) -> None:
    async with make_world(store, ddl=FRAGILE, where="(facts ->> 'year')::int > 2000") as world:
        await world.sql('update notes set facts = \'{"year": "none"}\' where id = 1')
        await world.fill()
        assert list(await world.failures()) == ["1"]
        await store.set_where(world.collection, "facts ->> 'year' ~ '^[0-9]+$'")
        [row] = await world.sql("select guarded from backline.collections")
        assert not row["guarded"]
        await world.fill()
        assert await world.failures() == {}
        coverage = await store.checked_coverage(world.collection)
        assert (coverage.embedded, coverage.excluded) == (29, 1)
        assert coverage.complete, coverage.problems


async def test_condition_that_fails_past_the_sample_is_declared(store: Store) -> None:
    ddl = f"""{FRAGILE};
    insert into notes (id, body) select i, 'text ' || i from generate_series(31, 1200) i;
    insert into notes values (1201, 'last', '{{"year": "none"}}')
    """
    async with make_world(store, ddl=ddl, where="(facts ->> 'year')::int > 2001") as world:
        coverage = await store.coverage(world.collection)
        assert (coverage.rows, coverage.excluded) == (1, 1200)
        await store.set_where(world.collection, "(facts ->> 'year')::int < 2001")
        await world.fill()
        assert list(await world.failures()) == ["1201"]
        assert (await store.checked_coverage(world.collection)).problems == ()
