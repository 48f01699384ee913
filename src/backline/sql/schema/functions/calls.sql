-- Repeated PostgREST calls.

-- Forgets answers that nobody will ask for again.
create or replace function backline.forget_calls() returns void
language sql set search_path = '' as $$
  delete from backline.calls c where c.id = any (array(
    select x.id from backline.calls x where x.called_at < now() - interval '15 minutes'
    for update skip locked));
$$;

-- Whether this call was carried out before, and what it answered. Two that run at once take turns. One in
-- a hundred calls tidies up, for the Edge Function calls and has no worker that would.
create or replace function backline.answered(p_call uuid, out before boolean, out answer jsonb)
language plpgsql set search_path = '' as $$
begin
  insert into backline.calls (id) values (p_call) on conflict do nothing;
  before := not found;
  if before then
    select c.answer into answered.answer from backline.calls c where c.id = p_call;
  elsif random() < 0.01 then
    perform backline.forget_calls();
  end if;
end $$;

create or replace function backline.keep_answer(p_call uuid, p_answer jsonb) returns jsonb
language sql set search_path = '' as $$
  update backline.calls set answer = p_answer where id = p_call returning answer;
$$;

-- Gives back what a worker was leased by claims whose answers it never got. p_lease is the newest lease
-- that it knows of. Claims of one worker take turns, also with one that its caller has given up on.
create or replace function backline.release_unacknowledged(p_worker bigint, p_lease bigint) returns void
language plpgsql set search_path = '' as $$
begin
  perform pg_catalog.pg_advisory_xact_lock(backline.worker_lock(p_worker));
  update backline.jobs j set worker_id = null
  where j.ctid = any (array(
    select x.ctid from backline.jobs x
    where x.worker_id = p_worker and x.lease > p_lease for update skip locked));
end $$;
