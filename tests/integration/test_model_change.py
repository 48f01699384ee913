"""The model of a collection is changed while it is searched and edited."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
from tests.integration.harness import (
    NOTES,
    QUICK,
    World,
    connect,
    eventually,
    execute,
    make_world,
    quick_limiter,
    running,
    standin_embedder,
    texts,
)
from tests.integration.model_changes import (
    OTHER,
    PASSAGES,
    PLACES,
    SIDE,
    Changing,
    changing,
    columns,
    left_of,
)
from tests.provider import StandInProvider

from backline import errors, model_change
from backline.embedders.hash import HashEmbedder
from backline.model_change import NewTarget
from backline.postgres.store import Store
from backline.reconcile import Reconciliation
from backline.search import indexes
from backline.sync import Opened, Sync, TargetSync
from backline.types import Collection, Purpose, Splitting, Vectors
from backline.verification import verify


@pytest.mark.parametrize("place", PLACES)
async def test_whole_change_keeps_every_answer_complete(store: Store, place: str) -> None:
    async with changing(store, column="embedding", **PLACES[place]) as at:
        former = at.world.collection
        await at.begin()
        assert await at.state() == "filling"
        await at.world.sql("update notes set body = 'while it fills' where id = 1")
        await at.world.sql("insert into notes values (31, 'inserted'), (32, ' ')")
        await at.world.sql("delete from notes where id = 2")
        await at.world.fill()
        assert len(await at.found("text")) == 30
        await at.fill()
        assert await at.state() == "ready"
        assert len(await at.found("text")) == 30
        await model_change.cutover(store, "notes")
        serving = await at.check_serving()
        assert serving.collection.model == at.embedder.model
        assert len(await at.found("while it fills")) == 30
        assert (await at.found("while it fills", "keyword"))[0] == "1"
        await at.world.sql("update notes set body = 'after the cut-over' where id = 3")
        for name in ("notes", "notes@old"):
            await (await at.target(name)).fill()
            await (await at.target(name)).check_complete()
        await model_change.rollback(store, "notes")
        assert (await at.check_serving()).collection.model == at.world.embedder.model
        await model_change.cutover(store, "notes")
        await model_change.discard(store, "notes", retire=True)
        assert await at.state() == "retired"
        await at.check_serving()
        assert await left_of(at.world, former.id) == {}
        assert await columns(at.world) == (
            ["id", "body", "views", "embedding_2"] if place == "column" else ["id", "body", "views"]
        )


# --- what a change carries over -------------------------------------------------------------------


async def test_settings_of_the_collection_are_carried_over(store: Store) -> None:
    ddl = NOTES.replace("views", "title text, tongue text, views")
    async with changing(
        store, ddl=ddl, language_column="tongue", long_text="average", where="r.views >= 0"
    ) as at:
        world = at.world
        await world.sql("update backline.collections set max_attempts = 9")
        await indexes.set_keywords(store, world.collection, template="{title} {body}")
        await world.sql(
            'select backline.set_synonyms(%s, \'{"vox": "vocal"}\')', world.collection.id
        )
        await at.begin()
        new = (await at.target("notes@next")).collection
        assert new == replace(
            world.collection, id=new.id, name="notes@next", role="filling", model=at.embedder.model,
            model_id=new.model_id, embedding_column="embedding_2", column_dimensions=OTHER,
            max_attempts=9, scanned_at=new.scanned_at,
        )  # fmt: skip
        of_both = await world.sql(
            "select language, language_sql, text_template from backline.keyword_indexes"
        )
        assert of_both[0] == of_both[1]
        assert of_both[0]["text_template"] == "{title} {body}"
        synonyms = await world.sql("select word, meaning from backline.synonyms")
        assert synonyms == [{"word": "vox", "meaning": "vocal"}] * 2


async def test_rows_outside_the_condition_stay_outside(store: Store) -> None:
    async with changing(store, where="r.id % 2 = 0") as at:
        await at.begin()
        await at.fill()
        await model_change.cutover(store, "notes")
        verification = await verify(store, (await at.target("notes")).collection)
        assert (verification.embedded, verification.problems) == (15, {})
        assert len(await at.found("text")) == 15


async def test_composite_key(store: Store) -> None:
    ddl = (
        'create table notes (id bigint, body text, views int not null default 0, "Part" text '
        "not null default 'a', primary key (id, \"Part\"))"
    )
    for declaration in ({}, SIDE):
        async with changing(store, ddl=f"drop table if exists notes; {ddl}", **declaration) as at:
            await at.begin()
            await at.world.sql("update notes set body = 'edited' where id = 7")
            await at.fill()
            await model_change.cutover(store, "notes")
            await at.check_serving()
            assert (await at.found("edited"))[0] == '["7", "a"]'
            await model_change.discard(store, "notes", retire=True)
            await store.drop_collection((await at.target("notes")).collection, drop_column=True)


@pytest.mark.parametrize("rows", [0, 20])
async def test_table_without_a_text(store: Store, rows: int) -> None:
    async with changing(store, rows=0) as at:
        await at.world.insert(*[" "] * rows)
        await at.world.fill()
        await at.begin()
        await at.fill()
        await model_change.cutover(store, "notes")
        await at.check_serving()


# --- without a new model --------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", ["halfvec", "shorter"])
async def test_vectors_that_are_there_are_not_paid_again(
    store: Store, provider: StandInProvider, place: str, change: str
) -> None:
    async with make_world(store, provider, column="embedding", **PLACES[place]) as world:
        await world.insert(*texts(30), " ")
        await world.fill()
        short = standin_embedder(provider, 4 if change == "shorter" else 8)
        at = Changing(world, short)
        paid = len(provider.calls)
        begun = await at.begin(column_type="halfvec" if change == "halfvec" else None)
        assert begun.copies
        await at.fill()
        await model_change.cutover(store, "notes")
        serving = await at.target("notes")
        assert (await verify(store, serving.collection)).problems == {}
        assert (await store.coverage(serving.collection)).complete
        assert len(provider.calls) == paid
        if change == "halfvec":
            assert serving.collection.column_type == "halfvec"
            await at.check_serving()
        await short.aclose()


async def test_row_that_is_locked_while_vectors_are_copied_is_not_paid(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider, column="embedding") as world:
        await world.insert(*texts(30))
        await world.fill()
        at = Changing(world, world.embedder)
        paid = len(provider.calls)
        change = await at.begin(column_type="halfvec")
        async with world.another_user() as other:
            await execute(other, "select from notes where id = 7 for update")
            await model_change.copy(store, change)
        await at.fill()
        await model_change.cutover(store, "notes")
        await at.check_serving()
        assert len(provider.calls) == paid


async def test_another_text_embeds_only_rows_whose_text_differs(
    store: Store, provider: StandInProvider
) -> None:
    ddl = NOTES.replace("views", "title text, views")
    async with make_world(store, provider, ddl=ddl, column="embedding") as world:
        await world.insert(*texts(30))
        await world.sql("update notes set title = 'a title' where id <= 3")
        await world.fill()
        at = Changing(world, world.embedder)
        await at.begin(template="{title} {body}")
        before = len(provider.texts_embedded)
        await at.fill()
        await model_change.cutover(store, "notes")
        assert (await verify(store, (await at.target("notes")).collection)).problems == {}
        assert len(provider.texts_embedded) == before + 3
        assert "1" in await at.found("a title", "keyword")


async def test_other_passages(store: Store) -> None:
    async with changing(store, **PASSAGES) as at:
        await at.begin(model=at.world.embedder.model, splitting=Splitting("sentences", 32))
        at.embedder = at.world.embedder
        await at.fill()
        await model_change.cutover(store, "notes")
        serving = await at.check_serving()
        assert serving.collection.splitting == Splitting("sentences", 32)
        await model_change.discard(store, "notes", retire=True)
        await at.begin(model=at.world.embedder.model, whole=True, column="whole")
        await at.fill()
        await model_change.cutover(store, "notes")
        assert (await at.check_serving()).collection.vector_column == "public.notes.whole"


async def test_passages_where_rows_had_one_vector_are_put_into_a_side_table(store: Store) -> None:
    async with changing(store, column="embedding") as at:
        await at.begin(splitting=Splitting("auto", 64))
        await at.fill()
        await model_change.cutover(store, "notes")
        serving = await at.check_serving()
        assert serving.collection.into == ("backline_vectors", "notes_passages_2")


# --- states ---------------------------------------------------------------------------------------


async def test_second_change_is_refused_while_one_is_open(store: Store) -> None:
    async with changing(store) as at:
        await at.begin()
        with pytest.raises(errors.ModelChangeError, match=r"filling.*backline model cancel notes"):
            await at.begin()
        await at.fill()
        await model_change.cutover(store, "notes")
        with pytest.raises(errors.ModelChangeError, match=r"serving.*backline model retire notes"):
            await at.begin()


async def test_changes_one_after_the_other_have_their_own_columns(store: Store) -> None:
    async with changing(store, column="embedding") as at:
        for dimensions, column in ((16, "embedding_2"), (12, "embedding_3"), (9, "embedding_2")):
            at.embedder = HashEmbedder(dimensions)
            at.world.collection = (await at.target("notes")).collection
            await at.begin()
            await at.fill()
            await model_change.cutover(store, "notes")
            await model_change.discard(store, "notes", retire=True)
            await at.check_serving()
            assert await columns(at.world) == ["id", "body", "views", column]


@pytest.mark.parametrize("place", PLACES)
async def test_change_is_cancelled_in_any_state(store: Store, place: str) -> None:
    async with changing(store, column="embedding", **PLACES[place]) as at:
        for state in ("filling", "half", "indexing", "ready", "rolled back"):
            change = await at.begin()
            new = (await at.target("notes@next")).collection
            if state == "half":
                await (await at.target("notes@next")).fill(max_rows=10)
            elif state == "indexing":
                await (await at.target("notes@next")).fill()
                await store.finish_fill("notes", despite_failures=False)
            elif state != "filling":
                await at.fill()
            if state == "rolled back":
                await model_change.cutover(store, "notes")
                await model_change.rollback(store, "notes")
            await model_change.discard(store, "notes", retire=False)
            assert (await at.state(), change.open) == ("cancelled", True)
            assert await left_of(at.world, new.id) == {}
            assert "embedding_2" not in await columns(at.world)
            await at.check_serving()
            assert len(await at.found("text")) == 30


@pytest.mark.parametrize("place", ["column", "side"])
async def test_retired_vectors_can_be_kept(store: Store, place: str) -> None:
    async with changing(store, column="embedding", **PLACES[place]) as at:
        await at.begin()
        await at.fill()
        await model_change.cutover(store, "notes")
        await model_change.discard(store, "notes", retire=True, keep_vectors=True)
        assert await left_of(at.world, at.world.collection.id) == {}
        if place == "column":
            assert "embedding" in await columns(at.world)
            [row] = await at.world.sql("select count(embedding) as n from notes")
        else:
            [row] = await at.world.sql("select count(*) as n from backline_vectors.notes_vectors")
        assert row["n"] == 30


async def test_steps_may_be_repeated(store: Store) -> None:
    """As after an answer that was lost."""
    async with changing(store) as at:
        await at.begin()
        await at.fill()
        for _ in range(2):
            await model_change.cutover(store, "notes")
        for _ in range(2):
            await model_change.rollback(store, "notes")
        await model_change.cutover(store, "notes")
        for _ in range(2):
            await model_change.cutover(store, "notes", freeze=True)
        for _ in range(2):
            await model_change.discard(store, "notes", retire=True)
        at.embedder = HashEmbedder(12)
        await at.begin()
        for _ in range(2):
            await model_change.discard(store, "notes", retire=False)
        await at.check_serving()
        with pytest.raises(errors.ModelChangeError, match="no change"):
            await model_change.discard(store, "notes", retire=True)


async def test_targets_of_an_open_change_cannot_be_dropped(store: Store) -> None:
    async with changing(store, column="embedding") as at:
        await at.begin()
        for name in ("notes", "notes@next"):
            with pytest.raises(errors.ModelChangeError, match="backline model cancel notes"):
                await store.drop_collection((await at.target(name)).collection, drop_column=True)
        await at.fill()
        await model_change.cutover(store, "notes")
        for name in ("notes", "notes@old"):
            with pytest.raises(errors.ModelChangeError, match="backline model retire notes"):
                await store.drop_collection((await at.target(name)).collection, drop_column=True)
        assert "embedding_2" in await columns(at.world)
        await model_change.discard(store, "notes", retire=True)
        await store.drop_collection((await at.target("notes")).collection, drop_column=True)
        assert await columns(at.world) == ["id", "body", "views"]
        assert await store.changes() == []


async def test_cut_over_needs_every_row(store: Store) -> None:
    async with changing(store) as at:
        await at.begin()
        with pytest.raises(errors.ModelChangeError, match="filling"):
            await store.cutover("notes", despite_failures=False)
        await at.fill()
        await at.world.sql("update notes set body = 'edited' where id = 1")
        with pytest.raises(errors.NotFilledError, match=r"1 of 30 rows.*model change notes"):
            await store.cutover("notes", despite_failures=False)


async def test_dead_letters_are_named_and_can_be_left_out(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, column="embedding") as world:
        await world.insert("POISON", *texts(20))
        await world.fill()
        provider.behave(reject_marker="POISON")
        at = Changing(world, standin_embedder(provider, OTHER))
        change = await at.begin()
        await (await at.target("notes@next")).fill()
        with pytest.raises(errors.ModelChangeError, match="--despite-failures"):
            await model_change.finish(store, change)
        await model_change.finish(store, change, despite_failures=True)
        with pytest.raises(errors.ModelChangeError, match="--despite-failures"):
            await model_change.cutover(store, "notes")
        await model_change.cutover(store, "notes", despite_failures=True)
        await (await at.target("notes")).check_complete(dead=["1"])
        await at.embedder.aclose()


@pytest.mark.parametrize("place", PLACES)
async def test_frozen_target_is_brought_up_to_date_after_a_rollback(
    store: Store, place: str
) -> None:
    async with changing(store, column="embedding", **PLACES[place]) as at:
        world = at.world
        await at.begin()
        await at.fill()
        await model_change.cutover(store, "notes", freeze=True)
        await world.sql("update notes set body = 'edited meanwhile' where id = 1")
        await world.sql("insert into notes values (99, 'inserted meanwhile')")
        await world.sql("delete from notes where id = 2")
        await (await at.target("notes")).fill()
        await at.check_serving()
        await model_change.rollback(store, "notes")
        await world.sql("update notes set body = 'edited since' where id = 3")
        serving = await at.target("notes")
        assert serving.collection.model == world.embedder.model
        assert (await Reconciliation(store, serving.collection).run()).sound
        await serving.fill()
        await at.check_serving()
        assert (await at.found("inserted meanwhile", "keyword"))[0] == "99"
        assert (await at.found("edited since"))[0] == "3"
        await (await at.target("notes@next")).fill()
        await model_change.cutover(store, "notes")
        await at.check_serving()


# --- names ----------------------------------------------------------------------------------------


async def test_names_that_need_quoting(store: Store) -> None:
    name = "Some \"odd\" 'name' %s {x}"
    ddl = (
        'create schema "S %s"; create table "S %s"."T ""x"" {}" '
        '("Id %" bigint primary key, "Body {}" text)'
    )
    for into in (None, '"S %s"."Vectors ""of"" %s {}"'):
        async with make_world(
            store, ddl=ddl, table='"S %s"."T ""x"" {}"', name=name, template='{"Body {}"}',
            column='Vec "%s" {}', into=into,
        ) as world:  # fmt: skip
            await world.user.execute(
                """insert into "S %s"."T ""x"" {}" values (1, 'a'), (2, 'b')"""
            )
            await world.fill()
            at = Changing(world, HashEmbedder(OTHER))
            await model_change.begin(store, world.collection, NewTarget(at.embedder.model))
            change = await model_change.find(store, name)
            assert change is not None
            await (await at.target(f"{name}@next")).fill()
            await model_change.finish(store, change)
            await model_change.cutover(store, name)
            assert (await store.coverage((await at.target(name)).collection)).complete
            await model_change.discard(store, name, retire=True)
            await store.drop_collection((await at.target(name)).collection, drop_column=True)
            await world.user.execute('drop schema "S %s" cascade')


@pytest.mark.parametrize("name", ["n" * 200, "é" * 200])
async def test_longest_name_of_a_collection(store: Store, name: str) -> None:
    async with changing(store, name=name) as at:
        await model_change.begin(store, at.world.collection, NewTarget(at.embedder.model))
        await model_change.discard(store, name, retire=False)


@pytest.mark.parametrize("column", ["v" * 63, "é" * 31, "v" * 58 + "_2é"])
async def test_longest_name_of_a_column(store: Store, column: str) -> None:
    async with changing(store, column=column) as at:
        for dimensions in (16, 12):
            at.embedder = HashEmbedder(dimensions)
            await at.begin()
            await at.fill()
            await model_change.cutover(store, "notes")
            await model_change.discard(store, "notes", retire=True)
            at.world.collection = (await at.check_serving()).collection


@pytest.mark.parametrize("column", ["embedding", "a_name_that_is_longer_than_indexes_have"])
@pytest.mark.parametrize("into", [None, "a_side_table_whose_name_is_longer_than_forty_characters"])
async def test_each_target_has_an_index_of_its_own(
    store: Store, column: str, into: str | None
) -> None:
    async with changing(store, column=column, into=into) as at:
        built = [await indexes.ensure_vectors(store, at.world.collection, 10)]
        await at.begin()
        await (await at.target("notes@next")).fill()
        new = (await at.target("notes@next")).collection
        built.append(await indexes.ensure_vectors(store, new, 10))
        assert [index.state for index in built] == ["built", "built"]
        for collection in (at.world.collection, new):
            assert (await indexes.ensure_vectors(store, collection, 10)).state == "in place"


@pytest.mark.parametrize("suffix", ["@next", "@old"])
async def test_names_of_targets_are_not_for_collections(store: Store, suffix: str) -> None:
    async with changing(store) as at:
        with pytest.raises(errors.UsageError, match=f"{suffix}.*--name"):
            await store.add_collection(
                f"notes{suffix}", (await store.find_table("notes"))["oid"], key=None,
                template="{body}", column="another", model=at.embedder.model,
            )  # fmt: skip
        await at.begin()


# --- the application's changes in the middle ------------------------------------------------------

DDL = {
    "table": "alter table notes rename to papers",
    "column": "alter table notes rename column body to words",
    "vectors": "alter table notes rename column embedding_2 to new_vectors;"
    "alter table notes rename column embedding to old_vectors",
    "schema": "create schema apart; alter table notes set schema apart",
    "key": "alter table notes alter id type int",
}


@pytest.mark.parametrize("state", ["filling", "ready", "serving"])
@pytest.mark.parametrize("ddl", DDL)
async def test_change_goes_on_after_the_table_was_changed(
    store: Store, ddl: str, state: str
) -> None:
    async with changing(store, column="embedding") as at:
        await at.begin()
        if state != "filling":
            await at.fill()
        if state == "serving":
            await model_change.cutover(store, "notes")
        await at.world.sql(DDL[ddl])
        if state == "filling":
            await at.fill()
        if state != "serving":
            await (await at.target("notes@next")).fill()
            await model_change.cutover(store, "notes")
        await model_change.rollback(store, "notes")
        await model_change.cutover(store, "notes")
        await model_change.discard(store, "notes", retire=True)
        serving = (await at.target("notes")).collection
        verification = await verify(store, serving)
        assert (verification.embedded, verification.problems) == (30, {})
        table = {"table": "papers", "schema": "apart.notes"}.get(ddl, "notes")
        assert len(await columns(at.world, table)) == 4
        assert await left_of(at.world, at.world.collection.id) == {}


@pytest.mark.parametrize("place", PLACES)
async def test_replaced_table_is_repaired_in_both_targets(store: Store, place: str) -> None:
    """As after a restore of the table alone, with its data as of the dump."""
    async with changing(store, column="embedding", **PLACES[place]) as at:
        await at.begin()
        await (await at.target("notes@next")).fill(max_rows=10)
        await at.world.sql(
            "create table copied (like notes including all);"
            "insert into copied select * from notes;"
            "update copied set body = 'restored' where id = 5;"
            "drop table notes; alter table copied rename to notes"
        )
        for name in ("notes", "notes@next"):
            target = await at.target(name)
            assert (await Reconciliation(store, target.collection).run()).sound
            await (await at.target(name)).fill()
        await at.fill()
        await model_change.cutover(store, "notes")
        await at.check_serving()
        await model_change.discard(store, "notes", retire=True)
        await at.check_serving()


@pytest.mark.parametrize("state", ["filling", "serving"])
async def test_change_of_a_dropped_table_can_be_ended(store: Store, state: str) -> None:
    async with changing(store, column="embedding") as at:
        await at.begin()
        if state == "serving":
            await at.fill()
            await model_change.cutover(store, "notes")
        await at.world.sql("drop table notes")
        await model_change.discard(store, "notes", retire=state == "serving")
        await store.drop_collection((await at.target("notes")).collection, drop_column=True)
        assert await store.collections() == []


async def test_view_is_changed_in_side_tables(store: Store) -> None:
    ddl = (
        "create table song (id int primary key, title text, at timestamptz default now());"
        "insert into song select i, 'Song ' || i from generate_series(1, 40) i;"
        "create view notes as select id, title as body, at from song"
    )
    async with make_world(store, ddl=ddl, key="id", follow="at", into="songs") as world:
        await world.fill()
        at = Changing(world, HashEmbedder(OTHER))
        with pytest.raises(errors.TableNotFoundError, match="--into"):
            await at.begin(column="embedding_2")
        await at.begin()
        await at.fill()
        await world.sql("update song set title = 'edited', at = now() where id = 3")
        for name in ("notes", "notes@next"):
            target = await at.target(name)
            await store.poll_source(target.collection, 900)
            await target.fill()
        await model_change.cutover(store, "notes")
        assert (await verify(store, (await at.target("notes")).collection)).passed
        assert (await at.found("edited"))[0] == "3"
        await model_change.discard(store, "notes", retire=True)
        sides = await world.sql(
            "select relname from pg_class where relkind = 'r' "
            "and relnamespace = 'backline_vectors'::regnamespace"
        )
        assert [row["relname"] for row in sides] == ["songs_2"]


async def test_column_of_a_published_table_needs_consent(store: Store) -> None:
    async with changing(store, column="embedding", published=True) as at:
        await at.world.sql("create publication feed for table notes")
        with pytest.raises(errors.UsageError, match="--into notes_vectors"):
            await at.begin()
        assert await columns(at.world) == ["id", "body", "views", "embedding"]
        await at.begin(into="notes_vectors")
        await at.fill()
        await model_change.cutover(store, "notes")
        await at.check_serving()


# --- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["column", "side"])
async def test_roles_have_the_same_rights_on_the_new_vectors(store: Store, place: str) -> None:
    async with changing(store, column="embedding", **PLACES[place]) as at:
        world = at.world
        await world.sql(
            "drop role if exists filler; create role filler; drop role if exists reader;"
            "create role reader; grant select (id, body, views) on notes to filler, reader"
        )
        try:
            grants = (
                "grant select (embedding), update (embedding) on notes to filler;"
                "grant select (embedding) on notes to reader"
                if place == "column"
                else "grant select, insert, update, delete on backline_vectors.notes_vectors to "
                'filler; create policy "backline filler" on backline_vectors.notes_vectors to '
                "filler using (true) with check (true)"
            )
            await world.sql(grants)
            await at.begin()
            rights = "select backline.missing_grants(c.table_id, c.vector_number, into_id is null)"
            if place == "side":
                rights = "select backline.missing_side_grants(c.into_id, true)"
            await world.sql(
                "grant usage on schema backline to filler; grant select on backline.collections to "
                "filler; alter table backline.collections disable row level security;"
                "grant execute on all functions in schema backline to filler;"
                "grant usage on schema backline_vectors to filler"
                if place == "side"
                else "grant usage on schema backline to filler; grant select on "
                "backline.collections to filler; alter table backline.collections disable row "
                "level security; grant execute on all functions in schema backline to filler"
            )
            await world.sql("set role filler")
            missing = await world.sql(f"{rights} as missing from backline.collections c")
            await world.sql("reset role")
            assert [row["missing"] for row in missing] == [[], []]
        finally:
            await world.sql("reset role; drop owned by filler, reader; drop role filler, reader")


# --- workers --------------------------------------------------------------------------------------


@asynccontextmanager
async def following(at: Changing) -> AsyncIterator[TargetSync]:
    """Run a sync that follows the collection by its name."""

    @asynccontextmanager
    async def open_for(collection: Collection) -> AsyncIterator[Opened]:
        yield Opened(at.at(collection).embedder, quick_limiter(), QUICK)

    sync = TargetSync(at.store, "notes", open_for)
    task = asyncio.create_task(sync.run())
    try:
        yield sync
    finally:
        sync.stop()
        await asyncio.wait_for(task, 30)


async def current(world: World, key: int) -> bool:
    """Return whether the row has a vector of its present text."""
    rows = await world.sql(
        "select 1 from backline.stamps s join notes r on s.key = r.id::text "
        "where s.collection_id = %s and r.id = %s and not s.stale "
        "and s.content_hash = sha256(convert_to(r.body, 'UTF8'))", world.collection.id, key,
    )  # fmt: skip
    return bool(rows)


async def test_one_sync_follows_all_targets_of_a_change(store: Store) -> None:
    async with changing(store, column="embedding") as at, following(at):
        await at.begin()
        await at.world.sql("update notes set body = 'while it fills' where id = 1")
        former, new = at.world, await at.target("notes@next")
        for target in (former, new):
            await eventually(partial(current, target, 1), "the edit")
        assert not await current(new, 2)  # edits come before the rest
        await at.fill()
        await model_change.cutover(store, "notes")
        await at.world.sql("update notes set body = 'after the cut-over' where id = 2")
        for target in (former, new):
            await eventually(partial(current, target, 2), "the edit")
        await model_change.discard(store, "notes", retire=True)
        await at.world.sql("update notes set body = 'after the end' where id = 3")
        await eventually(lambda: current(new, 3), "the edit")


@pytest.mark.parametrize("stopping", [True, False])
async def test_sync_survives_a_target_that_is_being_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    """Between the steps of `retire`, the former target has no column."""
    opened = 0

    async def fail(self: Sync) -> None:
        nonlocal opened
        if self._collection.name == "notes@old":
            opened += 1
            if stopping:
                await run(self)
            raise errors.ColumnNotFoundError("The column is gone.")
        await run(self)

    run = Sync.run
    monkeypatch.setattr(Sync, "run", fail)
    async with changing(store, column="embedding") as at:
        await at.begin()
        await at.fill()
        await model_change.cutover(store, "notes")
        async with following(at):
            await eventually(lambda: opened, "the former target to be followed")
            await at.world.sql("update notes set body = 'edited' where id = 1")
            serving = await at.target("notes")
            await eventually(partial(current, serving, 1), "the edit")
            await asyncio.sleep(0 if stopping else 3)
        assert opened == 1  # it is tried again after 30 s


async def test_worker_keeps_to_the_target_that_it_began_with(store: Store) -> None:
    async with changing(store, rows=0, column="embedding") as at:
        await at.begin()
        await at.fill()
        async with at.world.syncing():
            await model_change.cutover(store, "notes")
            await at.world.insert(*texts(30))
            await eventually(lambda: current(at.world, 30), "the former target to follow")
        serving = await at.target("notes")
        assert not await current(serving, 30)
        await serving.fill()
        await at.check_serving()


@pytest.mark.parametrize("hot", [False, True], ids=["many rows", "one row"])
async def test_table_that_is_always_edited_is_cut_over(store: Store, hot: bool) -> None:
    """Edits are in flight at any moment, in the former target too."""

    async def edit() -> None:
        for number in itertools.count():
            row = 1 if hot else number % 30 + 1
            await user.execute(
                "update notes set body = %s where id = %s", [f"edited {number}", row]
            )
            await asyncio.sleep(0.05)

    async with (
        changing(store, column="embedding") as at,
        await connect(store.connector.conninfo) as user,
    ):
        await at.begin()
        await at.fill()
        former = replace(at.world, embedder=Slow(8))
        new = replace(await at.target("notes@next"), embedder=Slow(OTHER))
        async with former.syncing(), new.syncing(), running(edit()) as editing:
            await eventually(lambda: pending(new), "an edit in flight")
            await model_change.cutover(store, "notes")
            editing.cancel()
        assert await at.state() == "serving"


class Slow(HashEmbedder):
    """Takes as long as a provider in another country."""

    async def embed(self, texts: Sequence[str], *, purpose: Purpose = "passage") -> Vectors:
        await asyncio.sleep(0.3)
        return await super().embed(texts, purpose=purpose)


async def pending(world: World) -> int:
    return (await world.store.coverage(world.collection)).pending


async def test_begin_does_not_wait_behind_a_transaction(store: Store) -> None:
    async with changing(store) as at:
        async with at.world.another_user() as other:
            await execute(other, "update notes set views = 1 where id = 1")
            begun = asyncio.create_task(at.begin())
            await asyncio.sleep(1)
            await at.world.sql("set statement_timeout = '2s'")
            await at.world.sql("update notes set views = 2 where id = 2")
            assert not begun.done()
        assert (await begun).state == "filling"
