-- Named read-only statements of the server.

-- name: failures_page
-- One page of the dead letters of one collection or of all.
select f.collection_id, c.name as collection, f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id
from backline.failures f join backline.collections c on c.id = f.collection_id
where (%(collection)s::int is null or f.collection_id = %(collection)s)
  and (f.collection_id, f.key) > (%(after_collection)s, %(after)s)
order by f.collection_id, f.key limit %(limit)s

-- name: stale_rows
-- Counts the pending rows that have an older vector.
select count(*) as stale from (
  select j.key, false as logged from backline.jobs j where j.collection_id = %(collection)s
  union select unnest(p.keys), false from backline.batch_leases p where p.collection_id = %(collection)s
  union select unnest(l.keys), true from backline.changes l
  where l.collection_id = %(collection)s and l.kind = '~') j
cross join lateral (
  select 1 from backline.stamps s
  where s.key = j.key and s.collection_id = %(collection)s and s.stale <> j.logged and not s.blank
  offset 0) s

-- name: failures_since
-- Dead letters added after a moment.
select f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id
from backline.failures f
where f.collection_id = %(collection)s and f.failed_at > %(moment)s
order by f.failed_at, f.key limit %(limit)s

-- name: failures_by_kind
select c.name as collection, f.kind, count(*) as count
from backline.failures f join backline.collections c on c.id = f.collection_id group by 1, 2

-- name: usage_by_collection
-- Rows embedded and tokens sent by all runs, for each collection and model. The runs of both targets of a
-- change of the model count under the name of the collection.
select case when c.role = 'serving' then c.name else regexp_replace(c.name, '@(next|old)$', '') end
  as collection, m.provider, m.name as model,
  coalesce(sum(k.embedded), 0)::bigint as embedded, coalesce(sum(k.tokens), 0)::bigint as tokens
from backline.runs r join backline.collections c on c.id = r.collection_id
join backline.models m on m.id = r.model_id
left join backline.run_counts k on k.run_id = r.id group by 1, 2, 3

-- name: inspect
-- What each row needs, in the order of the keys.
select action, row_key from backline.inspect(%(collection)s, %(keys)s, %(hashes)s)

-- name: table_columns
-- The columns of a collection's table, and whether each holds text.
select a.attname as name,
  case when t.typcategory in ('S', 'E') or t.typname = 'citext' then 'text' else 'other' end as kind
from backline.definition(%(collection)s) c
join pg_catalog.pg_attribute a on a.attrelid = c.table_id and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid order by a.attnum

-- name: facet
-- How often each value of a column occurs in the first rows of the table.
select v.value, count(*) as count
from (select r.{column}::text as value from {table} r limit {rows}) v
where v.value is not null group by v.value order by count(*) desc, v.value limit {values}

-- name: embedded_state
-- How many rows have a vector of a model, and when the latest was stored, in microseconds.
select count(*) as embedded, coalesce(extract(epoch from max(s.stamped_at)) * 1e6, 0)::bigint as newest
from backline.stamps s
where s.collection_id = %(collection)s and s.model_id = %(model)s and not s.stale and not s.blank

-- name: embedded_rows
-- All rows or an even sample, with their vectors in pgvector's binary format.
select {key} as key, {title} as title, {category} as category,
  {vector_send}({embedding}::{vector}) as vector
from {rows} where {embedding} is not null order by {order} limit {limit}

-- name: key_expressions
-- The key of a row, the columns that it is ordered by, its vector, and the rows with their vectors.
-- Of passages, the vector is their mean.
select backline.key_text(c) as key, backline.key_order(c) as key_order, backline.vector_of(c) as vector,
  backline.whole_rows_of(c, %(sample)s) as rows
from backline.definition(%(collection)s) c

-- name: index_builds
-- How many indexes are being built in this database.
select count(*) as builds from pg_catalog.pg_stat_progress_create_index p
where p.datname = current_database()
