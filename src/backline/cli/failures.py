"""The commands `failures list`, `retry` and `drop`: the dead letters of a collection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer

from backline import config, wiring
from backline.cli.options import (
    NO_FLAGS,
    AsJson,
    CollectionName,
    Flags,
    StoreTransport,
    database_options,
)
from backline.cli.output import count, emit, moment, out, say, table
from backline.errors import command
from backline.store import JobStore
from backline.types import Collection, Failure

T = TypeVar("T")

app = typer.Typer(
    help="Dead letters: rows that failed permanently.", no_args_is_help=True, add_completion=False
)

Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="Only the row with this key. Repeat it for several rows. Default: all rows.",
        show_default=False,
    ),
]


@app.command("list")
@database_options(via=StoreTransport)
def list_failures(
    collection: CollectionName = None, flags: Flags = NO_FLAGS, as_json: AsJson = False
) -> None:
    """List the dead letters with the provider's error messages."""

    async def action(store: JobStore, selected: Collection) -> list[Failure]:
        return [failure async for failure in store.failures(selected)]

    name, failures = _on_collection(flags, collection, action)
    if as_json:
        emit({"collection": name, "failures": [asdict(failure) for failure in failures]})
        return
    if not failures:
        out.print(f"No dead letters in {name}.", markup=False)
        return
    table(
        ("key", "kind", "attempts", "failed at", "error"),
        ((f.key, f.kind, f.attempts, moment(f.failed_at), f.error)
         for f in failures),
    )  # fmt: skip
    say(f"{count(len(failures), 'dead letter')}. Retry: {command('failures', 'retry', name)}")


@app.command("retry")
@database_options(via=StoreTransport)
def retry_failures(
    collection: CollectionName = None,
    key: Keys = None,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Return dead letters to the queue; the next backfill or a running sync embeds them."""

    async def action(store: JobStore, selected: Collection) -> int:
        return await store.retry_failures(selected, key)

    name, requeued = _on_collection(flags, collection, action)
    if as_json:
        emit({"collection": name, "requeued": requeued})
    elif requeued:
        rows = count(requeued, "row")
        out.print(f"{rows} pending again. Embed: {command('backfill', name)}", markup=False)
    else:
        out.print(_no_dead_letters(name, key, "that can be retried"), markup=False)


@app.command("drop")
@database_options(via=StoreTransport)
def drop_failures(
    collection: CollectionName = None,
    key: Keys = None,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters. Their rows keep no vector, and the next backfill tries them again."""

    async def action(store: JobStore, selected: Collection) -> int:
        return await store.drop_failures(selected, key)

    name, dropped = _on_collection(flags, collection, action)
    if as_json:
        emit({"collection": name, "dropped": dropped})
    elif dropped:
        out.print(f"{count(dropped, 'dead letter')} dropped.", markup=False)
    else:
        out.print(_no_dead_letters(name, key), markup=False)


def _on_collection(
    flags: Flags, name: str | None, action: Callable[[JobStore, Collection], Awaitable[T]]
) -> tuple[str, T]:
    """Run `action` on a collection; return the collection's name and the result."""

    async def main() -> tuple[str, T]:
        async with wiring.open_job_store(config.load(**flags)) as store:
            collection = await store.collection(name)
            return collection.name, await action(store, collection)

    return asyncio.run(main())


def _no_dead_letters(collection: str, keys: list[str] | None, which: str = "") -> str:
    of = f" of {', '.join(keys)}" if keys else ""
    of += f" {which}" if which else ""
    see = command("failures", "list", collection)
    return f"No dead letters{of} in {collection}. See: {see}"
