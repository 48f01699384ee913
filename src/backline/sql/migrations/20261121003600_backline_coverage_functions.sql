-- Built by `make docs` from schema/functions/coverage.sql. Edit that file instead.

-- Coverage of a collection, and the work that remains.

-- Returns whether work enqueued or leased up to p_before remains, and the seconds until the next job is due.
create or replace function backline.outstanding(p_collection int, p_before timestamptz,
  out remain boolean, out due_in float8
) language sql stable set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  select exists (select from backline.jobs j where j.collection_id = p_collection and j.worker_id is null
                   and j.priority in (0, 1) and j.enqueued_at <= p_before)
         or exists (select from backline.jobs j where j.collection_id = p_collection
                      and j.worker_id is not null and j.enqueued_at <= p_before)
         or exists (select from backline.batch_leases p
                    where p.collection_id = p_collection and p.leased_at <= p_before)
         or exists (select from backline.changes l where l.collection_id = p_collection
                      and l.xid >= backline.log_start(p_collection) and l.at <= p_before),
         (select extract(epoch from greatest(min(j.not_before) - now(), interval '0'))::float8
          from (select x.not_before from backline.jobs x where x.collection_id = p_collection
                  and x.worker_id is null order by x.priority, x.enqueued_at limit 1000) j);
$$;
comment on function backline.outstanding is 'API: returns whether work enqueued up to a moment remains.';

-- Returns the number of rows of a collection's table, at most p_most.
create or replace function backline.rows_up_to(p_collection int, p_most int) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_rows bigint;
begin
  execute format('select count(*) from (select from %s limit $1) r', backline.source(c))
  into v_rows using p_most;
  return v_rows;
end $$;

-- Returns what the change log will do to the counters when it is applied: exactly while it has at most 5,000
-- keys, and otherwise as an estimate. An inserted row with a current stamp was embedded by a scan.
create or replace function backline.logged_changes(p_collection int, p_model int,
  out delta bigint, out embedded bigint, out blank bigint, out excluded bigint, out long bigint,
  out pending bigint, out failed bigint, out at timestamptz
) language plpgsql stable set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_keys bigint; v_edited bigint; v_truncated boolean;
begin
  select coalesce(sum(l.delta), 0), coalesce(sum(l.amount), 0), min(l.at), bool_or(l.kind = 't'),
         coalesce(sum(l.amount) filter (where l.kind <> '+'), 0),
         coalesce(sum(l.amount) filter (where l.kind <> '-'), 0)
  into delta, v_keys, at, v_truncated, v_edited, pending
  from backline.changes l
  where l.collection_id = p_collection and l.xid >= backline.log_start(p_collection);
  if v_truncated then
    -- Until the truncation is applied it is unknown which of the stamps are of rows that are left.
    pending := backline.rows_up_to(p_collection, 10000);
    select pending - coalesce(sum(d.amount) filter (where d.measure = 'rows'), 0),
           -coalesce(sum(d.amount) filter (where d.measure = 'embedded' and d.model_id = p_model), 0),
           -coalesce(sum(d.amount) filter (where d.measure = 'blank' and d.model_id = p_model), 0),
           -coalesce(sum(d.amount) filter (where d.measure = 'long' and d.model_id = p_model), 0),
           -coalesce(sum(d.amount) filter (where d.measure = 'failed'), 0),
           -coalesce(sum(d.amount) filter (where d.measure = 'excluded' and d.model_id = p_model), 0)
    into delta, embedded, blank, long, failed, excluded
    from backline.counter_deltas d where d.collection_id = p_collection;
    return;
  end if;
  embedded := -v_edited;
  blank := 0; excluded := 0; long := 0; failed := 0;
  if v_keys = 0 or v_keys > 5000 then
    return;
  end if;
  with logged as materialized (
    select distinct on (k.key) k.key, l.kind, bool_or(l.kind <> '+') over (partition by k.key) as replaced
    from backline.changes l cross join unnest(l.keys) as k(key)
    where l.collection_id = p_collection and l.xid >= backline.log_start(p_collection)
      and l.kind in ('+', '~', '-')
    order by k.key, l.id desc
  ), known as (
    select l.kind <> '-' as exists, s.key is not null and l.replaced as edited,
           s.key is not null as stamped, s.blank, s.excluded, s.long, f.key is not null as failed,
           j.key is not null as queued
    from logged l
    left join lateral (select x.key, x.blank, x.excluded, x.long from backline.stamps x
      where x.collection_id = p_collection and x.key = l.key and not x.stale and x.model_id = p_model
      offset 0) s on true
    left join lateral (select x.key from backline.failures x
      where x.collection_id = p_collection and x.key = l.key offset 0) f on true
    left join lateral (select x.key from backline.jobs x
      where x.collection_id = p_collection and x.key = l.key offset 0) j on true
  )
  select -count(*) filter (where k.edited and not k.blank),
         -count(*) filter (where k.edited and k.blank and not k.excluded),
         -count(*) filter (where k.edited and k.excluded),
         -count(*) filter (where k.edited and k.long), -count(*) filter (where k.failed),
         count(*) filter (where k.exists and not k.queued and (k.edited or not k.stamped))
         - count(*) filter (where not k.exists and k.queued)
  into embedded, blank, excluded, long, failed, pending from known k;
end $$;

-- Returns coverage and health from the counters, in constant time at any size of the table, and from the
-- lines of the change log: a million of them take a third of a second. Every look-up uses an index: reading
-- the whole queue took 1.8 s with ten million pending jobs.
create or replace function backline.coverage(p_collection int) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  with counts as (
    select coalesce(sum(t.amount) filter (where t.measure = 'rows'), 0)::bigint as total,
           coalesce(sum(t.amount) filter (where t.measure = 'embedded'
                                           and t.model_id = c.model_id), 0)::bigint as embedded,
           coalesce(sum(t.amount) filter (where t.measure = 'blank'
                                           and t.model_id = c.model_id), 0)::bigint as blank,
           coalesce(sum(t.amount) filter (where t.measure = 'excluded'
                                           and t.model_id = c.model_id), 0)::bigint as excluded,
           coalesce(sum(t.amount) filter (where t.measure = 'long'
                                           and t.model_id = c.model_id), 0)::bigint as long,
           coalesce(sum(t.amount) filter (where t.measure = 'pending'), 0)::bigint as pending,
           coalesce(sum(t.amount) filter (where t.measure = 'failed'), 0)::bigint as failed
    from backline.collections c left join backline.counter_deltas t on t.collection_id = c.id
    where c.id = p_collection
  ), held as materialized (
    select l.jobs, l.at from backline.workers w cross join lateral (
      select count(*) as jobs, min(j.enqueued_at) as at from backline.jobs j
      where j.worker_id = w.id and j.collection_id = p_collection offset 0) l
    where w.collection_id = p_collection
  ), batched as materialized (  -- rows of batch leases without a current stamp
    select count(*) as jobs, min(p.leased_at) as at
    from backline.batch_leases p cross join unnest(p.keys) as u(key)
    where p.collection_id = p_collection and (
      select true from backline.stamps s
      where s.collection_id = p_collection and s.key = u.key and not s.stale offset 0) is null
  ), logged as materialized (
    select l.* from backline.collections c cross join lateral backline.logged_changes(c.id, c.model_id) l
    where c.id = p_collection
  ), oldest as (
    select min(o.enqueued_at) as at from (
      (select j.enqueued_at from backline.jobs j where j.collection_id = p_collection
         and j.worker_id is null and j.priority = 0 order by j.priority, j.enqueued_at limit 1)
      union all
      (select j.enqueued_at from backline.jobs j where j.collection_id = p_collection
         and j.worker_id is null and j.priority = 1 order by j.priority, j.enqueued_at limit 1)
      union all
      (select min(h.at) from held h)
      union all
      (select g.at from batched g)
      union all
      (select l.at from logged l)
    ) o
  ), working as (
    select count(*) as workers, coalesce(sum(w.rate), 0)::float8 as rate from backline.workers w
    where w.collection_id = p_collection and w.expires_at > now()
  ), leased as (
    select (coalesce(sum(h.jobs), 0) + (select g.jobs from batched g))::bigint as in_flight from held h
  ), summed as (
    select greatest(n.total + l.delta, 0) as total, n.embedded + l.embedded as embedded,
           n.blank + l.blank as blank, greatest(n.excluded + l.excluded, 0) as excluded,
           n.long + l.long as long, n.failed + l.failed as failed,
           n.pending + (select g.jobs from batched g) + l.pending as pending, l.at is not null as estimated
    from counts n, logged l
  ), bounded as (  -- an estimate must not exceed the rows that there are
    select x.rows, x.excluded, greatest(least(x.blank, x.rows), 0) as blank, x.failed, x.pending, x.estimated,
           greatest(least(x.embedded, x.rows - x.blank), 0) as embedded, greatest(x.long, 0) as long
    from (select s.*, greatest(s.total - s.excluded, 0) as rows from summed s) x
  )
  select jsonb_build_object(
    'rows', n.rows, 'excluded', n.excluded, 'embedded', n.embedded, 'blank', n.blank,
    'long', least(n.long, n.embedded),
    'pending', case when n.estimated then greatest(least(n.pending, n.rows - n.embedded - n.blank), 0)
                    else n.pending end,
    'failed', greatest(n.failed, 0), 'in_flight', l.in_flight,
    'workers', w.workers, 'rate', w.rate,
    'lag_seconds', coalesce(extract(epoch from now() - o.at), 0)::float8)
  from bounded n, oldest o, working w, leased l;
$$;
comment on function backline.coverage is 'API: returns coverage, queue, lag and rate of a collection.';
