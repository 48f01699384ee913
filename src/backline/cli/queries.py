"""The command `queries`: show or delete the queries that a collection was asked."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from backline import config, wiring
from backline.cli.options import NO_FLAGS, AsJson, CollectionName, Flags, database_options
from backline.cli.output import count, emit, moment, out, table
from backline.config import Settings
from backline.search import kept as library

Limit = Annotated[int, typer.Option("--limit", help="Most queries to list.", min=1, max=10_000)]
Delete = Annotated[
    bool, typer.Option("--delete", help="Delete them, and the evaluations that quote them.")
]


@database_options()
def queries(
    collection: CollectionName = None,
    limit: Limit = 20,
    delete: Delete = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """List the search queries that are kept of a collection, or delete them.

    They are kept only with BACKLINE_KEEP_QUERIES=true, and without the person that asked.
    """
    settings = config.load(**flags)
    if delete:
        name, deleted = asyncio.run(_delete(settings, collection))
        if as_json:
            emit({"collection": name, "deleted": deleted})
        else:
            out.print(f"Deleted {_queries(deleted)} of {name}.", markup=False)
        return
    name, total, listed = asyncio.run(_list(settings, collection, limit))
    if as_json:
        emit({"collection": name, "kept": total, "queries": [asdict(each) for each in listed]})
        return
    out.print(f"{name}: {_queries(total)} kept", markup=False)
    if listed:
        table(
            ("query", "mode", "times", "last asked"),
            ((q.text, q.mode, f"{q.times:,}", moment(q.asked_at)) for q in listed),
        )


def _queries(number: int) -> str:
    return count(number, "query", "queries")


async def _list(
    settings: Settings, name: str | None, limit: int
) -> tuple[str, int, list[library.KeptQuery]]:
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        listed = await library.kept(store, collection, limit)
        return collection.name, await library.kept_count(store, collection), listed


async def _delete(settings: Settings, name: str | None) -> tuple[str, int]:
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        return collection.name, await library.delete_kept(store, collection)
