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

create table backline.calls (
  id        uuid primary key,
  answer    jsonb,
  called_at timestamptz not null default now()
);
alter table backline.calls enable row level security;

-- Forgets answers that nobody will ask for again.
create function backline.forget_calls() returns void
language sql set search_path = '' as $$
  delete from backline.calls c where c.id = any (array(
    select x.id from backline.calls x where x.called_at < now() - interval '15 minutes'
    for update skip locked));
$$;

-- Whether this call was carried out before, and what it answered. Two that run at once take turns. One in
-- a hundred calls tidies up, for the Edge Function calls and has no worker that would.
create function backline.answered(p_call uuid, out before boolean, out answer jsonb)
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

create function backline.keep_answer(p_call uuid, p_answer jsonb) returns jsonb
language sql set search_path = '' as $$
  update backline.calls set answer = p_answer where id = p_call returning answer;
$$;

-- Gives back what a worker was leased by claims whose answers it never got. p_lease is the newest lease
-- that it knows of. Claims of one worker take turns, also with one that its caller has given up on.
create function backline.release_unacknowledged(p_worker bigint, p_lease bigint) returns void
language plpgsql set search_path = '' as $$
begin
  perform pg_catalog.pg_advisory_xact_lock(backline.worker_lock(p_worker));
  update backline.jobs j set worker_id = null
  where j.ctid = any (array(
    select x.ctid from backline.jobs x
    where x.worker_id = p_worker and x.lease > p_lease for update skip locked));
end $$;

-- ------------------------------------------------------------------------------- what is declared

-- What lets the current role read a column's table, or fill the column, of what it lacks: statements for
-- the table's owner to run. A table with row level security and no policy for the role would look empty,
-- and so, filled. The policies for the two have names of their own, so that the second finds its name free.
create function backline.missing_grants(p_table oid, p_column smallint, p_write boolean) returns text[]
language sql stable set search_path = '' as $$
  select array_remove(array[
    case when not pg_catalog.has_schema_privilege(n.oid, 'usage')
         then format('grant usage on schema %I to %I', n.nspname, current_user) end,
    case when not (pg_catalog.has_any_column_privilege(k.oid, 'select') and (
                     not p_write or coalesce(pg_catalog.has_column_privilege(k.oid, p_column, 'update'), true)))
         then format('grant select%s on %I.%I to %I', case when p_write then ', update' else '' end,
                     n.nspname, k.relname, current_user) end,
    case when pg_catalog.row_security_active(k.oid) and (
           select bool_or(p.polcmd in ('*', 'r')) and (not p_write or bool_or(p.polcmd in ('*', 'w')))
           from pg_catalog.pg_policy p where p.polrelid = k.oid and p.polpermissive and (
             p.polroles = '{0}' or exists (
               select from unnest(p.polroles) r where pg_catalog.pg_has_role(r, 'usage')))) is not true
         then format('create policy %I on %I.%I %sto %I using (true)%s',
                     case when p_write then 'backline ' else 'backline reads as ' end || current_user,
                     n.nspname, k.relname, case when p_write then '' else 'for select ' end, current_user,
                     case when p_write then ' with check (true)' else '' end) end], null)
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace where k.oid = p_table;
$$;

-- The collections with what the catalog says of their tables now.
create function backline.collection_records()
returns table (id int, name text, table_schema text, table_name text, key_column text, text_template text,
               embedding_column text, max_attempts int, model_id int, provider text, model text,
               revision text, dimensions int, table_exists boolean, column_type text, column_dimensions int,
               long_text text, missing_grants text[], missing_to_read text[])
language sql stable set search_path = '' as $$
  select c.id, c.name, c.table_schema, c.table_name, c.key_column, c.text_template, c.embedding_column,
         c.max_attempts, c.model_id, m.provider, m.name, m.revision, m.dimensions,
         k.oid is not null, t.typname::text, case when a.atttypmod > 0 then a.atttypmod end, c.long_text,
         backline.missing_grants(k.oid, a.attnum, true), backline.missing_grants(k.oid, a.attnum, false)
  from backline.collections c
  join backline.models m on m.id = c.model_id
  left join pg_catalog.pg_namespace n on n.nspname = c.table_schema
  left join pg_catalog.pg_class k on k.relnamespace = n.oid and k.relname = c.table_name
  left join pg_catalog.pg_attribute a on a.attrelid = k.oid and a.attname = c.embedding_column
    and not a.attisdropped
  left join pg_catalog.pg_type t on t.oid = a.atttypid
  order by c.name;
$$;

-- The same for any caller: all of them for those who may read Backline's own tables, for others those
-- whose table they may read, which is what they may search.
create function backline.readable_collections() returns setof jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_reader name := coalesce(nullif(pg_catalog.current_setting('role', true), 'none'), session_user);
begin
  return query
    select to_jsonb(r) from backline.collection_records() r
    where pg_catalog.has_table_privilege(v_reader, 'backline.collections', 'select')
       or r.table_exists and pg_catalog.has_any_column_privilege(
            v_reader, format('%I.%I', r.table_schema, r.table_name)::regclass, 'select');
end $$;

create function backline.run_records(p_collection int, p_run bigint, p_limit int)
returns table (id bigint, state text, scanned bigint, due bigint, settings jsonb, started_at timestamptz,
               finished_at timestamptz, collection text, embedded bigint, reused bigint, failed bigint,
               batches bigint, tokens bigint, model text, seconds float8, long bigint)
language sql stable set search_path = '' as $$
  select r.id, r.state, r.scanned, r.due, r.settings, r.started_at, r.finished_at, c.name,
    n.embedded::bigint, n.reused::bigint, n.failed::bigint, n.batches::bigint, n.tokens::bigint,
    m.provider || '/' || m.name,
    extract(epoch from coalesce(r.finished_at, now()) - r.started_at)::float8, n.long::bigint
  from backline.runs r join backline.collections c on c.id = r.collection_id
  join backline.models m on m.id = r.model_id
  cross join lateral (
    select coalesce(sum(k.embedded), 0) as embedded, coalesce(sum(k.reused), 0) as reused,
      coalesce(sum(k.failed), 0) as failed, coalesce(sum(k.batches), 0) as batches,
      coalesce(sum(k.tokens), 0) as tokens, coalesce(sum(k.truncated), 0) as long
    from backline.run_counts k where k.run_id = r.id
  ) n
  where (p_collection is null or r.collection_id = p_collection) and (p_run is null or r.id = p_run)
  order by r.id desc limit p_limit;
$$;

-- ------------------------------------------------------------------------- vectors stored by others

-- What rows that somebody brings need, before anything is spent on them. row_key is the key as the table
-- writes it, '7' for '007', and null where there is no such row.
--   embed    the text has to be embedded
--   reuse    this very text was embedded before: complete() takes the vector from the cache
--   up_to_date    the stored vector already is of this text
--   blank    the text is empty: complete() clears the vector
--   changed  the row's text is another one
--   gone     there is no such row
create function backline.inspect(p_collection int, p_keys text[], p_hashes bytea[])
returns table (key text, action text, row_key text)
language plpgsql stable
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
begin
  select * into strict c from backline.collections where id = p_collection;
  return query execute format($q$
    select i.key, case
      when r.found is null then 'gone'
      when r.hash <> i.hash then 'changed'
      when s.content_hash = i.hash and s.model_id = $4 and not s.stale and r.missing = s.blank then 'up_to_date'
      when r.blank then 'blank'
      when (select true from backline.vectors v where v.model_id = $4 and v.content_hash = i.hash
              and (v.cut is null or v.cut = $5) offset 0) then 'reuse'
      else 'embed' end, r.key
    from unnest($2, $3) with ordinality as i(key, hash, position)
    left join lateral (
      select true as found, t.key, t.missing, t.content = '' as blank, sha256(convert_to(t.content, 'UTF8')) as hash
      from (select r.%1$I::text as key, %2$s as content, r.%3$I is null as missing
            from %4$s r where r.%1$I = i.key::%5$s offset 0) t) r on true
    left join lateral (
      select x.* from backline.stamps x where x.collection_id = $1 and x.key = r.key offset 0) s on true
    order by i.position
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name), c.key_type)
  using p_collection, p_keys, p_hashes, c.model_id, c.long_text;
end $$;
comment on function backline.inspect is
  'API: what rows brought with the hash of their text need, before anything is spent on them.';

-- Ends the jobs of rows that somebody else was asked to embed and store: of those whose stored vector is
-- of this text and model by now, and of no others. Returns the rest, as complete() does, and
--   unstored  the row's text is unchanged, and no vector of it is there; its job is pending again
create function backline.confirm(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint,
  p_keys text[], p_hashes bytea[], p_leases bigint[], p_batches bigint, p_model int
) returns jsonb language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' as $$
declare
  v_before boolean; v_answer jsonb; v_now jsonb;
begin
  select * into v_before, v_answer from backline.answered(p_call);
  if v_before then
    return v_answer;
  end if;
  perform backline.require_model(c.model_id, p_model) from backline.collections c where c.id = p_collection;
  select jsonb_object_agg(i.key, i.action) into v_now from backline.inspect(p_collection, p_keys, p_hashes) i;
  if p_run is not null then
    insert into backline.run_counts (run_id, embedded, batches)
    select p_run, count(*) filter (where n.value = '"up_to_date"'), p_batches from jsonb_each(v_now) n;
  end if;
  select coalesce(jsonb_agg(jsonb_build_array(s.key, case
           when s.outcome = 'changed' and v_now ->> s.key <> 'changed' then 'unstored'
           else s.outcome end)), '[]') into v_answer
  from backline.resolve_unwritten(p_collection, p_worker, '{}', p_keys,
                       array_fill('up_to_date'::text, array[cardinality(p_keys)]), p_hashes,
                       array_fill(null::extensions.vector, array[cardinality(p_keys)]), p_leases) s
  where s.outcome <> 'up_to_date';
  return backline.keep_answer(p_call, v_answer);
end $$;
comment on function backline.confirm is
  'API: ends the jobs of rows that somebody else embedded and stored, as far as the database agrees.';

-- ------------------------------------------------------------------------------ reads, over PostgREST

-- What stands in the way of work, before it begins. It needs nothing that may be missing.
create function public.backline_health() returns json
language sql stable set search_path = '' as $$
  select json_build_object(
    'role', current_user,
    'vector', (select x.extversion from pg_catalog.pg_extension x where x.extname = 'vector'));
$$;
comment on function public.backline_health() is 'What stands in the way of Backline''s work here.';

-- Who may read Backline's own tables is also told what they lack, which readable_collections, with its
-- owner's rights, cannot say.
create function public.backline_collections() returns json
language plpgsql stable set search_path = '' as $$
begin
  if pg_catalog.has_table_privilege('backline.collections', 'select') then
    return (select coalesce(json_agg(r), '[]') from backline.collection_records() r);
  end if;
  return (select coalesce(json_agg(r), '[]') from backline.readable_collections() r);
end $$;
comment on function public.backline_collections() is
  'The collections: all of them for the secret key, for others those whose table they may read.';

create function public.backline_search(
  p_collection int, p_mode text, p_text text, p_vector real[], p_limit int, p_offset int default 0,
  p_filter jsonb default null, p_weight float8 default 0.4, p_snippets boolean default false
) returns json language sql stable set search_path = '' as $$
  select coalesce(json_agg(s), '[]')
  from backline.search(p_collection, p_mode, p_text, p_vector, p_limit, p_offset, p_filter, p_weight, p_snippets) s;
$$;
comment on function public.backline_search is 'Ranked rows of a collection, as the caller may read them.';

create function public.backline_coverage(p_collection int) returns jsonb
language sql stable set search_path = '' as $$ select backline.coverage(p_collection) $$;

create function public.backline_now() returns timestamptz
language sql volatile set search_path = '' as $$ select pg_catalog.clock_timestamp() $$;

create function public.backline_verify_page(p_collection int, p_after text, p_limit int) returns json
language sql stable set search_path = '' set statement_timeout = '55s' as $$
  select to_json(v) from backline.verify_page(p_collection, p_after, p_limit) v;
$$;

create function public.backline_scan_page(p_collection int, p_after text, p_limit int) returns json
language sql stable set search_path = '' set statement_timeout = '55s' as $$
  select coalesce(json_agg(json_build_array(w.key, w.due, w.content, encode(w.content_hash, 'hex'), w.cached)), '[]')
  from backline.scan_page(p_collection, p_after, p_limit, true) w;
$$;

create function public.backline_outstanding(p_collection int, p_before timestamptz) returns json
language sql stable set search_path = '' as $$
  select to_json(o) from backline.outstanding(p_collection, p_before) o;
$$;

create function public.backline_runs(p_collection int, p_run bigint, p_limit int) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(r), '[]') from backline.run_records(p_collection, p_run, p_limit) r;
$$;

create function public.backline_failures(p_collection int, p_after text, p_limit int) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(f), '[]') from (
    select f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id from backline.failures f
    where f.collection_id = p_collection and f.key > p_after order by f.key limit p_limit) f;
$$;

create function public.backline_run_failures(p_run bigint, p_limit int) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(json_build_array(f.key, f.kind, f.error)), '[]') from (
    select f.key, f.kind, f.error from backline.failures f
    where f.run_id = p_run order by f.key limit p_limit) f;
$$;

create function public.backline_inspect(p_collection int, p_keys text[], p_hashes bytea[]) returns json
language sql stable set search_path = '' as $$
  select coalesce(json_agg(json_build_array(i.key, i.action, i.row_key)), '[]')
  from backline.inspect(p_collection, p_keys, p_hashes) i;
$$;

-- ----------------------------------------------------------------------------- writes, over PostgREST

create function public.backline_start_run(p_call uuid, p_collection int, p_settings jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_before boolean; v_answer jsonb;
begin
  select * into v_before, v_answer from backline.answered(p_call);
  return case when v_before then v_answer
              else backline.keep_answer(p_call, to_jsonb(backline.start_run(p_collection, p_settings))) end;
end $$;

create function public.backline_finish_run(p_run bigint, p_state text, p_report jsonb) returns void
language sql set search_path = '' as $$ select backline.finish_run(p_run, p_state, p_report) $$;

create function public.backline_cancel_run(p_run bigint) returns text
language sql set search_path = '' as $$ select backline.cancel_run(p_run) $$;

create function public.backline_register_worker(
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

create function public.backline_heartbeat(p_worker bigint, p_run bigint, p_lease float8, p_rate float8) returns json
language sql set search_path = '' as $$
  select json_build_object(
    'alive', backline.heartbeat(p_worker, make_interval(secs => p_lease), p_rate::real),
    'run_state', (select r.state from backline.runs r where r.id = p_run));
$$;

create function public.backline_unregister_worker(p_worker bigint) returns void
language sql set search_path = '' as $$ select backline.unregister_worker(p_worker) $$;

create function public.backline_release_dead_workers(p_collection int) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.forget_calls();
  select backline.release_dead_workers(p_collection);
$$;

create function public.backline_compact(p_collection int) returns void
language sql set search_path = '' as $$ select backline.compact_counters(p_collection) $$;

create function public.backline_trim_vectors(p_bytes bigint) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$ select backline.trim_vectors(p_bytes) $$;

create function public.backline_recount(p_collection int) returns jsonb
language sql set search_path = '' set statement_timeout = '55s' as $$ select backline.recount(p_collection) $$;

create function public.backline_claim(p_collection int, p_worker bigint, p_limit int, p_model int, p_known_lease bigint)
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
create function public.backline_claim_batch(
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

create function public.backline_end_finished_batches(p_worker bigint, p_leases bigint[]) returns void
language sql set search_path = '' as $$ select backline.end_finished_batches(p_worker, p_leases) $$;

-- Vectors come as text, '[0.1,…]': 500 of 384 numbers take 48 ms so, from HTTP to vector[]; 250 as an
-- array of numbers, 280 as nested JSON; and no function makes a vector of bytes. As text[], and not as
-- vector[], this function is still there to say what is wrong where pgvector was dropped.
create function public.backline_complete(
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

create function public.backline_confirm(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint,
  p_keys text[], p_hashes bytea[], p_leases bigint[], p_batches bigint, p_model int
) returns jsonb language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.confirm(p_call, p_collection, p_worker, p_run, p_keys, p_hashes, p_leases, p_batches, p_model);
$$;

create function public.backline_fail(p_call uuid, p_collection int, p_worker bigint, p_run bigint, p_rows jsonb)
returns jsonb language plpgsql set search_path = '' as $$
declare
  v_before boolean; v_answer jsonb;
begin
  select * into v_before, v_answer from backline.answered(p_call);
  return case when v_before then v_answer
              else backline.keep_answer(p_call, to_jsonb(backline.fail(p_collection, p_worker, p_run, p_rows))) end;
end $$;

create function public.backline_release(p_worker bigint, p_keys text[]) returns int
language sql set search_path = '' as $$ select backline.release(p_worker, p_keys) $$;

create function public.backline_retry_failures(p_collection int, p_keys text[]) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.retry_failures(p_collection, p_keys);
$$;

create function public.backline_drop_failures(p_collection int, p_keys text[]) returns int
language sql set search_path = '' set statement_timeout = '55s' as $$
  select backline.drop_failures(p_collection, p_keys);
$$;

-- A big table's keywords are indexed on its first search, page by page, and again from the start where
-- an answer was lost: what is indexed already stays as it is.
create function public.backline_keywords_built(p_collection int) returns boolean
language sql stable set search_path = '' as $$
  select exists (select from backline.keyword_indexes k
                 where k.collection_id = p_collection and k.built_at is not null);
$$;

create function public.backline_build_keywords_page(p_collection int, p_after text, p_limit int, p_wait boolean)
returns json language sql set search_path = '' set statement_timeout = '55s' as $$
  select to_json(b) from backline.build_keywords_page(p_collection, p_after, p_limit, p_wait) b;
$$;

create function public.backline_finish_keywords(p_collection int) returns boolean
language plpgsql set search_path = '' set statement_timeout = '55s' as $$
declare
  v_built boolean := backline.keywords_are_built(p_collection);
begin
  if v_built then
    perform backline.compact_keywords(p_collection, true);
  end if;
  return v_built;
end $$;

-- ----------------------------------------------------------------------------------------- privileges

revoke all on all tables in schema backline from public;
revoke all on function backline.forget_calls, backline.answered, backline.keep_answer, backline.release_unacknowledged, backline.collection_records,
  backline.missing_grants, backline.readable_collections, backline.run_records, backline.inspect,
  backline.confirm from public;
do $$
declare
  v_function regprocedure;
  v_role text;
begin
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname like 'backline\_%'
  loop
    execute format('revoke all on function %s from public', v_function);
    foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
      if exists (select from pg_catalog.pg_roles where rolname = v_role) then
        -- Supabase's older projects grant every new function to all three.
        execute format('revoke all on function %s from %I', v_function, v_role);
        if v_role = 'service_role' or v_function in (
          'public.backline_collections()'::regprocedure,
          'public.backline_search(int, text, text, real[], int, int, jsonb, float8, boolean)'::regprocedure
        ) then
          execute format('grant execute on function %s to %I', v_function, v_role);
        end if;
      end if;
    end loop;
  end loop;
  foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute format('grant usage on schema backline to %I', v_role);
      execute format('grant execute on function backline.readable_collections to %I', v_role);
    end if;
  end loop;
  if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    grant all on backline.calls to service_role;
    grant execute on function backline.forget_calls, backline.answered, backline.keep_answer, backline.release_unacknowledged,
      backline.missing_grants, backline.collection_records, backline.run_records, backline.inspect,
      backline.confirm to service_role;
  end if;
end $$;
