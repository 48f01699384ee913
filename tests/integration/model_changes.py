"""A change of the model as tests drive it, step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.integration.harness import World, make_world, texts

from backline import model_change
from backline.embedders.base import Embedder
from backline.embedders.hash import HashEmbedder
from backline.model_change import NewTarget
from backline.postgres.store import Store
from backline.search.query import Query, search
from backline.types import Collection, ModelChange, Splitting

OTHER = 16  # dimensions of the second model
SIDE: dict[str, Any] = {"into": "notes_vectors"}
PASSAGES: dict[str, Any] = {"into": "notes_passages", "splitting": Splitting("auto", 64)}
PLACES: dict[str, dict[str, Any]] = {"column": {}, "side": SIDE, "passages": PASSAGES}


@dataclass
class Changing:
    """A world whose collection changes its model to `embedder`."""

    world: World
    embedder: Embedder

    @property
    def store(self) -> Store:
        return self.world.store

    async def begin(self, **target: Any) -> ModelChange:
        target.setdefault("model", self.embedder.model)
        return await model_change.begin(self.store, self.world.collection, NewTarget(**target))

    def at(self, collection: Collection) -> World:
        """Return a world of the same table whose collection is another target."""
        here = collection.model.identity == self.world.embedder.model.identity
        return replace(
            self.world, collection=collection,
            embedder=self.world.embedder if here else self.embedder,
        )  # fmt: skip

    async def target(self, name: str) -> World:
        return self.at(await self.store.collection(name))

    async def fill(self) -> None:
        """Fill the new target, and build its indexes."""
        [change] = [each for each in await self.store.changes("notes") if each.open]
        await model_change.copy(self.store, change)
        report = await (await self.target("notes@next")).fill()
        assert report.stopped_by is None
        await model_change.finish(self.store, change)

    async def state(self) -> str:
        return (await self.store.changes("notes"))[0].state

    async def found(self, text: str, mode: Any = "semantic") -> list[str]:
        """Search the collection by its name; return the keys of the hits."""
        world = await self.target("notes")
        hits = await search(
            world.store, world.collection, world.embedder, Query(text, mode, limit=100)
        )
        return [hit.key for hit in hits]

    async def check_serving(self) -> World:
        """Assert that the serving target is complete and correct; return its world."""
        world = await self.target("notes")
        await world.check_complete()
        return world


@asynccontextmanager
async def changing(
    store: Store, *, rows: int = 30, dimensions: int = OTHER, **declaration: Any
) -> AsyncIterator[Changing]:
    """Fill a table with the first model."""
    async with make_world(store, **declaration) as world:
        await world.insert(*texts(rows))
        await world.fill()
        yield Changing(world, HashEmbedder(dimensions))


async def columns(world: World, table: str = "notes") -> list[str]:
    rows = await world.sql(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 "
        "and not attisdropped order by attnum", table,
    )  # fmt: skip
    return [row["attname"] for row in rows]


async def left_of(world: World, collection: int) -> dict[str, int]:
    """Return what the schema `backline` still holds of a target, by table."""
    tables = await world.sql(
        "select table_name as name from information_schema.columns "
        "where table_schema = 'backline' and column_name = 'collection_id' order by 1"
    )
    found = {}
    for table in [row["name"] for row in tables]:
        [row] = await world.sql(
            f"select count(*) as n from backline.{table} where collection_id = %s", collection
        )
        found[table] = row["n"]
    [row] = await world.sql(
        f"select (select count(*) from backline.collections where id = {collection}) as targets,"
        " (select count(*) from pg_proc where pronamespace = 'backline'::regnamespace"
        f" and starts_with(proname, 'c{collection}_')) as functions,"
        " (select count(*) from pg_trigger"
        f" where starts_with(tgname, 'backline_c{collection}_')) as triggers"
    )
    return {name: count for name, count in (found | dict(row)).items() if count}
