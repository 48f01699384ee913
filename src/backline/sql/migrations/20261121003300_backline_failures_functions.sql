-- Built by `make docs` from schema/functions/failures.sql. Edit that file instead.

-- Failed attempts and dead letters.

-- Records failed attempts. p_rows is an array of objects with the keys key, content_hash (hex), kind, error,
-- retry_in (seconds or null) and lease.
--
-- With retry_in, the job becomes pending again after that time, until the collection's max_attempts is
-- reached. Without it, or at the limit, the row becomes a dead letter. Jobs that this worker no longer holds
-- are not changed. If the row's text has changed since the claim, the error belongs to the old text and the
-- job becomes pending.
-- Returns the keys of jobs locked by another transaction. They are unchanged, and the caller must report them
-- again.
create or replace function backline.fail(p_collection int, p_worker bigint, p_run bigint, p_rows jsonb)
returns text[] language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_dead int;
  v_busy text[];
begin
  c := backline.definition(p_collection);
  perform backline.convert_to_jobs(array_agg(distinct x.lease), array_agg(x.key))
  from jsonb_to_recordset(p_rows) as x(key text, lease bigint);
  execute format($q$
    with reported as materialized (
      select x.key, decode(x.content_hash, 'hex') as content_hash, x.kind, x.error, x.retry_in, x.lease
      from jsonb_to_recordset($4) as x(
        key text, content_hash text, kind text, error text, retry_in float8, lease bigint)
    ), held as materialized (
      select j.id, j.key, j.attempts + 1 as attempts, n.content_hash, n.kind, n.error, n.retry_in,
        case when r.present is null then 'gone'
             when sha256(convert_to(r.content, 'UTF8')) <> n.content_hash then 'changed'
             when n.retry_in is null or j.attempts + 1 >= $5 then 'dead'
             else 'retry' end as outcome
      from reported n
      cross join lateral (select x.ctid as id, x.key, x.attempts from backline.jobs x
        where x.collection_id = $1 and x.key = n.key and x.worker_id = $2
          and (n.lease is null or n.lease = x.lease)
        for update skip locked offset 0) j
      left join lateral (select true as present, %1$s as content from %2$s r
        where %3$s offset 0) r on true
    ), freed as (
      update backline.jobs j set worker_id = null,
        attempts = case h.outcome when 'retry' then h.attempts else j.attempts end,
        not_before = now() + make_interval(secs => case h.outcome when 'retry' then h.retry_in else 0 end)
      from held h where h.outcome in ('retry', 'changed') and j.ctid = h.id
    ), ended as (
      delete from backline.jobs j
      where j.ctid = any (array(select h.id from held h where h.outcome in ('dead', 'gone')))
    ), dead_lettered as (
      insert into backline.failures
        (collection_id, key, content_hash, model_id, attempts, kind, error, run_id)
      select $1, h.key, h.content_hash, $6, h.attempts, h.kind, h.error, $3
      from held h where h.outcome = 'dead'
      on conflict (collection_id, key) do update set content_hash = excluded.content_hash,
        model_id = excluded.model_id, attempts = excluded.attempts, kind = excluded.kind,
        error = excluded.error, run_id = excluded.run_id, failed_at = now()
      returning 1
    )
    select (select count(*) from dead_lettered),
      array(select n.key from reported n
            where n.key <> all (array(select h.key from held h)) and (
              (select true from backline.jobs x where x.collection_id = $1 and x.key = n.key
                 and x.worker_id = $2 and (n.lease is null or n.lease = x.lease) offset 0)
              or exists (select from backline.batch_leases p
                         where p.lease = n.lease and n.key = any (p.keys))))
  $q$, c.text_sql, backline.source(c), backline.key_match(c, 'n.key'))
  into v_dead, v_busy using p_collection, p_worker, p_run, p_rows, c.max_attempts, c.model_id;
  insert into backline.run_counts (run_id, failed)
  select p_run, v_dead where p_run is not null and v_dead > 0;
  return v_busy;
end $$;
comment on function backline.fail is
  'API: records failed attempts. Returns the keys that must be reported again because they were locked.';

-- Requeues dead letters. A key that is too long has no job.
create or replace function backline.retry_failures(p_collection int, p_keys text[] default null) returns int
language sql set search_path = pg_catalog, pg_temp as $$
  with requeued as (
    delete from backline.failures f
    where f.ctid = any (array(
      select x.ctid from backline.failures x
      where x.collection_id = p_collection and (p_keys is null or x.key = any (p_keys))
        and x.long_key is null
      for update skip locked))
    returning f.key
  ), queued as (
    insert into backline.jobs (collection_id, key, priority)
    select p_collection, r.key, 1 from requeued r
    on conflict do nothing returning 1
  )
  select count(*)::int from requeued;
$$;
comment on function backline.retry_failures is 'API: requeues dead letters, all of them or those in p_keys.';

create or replace function backline.drop_failures(p_collection int, p_keys text[] default null) returns int
language sql set search_path = pg_catalog, pg_temp as $$
  with dropped as (
    delete from backline.failures f
    where f.ctid = any (array(
      select x.ctid from backline.failures x
      where x.collection_id = p_collection and (p_keys is null or x.key = any (p_keys))
      for update skip locked))
    returning 1
  )
  select count(*)::int from dropped;
$$;
comment on function backline.drop_failures is
  'API: deletes dead letters, all of them or those in p_keys, without requeueing.';
