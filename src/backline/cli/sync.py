"""The command `sync`: embed edits as they are committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backline import config, wiring
from backline.cli.options import NO_FLAGS, CollectionName, Flags, Workers, database_options
from backline.cli.output import count, say
from backline.cli.signals import stopping
from backline.collections import check
from backline.config import Settings
from backline.sync import Opened, TargetSync
from backline.types import Collection


@database_options()
def sync(
    collection: CollectionName = None, workers: Workers = None, flags: Flags = NO_FLAGS
) -> None:
    """Follow live edits and embed each one, until stopped."""
    asyncio.run(_sync(config.load(**flags, workers=workers), collection))


async def _sync(settings: Settings, name: str | None) -> None:
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        check(collection, collection.model)

        @asynccontextmanager
        async def open_for(target: Collection) -> AsyncIterator[Opened]:
            async with wiring.embedder_for(settings, target.model, say) as (embedder, limiter):
                say(f"Following {target.name} ({target.model}). Stop with Ctrl-C.")
                yield Opened(embedder, limiter, wiring.worker_options(settings, target.model))

        live = TargetSync(store, collection.family, open_for)
        with stopping(live.stop):
            await live.run()
        say(f"Stopped; {count(live.processed, 'row')} processed.")
