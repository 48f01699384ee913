-- What the server reads, by name, beside what the store does. Nothing here writes.

-- name: failures_page
-- The dead letters of one collection or of all, a page of them.
select f.collection_id, c.name as collection, f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id
from backline.failures f join backline.collections c on c.id = f.collection_id
where (%(collection)s::int is null or f.collection_id = %(collection)s)
  and (f.collection_id, f.key) > (%(after_collection)s, %(after)s)
order by f.collection_id, f.key limit %(limit)s

-- name: stale_rows
-- Of the pending rows, those that have an older vector.
select count(*) as stale from (
  select j.key from backline.jobs j where j.collection_id = %(collection)s
  union all select unnest(p.keys) from backline.batch_leases p where p.collection_id = %(collection)s) j
cross join lateral (
  select 1 from backline.stamps s
  where s.key = j.key and s.collection_id = %(collection)s and s.stale and not s.blank offset 0) s

-- name: failures_since
-- What went to the dead letters after a moment.
select f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id
from backline.failures f
where f.collection_id = %(collection)s and f.failed_at > %(moment)s
order by f.failed_at, f.key limit %(limit)s

-- name: failures_by_kind
select c.name as collection, f.kind, count(*) as count
from backline.failures f join backline.collections c on c.id = f.collection_id group by 1, 2

-- name: spent_by_collection
-- What all runs together did, for each collection and model.
select c.name as collection, m.provider, m.name as model,
  coalesce(sum(k.embedded), 0)::bigint as embedded, coalesce(sum(k.tokens), 0)::bigint as tokens
from backline.runs r join backline.collections c on c.id = r.collection_id
join backline.models m on m.id = r.model_id
left join backline.run_counts k on k.run_id = r.id group by 1, 2, 3

-- name: key_type
select c.key_type from backline.collections c where c.id = %(collection)s

-- name: keys_of
-- The rows that these texts name, each looked up by itself.
select w.key as given, r.key from unnest(%(keys)s::text[]) as w(key)
cross join lateral (select x.{key}::text as key from {table} x where x.{key} = w.key::{type} offset 0) r

-- name: stamped
-- The texts that these keys have a vector of one model for.
select s.key, s.content_hash from unnest(%(keys)s::text[]) as w(key)
cross join lateral (select x.key, x.content_hash from backline.stamps x
  where x.collection_id = %(collection)s and x.key = w.key and x.model_id = %(model)s
    and not x.stale offset 0) s

-- name: table_columns
-- The columns of a collection's table, and whether each is of words.
select a.attname as name,
  case when t.typcategory in ('S', 'E') or t.typname = 'citext' then 'text' else 'other' end as kind
from backline.collections c
join pg_catalog.pg_namespace n on n.nspname = c.table_schema
join pg_catalog.pg_class k on k.relnamespace = n.oid and k.relname = c.table_name
join pg_catalog.pg_attribute a on a.attrelid = k.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid
where c.id = %(collection)s order by a.attnum

-- name: facet
-- How often each value of a column occurs, in a part of the table that is quick to read.
select v.value, count(*) as count
from (select r.{column}::text as value from {table} r limit {rows}) v
where v.value is not null group by v.value order by count(*) desc, v.value limit {values}

-- name: embedded_state
-- How many rows have a vector of a model, and when the last was stored, in microseconds.
select count(*) as embedded, coalesce(extract(epoch from max(s.stamped_at)) * 1e6, 0)::bigint as newest
from backline.stamps s
where s.collection_id = %(collection)s and s.model_id = %(model)s and not s.stale and not s.blank

-- name: embedded_rows
-- Rows with their vectors in pgvector's wire format, all or an even sample of them.
select r.{key}::text as key, {title} as title, {category} as category,
  {vector_send}(r.{embedding}::{vector}) as vector
from {table} r {sample} where r.{embedding} is not null order by r.{key} limit {limit}
