-- Built by `make docs` from schema/functions/postgrest.sql. Edit that file instead.

-- The protocol over PostgREST, for workers and Edge Functions that have a project URL and a secret key
-- and no connection to Postgres. PostgREST shows the schema public only, so these functions stand there
-- under the prefix backline_; each is a thin wrapper over one function of the schema backline.
--
-- Rights: they run with their caller's rights (security invoker), and only service_role may call those
-- that need more than a search. So they can do nothing that the secret key could not do anyway, and a
-- table that service_role was not granted stays out of reach. With the owner's rights, whoever could
-- change a row of backline.collections could have written into any table of the owner.
--
-- Answers are one JSON value each: PostgREST cuts an answer of rows at 1,000 without a word.
--
-- A call whose answer was lost is made again by its caller. Reads and releases may simply run twice. What
-- may not is kept right in one of two ways: a claim first gives back what its worker never heard of, and
-- every other write carries a number of its own, under which its answer is kept.

-- What stands in the way of work, before it begins. It needs nothing that may be missing.
create or replace function public.backline_health() returns json
language sql stable set search_path = '' as $$
  select json_build_object(
    'role', current_user,
    'vector', (select x.extversion from pg_catalog.pg_extension x where x.extname = 'vector'));
$$;
comment on function public.backline_health() is 'What stands in the way of Backline''s work here.';

-- Who may read Backline's own tables is also told what they lack, which readable_collections, with its
-- owner's rights, cannot say.
create or replace function public.backline_collections() returns json
language plpgsql stable set search_path = '' as $$
begin
  if pg_catalog.has_table_privilege('backline.collections', 'select') then
    return (select coalesce(json_agg(r), '[]') from backline.collection_records() r);
  end if;
  return (select coalesce(json_agg(r), '[]') from backline.readable_collections() r);
end $$;
comment on function public.backline_collections() is
  'The collections: all of them for the secret key, for others those whose table they may read.';

create or replace function public.backline_search(
  p_collection int, p_mode text, p_text text, p_vector real[], p_limit int, p_offset int default 0,
  p_filter jsonb default null, p_weight float8 default 0.4, p_snippets boolean default false
) returns json language sql stable set search_path = '' as $$
  select coalesce(json_agg(s), '[]')
  from backline.search(p_collection, p_mode, p_text, p_vector, p_limit, p_offset, p_filter, p_weight, p_snippets) s;
$$;
comment on function public.backline_search is 'Ranked rows of a collection, as the caller may read them.';

create or replace function public.backline_coverage(p_collection int) returns jsonb
language sql stable set search_path = '' as $$ select backline.coverage(p_collection) $$;

create or replace function public.backline_now() returns timestamptz
language sql volatile set search_path = '' as $$ select pg_catalog.clock_timestamp() $$;

create or replace function public.backline_verify_page(p_collection int, p_after text, p_limit int) returns json
language sql stable set search_path = '' set statement_timeout = '55s' as $$
  select to_json(v) from backline.verify_page(p_collection, p_after, p_limit) v;
$$;

create or replace function public.backline_scan_page(p_collection int, p_after text, p_limit int) returns json
language sql stable set search_path = '' set statement_timeout = '55s' as $$
  select coalesce(json_agg(json_build_array(w.key, w.due, w.content, encode(w.content_hash, 'hex'), w.cached)), '[]')
  from backline.scan_page(p_collection, p_after, p_limit, true) w;
$$;

create or replace function public.backline_outstanding(p_collection int, p_before timestamptz) returns json
language sql stable set search_path = '' as $$
  select to_json(o) from backline.outstanding(p_collection, p_before) o;
$$;

create or replace function public.backline_runs(p_collection int, p_run bigint, p_limit int) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(r), '[]') from backline.run_records(p_collection, p_run, p_limit) r;
$$;

create or replace function public.backline_failures(p_collection int, p_after text, p_limit int) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(f), '[]') from (
    select f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id from backline.failures f
    where f.collection_id = p_collection and f.key > p_after order by f.key limit p_limit) f;
$$;

create or replace function public.backline_run_failures(p_run bigint, p_limit int) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(json_build_array(f.key, f.kind, f.error)), '[]') from (
    select f.key, f.kind, f.error from backline.failures f
    where f.run_id = p_run order by f.key limit p_limit) f;
$$;

create or replace function public.backline_inspect(p_collection int, p_keys text[], p_hashes bytea[]) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(json_build_array(i.key, i.action, i.row_key)), '[]')
  from backline.inspect(p_collection, p_keys, p_hashes) i;
$$;

create or replace function public.backline_start_run(p_call uuid, p_collection int, p_settings jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_before boolean; v_answer jsonb;
begin
  select * into v_before, v_answer from backline.answered(p_call);
  return case when v_before then v_answer
              else backline.keep_answer(p_call, to_jsonb(backline.start_run(p_collection, p_settings))) end;
end $$;

create or replace function public.backline_finish_run(p_run bigint, p_state text, p_report jsonb) returns void
language sql set search_path = '' as $$ select backline.finish_run(p_run, p_state, p_report) $$;

create or replace function public.backline_cancel_run(p_run bigint) returns text
language sql set search_path = '' as $$ select backline.cancel_run(p_run) $$;

create or replace function public.backline_register_worker(
  p_call uuid, p_collection int, p_host text, p_pid int, p_lease float8, p_run bigint, p_replaces bigint
) returns jsonb language plpgsql set search_path = '' as $$
declare
  v_before boolean; v_answer jsonb;
begin
  select * into v_before, v_answer from backline.answered(p_call);
  return case when v_before then v_answer
              else backline.keep_answer(p_call, to_jsonb(backline.register_worker(
                p_collection, p_host, p_pid, false, make_interval(secs => p_lease), p_run, p_replaces))) end;
end $$;

create or replace function public.backline_heartbeat(p_worker bigint, p_run bigint, p_lease float8, p_rate float8) returns json
language sql set search_path = '' as $$
  select json_build_object(
    'alive', backline.heartbeat(p_worker, make_interval(secs => p_lease), p_rate::real),
    'run_state', (select r.state from backline.runs r where r.id = p_run));
$$;

create or replace function public.backline_unregister_worker(p_worker bigint) returns void
language sql set search_path = '' as $$ select backline.unregister_worker(p_worker) $$;

create or replace function public.backline_release_dead_workers(p_collection int) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.forget_calls();
  select backline.release_dead_workers(p_collection);
$$;

create or replace function public.backline_compact(p_collection int) returns void
language sql set search_path = '' as $$ select backline.compact_counters(p_collection) $$;

create or replace function public.backline_trim_vectors(p_bytes bigint) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$ select backline.trim_vectors(p_bytes) $$;

create or replace function public.backline_recount(p_collection int) returns jsonb
language sql set search_path = '' set statement_timeout = '55s' as $$ select backline.recount(p_collection) $$;

create or replace function public.backline_claim(p_collection int, p_worker bigint, p_limit int, p_model int, p_known_lease bigint)
returns json language plpgsql set search_path = '' set statement_timeout = '55s' as $$
begin
  perform pg_catalog.set_config('synchronous_commit', 'off', true);
  perform backline.release_unacknowledged(p_worker, p_known_lease);
  return (
    select coalesce(json_agg(json_build_array(
      c.key, c.action, coalesce(c.content, ''), encode(c.content_hash, 'hex'), c.attempts, c.lease)), '[]')
    from backline.claim(p_collection, p_worker, p_limit, p_model) c);
end $$;

-- p_again: the same page was asked for before, and the answer was lost. Where that call was carried out,
-- the run's cursor has passed the page, and it is not counted as looked at for a second time.
create or replace function public.backline_claim_batch(
  p_collection int, p_worker bigint, p_run bigint, p_after text, p_limit int, p_model int,
  p_known bigint[], p_again boolean default false
) returns json language plpgsql set search_path = '' set statement_timeout = '55s' set lock_timeout = '200ms' as $$
declare
  v_run bigint := p_run;
begin
  perform pg_catalog.set_config('synchronous_commit', 'off', true);
  if p_again then
    select r.id into v_run from backline.runs r where r.id = p_run and r.cursor is not distinct from p_after;
  end if;
  return (
    select json_build_object(
      'scanned', c.scanned, 'last_key', c.last_key, 'lease', c.lease,
      'keys', c.keys, 'actions', c.actions, 'contents', c.contents,
      'hashes', (select json_agg(encode(h.hash, 'hex') order by h.position)
                 from unnest(c.hashes) with ordinality as h(hash, position)))
    from backline.claim_batch(p_collection, p_worker, v_run, p_after, p_limit, p_model, p_known) c);
end $$;

create or replace function public.backline_end_finished_batches(p_worker bigint, p_leases bigint[]) returns void
language sql set search_path = '' as $$ select backline.end_finished_batches(p_worker, p_leases) $$;

-- Vectors come as text, '[0.1,…]': 500 of 384 numbers take 48 ms so, from HTTP to vector[]; 250 as an
-- array of numbers, 280 as nested JSON; and no function makes a vector of bytes. As text[], and not as
-- vector[], this function is still there to say what is wrong where pgvector was dropped.
create or replace function public.backline_complete(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint, p_cache boolean,
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors text[],
  p_batches bigint default 0, p_tokens bigint default 0, p_truncated bigint default 0,
  p_model int default null, p_leases bigint[] default null, p_long boolean[] default null,
  p_path text default pg_catalog.current_setting('search_path')
) returns jsonb language plpgsql set search_path = '' set statement_timeout = '55s' as $$
declare
  v_before boolean; v_answer jsonb;
begin
  select * into v_before, v_answer from backline.answered(p_call);
  if v_before then
    return v_answer;
  end if;
  select coalesce(jsonb_agg(jsonb_build_array(c.key, c.outcome)), '[]') into v_answer
  from backline.complete(p_collection, p_worker, p_run, p_cache, p_keys, p_actions, p_hashes,
                         p_vectors::extensions.vector[], p_batches, p_tokens, p_truncated, p_model,
                         p_leases, p_path, p_long) c;
  return backline.keep_answer(p_call, v_answer);
end $$;

create or replace function public.backline_confirm(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint,
  p_keys text[], p_hashes bytea[], p_leases bigint[], p_batches bigint, p_model int
) returns jsonb language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.confirm(p_call, p_collection, p_worker, p_run, p_keys, p_hashes, p_leases, p_batches, p_model);
$$;

create or replace function public.backline_fail(p_call uuid, p_collection int, p_worker bigint, p_run bigint, p_rows jsonb)
returns jsonb language plpgsql set search_path = '' as $$
declare
  v_before boolean; v_answer jsonb;
begin
  select * into v_before, v_answer from backline.answered(p_call);
  return case when v_before then v_answer
              else backline.keep_answer(p_call, to_jsonb(backline.fail(p_collection, p_worker, p_run, p_rows))) end;
end $$;

create or replace function public.backline_release(p_worker bigint, p_keys text[]) returns int
language sql set search_path = '' as $$ select backline.release(p_worker, p_keys) $$;

create or replace function public.backline_retry_failures(p_collection int, p_keys text[]) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.retry_failures(p_collection, p_keys);
$$;

create or replace function public.backline_drop_failures(p_collection int, p_keys text[]) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.drop_failures(p_collection, p_keys);
$$;

-- A big table's keywords are indexed on its first search, page by page, and again from the start where
-- an answer was lost: what is indexed already stays as it is.
create or replace function public.backline_keywords_built(p_collection int) returns boolean
language sql stable set search_path = '' as $$
  select exists (select from backline.keyword_indexes k
                 where k.collection_id = p_collection and k.built_at is not null);
$$;

create or replace function public.backline_build_keywords_page(p_collection int, p_after text, p_limit int, p_wait boolean)
returns json language sql set search_path = '' set statement_timeout = '55s' as $$
  select to_json(b) from backline.build_keywords_page(p_collection, p_after, p_limit, p_wait) b;
$$;

create or replace function public.backline_finish_keywords(p_collection int) returns boolean
language plpgsql set search_path = '' set statement_timeout = '55s' as $$
declare
  v_built boolean := backline.keywords_are_built(p_collection);
begin
  if v_built then
    perform backline.compact_keywords(p_collection, true);
  end if;
  return v_built;
end $$;
