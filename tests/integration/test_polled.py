"""Views and tables of another owner are followed by polling a version column."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.harness import (
    DIMENSIONS,
    World,
    connect,
    eventually,
    execute,
    make_world,
)
from tests.provider import StandInProvider

from backline import errors
from backline.embedders.hash import HashEmbedder
from backline.polling import sweep
from backline.postgres.store import Store
from backline.reconcile import Reconciliation
from backline.search import Query, ensure_index, search
from backline.verification import verify

CATALOGUE = """
create table song (id int primary key, title text, album_id int,
  updated_at timestamptz not null default now());
create table album (id int primary key, name text, updated_at timestamptz not null default now());
insert into album select i, 'Album ' || i from generate_series(1, 30) i;
insert into song select i, 'Song ' || i, 1 + i % 30 from generate_series(1, 450) i;
create view catalogue as select s.id, s.title, a.name as album,
  greatest(s.updated_at, a.updated_at) as version
  from song s join album a on a.id = s.album_id
"""


def catalogue(
    store: Store, provider: StandInProvider | None = None, ddl: str = CATALOGUE, **parts: Any
) -> Any:
    declaration = {
        "table": "catalogue", "template": "{title} on {album}", "key": "id", "follow": "version",
        "into": "catalogue_vectors",
    }  # fmt: skip
    return make_world(store, provider, ddl=ddl, **{**declaration, **parts})


async def embedded(world: World) -> int:
    """Return how many vectors are of the present text, compared by a hash in this statement."""
    [row] = await world.sql(
        "select count(*) as n from catalogue r join backline.stamps s on s.key = r.id::text "
        "join backline_vectors.catalogue_vectors e on e.key_1 = r.id "
        "where s.content_hash = sha256(convert_to(r.title || ' on ' || r.album, 'UTF8'))"
    )
    return int(row["n"])


async def logged(world: World) -> int:
    [row] = await world.sql("select count(*) as n from backline.changes")
    return int(row["n"])


async def poll(world: World) -> None:
    await world.store.poll_source(world.collection, 900)


async def test_view_is_filled_verified_followed_and_searched(
    store: Store, provider: StandInProvider
) -> None:
    async with catalogue(store, provider) as world:
        report = await world.fill()
        assert (report.embedded, report.complete) == (450, True)
        assert (await verify(store, world.collection)).passed
        async with world.syncing(sweep_every=1):
            await world.sql(
                "update album set name = 'Greatest Hits', updated_at = now() where id = 7"
            )
            await world.sql("insert into song values (900, 'A new song', 7)")
            await eventually(
                lambda: provider.texts_embedded["A new song on Greatest Hits"], "a poll"
            )
            await eventually(lambda: embedded_is(world, 451), "the album to be embedded")
            await world.sql("delete from song where id in (6, 900)")
            await eventually(lambda: vectors_are(world, 449), "the sweep")
            await eventually(lambda: coverage_is(world, 449), "the counters")
        assert (await verify(store, world.collection)).passed
        assert provider.texts_embedded.total() == 450 + 15 + 1
        assert await store.problems(world.collection) == ()
        await ensure_index(store, world.collection)
        for mode in ("semantic", "keyword", "hybrid"):
            query = Query("Song 36 on Greatest Hits", mode)
            [hit, *_] = await search(store, world.collection, world.embedder, query)
            assert hit.key == "36"


async def embedded_is(world: World, count: int) -> bool:
    return await embedded(world) == count


async def vectors_are(world: World, count: int) -> bool:
    [row] = await world.sql("select count(*) as n from backline_vectors.catalogue_vectors")
    return bool(row["n"] == count)


async def coverage_is(world: World, rows: int) -> bool:
    coverage = await world.store.coverage(world.collection)
    return coverage.rows == coverage.embedded == rows and coverage.pending == 0


async def test_idle_poll_logs_and_writes_nothing(store: Store) -> None:
    async with catalogue(store) as world:
        await world.fill()
        await world.sql("update song set title = 'Edited', updated_at = now() where id = 5")
        await poll(world)
        assert await logged(world) == 1
        await world.fill()
        written = "select xmin::text from backline.polls"
        before = await world.sql(written)
        for _ in range(5):
            await poll(world)
        assert await logged(world) == 0
        assert await world.sql(written) == before


async def test_poll_counts_new_rows(store: Store) -> None:
    async with catalogue(store) as world:
        await world.fill()
        await world.sql("insert into song values (901, 'A new song', 7)")
        await poll(world)
        coverage = await store.coverage(world.collection)
        assert (coverage.rows, coverage.embedded, coverage.pending) == (451, 450, 1)


async def test_late_commit_is_found_by_the_overlap(store: Store) -> None:
    """A transaction with an older version commits after a newer one was polled."""
    async with catalogue(store) as world, world.another_user() as late:
        await world.fill()
        await late.execute("update song set title = 'Late', updated_at = now() where id = 1")
        await world.sql("select pg_sleep(0.01)")
        await world.sql("update song set title = 'Early', updated_at = now() where id = 2")
        await poll(world)
        await late.commit()
        await poll(world)
        await world.sql("update backline.polls set reread_at = now()")
        await poll(world)
        await poll(world)
        assert sorted(await world.jobs()) == ["1", "2"]
        await world.fill()
        assert await embedded(world) == 450
        await world.sql("update backline.polls set reread_at = now()")
        await poll(world)
        assert await logged(world) == 0


async def test_sweep_finds_rows_without_a_new_version_and_deleted_ones(store: Store) -> None:
    async with catalogue(store) as world:
        await world.fill()
        await world.sql("update song set title = 'Silent' where id = 3")
        await world.sql("delete from song where id = 4")
        await poll(world)
        assert await world.jobs() == {}
        assert await sweep(store, world.collection) == 2  # an edited row and a stamp
        assert list(await world.jobs()) == ["3"]
        await world.fill()
        assert await embedded(world) == 449
        assert await sweep(store, world.collection) == 0
        assert (await store.coverage(world.collection)).complete


async def test_reconcile_repairs_a_view(store: Store) -> None:
    async with catalogue(store) as world:
        await world.fill()
        await world.sql("update song set title = 'Silent' where id = 3")
        await world.sql("delete from song where id = 4")
        kinds = [each.kind for each in await store.problems(world.collection)]
        assert "orphans" in kinds
        result = await Reconciliation(store, world.collection).run()
        assert (result.sound, result.enqueued) == (True, 1)
        await world.fill()
        assert (await store.checked_coverage(world.collection)).complete


async def test_view_that_is_made_again_is_followed(store: Store) -> None:
    async with catalogue(store) as world:
        await world.fill()
        await world.sql(
            "drop view catalogue; create view catalogue as select greatest(s.updated_at, "
            "a.updated_at) as version, a.name as album, s.title, s.id "
            "from song s join album a on a.id = s.album_id"
        )
        assert await store.problems(world.collection) == ()
        await store.follow(world.collection)
        await world.sql("update song set title = 'Again', updated_at = now() where id = 9")
        await poll(world)
        assert list(await world.jobs()) == ["9"]
        await world.fill()
        assert (await verify(store, world.collection)).passed
        await world.sql("drop view catalogue")
        assert "table" in [each.kind for each in await store.problems(world.collection)]


async def test_materialized_view_is_followed(store: Store) -> None:
    ddl = CATALOGUE.replace("create view", "create materialized view")
    async with catalogue(store, ddl=ddl) as world:
        await world.fill()
        await world.sql("update song set title = 'Edited', updated_at = now() where id = 5")
        await world.sql("refresh materialized view catalogue")
        await poll(world)
        await world.fill()
        assert await embedded(world) == 450


async def test_poll_that_is_overdue_is_a_problem(store: Store) -> None:
    async with catalogue(store) as world:
        await world.fill()
        await world.sql(
            "update backline.polls set polled_at = now() - interval '1 hour', "
            "next_at = now() - interval '1 hour'"
        )
        [problem] = await store.problems(world.collection)
        assert problem.kind == "polling"
        assert not (await store.checked_coverage(world.collection)).complete
        assert (await verify(store, world.collection)).passed
        await poll(world)
        assert await store.problems(world.collection) == ()


async def test_worker_that_dies_releases_rows_of_a_view(store: Store) -> None:
    """Rows of a materialized view cannot be locked."""
    ddl = CATALOGUE.replace("create view", "create materialized view")
    async with catalogue(store, ddl=ddl) as world:
        lease = await store.register(world.collection, None, 60)
        batch = await store.claim_batch(world.collection, lease.worker, None, None, 100)
        assert len(batch.jobs) == 100
        await store.unregister(lease)
        assert len(await world.open_jobs()) == 100
        await world.fill()
        assert await embedded(world) == 450


REFUSED: list[tuple[dict[str, Any], type[errors.BacklineError], str]] = [
    ({"into": None}, errors.TableNotFoundError, "not a table but a view.*Add --into NAME:"),
    ({"follow": None}, errors.TableNotFoundError, "Add --follow COLUMN:"),
    ({"key": None}, errors.KeyMissingError, "Add --key COLUMN:"),
    ({"key": "album"}, errors.KeyMissingError, "420 rows have the key of another one"),
    ({"key": "nope"}, errors.KeyMissingError, "no column 'nope'"),
    ({"follow": "nope"}, errors.ColumnNotFoundError, "no column 'nope' to follow.*version"),
    ({"follow": "title"}, errors.UsageError, "of type text, which does not tell"),
]


@pytest.mark.parametrize(("parts", "error", "message"), REFUSED)
async def test_view_without_what_it_needs_is_refused(
    store: Store, parts: dict[str, Any], error: type[errors.BacklineError], message: str
) -> None:
    async with await connect(store.connector.conninfo) as user:
        await execute(user, CATALOGUE)
        record = await store.find_table("catalogue")
        declaration = {
            "key": "id", "follow": "version", "into": "catalogue_vectors", "template": "{title}",
            "column": "embedding", "model": HashEmbedder(DIMENSIONS).model,
        }  # fmt: skip
        with pytest.raises(error, match=message):
            await store.add_collection("catalogue", record["oid"], **{**declaration, **parts})
        assert await store.collections() == []
        assert await execute(
            user, "select to_regclass('backline_vectors.catalogue_vectors') t"
        ) == [{"t": None}]


async def test_table_without_the_right_to_create_triggers_can_be_polled(store: Store) -> None:
    ddl = """
    create table notes (id bigint primary key, body text, edited timestamptz default now());
    insert into notes select i, 'text ' || i from generate_series(1, 20) i
    """
    async with await connect(store.connector.conninfo) as owner:
        await execute(owner, ddl)
        await execute(owner, "create role follower login; grant select on notes to follower")
        await execute(owner, "grant usage, create on schema backline to follower")
        await execute(owner, "grant all on all tables in schema backline to follower")
        await execute(owner, "grant execute on all functions in schema backline to follower")
        await execute(owner, "grant usage on all sequences in schema backline to follower")
        try:
            await execute(owner, "set role follower")
            refused = "select backline.check_follow('notes', null, null, null)"
            with pytest.raises(
                Exception, match=r"may not create triggers on public.notes.*--follow"
            ):
                await execute(owner, refused)
            await execute(owner, "select backline.check_follow('notes', null, 'v', 'edited')")
        finally:
            await execute(owner, "reset role; drop owned by follower; drop role follower")
    async with make_world(store, ddl="select 1", follow="edited", into="notes_vectors") as world:
        await world.fill()
        assert await world.sql("select 1 from pg_trigger where tgrelid = 'notes'::regclass") == []
        await world.sql("update notes set body = 'edited', edited = now() where id = 3")
        await poll(world)
        assert list(await world.jobs()) == ["3"]
        await world.fill()
        await world.check_complete()
