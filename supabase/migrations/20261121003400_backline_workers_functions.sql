-- Built by `make docs` from schema/functions/workers.sql. Edit that file instead.

-- Workers and their leases.

-- Returns the key of the advisory lock that a worker with a session holds while it is connected.
create or replace function backline.worker_lock(p_worker bigint) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select (x'6261636b'::bigint << 31) | p_worker;
$$;

-- Any role may hold any advisory lock. If another session holds this worker's, the worker counts as one
-- without a session: only its heartbeats show that it lives.
create or replace function backline.register_worker(
  p_collection int, p_host text, p_pid int, p_has_session boolean, p_lease interval,
  p_run bigint default null, p_replaces bigint default null
) returns bigint language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_id bigint;
  v_lost bigint[];
begin
  insert into backline.workers (collection_id, run_id, host, pid, has_session, replaces, expires_at)
  values (p_collection, p_run, p_host, p_pid, p_has_session, p_replaces, now() + p_lease)
  returning id into v_id;
  if p_has_session and not pg_catalog.pg_try_advisory_lock(backline.worker_lock(v_id)) then
    update backline.workers set has_session = false where id = v_id;
  end if;
  if p_replaces is not null then  -- the same worker with a new connection
    -- Includes an earlier replacement that the worker does not know, because the response was lost.
    v_lost := p_replaces || array(select w.id from backline.workers w
                                  where w.replaces = p_replaces and w.id <> v_id);
    update backline.jobs j set worker_id = v_id
    where j.ctid = any (array(
      select x.ctid from backline.jobs x where x.worker_id = any (v_lost) for update skip locked));
    update backline.batch_leases p set worker_id = v_id where p.worker_id = any (v_lost);
    delete from backline.workers w where w.id = any (v_lost);
  end if;
  return v_id;
end $$;
comment on function backline.register_worker is
  'API: registers a worker. Its leases are valid while it renews its own.';

-- Renews a worker's lease. Returns false if the lease, and with it every claim, was lost.
create or replace function backline.heartbeat(p_worker bigint, p_lease interval, p_rate real) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$
  with renewed as (
    update backline.workers set expires_at = now() + p_lease, rate = p_rate where id = p_worker returning 1
  )
  select exists (select from renewed);
$$;
comment on function backline.heartbeat is 'API: renews a worker''s lease.';

-- Returns for each of the claimed rows whether the worker still holds it: its job, or its place in a batch
-- lease, where a row with a current stamp is done.
create or replace function backline.held(p_collection int, p_worker bigint, p_keys text[], p_leases bigint[])
returns boolean[] language sql stable set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  select coalesce(array_agg(j.held or b.held order by i.position), '{}')
  from unnest(p_keys, p_leases) with ordinality as i(key, lease, position)
  cross join lateral (
    select exists (select from backline.jobs x where x.collection_id = p_collection and x.key = i.key
                   and x.worker_id = p_worker and x.lease = i.lease) as held offset 0) j
  cross join lateral (
    select exists (select from backline.batch_leases x
                   where x.lease = i.lease and x.worker_id = p_worker and i.key = any (x.keys)
                     and not exists (select from backline.stamps s
                                     where s.collection_id = p_collection and s.key = i.key
                                       and not s.stale)) as held offset 0) b;
$$;
comment on function backline.held is
  'API: returns for each claimed row whether the worker still holds it.';

create or replace function backline.unregister_worker(p_worker bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select backline.release(p_worker);
  delete from backline.workers where id = p_worker;  -- release_dead_workers() frees locked jobs later
$$;
comment on function backline.unregister_worker is 'API: unregisters a worker and releases its jobs.';

-- Releases the jobs of dead workers. A worker is dead once its lease has expired. One with a session is dead
-- as soon as its advisory lock is free, because its connection is gone. p_worker is the caller and counts as
-- alive, even if its connection is gone.
--
-- Every job without a worker is released too: a process that slept past its lease can claim before it
-- notices. Returns the number of dead workers.
create or replace function backline.release_dead_workers(p_collection int, p_worker bigint default null)
returns int language plpgsql set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_dead bigint[];
begin
  select coalesce(array_agg(w.id), '{}') into v_dead from backline.workers w
  where w.collection_id = p_collection
    and (w.expires_at < now()
         or w.has_session and p_worker is distinct from w.id and (p_worker = w.replaces) is not true
            and pg_catalog.pg_try_advisory_xact_lock(backline.worker_lock(w.id)));
  -- A run has a worker except in the moments of its start and its report. A run marked as interrupted while
  -- it reports is still finished by its report.
  -- A process that was stopped may have locked these records.
  update backline.runs r set state = 'interrupted', finished_at = now()
  where r.id = any (array(
    select x.id from backline.runs x
    where x.collection_id = p_collection and x.state in ('running', 'cancelling')
      and (x.started_at < now() - interval '1 minute'
           or exists (select from backline.workers w where w.run_id = x.id and w.id = any (v_dead)))
      and not exists (select from backline.workers w where w.run_id = x.id and w.id <> all (v_dead))
    for update skip locked));
  delete from backline.workers w where w.id = any (array(
    select x.id from backline.workers x where x.id = any (v_dead) for update skip locked));
  perform backline.convert_to_jobs(array(
    select p.lease from backline.batch_leases p
    where p.collection_id = p_collection
      and not exists (select from backline.workers w where w.id = p.worker_id)));
  -- Iterates over the distinct worker ids by index, so that no plan reads the whole queue.
  with recursive holders as (
    (select j.worker_id as id from backline.jobs j where j.worker_id is not null
     order by j.worker_id limit 1)
    union all
    select (select j.worker_id from backline.jobs j where j.worker_id > h.id order by j.worker_id limit 1)
    from holders h where h.id is not null
  )
  update backline.jobs j set worker_id = null
  where j.ctid = any (array(
    select x.id from holders h cross join lateral (
      select y.ctid as id from backline.jobs y
      where y.worker_id = h.id and y.collection_id = p_collection
      for update skip locked offset 0) x
    where h.id is not null and not exists (select from backline.workers w where w.id = h.id)));
  return cardinality(v_dead);
end $$;
comment on function backline.release_dead_workers is 'API: releases the jobs of dead workers.';
