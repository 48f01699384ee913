"""Functions with the rights of their owner use no object that a session shadows in pg_temp."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from tests.integration.harness import World, connect, execute


@pytest.fixture(params=["text", "char", "bool", "int8"])
async def stranger(
    world: World, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncConnection[DictRow]]:
    """A role that may edit and search, with a type in pg_temp that reports who checks it."""
    role = f"stranger_{world.collection.id}_{time.monotonic_ns()}"
    await world.sql(f"create role {role}")
    try:
        await world.sql(f"grant select, insert, update, delete on notes to {role}")
        await world.sql(f"select backline.allow_search('{role}'::regrole)")
        async with await connect(world.store.connector.conninfo) as user:
            await execute(user, f"set role {role}")
            await execute(
                user,
                "create function pg_temp.seize() returns bool language plpgsql as $$ begin "
                "raise exception 'seized' using errcode = 'query_canceled'; end $$",
            )
            await execute(
                user,
                f'create domain pg_temp."{request.param}" as pg_catalog."{request.param}" '
                "check (pg_temp.seize())",
            )
            yield user
    finally:
        await world.sql(f"drop owned by {role}")
        await world.sql(f"drop role {role}")


async def test_triggers(world: World, stranger: AsyncConnection[DictRow]) -> None:
    await execute(stranger, "insert into notes (id, body) values (1, 'one'), (2, 'two')")
    await execute(stranger, "update notes set body = 'ONE' where id = 1")
    await execute(stranger, "delete from notes where id = 2")
    found = await world.sql("select kind from backline.changes order by id")
    assert [line["kind"] for line in found] == ["+", "~", "-"]


@pytest.mark.parametrize(
    "call",
    ["searchable(%s)", "comparable(%s, '{1}')", "marks(%s, 'one')",
     "keyword_candidates(%s, 'one', 10)"],
)  # fmt: skip
async def test_search(world: World, stranger: AsyncConnection[DictRow], call: str) -> None:
    await world.insert("one", "two")
    await world.fill()
    assert await execute(stranger, f"select * from backline.{call}", world.collection.id)
