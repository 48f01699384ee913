"""Poll a source without triggers: a view, a foreign table, or a table of another owner."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from backline import errors
from backline.postgres.store import Store
from backline.types import Collection

PAGE: Final = 1000
RECONNECT_SECONDS: Final = 1.0
# What a sweep compares: the rows with their records, and the records with their rows.
SWEPT: Final = ("stamps", "failures", "vectors", "rows")

log = structlog.get_logger("backline.polling")


async def poll(store: Store, collection: Collection, sweep_every: float) -> None:
    """Poll a source until cancelled, and sweep it every `sweep_every` seconds.

    The changes go through the change log, from which workers claim.
    """
    while True:
        try:
            wait, sweeps = await store.poll_source(collection, sweep_every)
            if sweeps:
                await sweep(store, collection)
        except errors.BacklineError as error:  # such as a view that is made again
            log.warning("poll failed", collection=collection.name, error=str(error))
            wait = RECONNECT_SECONDS
        await asyncio.sleep(wait)


async def sweep(store: Store, collection: Collection) -> int:
    """Log the rows that polls have missed, and those that are gone; return how many."""
    missed = 0
    for of in SWEPT:
        scanned, after = PAGE, None
        while scanned == PAGE:
            scanned, logged, after = await store.sweep_page(collection, of, after, PAGE)
            missed += logged
    await store.count_source(collection)
    return missed
