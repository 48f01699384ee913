-- Built by `make docs` from schema/functions/coverage.sql. Edit that file instead.

-- Coverage of a collection, and the work that remains.

-- Returns whether work enqueued or leased up to p_before remains, and the seconds until the next job is due.
create or replace function backline.outstanding(p_collection int, p_before timestamptz,
  out remain boolean, out due_in float8
) language sql stable set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  select exists (select from backline.jobs j where j.collection_id = p_collection and j.worker_id is null
                   and j.priority in (0, 1) and j.enqueued_at <= p_before)
         or exists (select from backline.jobs j where j.collection_id = p_collection
                      and j.worker_id is not null and j.enqueued_at <= p_before)
         or exists (select from backline.batch_leases p
                    where p.collection_id = p_collection and p.leased_at <= p_before),
         (select extract(epoch from greatest(min(j.not_before) - now(), interval '0'))::float8
          from (select x.not_before from backline.jobs x where x.collection_id = p_collection
                  and x.worker_id is null order by x.priority, x.enqueued_at limit 1000) j);
$$;
comment on function backline.outstanding is 'API: returns whether work enqueued up to a moment remains.';

-- Returns coverage and health from the counters, in constant time at any size. Every look-up uses an index:
-- reading the whole queue took 1.8 s with ten million pending jobs.
create or replace function backline.coverage(p_collection int) returns jsonb
language sql stable set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  with counts as (
    select coalesce(sum(t.amount) filter (where t.measure = 'rows'), 0)::bigint as total,
           coalesce(sum(t.amount) filter (where t.measure = 'embedded'
                                           and t.model_id = c.model_id), 0)::bigint as embedded,
           coalesce(sum(t.amount) filter (where t.measure = 'blank'
                                           and t.model_id = c.model_id), 0)::bigint as blank,
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
    ) o
  ), working as (
    select count(*) as workers, coalesce(sum(w.rate), 0)::float8 as rate from backline.workers w
    where w.collection_id = p_collection and w.expires_at > now()
  ), leased as (
    select (coalesce(sum(h.jobs), 0) + (select g.jobs from batched g))::bigint as in_flight from held h
  )
  select jsonb_build_object(
    'rows', n.total, 'embedded', n.embedded, 'blank', n.blank, 'long', n.long,
    'pending', n.pending + (select g.jobs from batched g), 'failed', n.failed, 'in_flight', l.in_flight,
    'workers', w.workers, 'rate', w.rate,
    'lag_seconds', coalesce(extract(epoch from now() - o.at), 0)::float8)
  from counts n, oldest o, working w, leased l;
$$;
comment on function backline.coverage is 'API: returns coverage, queue, lag and rate of a collection.';
