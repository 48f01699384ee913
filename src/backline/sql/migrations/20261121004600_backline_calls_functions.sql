-- Built by `make docs` from schema/functions/calls.sql. Edit that file instead.

-- Results of PostgREST calls, so that a repeated call returns the first result instead of running again.

-- Deletes results older than any retry.
create or replace function backline.forget_calls() returns void
language sql set search_path = pg_catalog, pg_temp as $$
  delete from backline.calls c where c.id = any (array(
    select x.id from backline.calls x where x.called_at < now() - interval '15 minutes'
    for update skip locked));
$$;

-- Registers a call and returns whether it ran before, with its result. A concurrent call with the same id
-- waits for the first one to commit. One call in a hundred deletes old results, because the Edge Function has
-- no worker to do it.
create or replace function backline.begin_call(p_call uuid, out repeated boolean, out result jsonb)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into backline.calls (id) values (p_call) on conflict do nothing;
  repeated := not found;
  if repeated then
    select c.result into begin_call.result from backline.calls c where c.id = p_call;
  elsif random() < 0.01 then
    perform backline.forget_calls();
  end if;
end $$;

create or replace function backline.finish_call(p_call uuid, p_result jsonb) returns jsonb
language sql set search_path = pg_catalog, pg_temp as $$
  update backline.calls set result = p_result where id = p_call returning result;
$$;

-- Releases the jobs of claims that the worker has received no response to. p_received_lease is the newest
-- lease that it has received. A lock on the worker's row serializes its claims, including one that its client
-- has abandoned.
create or replace function backline.release_unacknowledged(p_worker bigint, p_received_lease bigint)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform from backline.workers w where w.id = p_worker for no key update;
  update backline.jobs j set worker_id = null
  where j.ctid = any (array(
    select x.ctid from backline.jobs x
    where x.worker_id = p_worker and x.lease > p_received_lease for update skip locked));
end $$;
