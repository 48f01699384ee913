"""Load JSONL, CSV and Parquet files into a table, in one transaction.

Records are copied into a temporary table and merged from there. New keys are inserted, changed rows
updated and equal rows left untouched, so that loading a file again re-embeds nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from backline import errors
from backline.loading.copy import SAMPLE, copy_records, merge_records
from backline.loading.readers import read
from backline.loading.table import columns_of, create_table, find_table, no_key, parse_name
from backline.postgres.store import Store

__all__ = ["Loaded", "load", "read"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load; `unchanged` records equalled their row in the table."""

    table: str
    created: bool
    records: int
    inserted: int
    updated: int

    @property
    def unchanged(self) -> int:
        return self.records - self.inserted - self.updated


async def load(store: Store, file: Path, table: str, *, key: str | None = None) -> Loaded:
    """Load a file into `table`, which is created if it does not exist.

    Args:
        store: the database.
        file: .jsonl or .ndjson (one object a line), .csv (with a header) or .parquet.
        table: `name` or `schema.name`.
        key: the column that identifies a record; default: the table's primary key, or `id`, `_id`,
            `key` or `uuid` of the file, or a new identity column.

    Raises:
        InputFileError: the file is missing, malformed, or does not fit the table. The message
            names the line, and nothing was loaded.
        KeyMissingError: the records have no field `key`.

    """
    records = read(file)
    sample = list(itertools.islice(records, SAMPLE))
    if not sample:
        raise errors.InputFileError(f"{file} holds no records.")
    async with store.connector.transaction() as transaction:
        await transaction.execute("set local lock_timeout = '10s'")
        name = await parse_name(transaction, table)
        existing = await find_table(transaction, name)
        target = existing or await create_table(transaction, file, name, sample, key)
        columns = columns_of(sample, target)
        if key is not None and key not in columns:
            raise no_key(key, columns)
        stream = itertools.chain(sample, records)
        count = await copy_records(transaction, file, target, columns, stream)
        inserted, updated = await merge_records(transaction, file, target, columns, key)
    return Loaded(str(target), existing is None, count, inserted, updated)
