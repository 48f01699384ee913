"""The oracle of the engine's tests: it judges a collection without any query of Backline.

It reads the tables directly, hashes the texts itself, and computes the vector that the stand-in
provider returns for each text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow

from backline.embedders.hash import hash_vectors
from backline.types import Collection

Vector = np.ndarray[Any, Any]

NOT_QUEUED = "is neither embedded nor queued"
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Oracle:
    """Judges `collection` over `connection`; its text column is `body`."""

    connection: AsyncConnection[DictRow]
    collection: Collection

    async def violations(self) -> list[str]:
        """Return every broken invariant in words; a correct engine has none at any moment."""
        return [
            *await self._row_violations(),
            *await self._passage_violations(),
            *await self._orphan_records(),
            *await self._counter_violations(),
        ]

    async def open_jobs(self) -> dict[str, int | None]:
        """Return the worker of each unfinished row by key, from its job or its batch lease.

        Changed rows that are still in the change log have no worker.
        """
        rows = await self._fetch(_OPEN_JOBS, 3)
        return {row["key"]: row["worker_id"] for row in rows}

    async def _row_violations(self) -> list[str]:
        """Return the rows that are not correctly embedded, not queued and not dead letters."""
        rows = await self._fetch(_ROWS, 1)
        expected = hash_vectors([row["content"] for row in rows], self.collection.model.dimensions)
        return [
            f"row {row['key']} {row['content'][:40]!r}: {violation}"
            for row, vector in zip(rows, expected, strict=True)
            if (violation := self._row_violation(row, vector))
        ]

    def _row_violation(self, row: DictRow, expected: Vector) -> str | None:
        stamped = row["stamp_hash"] is not None and not row["stale"]
        outstanding = row["queued"] or row["dead"]
        if not stamped or row["stamp_model"] != self.collection.model_id:
            return None if outstanding else NOT_QUEUED
        if row["stamp_hash"] != row["hash"]:
            return None if outstanding else "has the stamp of another text"
        if self.collection.splitting:  # the vectors are judged by `_passage_violations`
            return _stamp_violation(row, None)
        return _stamp_violation(row, expected)

    async def _passage_violations(self) -> list[str]:
        """Return the rows with a current stamp whose passages are not those of their text."""
        if not self.collection.splitting:
            return []
        rows = await self._fetch(_PASSAGES, 1)
        texts = [
            f"{row['heading']}\n{row['text']}" if row["heading"] else row["text"] for row in rows
        ]
        expected = hash_vectors(texts, self.collection.model.dimensions)
        found: dict[str, list[DictRow]] = {}
        violations = []
        for row, text, vector in zip(rows, texts, expected, strict=True):
            found.setdefault(row["key"], []).append(row)
            stored = np.array(json.loads(row["embedding"]), dtype=np.float32)
            if row["hash"] != sha256(text.encode()).digest():
                violations.append(f"passage {row['ordinal']} of row {row['key']} has a wrong hash")
            elif np.abs(stored - vector).max() > TOLERANCE:
                violations.append(
                    f"passage {row['ordinal']} of row {row['key']} has a wrong vector"
                )
        return violations + [
            f"row {key}: {violation}"
            for key, passages in found.items()
            if (violation := _set_violation(passages))
        ]

    async def _orphan_records(self) -> list[str]:
        rows = await self._fetch(_ORPHAN_RECORDS, 4)
        return [f"{row['kind']} of {row['key']}, which does not exist" for row in rows]

    async def _counter_violations(self) -> list[str]:
        rows = await self._fetch(_COUNTERS, 8)
        return [
            f"the counter {row['measure']} of model {row['model_id']} is {row['counter']}, "
            f"the tables hold {row['actual']}"
            for row in rows
        ]

    async def _fetch(self, query: str, parameters: int) -> list[DictRow]:
        """Run a query; each of its parameters is the id of the collection."""
        cursor = await self.connection.execute(
            query.format(**self._identifiers()), [self.collection.id] * parameters
        )
        return await cursor.fetchall()

    def _key(self) -> str:
        columns = [f"r.{sql.Identifier(name).as_string()}" for name in self.collection.key_columns]
        if len(columns) == 1:
            return f"{columns[0]}::text"
        return f"jsonb_build_array({', '.join(f'{column}::text' for column in columns)})::text"

    def _vector(self) -> str:
        column = sql.Identifier(self.collection.embedding_column).as_string()
        return f"{'e' if self.collection.into else 'r'}.{column}"

    def _vectors(self) -> str:
        """Return the keys of the vectors in a side table, as one more part of a union."""
        if not self.collection.into:
            return ""
        names = tuple(f"key_{n}" for n in range(1, len(self.collection.key_columns) + 1))
        side = Oracle(self.connection, replace(self.collection, key_columns=names))
        table = sql.Identifier(*self.collection.into).as_string()
        return f"union all select 'a vector', {side._key()} from {table} r"

    def _side(self) -> str:
        """Return the side table joined with the table."""
        assert self.collection.into is not None
        columns = [sql.Identifier(name).as_string() for name in self.collection.key_columns]
        equal = [f"e.key_{n} = r.{column}" for n, column in enumerate(columns, 1)]
        table = sql.Identifier(self.collection.table_schema, self.collection.table_name)
        side = sql.Identifier(*self.collection.into).as_string()
        return f"{side} e join {table.as_string()} r on {' and '.join(equal)}"

    def _rows(self, table: str) -> str:
        """Return the table with its side table, if it has one."""
        if not self.collection.into:
            return table
        columns = [sql.Identifier(name).as_string() for name in self.collection.key_columns]
        equal = [f"e.key_{n} = r.{column}" for n, column in enumerate(columns, 1)]
        side = sql.Identifier(*self.collection.into).as_string()
        first = " and e.ordinal = 0" if self.collection.splitting else ""
        return f"{table} left join {side} e on {' and '.join(equal)}{first}"

    def _identifiers(self) -> dict[str, str]:
        table = sql.Identifier(self.collection.table_schema, self.collection.table_name)
        return {
            "table": table.as_string(),
            "rows": self._rows(f"{table.as_string()} r"),
            "side": self._side() if self.collection.splitting else "",
            "key": self._key(),
            "vector": self._vector(),
            "vectors": self._vectors(),
            "content": "btrim(concat(r.body), E' \\t\\n\\r')",
        }


def _set_violation(passages: list[DictRow]) -> str | None:
    """Judge whether the passages of a row are numbered, and leave out nothing of its text."""
    if [row["ordinal"] for row in passages] != list(range(len(passages))):
        return "has passages missing"
    if passages[0]["passages"] != len(passages):
        return "has another number of passages than its stamp"
    content, at = passages[0]["content"], 0
    for row in passages:
        gap = content[at : row["start"]]
        titles = row["heading"].split(" > ")
        if not all(line.strip(" #=-") in ("", *titles) for line in gap.splitlines()):
            return f"leaves out {gap[:40]!r}"
        at = row["end"]
    return "leaves out the end" if content[at:].strip() else None


def _stamp_violation(row: DictRow, expected: Vector | None) -> str | None:
    """Judge the vector of a row that has a current stamp of its present text."""
    if row["blank"] != (row["content"] == ""):
        return "has a stamp with a wrong blank flag"
    if row["blank"]:
        return None if row["embedding"] is None else "is blank and has a vector"
    if row["embedding"] is None:
        return "is stamped and has no vector"
    if expected is None:
        return None
    stored = np.array(json.loads(row["embedding"]), dtype=np.float32)
    return "has the vector of another text" if np.abs(stored - expected).max() > TOLERANCE else None


_OPEN_JOBS = """
select u.key, null::bigint as worker_id from backline.changes l
  cross join unnest(case l.kind when 't' then '{{a truncation}}' else l.keys end) as u(key)
  where l.collection_id = %s
union select key, worker_id from backline.jobs where collection_id = %s
union select u.key, p.worker_id from backline.batch_leases p cross join unnest(p.keys) as u(key)
  where p.collection_id = %s and not exists (select from backline.stamps s
    where s.collection_id = p.collection_id and s.key = u.key and not s.stale)
"""

_ROWS = """
select {key} as key, {content} as content, sha256(convert_to({content}, 'UTF8')) as hash,
  {vector}::text as embedding, s.content_hash as stamp_hash, s.stale, s.blank,
  s.model_id as stamp_model, j.key is not null or exists (
    select from backline.batch_leases p
    where p.collection_id = c.id and {key} = any (p.keys)) or exists (
    select from backline.changes l
    where l.collection_id = c.id and {key} = any (l.keys)) as queued,
  coalesce(f.content_hash = sha256(convert_to({content}, 'UTF8')), false) as dead
from {rows}
cross join (select %s::int as id) c
left join backline.stamps s on s.collection_id = c.id and s.key = {key}
left join backline.jobs j on j.collection_id = c.id and j.key = {key}
left join backline.failures f on f.collection_id = c.id and f.key = {key}
"""

_PASSAGES = """
select {key} as key, {content} as content, s.passages, e.ordinal, e.start, e."end", e.heading,
  e.hash, substr({content}, e.start + 1, e."end" - e.start) as text, e.embedding::text as embedding
from {side} join backline.stamps s on s.collection_id = %s and s.key = {key} and not s.stale
  and s.content_hash = sha256(convert_to({content}, 'UTF8'))
order by 1, e.ordinal
"""

_ORPHAN_RECORDS = """
select x.kind, x.key from (
  select 'a stamp' as kind, s.key from backline.stamps s where s.collection_id = %s
  union all select 'a job', j.key from backline.jobs j where j.collection_id = %s
  union all select 'a dead letter', f.key from backline.failures f where f.collection_id = %s
  {vectors}
) x where not exists (select from {table} r where {key} = x.key)
  and not exists (select from backline.changes l where l.collection_id = %s
    and (l.kind = 't' or x.key = any (l.keys)))
"""

_COUNTERS = """
select coalesce(c.measure, n.measure) as measure, coalesce(c.model_id, n.model_id) as model_id,
  coalesce(c.amount, 0) as counter, coalesce(n.amount, 0) as actual
from (
  select d.measure, d.model_id, sum(d.amount) as amount from (
    select measure, model_id, amount from backline.counter_deltas where collection_id = %s
    union all select 'rows', 0, delta from backline.changes where collection_id = %s
  ) d group by d.measure, d.model_id having sum(d.amount) <> 0
) c full join (
  select 'rows' as measure, 0 as model_id, count(*) as amount from {table} having count(*) > 0
  union all select case when s.excluded then 'excluded' when s.blank then 'blank'
    else 'embedded' end, s.model_id, count(*)
    from backline.stamps s where s.collection_id = %s and not s.stale group by 1, 2
  union all select 'long', s.model_id, count(*)
    from backline.stamps s where s.collection_id = %s and s.long and not s.stale group by s.model_id
  union all select 'pending', 0, count(*) from backline.jobs j
    where j.collection_id = %s having count(*) > 0
  union all select 'failed', 0, count(*) from backline.failures f
    where f.collection_id = %s having count(*) > 0
) n on n.measure = c.measure and n.model_id = c.model_id
where coalesce(c.amount, 0) <> coalesce(n.amount, 0) and %s > 0
  and not (c.measure = 'rows' and exists (
    select from backline.changes l where l.collection_id = %s and l.kind = 't'))
"""
