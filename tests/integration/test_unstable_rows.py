"""What was stored is compared with the row as it stands after the write and after every trigger."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from tests.integration.harness import (
    World,
    declare,
    eventually,
    make_world,
    overpaid,
    texts,
)
from tests.provider import StandInProvider

from backline import errors
from backline.postgres.store import Store

TABLE = """
create table notes (
  id bigint primary key, body text, changed_at timestamptz, version int not null default 0,
  parent bigint, note text, views int not null default 0
)
"""


@pytest.fixture
async def world(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with make_world(store, provider, ddl=TABLE) as world:
        yield world


async def trigger(world: World, body: str, when: str = "before update") -> None:
    """Create a trigger of the table's owner."""
    await world.sql(
        "create or replace function touch() returns trigger language plpgsql as "
        f"$$ begin {body} return new; end $$"
    )
    constraint = "constraint" if "deferred" in when else ""
    place = when if " on notes" in when else f"{when} on notes"
    await world.sql(
        f"create {constraint} trigger touch {place} for each row execute function touch()"
    )


# Statements of a trigger, when it fires, and what the dead letters say.
NEVER_AT_REST = {
    "before": ("new.body := new.body || '.';", "before update", "changes body each time"),
    "after": (
        "if pg_trigger_depth() = 1 then "
        "update notes set body = body || '.' where id = new.id; end if;",
        "after update",
        "changes body each time",
    ),
    "deferred": (
        "if pg_trigger_depth() = 1 then "
        "update notes set body = body || '.' where id = new.id; end if;",
        "after update on notes deferrable initially deferred",
        "changes body each time",
    ),
    "emptied": ("new.embedding := null;", "before update", "does not keep the vector"),
    "replaced": (
        "new.embedding := '[1,0,0,0,0,0,0,0]';",
        "before update",
        "does not keep the vector",
    ),
    "emptied later": (
        "if new.embedding is not null then "
        "update notes set embedding = null where id = new.id; end if;",
        "after update",
        "does not keep the vector",
    ),
    "suppressed": ("return null;", "before update", "does not keep the vector"),
}


@pytest.mark.parametrize("case", NEVER_AT_REST)
@pytest.mark.parametrize("scanned", [False, True])
async def test_row_that_changes_with_every_write_is_paid_for_twice_and_named(
    world: World, provider: StandInProvider, case: str, scanned: bool
) -> None:
    body, when, message = NEVER_AT_REST[case]
    await world.insert(*texts(5))
    if scanned:
        await world.sql("delete from backline.changes")
        await world.store.recount(world.collection.id)
    await trigger(world, body, when)
    report = await world.fill()
    assert (report.state, report.failed, report.coverage.complete) == ("completed", 5, False), (
        report.stopped_by
    )
    failures = [failure async for failure in world.store.failures(world.collection)]
    assert {failure.kind for failure in failures} == {"unstable"}
    assert message in failures[0].error
    assert "the trigger touch" in failures[0].error
    await world.check_complete(dead=["1", "2", "3", "4", "5"])
    paid = provider.texts_embedded.total()
    assert paid <= 10
    assert (await world.fill()).embedded == 0
    assert provider.texts_embedded.total() == paid
    await world.sql("drop trigger touch on notes")
    assert await world.store.retry_failures(world.collection, None) == 5
    assert (await world.fill()).coverage.complete
    await world.check_complete()
    assert await world.sql("select key from backline.stamps where rewrites > 0") == []


async def test_text_that_a_trigger_corrects_once_is_embedded_as_corrected(
    world: World, provider: StandInProvider
) -> None:
    """The row is embedded once as it was, and once as its first write left it."""
    await world.insert("ONE", "two", "THREE")
    await trigger(world, "new.body := lower(new.body);")
    assert (await world.fill()).coverage.complete
    await world.check_complete()
    assert provider.texts_embedded == Counter(["ONE", "two", "THREE", "one", "three"])
    await world.sql("update notes set body = 'FOUR' where id = 2")
    assert (await world.fill()).coverage.complete
    await world.check_complete()
    assert overpaid(provider) == {}


@pytest.mark.parametrize("when", ["before update", "after update"])
@pytest.mark.parametrize("batch_size", [10, 50])
async def test_trigger_that_changes_another_row_makes_that_row_due(
    world: World, when: str, batch_size: int
) -> None:
    """Row 1 tells how many others have a vector. It changes after it was embedded itself.

    Postgres refuses a statement whose BEFORE trigger changes a row that the statement writes later.
    """
    await world.insert(*texts(50))
    await trigger(
        world,
        "if new.id > 1 then update notes set body = 'others: ' || "
        "(select count(embedding) from notes where id > 1) where id = 1; end if;",
        when,
    )
    assert (await world.fill(batch_size=batch_size, concurrency=1)).coverage.complete
    await world.check_complete()
    before = await world.sql("select body from notes where id = 1")
    async with world.syncing():
        await world.sql("insert into notes (id, body) values (51, 'one more')")

        async def changed() -> bool:
            return await world.sql("select body from notes where id = 1") != before

        await eventually(changed, "the write of the new row to change row 1")
        await world.check_consistent()
        await world.wait_until_idle()
    await world.wait_until_released()
    await world.check_complete()


async def test_row_that_has_its_vector_already_needs_no_update(
    world: World, provider: StandInProvider
) -> None:
    """This trigger, which comes with Postgres, suppresses an update that changes nothing."""
    await world.insert(*texts(5))
    await world.fill()
    await world.sql(
        "create trigger unchanged before update on notes "
        "for each row execute function suppress_redundant_updates_trigger()"
    )
    await world.sql("delete from backline.stamps")
    assert (await world.fill()).coverage.complete
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_backfill_of_a_table_that_never_comes_to_rest_stops_early(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(2000))
    await trigger(world, "new.body := new.body || '.';")
    report = await world.fill()
    assert report.state == "interrupted"
    assert "the trigger touch changes body each time" in (report.stopped_by or "")
    assert provider.texts_embedded.total() < 2000, "4000 without the stop"
    await world.check_consistent()


async def test_live_edit_of_a_row_that_never_comes_to_rest_is_paid_for_once(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(3))
    await trigger(world, "new.body := new.body || '.';")
    await world.fill()
    paid = provider.texts_embedded.total()
    async with world.syncing():
        await world.sql("update notes set body = 'edited' where id = 2")

        async def paid_for() -> bool:
            return provider.texts_embedded.total() > paid

        await eventually(paid_for, "the edit to be embedded")
        await world.wait_until_idle()
    await world.wait_until_released()
    assert provider.texts_embedded.total() == paid + 1
    await world.check_complete(dead=["1", "2", "3"])


# --- at the declaration ---------------------------------------------------------------------------

REFUSED = {
    "now": ("new.changed_at := now();", "before update", "changed_at"),
    "clock": ("new.changed_at := clock_timestamp();", "before update", "changed_at"),
    "counter": ("new.version := new.version + 1;", "before update", "version"),
    "after": (
        "if pg_trigger_depth() = 1 then "
        "update notes set version = version + 1 where id = new.id; end if;",
        "after update",
        "version",
    ),
    "deferred": (
        "if pg_trigger_depth() = 1 then "
        "update notes set version = version + 1 where id = new.id; end if;",
        "after update on notes deferrable initially deferred",
        "version",
    ),
    "vector": ("new.note := new.embedding::text;", "before update", "note"),
}
ACCEPTED = {
    "corrected once": ("new.body := lower(new.body);", "before update"),
    "other columns": ("new.changed_at := now();", "before update of body"),
    "refused row": ("raise exception 'no';", "before update"),
    "outside the text": ("new.views := new.views + 1;", "before update"),
}


async def prepared(world: World, body: str, when: str) -> None:
    await world.sql(
        "insert into notes (id, body, changed_at) values (0, '', now()), (1, 'One', '2020-01-01')"
    )
    await trigger(world, body, when)


@pytest.mark.parametrize("case", REFUSED)
async def test_template_that_never_comes_to_rest_is_refused_when_it_is_declared(
    world: World, case: str
) -> None:
    body, when, column = REFUSED[case]
    await prepared(world, body, when)
    before = await world.sql("select * from notes order by id")
    with pytest.raises(errors.UsageError, match=f"the trigger touch changes {column} each time"):
        await redeclare(world)
    assert await world.sql("select * from notes order by id") == before
    assert "notes" not in [each.name for each in await world.store.collections()]


@pytest.mark.parametrize("case", ACCEPTED)
async def test_template_that_comes_to_rest_is_accepted(world: World, case: str) -> None:
    await prepared(world, *ACCEPTED[case])
    before = await world.sql("select id, body, changed_at, views from notes order by id")
    await redeclare(world)
    assert await world.sql("select id, body, changed_at, views from notes order by id") == before


async def redeclare(world: World) -> None:
    """Declare the table again with a text of several columns."""
    await world.store.drop_collection(world.collection, drop_column=False)
    await declare(
        world.store, world.embedder, template="{body} {changed_at} {version} {note}",
        existing="overwrite",
    )  # fmt: skip
