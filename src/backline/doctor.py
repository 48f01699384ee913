"""Check everything that an installation needs, each with its remedy.

It asks the checks that commands use, and adds those of the machine and the connection.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from backline import collections, errors, extras, wiring
from backline.embedders import registry
from backline.search.indexes import ROWS_WORTH_AN_INDEX

if TYPE_CHECKING:
    from backline.config import Settings
    from backline.postgres.store import Store
    from backline.types import Collection

State: TypeAlias = Literal["ok", "warning", "failed"]

CLOCK_SECONDS: Final = 5.0
"""Difference of the clocks above which lag and times of runs are misleading."""

LEAST_FREE: Final = 0.05
"""Share of the disk that an index build or a change of model soon fills."""

_DATABASE: Final = """
select pg_catalog.current_setting('server_version') as version,
  pg_catalog.clock_timestamp() as now, pg_catalog.pg_is_in_recovery() as standby,
  pg_catalog.pg_size_pretty(pg_catalog.pg_database_size(pg_catalog.current_database())) as size,
  e.installed_version as installed, e.default_version as available
from (select) one left join pg_catalog.pg_available_extensions e on e.name = 'vector'
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    state: State
    detail: str
    remedy: str = ""


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the result of each check, and change nothing.

    Without a connection, the other checks of the database are left out.
    """
    try:
        async with wiring.open_database(settings, migrated=False) as store:
            async for finding in _database(settings, store):
                yield finding
            async for finding in _schema(settings, store):
                yield finding
    except errors.BacklineError as error:
        yield Finding("connection", "failed", str(error))
    yield _disk(settings)


async def _database(settings: Settings, store: Store) -> AsyncIterator[Finding]:
    row = await store.connector.fetch_one(_DATABASE)
    where = wiring.describe_database(settings, store)
    yield Finding("connection", "ok", f"{where}, version {row['version']}, {row['size']}")
    if store.connector.has_sessions:
        yield Finding("pooler", "ok", "sessions are kept")
    else:
        yield Finding(
            "pooler", "warning", "a transaction pooler: live edits are found by polling",
            "To be notified, use a direct connection or the pooler's session mode.",
        )  # fmt: skip
    if row["standby"]:
        yield Finding(
            "writes", "warning", "a standby, which accepts no writes", "Connect to the primary."
        )
    yield _extension(row["installed"], row["available"])
    apart = abs((row["now"] - datetime.now(UTC)).total_seconds())
    late = apart > CLOCK_SECONDS
    yield Finding(
        "clock", "warning" if late else "ok", f"{apart:.1f} s from the server's",
        "Synchronize both machines by NTP." if late else "",
    )  # fmt: skip


def _extension(installed: str | None, available: str | None) -> Finding:
    if installed is None:
        remedy = "create extension vector;" if available else str(errors.ExtensionMissingError())
        return Finding("pgvector", "failed", "is not in this database", remedy)
    if available and available != installed:
        return Finding(
            "pgvector", "warning", f"{installed}, and the server has {available}",
            "alter extension vector update;",
        )  # fmt: skip
    return Finding("pgvector", "ok", installed)


async def _schema(settings: Settings, store: Store) -> AsyncIterator[Finding]:
    """Check the schema `backline`, and then each collection."""
    try:
        await wiring.require_schema(store)
    except errors.NotMigratedError as error:
        yield Finding("schema", "failed", str(error))
        return
    damage = await store.schema_problems()
    for each in damage:
        yield Finding("schema", "failed", each.problem, each.remedy)
    if not damage:
        yield Finding("schema", "ok", "as this version has it")
    for collection in await store.collections():
        async for finding in _collection(settings, store, collection):
            yield finding


async def _collection(
    settings: Settings, store: Store, collection: Collection
) -> AsyncIterator[Finding]:
    """Check the rights, the drift, the indexes and the model of a collection."""
    name = collection.name
    try:
        collections.check(collection, collection.model)
        yield Finding(f"{name}: rights", "ok", "may read and fill the table")
    except errors.BacklineError as error:
        yield Finding(f"{name}: rights", "failed", str(error))
    damage = {each.problem for each in await store.schema_problems()}
    drift = [each for each in await store.problems(collection) if each.problem not in damage]
    for each in drift:
        yield Finding(f"{name}: {each.kind}", "failed", each.problem, each.remedy)
    if not drift:
        yield Finding(f"{name}: drift", "ok", "triggers and counts agree with the table")
    yield await _indexes(store, collection)
    yield _model(settings, collection)


async def _indexes(store: Store, collection: Collection) -> Finding:
    check = f"{collection.name}: indexes"
    indexes = await store.hnsw_indexes(collection)
    embedded = (await store.coverage(collection)).embedded
    if len(indexes) > 1:
        return Finding(
            check, "warning", f"{len(indexes)} HNSW indexes, each of which slows every write",
            f"Drop all but one: drop index concurrently {indexes[-1]};",
        )  # fmt: skip
    if not indexes and embedded >= ROWS_WORTH_AN_INDEX:
        return Finding(
            check, "warning", f"no HNSW index for {embedded:,} vectors",
            errors.command("index", collection.name),
        )  # fmt: skip
    return Finding(check, "ok", indexes[0] if indexes else f"none needed for {embedded:,} vectors")


def _model(settings: Settings, collection: Collection) -> Finding:
    """Check that this machine can open the model. Opens nothing and sends nothing."""
    check, model = f"{collection.name}: model", collection.model
    if model.provider == "openai" and not extras.installed("openai"):
        return Finding(check, "failed", f"{model} needs an extra", extras.install("openai"))
    if registry.provider(model.provider) is not None and not settings.reaches(model.provider):
        remedy = "Set the variables in: " + errors.command("model", "list", "--all")
        return Finding(check, "failed", f"{model} has no key or address", remedy)
    try:
        wiring.spec_of(settings, model)
    except errors.ConfigurationError as error:
        return Finding(check, "failed", str(error))
    end = collections.announced_end(collection, datetime.now(UTC).date())
    if end is not None:
        return Finding(check, "warning", end.problem, end.remedy)
    return Finding(check, "ok", str(model))


def _disk(settings: Settings) -> Finding:
    """Check the disk of the embedded Postgres, or else that of the user, which holds models."""
    folder = settings.data_dir or Path.home()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 1e9:.1f} GB free on the disk of {folder}"
    if usage.free < LEAST_FREE * usage.total:
        return Finding("disk", "warning", free, "Free some space.")
    return Finding("disk", "ok", free)
