"""Judge a collection at the end of a history, without any function of Backline."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow

from backline.types import Collection
from tests.integration.oracle import Oracle
from tests.simulation.host import Names


@dataclass(frozen=True)
class RenamedOracle(Oracle):
    """The oracle of a table whose text column has another name."""

    text: str = "body"

    def _identifiers(self) -> dict[str, str]:
        text = sql.Identifier(self.text).as_string()
        return {
            **super()._identifiers(),
            "content": f"btrim(concat(r.{text}), E' \\t\\n\\r')",
        }


@dataclass(frozen=True)
class Judge:
    """Compares the state of a collection with its table."""

    connection: AsyncConnection[DictRow]
    collection: Collection
    names: Names

    def oracle(self) -> RenamedOracle:
        """Return the oracle under the table's present names."""
        names = self.names.present
        renamed = replace(
            self.collection, table_schema=names["schema"], table_name=names["table"],
            key_columns=(names["key"],), embedding_column=names["vector"],
        )  # fmt: skip
        return RenamedOracle(self.connection, renamed, names["text"])

    async def violations(self) -> list[str]:
        """Return what is wrong in a collection at rest."""
        oracle = self.oracle()
        return [
            *await oracle.violations(),
            *[f"row {key} has an open job" for key in await oracle.open_jobs()],
            *await self._coverage(),
            *await self._keywords(),
        ]

    async def coverage_violations(self) -> list[str]:
        """Return what coverage() says that cannot be true at this moment, in one snapshot."""
        try:
            [row] = await self._fetch(_HONEST)
        except psycopg.errors.LockNotAvailable:  # a session of the application holds the table
            return []
        told = row["told"]
        done = told["embedded"] + told["blank"]
        names = ("rows", "embedded", "blank", "pending", "failed")
        if done > told["rows"] or min(told[name] for name in names) < 0:
            return [f"coverage() says {told}"]
        if done == told["rows"] and row["outdated"]:
            return [f"coverage() says {told}, and {row['outdated']} rows are outdated"]
        return []

    async def _coverage(self) -> list[str]:
        """Return the numbers of coverage() that differ from counts of the tables."""
        [row] = await self._fetch(_COVERAGE)
        [told] = await self._fetch("select backline.coverage({collection}) as coverage")
        return [
            f"coverage() says {told['coverage'][name]} {name} instead of {count}"
            for name, count in row.items()
            if told["coverage"][name] != count
        ]

    async def _keywords(self) -> list[str]:
        """Return the rows whose entry in the keyword index differs from one built anew."""
        expected: dict[str, Counter[Any]] = {}
        for row in await self._fetch(_TERMS):
            terms = expected.setdefault(row["key"], Counter())
            if row["term"] is not None:
                terms[row["term"], row["inverse_tf"], row["length"]] += 1
        actual: dict[str, Counter[Any]] = {}
        for row in await self._fetch(_POSTINGS):
            if row["key"] is None:
                if row["amount"]:
                    return [f"the keyword index finds {row['term']!r} in a row that is gone"]
                continue
            terms = actual.setdefault(row["key"], Counter())
            if row["term"] is not None:
                terms[row["term"], row["inverse_tf"], row["length"]] += row["amount"]
        return [
            f"the keyword index of row {key} has {dict(actual.get(key, {}))} "
            f"instead of {dict(expected.get(key, {}))}"
            for key in sorted(expected.keys() | actual.keys())
            if expected.get(key) != actual.get(key)
        ] + await self._document_counts()

    async def _document_counts(self) -> list[str]:
        [row] = await self._fetch(_DOCUMENT_COUNTS)
        return [] if row["right"] else ["the keyword index counts other documents than it has"]

    async def _fetch(self, query: str) -> list[DictRow]:
        text = query.format(collection=self.collection.id, **self.oracle()._identifiers())
        return await (await self.connection.execute(text)).fetchall()


_HONEST = """
select backline.coverage({collection}) as told, (
  select count(*) from {rows} where not exists (
    select from backline.stamps s join backline.collections c on c.id = s.collection_id
    where s.collection_id = {collection} and s.key = {key} and not s.stale
      and s.model_id = c.model_id and s.content_hash = sha256(convert_to({content}, 'UTF8'))
      and s.blank = ({vector} is null))) as outdated
"""

_COVERAGE = """
select count(*) as rows,
  count(*) filter (where not s.blank and not s.stale and s.model_id = c.model_id) as embedded,
  count(*) filter (where s.blank and not s.stale and s.model_id = c.model_id) as blank,
  (select count(*) from backline.failures f where f.collection_id = {collection}) as failed,
  0 as pending, 0 as in_flight
from (select * from backline.collections c where c.id = {collection}) c cross join {table} r
left join backline.stamps s on s.collection_id = {collection} and s.key = {key}
"""

_TERMS = """
select {key} as key, t.lexeme as term,
  (1.0::float8 / cardinality(t.positions))::real as inverse_tf,
  (l.length::float8 / cardinality(t.positions))::real as length
from {table} r
cross join lateral (select to_tsvector('english', {content}) as terms) v
cross join lateral (select sum(cardinality(x.positions)) as length from unnest(v.terms) x) l
left join lateral unnest(v.terms) t on true
"""

# Postings by document, less those of the blocks of deleted documents.
_POSTINGS = """
with posted as (
  select p.term, u.doc, sum(sign(p.size))::int as amount, max(u.inverse_tf) as inverse_tf,
    max(u.length) as length
  from backline.postings p
  cross join lateral unnest(p.docs, p.inverse_tfs, p.lengths) as u(doc, inverse_tf, length)
  where p.collection_id = {collection} group by p.term, u.doc having sum(sign(p.size)) <> 0
)
select d.key, p.term, coalesce(p.amount, 0) as amount, p.inverse_tf, p.length
from (select * from backline.documents where collection_id = {collection}) d
full join posted p on p.doc = d.doc
"""

_DOCUMENT_COUNTS = """
select n.documents = d.documents and n.length = d.length as right
from (select coalesce(sum(documents), 0) as documents, coalesce(sum(length), 0) as length
      from backline.document_counts where collection_id = {collection}) n
cross join (select count(*) as documents, coalesce(sum(length), 0) as length
            from backline.documents where collection_id = {collection}) d
"""
