-- Built by `make docs` from schema/functions/workers.sql. Edit that file instead.

-- Workers and their leases.

-- The advisory lock that a worker with a session of its own holds while it lives.
create or replace function backline.worker_lock(p_worker bigint) returns bigint
language sql immutable set search_path = '' as $$ select (x'6261636b'::bigint << 31) | p_worker $$;

create or replace function backline.register_worker(
  p_collection int, p_host text, p_pid int, p_has_session boolean, p_lease interval,
  p_run bigint default null, p_replaces bigint default null
) returns bigint language plpgsql set search_path = '' as $$
declare
  v_id bigint;
  v_lost bigint[];
begin
  insert into backline.workers (collection_id, run_id, host, pid, has_session, replaces, expires_at)
  values (p_collection, p_run, p_host, p_pid, p_has_session, p_replaces, now() + p_lease) returning id into v_id;
  if p_has_session then
    perform pg_catalog.pg_advisory_lock(backline.worker_lock(v_id));
  end if;
  if p_replaces is not null then  -- the same worker, after its connection was lost
    -- Also an earlier try to replace it, of which it never heard that it was made.
    v_lost := p_replaces || array(select w.id from backline.workers w where w.replaces = p_replaces and w.id <> v_id);
    update backline.jobs j set worker_id = v_id
    where j.ctid = any (array(
      select x.ctid from backline.jobs x where x.worker_id = any (v_lost) for update skip locked));
    update backline.batch_leases p set worker_id = v_id where p.worker_id = any (v_lost);
    delete from backline.workers w where w.id = any (v_lost);
  end if;
  return v_id;
end $$;
comment on function backline.register_worker is 'API: makes a worker; its leases live as long as it does.';

-- Renews the lease; false where it was lost, and with it everything that was claimed.
create or replace function backline.heartbeat(p_worker bigint, p_lease interval, p_rate real) returns boolean
language sql set search_path = '' as $$
  with renewed as (
    update backline.workers set expires_at = now() + p_lease, rate = p_rate where id = p_worker returning 1
  )
  select exists (select from renewed);
$$;
comment on function backline.heartbeat is 'API: renews a worker''s lease.';

create or replace function backline.unregister_worker(p_worker bigint) returns void
language sql set search_path = '' as $$
  select backline.release(p_worker);
  delete from backline.workers where id = p_worker;  -- what is left of its leases, reap() frees
$$;
comment on function backline.unregister_worker is 'API: ends a worker and gives back what it holds.';

-- Frees what dead workers held: those whose lease has run out, and at once those whose connection
-- is gone, which its advisory lock shows. Then every lease without a worker is free, whoever took
-- it: a process that slept past its lease may have claimed in the moment before it noticed. p_worker is who
-- asks: it lives, even if its connection is gone and it has not noticed yet. Returns how many workers were
-- found dead.
create or replace function backline.release_dead_workers(p_collection int, p_worker bigint default null) returns int
language plpgsql set search_path = ''
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
  -- A run has a worker but for the moments of its beginning and its report. One that is taken for
  -- dead while it reports has the last word all the same.
  update backline.runs r set state = 'interrupted', finished_at = now()
  where r.collection_id = p_collection and r.state in ('running', 'cancelling')
    and (r.started_at < now() - interval '1 minute'
         or exists (select from backline.workers w where w.run_id = r.id and w.id = any (v_dead)))
    and not exists (select from backline.workers w where w.run_id = r.id and w.id <> all (v_dead));
  delete from backline.workers w where w.id = any (v_dead);
  perform backline.convert_to_jobs(array(
    select p.lease from backline.batch_leases p
    where p.collection_id = p_collection and not exists (select from backline.workers w where w.id = p.worker_id)));
  -- From one holder to the next by the index: whatever the planner believes, it does not read the queue.
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
comment on function backline.release_dead_workers is 'API: frees what dead workers held.';
