"""The command `sync`: embed edits as they are committed."""

from __future__ import annotations

import asyncio

from backline import config, wiring
from backline.cli.options import NO_FLAGS, CollectionName, Flags, Workers, database_options
from backline.cli.output import count, say
from backline.cli.signals import stopping
from backline.collections import check
from backline.config import Settings
from backline.sync import Sync


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
        async with wiring.embedder_for(settings, collection.model, say) as (embedder, limiter):
            options = wiring.worker_options(settings, collection.model)
            live = Sync(store, collection, embedder, limiter, options)
            say(f"Following {collection.name} ({collection.model}). Stop with Ctrl-C.")
            with stopping(live.stop):
                await live.run()
            say(f"Stopped; {count(live.processed, 'row')} processed.")
