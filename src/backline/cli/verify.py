"""The command `verify`: check the stored vectors."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import typer

from backline import config, verification, wiring
from backline.cli.options import (
    NO_FLAGS,
    AsJson,
    CollectionName,
    Flags,
    StoreTransport,
    database_options,
)
from backline.cli.output import emit
from backline.cli.report import show_verification
from backline.collections import check
from backline.config import Settings
from backline.types import Verification


@database_options(via=StoreTransport)
def verify(
    collection: CollectionName = None, flags: Flags = NO_FLAGS, as_json: AsJson = False
) -> None:
    """Check every stored vector against its row and model.

    A valid vector has the right dimensions, finite values, unit length, and belongs to the current
    text and the current model.
    """
    name, result = asyncio.run(_verify(config.load(**flags), collection))
    if as_json:
        emit({"collection": name, "passed": result.passed, "empty": result.empty, **asdict(result)})
    else:
        show_verification(name, result)
    if not result.passed:
        raise typer.Exit(1)


async def _verify(settings: Settings, name: str | None) -> tuple[str, Verification]:
    async with wiring.open_job_store(settings) as store:
        collection = await store.collection(name)
        check(collection, collection.model, to="read")
        return collection.name, await verification.verify(store, collection)
