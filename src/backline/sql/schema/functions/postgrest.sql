-- The worker protocol over PostgREST, for workers and Edge Functions that have a project URL and a secret key
-- but no Postgres connection. PostgREST exposes only the schema public, so these functions live there with
-- the prefix backline_. Each one wraps a function of the schema backline.
--
-- Privileges: the functions are security invoker, and only service_role may execute those that do more than
-- search. They grant nothing that the secret key lacks, and a table not granted to service_role stays
-- inaccessible. With security definer, any role that can update backline.collections could write to every
-- table of the owner.
--
-- Each function returns a single JSON value, because PostgREST silently truncates row sets at 1,000 rows.
--
-- A client repeats a call after a lost response. Reads and releases can run twice. A claim first releases
-- what the worker never received. Every other write carries a UUID under which its result is stored.

-- Returns the role and the version of pgvector. It depends on nothing that can be missing.
create or replace function public.backline_health() returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
  select json_build_object(
    'role', current_user,
    'vector', (select x.extversion from pg_catalog.pg_extension x where x.extname = 'vector'));
$$;
comment on function public.backline_health() is
  'Returns the role and the version of pgvector, for checks before any work.';

-- A role that can read backline.collections also receives its missing grants. readable_collections cannot
-- report those, because it runs with its owner's rights.
create or replace function public.backline_collections() returns json
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if pg_catalog.has_table_privilege('backline.collections', 'select') then
    return (select coalesce(json_agg(r), '[]') from backline.collection_records() r);
  end if;
  return (select coalesce(json_agg(r), '[]') from backline.readable_collections() r);
end $$;
comment on function public.backline_collections() is
  'Returns all collections for the secret key, and for other keys those with a readable table.';

create or replace function public.backline_search(
  p_collection int, p_mode text, p_text text, p_vector real[], p_limit int, p_offset int default 0,
  p_filter jsonb default null, p_weight float8 default 0.4, p_snippets boolean default false,
  p_passages int default 3
) returns json language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(json_agg(s), '[]')
  from backline.search(p_collection, p_mode, p_text, p_vector, p_limit, p_offset,
                       p_filter, p_weight, p_snippets, p_passages) s;
$$;
comment on function public.backline_search is
  'Returns ranked rows of a collection, subject to row level security.';

create or replace function public.backline_coverage(p_collection int) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$ select backline.coverage(p_collection) $$;

create or replace function public.backline_problems(p_collection int) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(json_agg(p), '[]') from backline.problems(p_collection) p;
$$;

create or replace function public.backline_follow(p_collection int) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$ select backline.follow(p_collection) $$;

create or replace function public.backline_guard_expressions(p_collection int) returns boolean
language sql set search_path = pg_catalog, pg_temp as $$ select backline.guard_expressions(p_collection) $$;

create or replace function public.backline_now() returns timestamptz
language sql volatile set search_path = pg_catalog, pg_temp as $$ select pg_catalog.clock_timestamp() $$;

create or replace function public.backline_verify_page(p_collection int, p_after text, p_limit int)
returns json language sql stable set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select to_json(v) from backline.verify_page(p_collection, p_after, p_limit) v;
$$;

create or replace function public.backline_scan_page(p_collection int, p_after text, p_limit int)
returns json language sql stable set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select coalesce(json_agg(json_build_array(
    w.key, w.due, w.content, encode(w.content_hash, 'hex'), w.cached)), '[]')
  from backline.scan_page(p_collection, p_after, p_limit, true) w;
$$;

create or replace function public.backline_outstanding(p_collection int, p_before timestamptz) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
  select to_json(o) from backline.outstanding(p_collection, p_before) o;
$$;

create or replace function public.backline_runs(p_collection int, p_run bigint, p_limit int) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(json_agg(r), '[]') from backline.run_records(p_collection, p_run, p_limit) r;
$$;

create or replace function public.backline_failures(p_collection int, p_after text, p_limit int) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(json_agg(f), '[]') from (
    select f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id from backline.failures f
    where f.collection_id = p_collection and f.key > p_after order by f.key limit p_limit) f;
$$;

create or replace function public.backline_run_failures(p_run bigint, p_limit int) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(json_agg(json_build_array(f.key, f.kind, f.error)), '[]') from (
    select f.key, f.kind, f.error from backline.failures f
    where f.run_id = p_run order by f.key limit p_limit) f;
$$;

create or replace function public.backline_inspect(p_collection int, p_keys text[], p_hashes bytea[])
returns json language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(json_agg(json_build_array(i.key, i.action, i.row_key)), '[]')
  from backline.inspect(p_collection, p_keys, p_hashes) i;
$$;

create or replace function public.backline_start_run(p_call uuid, p_collection int, p_settings jsonb)
returns jsonb language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_repeated boolean; v_result jsonb;
begin
  select * into v_repeated, v_result from backline.begin_call(p_call);
  return case when v_repeated then v_result
              else backline.finish_call(p_call, to_jsonb(backline.start_run(p_collection, p_settings))) end;
end $$;

create or replace function public.backline_finish_run(p_run bigint, p_state text, p_report jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select backline.finish_run(p_run, p_state, p_report);
$$;

create or replace function public.backline_cancel_run(p_run bigint) returns text
language sql set search_path = pg_catalog, pg_temp as $$ select backline.cancel_run(p_run) $$;

create or replace function public.backline_register_worker(
  p_call uuid, p_collection int, p_host text, p_pid int, p_lease float8, p_run bigint, p_replaces bigint
) returns jsonb language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_repeated boolean; v_result jsonb;
begin
  select * into v_repeated, v_result from backline.begin_call(p_call);
  return case when v_repeated then v_result
              else backline.finish_call(p_call, to_jsonb(backline.register_worker(
                p_collection, p_host, p_pid, false, make_interval(secs => p_lease), p_run, p_replaces))) end;
end $$;

create or replace function public.backline_heartbeat(
  p_worker bigint, p_run bigint, p_lease float8, p_rate float8
) returns json language sql set search_path = pg_catalog, pg_temp as $$
  select json_build_object(
    'alive', backline.heartbeat(p_worker, make_interval(secs => p_lease), p_rate::real),
    'run_state', (select r.state from backline.runs r where r.id = p_run));
$$;

create or replace function public.backline_held(
  p_collection int, p_worker bigint, p_keys text[], p_leases bigint[]
) returns json language sql stable set search_path = pg_catalog, pg_temp as $$
  select to_json(backline.held(p_collection, p_worker, p_keys, p_leases));
$$;

create or replace function public.backline_unregister_worker(p_worker bigint) returns void
language sql set search_path = pg_catalog, pg_temp as $$ select backline.unregister_worker(p_worker) $$;

create or replace function public.backline_release_dead_workers(p_collection int) returns int
language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select backline.forget_calls();
  select backline.release_dead_workers(p_collection);
$$;

create or replace function public.backline_compact(p_collection int) returns void
language sql set search_path = pg_catalog, pg_temp as $$ select backline.compact_counters(p_collection) $$;

create or replace function public.backline_trim_vectors(p_bytes bigint) returns int
language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select backline.trim_vectors(p_bytes);
$$;

create or replace function public.backline_recount(p_collection int) returns jsonb
language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select backline.recount(p_collection);
$$;

create or replace function public.backline_claim(
  p_collection int, p_worker bigint, p_limit int, p_model int, p_received_lease bigint,
  p_edits_only boolean default false
) returns json language plpgsql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
begin
  perform pg_catalog.set_config('synchronous_commit', 'off', true);
  perform backline.release_unacknowledged(p_worker, p_received_lease);
  return (
    select coalesce(json_agg(json_build_array(
      c.key, c.action, coalesce(c.content, ''), encode(c.content_hash, 'hex'), c.attempts, c.lease)), '[]')
    from backline.claim(p_collection, p_worker, p_limit, p_model, p_edits_only) c);
end $$;

-- p_again marks a repeated request for the same page. If the first request was committed, the run's cursor
-- has passed the page, and the page is not counted again.
create or replace function public.backline_claim_batch(
  p_collection int, p_worker bigint, p_run bigint, p_after text, p_limit int, p_model int,
  p_unfinished bigint[], p_again boolean default false
) returns json language plpgsql
set search_path = pg_catalog, pg_temp set statement_timeout = '55s' set lock_timeout = '200ms' as $$
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
    from backline.claim_batch(p_collection, p_worker, v_run, p_after, p_limit, p_model, p_unfinished) c);
end $$;

create or replace function public.backline_end_finished_batches(p_worker bigint, p_leases bigint[])
returns void language sql set search_path = pg_catalog, pg_temp as $$
  select backline.end_finished_batches(p_worker, p_leases);
$$;

-- Vectors are passed as text, such as '[0.1,…]'. For 500 vectors of 384 dimensions this takes 48 ms from HTTP
-- to vector[], an array of numbers 250 ms, and nested JSON 280 ms. The parameter is text[] and not vector[],
-- so that the function still exists, and can report the cause, after pgvector is dropped.
create or replace function public.backline_complete(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint, p_cache boolean,
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors text[],
  p_batches bigint default 0, p_tokens bigint default 0, p_truncated bigint default 0,
  p_model int default null, p_leases bigint[] default null, p_long boolean[] default null,
  p_path text default pg_catalog.current_setting('search_path'),
  p_sent bigint default 0, p_of int[] default null, p_starts int[] default null, p_ends int[] default null,
  p_headings text[] default null, p_passages bytea[] default null, p_passage_vectors text[] default null
) returns jsonb language plpgsql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
declare
  v_repeated boolean; v_result jsonb;
begin
  select * into v_repeated, v_result from backline.begin_call(p_call);
  if v_repeated then
    return v_result;
  end if;
  select coalesce(jsonb_agg(jsonb_build_array(c.key, c.outcome)), '[]') into v_result
  from backline.complete(p_collection, p_worker, p_run, p_cache, p_keys, p_actions, p_hashes,
                         p_vectors::extensions.vector[], p_batches, p_tokens, p_truncated, p_model,
                         p_leases, p_path, p_long, p_sent, p_of, p_starts, p_ends, p_headings, p_passages,
                         p_passage_vectors::extensions.vector[]) c;
  return backline.finish_call(p_call, v_result);
end $$;

create or replace function public.backline_known_passages(
  p_collection int, p_keys text[], p_hashes bytea[]
) returns json language sql stable set search_path = pg_catalog, pg_temp as $$
  select to_json(backline.known_passages(p_collection, p_keys, p_hashes));
$$;

create or replace function public.backline_confirm(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint,
  p_keys text[], p_hashes bytea[], p_leases bigint[], p_batches bigint, p_model int
) returns jsonb language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select backline.confirm(
    p_call, p_collection, p_worker, p_run, p_keys, p_hashes, p_leases, p_batches, p_model);
$$;

create or replace function public.backline_fail(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint, p_rows jsonb
) returns jsonb language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_repeated boolean; v_result jsonb;
begin
  select * into v_repeated, v_result from backline.begin_call(p_call);
  return case when v_repeated then v_result
              else backline.finish_call(p_call, to_jsonb(backline.fail(
                p_collection, p_worker, p_run, p_rows))) end;
end $$;

create or replace function public.backline_release(p_worker bigint, p_keys text[]) returns int
language sql set search_path = pg_catalog, pg_temp as $$ select backline.release(p_worker, p_keys) $$;

create or replace function public.backline_retry_failures(p_collection int, p_keys text[]) returns int
language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select backline.retry_failures(p_collection, p_keys);
$$;

create or replace function public.backline_drop_failures(p_collection int, p_keys text[]) returns int
language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select backline.drop_failures(p_collection, p_keys);
$$;

create or replace function public.backline_query_text(p_collection int, p_query text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select backline.query_text(p_collection, p_query);
$$;

-- A large table is indexed page by page. After a lost response the client starts
-- again from the first page, and rows that are already indexed are skipped.
create or replace function public.backline_keywords_built(p_collection int) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from backline.keyword_indexes k where k.collection_id = p_collection
                 and k.built_at is not null and k.version = backline.terms_version());
$$;

create or replace function public.backline_build_keywords_page(
  p_collection int, p_after text, p_limit int
) returns json language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select to_json(b) from backline.build_keywords_page(p_collection, p_after, p_limit) b;
$$;

create or replace function public.backline_finish_keywords(p_collection int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
declare
  v_built boolean := backline.keywords_are_built(p_collection);
begin
  if v_built then
    perform backline.compact_keywords(p_collection, true);
  end if;
  return v_built;
end $$;

-- A change of the model, after begin_change() over a connection of the table's owner. A frozen target is for
-- the owner as well, who alone can drop and install triggers.
create or replace function public.backline_change_records(p_name text) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(json_agg(h), '[]') from backline.change_records(p_name) h;
$$;

create or replace function public.backline_copy_page(p_name text) returns bigint
language sql set search_path = pg_catalog, pg_temp set statement_timeout = '55s' as $$
  select backline.copy_page(p_name);
$$;

create or replace function public.backline_finish_fill(
  p_name text, p_despite_failures boolean default false, p_lag float8 default 0
) returns void language sql set search_path = pg_catalog, pg_temp as $$
  select backline.finish_fill(p_name, p_despite_failures, make_interval(secs => p_lag));
$$;

create or replace function public.backline_finish_indexes(p_name text) returns void
language sql set search_path = pg_catalog, pg_temp as $$ select backline.finish_indexes(p_name) $$;

create or replace function public.backline_cutover(
  p_call uuid, p_name text, p_despite_failures boolean default false, p_lag float8 default 0
) returns jsonb language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_repeated boolean; v_result jsonb;
begin
  select * into v_repeated, v_result from backline.begin_call(p_call);
  if not v_repeated then
    perform backline.cutover(p_name, p_despite_failures, make_interval(secs => p_lag));
    v_result := backline.finish_call(p_call, 'true');
  end if;
  return v_result;
end $$;

create or replace function public.backline_rollback_change(p_call uuid, p_name text) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_repeated boolean; v_result jsonb;
begin
  select * into v_repeated, v_result from backline.begin_call(p_call);
  if not v_repeated then
    perform backline.rollback_change(p_name);
    v_result := backline.finish_call(p_call, 'true');
  end if;
  return v_result;
end $$;
