"""Load CSV, JSON, JSONL and Parquet files into a table, in one transaction.

Records are copied into a temporary table and merged from there. New keys are inserted, changed rows
updated and equal rows left untouched, so that loading a file again re-embeds nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backline import errors
from backline.loading.copy import SAMPLE, copy_records
from backline.loading.dialect import DETECT, Dialect
from backline.loading.merge import merge_records
from backline.loading.readers import InputFile, open_file
from backline.loading.source import Progress
from backline.loading.table import (
    columns_of,
    create_table,
    find_table,
    key_of,
    parse_name,
    vector_column,
)
from backline.postgres.store import Store

__all__ = ["Dialect", "Loaded", "load", "open_file"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load; `unchanged` records equalled their row in the table.

    Attributes:
        table: with its schema.
        created: whether the load created it.
        records: in the file.
        inserted: rows of new keys.
        updated: rows that differed from their record.
        key: the columns that identify a record. Without any, each load adds all records.
        dialect: how the file was read.

    """

    table: str
    created: bool
    records: int
    inserted: int
    updated: int
    key: tuple[str, ...] = ()
    dialect: Dialect = DETECT

    @property
    def unchanged(self) -> int:
        return self.records - self.inserted - self.updated


async def load(
    store: Store,
    file: Path,
    table: str,
    *,
    key: str | None = None,
    dialect: Dialect = DETECT,
    vectors: str | None = None,
    on_dialect: Callable[[Dialect], None] = lambda _dialect: None,
    on_progress: Progress | None = None,
) -> Loaded:
    """Load a file into `table`, which is created if it does not exist.

    The type of a column reads the text of the file: no value is a float in between.

    Args:
        store: the database.
        file: CSV with a header, TSV, JSON, JSONL or Parquet, each also by gzip or zstd; `-` is
            standard input.
        table: `name` or `schema.name`.
        key: the column that identifies a record; default: the table's primary key, or `id`, `_id`,
            `key` or `uuid` of the file, or a new identity column.
        dialect: how the file is written; what is None is detected.
        vectors: the field with a list of numbers in each record. A new table gets a column of
            type vector for it.
        on_dialect: called with the dialect before the load.
        on_progress: called with the bytes read so far and their total.

    Raises:
        InputFileError: the file is missing, malformed, or does not fit the table. The message
            names the line, and nothing was loaded.
        KeyMissingError: the records have no field `key`.

    """
    with open_file(file, dialect) as opened:
        on_dialect(opened.dialect)
        return await _load(store, opened, table, key, vectors, on_progress)


async def _load(
    store: Store,
    file: InputFile,
    table: str,
    key: str | None,
    vectors: str | None,
    on_progress: Progress | None,
) -> Loaded:
    records = file.records(on_progress)
    sample = list(itertools.islice(records, SAMPLE))
    if not sample:
        raise errors.InputFileError(f"{file.name} holds no records. Nothing was loaded.")
    async with store.connector.transaction() as transaction:
        await transaction.execute("set local lock_timeout = '10s'")
        await transaction.execute("set local client_encoding = 'UTF8'")
        name = await parse_name(transaction, table)
        existing = await find_table(transaction, name)
        target = existing or await create_table(transaction, file, name, sample, key, vectors)
        columns = columns_of(file, sample, target)
        identity = key_of(key, target, columns)
        stream = itertools.chain(sample, records)
        checked = None if vectors is None else vector_column(file, vectors, columns)
        count = await copy_records(transaction, file, target, columns, stream, checked)
        inserted, updated = await merge_records(
            transaction, file, target, list(columns.values()), identity, count
        )
    return Loaded(str(target), existing is None, count, inserted, updated, identity, file.dialect)
