-- Stores vectors.

-- What rows that somebody brings need, before anything is spent on them. row_key is the key as the table
-- writes it, '7' for '007', and null where there is no such row.
--   embed    the text has to be embedded
--   reuse    this very text was embedded before: complete() takes the vector from the cache
--   up_to_date    the stored vector already is of this text
--   blank    the text is empty: complete() clears the vector
--   changed  the row's text is another one
--   gone     there is no such row
create or replace function backline.inspect(p_collection int, p_keys text[], p_hashes bytea[])
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

-- Stores what a worker brings, and ends the jobs. Compare and set: a vector is written only where
-- the row still exists and its text still is what was embedded. A row that somebody is editing at
-- this moment is waited for no longer than 20 ms, then skipped, so that nobody ever waits for a
-- waiting Backline.
-- Returns the rows that were not written, and why:
--   changed  the text is another one now; its job is pending again
--   gone     the row no longer exists; its job is ended
--   busy     the row or its job is locked; nothing happened, bring it again
--   lost     the cache no longer has the vector that was to be reused; its job is pending again
--
-- p_long says of which rows the text is longer than the model reads; null says of none.
--
-- The rows come as parallel arrays. They were a temporary table filled by COPY once: making it
-- ready and emptying it took 5 ms a transaction, two thirds of the time of a single edit.
create or replace function backline.complete(
  p_collection int, p_worker bigint, p_run bigint, p_cache boolean,
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors extensions.vector[],
  p_batches bigint default 0, p_tokens bigint default 0, p_truncated bigint default 0,
  p_model int default null, p_leases bigint[] default null,
  p_path text default pg_catalog.current_setting('search_path'), p_long boolean[] default null
) returns table (key text, outcome text)
language plpgsql rows 10
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set lock_timeout = '200ms'
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
#variable_conflict use_column
declare
  c backline.collections;
  v_source text;
  v_type text;
  v_projection extensions.vector;
  v_vectors extensions.vector[] := p_vectors;
  v_long boolean[] := p_long;
  v_write text;
  v_stamp text;
  v_finish text;
  -- Leave out what changes nothing, or a call that is repeated would count twice.
  v_again constant text := $q$
      on conflict (collection_id, key) do update set model_id = excluded.model_id,
        content_hash = excluded.content_hash, blank = excluded.blank, stale = false, long = excluded.long,
        fingerprint = excluded.fingerprint, stamped_at = clock_timestamp()
      where s.stale or (s.model_id, s.content_hash, s.blank, s.long, s.fingerprint)
        is distinct from (excluded.model_id, excluded.content_hash, excluded.blank, excluded.long, excluded.fingerprint)
  $q$;
  v_written text[];
  v_new text[];
  v_has_jobs boolean;
  v_stamped boolean;
begin
  select * into strict c from backline.collections where id = p_collection;
  perform backline.require_model(c.model_id, p_model);
  -- A row in a page has no job, or one of a later edit, for which it will be found fresh. And a stamp that
  -- is surely the row's first takes an eighth less of the time.
  select p_leases is null or not coalesce(bool_and(coalesce(u.lease = any (g.all), false)), false),
         p_leases is null or not coalesce(bool_and(coalesce(u.lease = any (g.unstamped), false)), false)
  into v_has_jobs, v_stamped
  from (select array_agg(p.lease) as all, array_agg(p.lease) filter (where not p.stamped) as unstamped
        from backline.batch_leases p where p.collection_id = p_collection) g
  left join unnest(p_leases) as u(lease) on true;
  v_source := format('%I.%I', c.table_schema, c.table_name);
  select m.projection into strict v_projection from backline.models m where m.id = c.model_id;
  select pg_catalog.format_type(a.atttypid, a.atttypmod) into strict v_type
  from pg_catalog.pg_attribute a
  where a.attrelid = v_source::regclass and a.attname = c.embedding_column and not a.attisdropped;

  if p_cache then
    -- A row that is there already must not draw a number: by the numbers the cache is kept short.
    insert into backline.vectors (model_id, content_hash, cut, embedding)
    select distinct on (i.content_hash) c.model_id, i.content_hash, case when i.long then c.long_text end, i.embedding
    from unnest(p_hashes, p_vectors, p_long) as i(content_hash, embedding, long)
    where i.embedding is not null and (
      select true from backline.vectors v
      where v.model_id = c.model_id and v.content_hash = i.content_hash offset 0) is null
    on conflict do nothing;
  end if;
  if 'reuse' = any (p_actions) then
    select array_agg(coalesce(i.embedding, v.embedding) order by i.position),
           array_agg(coalesce(i.long, false) or v.cut is not null order by i.position)
    into v_vectors, v_long
    from unnest(p_hashes, p_actions, p_vectors, p_long) with ordinality
      as i(content_hash, action, embedding, long, position)
    left join lateral (
      select x.embedding, x.cut from backline.vectors x where i.action = 'reuse' and i.embedding is null
        and x.model_id = c.model_id and x.content_hash = i.content_hash
        and (x.cut is null or x.cut = c.long_text) offset 0) v on true;
  end if;

  perform pg_catalog.set_config('backline.writing', p_collection::text, true);
  -- The table's own triggers find their tables as they do in any other statement of this session:
  -- the default of p_path is read before this function sets its own.
  perform pg_catalog.set_config('search_path', p_path, true);
  -- In two halves around what is written: names and literals of users' hold any character, so
  -- nothing is looked for in a text that has them.
  v_write := format('with written as (update %s r set %I = f.embedding::%s from ',
                    v_source, c.embedding_column, v_type);
  v_stamp := format($q$
      where r.%1$I = f.key::%2$s
        and (f.action = 'blank' or f.action in ('embed', 'reuse') and f.embedding is not null)
        and pg_catalog.sha256(pg_catalog.convert_to(%3$s, 'UTF8')) = f.content_hash
      returning f.key, f.action, f.content_hash, coalesce(f.long, false) as long,
        extensions.inner_product(f.embedding%4$s, $8)::real as fingerprint
    ), stamped as (
      insert into backline.stamps as s (collection_id, key, model_id, content_hash, blank, long, fingerprint)
      select $1, w.key, $2, w.content_hash, w.action = 'blank', w.long, w.fingerprint from written w
  $q$, c.key_column, c.key_type, c.text_sql,
       -- As the column has it, if it rounds.
       case when v_type like '%halfvec%' then '::extensions.halfvec::extensions.vector' end);
  v_finish := format($q$
      returning s.key
    ) %s %s
    select array(select w.key from written w), array(select n.key from stamped n)
  $q$,
       case when exists (select from backline.failures f where f.collection_id = p_collection) then
         ', resolved as (delete from backline.failures f where f.ctid = any (array(
            select x.ctid from written w cross join lateral (
              select y.ctid from backline.failures y
              where y.collection_id = $1 and y.key = w.key offset 0) x)))' end,
       case when v_has_jobs then
         ', ended as (delete from backline.jobs j where j.ctid = any (array(
            select x.ctid from written w cross join lateral (
              select y.ctid from backline.jobs y
              where y.collection_id = $1 and y.key = w.key offset 0) x)))' end);
  perform pg_catalog.set_config('lock_timeout', '20ms', true);
  begin
    -- Nearly always nobody holds one of the rows, and locking them first would cost a tenth more.
    execute v_write || 'unnest($3, $4, $5, $6, $7) as f(key, action, content_hash, embedding, long)'
      || v_stamp || case when v_stamped then v_again else '' end || v_finish
    into v_written, v_new
    using p_collection, c.model_id, p_keys, p_actions, p_hashes, v_vectors, v_long, v_projection;
  exception when lock_not_available or unique_violation then  -- held, or stamped by somebody meanwhile
    execute v_write || format($q$ (
        select i.* from unnest($3, $4, $5, $6, $7) as i(key, action, content_hash, embedding, long)
        join %s r on r.%I = i.key::%s for no key update of r skip locked) f $q$,
      v_source, c.key_column, c.key_type) || v_stamp || v_again || v_finish
    into v_written, v_new
    using p_collection, c.model_id, p_keys, p_actions, p_hashes, v_vectors, v_long, v_projection;
  end;
  perform pg_catalog.set_config('search_path', '', true);
  perform pg_catalog.set_config('backline.writing', '', true);

  -- Only what this very call stamped counts, so that a call that is repeated because nobody knows whether
  -- it was committed counts nothing twice.
  if p_run is not null then
    insert into backline.run_counts (run_id, embedded, reused, batches, tokens, truncated)
    select p_run, count(*) filter (where i.action <> 'blank'), count(*) filter (where i.action = 'reuse'),
           p_batches, p_tokens, greatest(count(*) filter (where i.long), case when v_long is null then p_truncated end)
    from unnest(p_keys, p_actions, v_long) as i(key, action, long) where i.key = any (v_new);
  end if;

  if cardinality(v_written) < cardinality(p_keys) then
    return query select * from backline.resolve_unwritten(p_collection, p_worker, v_written,
                                               p_keys, p_actions, p_hashes, v_vectors, p_leases);
  end if;
end $$;
comment on function backline.complete is
  'API: stores vectors where the text is unchanged, and ends the jobs.';

-- The second half of complete(): what becomes of the rows that were not written.
create or replace function backline.resolve_unwritten(
  p_collection int, p_worker bigint, p_written text[],
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors extensions.vector[], p_leases bigint[]
)
returns table (key text, outcome text)
language plpgsql rows 10
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
  c backline.collections;
  v_pages bigint[] := array(select p.lease from backline.batch_leases p where p.lease = any (p_leases));
  v_due text[];
begin
  select * into strict c from backline.collections where id = p_collection;
  if v_pages <> '{}' then
    -- What is to be done again needs a job of its own.
    execute format($q$
      select array_agg(i.key) from unnest($1, $2, $3, $4) as i(key, action, content_hash, embedding)
      cross join lateral (select %2$s as content from %3$s r where r.%1$I = i.key::%4$s offset 0) r
      where i.key <> all ($5) and (
        sha256(convert_to(r.content, 'UTF8')) is distinct from i.content_hash
        or i.action = 'reuse' and i.embedding is null or i.action = 'up_to_date')
    $q$, c.key_column, c.text_sql, format('%I.%I', c.table_schema, c.table_name), c.key_type)
    into v_due using p_keys, p_actions, p_hashes, p_vectors, p_written;
    begin
      perform backline.convert_to_jobs(v_pages, coalesce(v_due, '{}'));
    exception when lock_not_available then  -- somebody's open transaction is in the way: bring them again
      return query select u.key, 'busy' from unnest(p_keys) as u(key) where u.key <> all (p_written);
      return;
    end;
  end if;
  return query execute format($q$
    with rest as materialized (
      select i.key, i.lease, i.position,
        case when r.found is null then 'gone'
             when sha256(convert_to(r.content, 'UTF8')) is distinct from i.content_hash then 'changed'
             when i.action = 'up_to_date' and (
               select true from backline.stamps s where s.collection_id = $1 and s.key = i.key
                 and s.content_hash = i.content_hash and s.model_id = $8 offset 0) then 'up_to_date'
             when i.action = 'up_to_date' then 'changed'
             when i.action = 'reuse' and i.embedding is null then 'lost'
             else 'busy' end as outcome
      from unnest($4, $5, $6, $7, $9) with ordinality
        as i(key, action, content_hash, embedding, lease, position)
      left join lateral (select true as found, %2$s as content from %3$s r
                         where r.%1$I = i.key::%4$s offset 0) r on true
      where i.key <> all ($3)
    ), mine as materialized (
      select n.key, n.position, n.outcome, j.id from rest n cross join lateral (
        select x.ctid as id from backline.jobs x
        where x.collection_id = $1 and x.key = n.key and x.worker_id = $2
          and (n.lease is null or n.lease = x.lease)
        for update skip locked offset 0) j
      where n.outcome <> 'busy'
    ), stamps as materialized (
      select m.outcome, s.id from mine m cross join lateral (
        select x.ctid as id from backline.stamps x
        where x.collection_id = $1 and x.key = m.key offset 0) s
    ), ended as (
      delete from backline.jobs j
      where j.ctid = any (array(select m.id from mine m where m.outcome in ('gone', 'up_to_date')))
    ), freed as (
      update backline.jobs j set worker_id = null, not_before = now()
      where j.ctid = any (array(select m.id from mine m where m.outcome in ('changed', 'lost')))
    ), refreshed as (
      update backline.stamps s set stale = false
      where s.ctid = any (array(select x.id from stamps x where x.outcome = 'up_to_date')) and s.stale
    ), orphaned as (
      delete from backline.stamps s
      where s.ctid = any (array(select x.id from stamps x where x.outcome = 'gone'))
    )
    select n.key,
      case when n.outcome <> 'busy' and n.position <> all (array(select m.position from mine m))
             and ((select true from backline.jobs j
                   where j.collection_id = $1 and j.key = n.key and j.worker_id = $2
                     and (n.lease is null or n.lease = j.lease) offset 0)
                  or n.outcome in ('changed', 'lost') and exists (
                    select from backline.batch_leases p where p.lease = n.lease and n.key = any (p.keys)))
           then 'busy' else n.outcome end
    from rest n
    where n.outcome <> 'up_to_date' or n.position <> all (array(select m.position from mine m))
  $q$, c.key_column, c.text_sql, format('%I.%I', c.table_schema, c.table_name), c.key_type)
  using p_collection, p_worker, p_written, p_keys, p_actions, p_hashes, p_vectors, c.model_id, p_leases;
end $$;

-- Ends the jobs of rows that somebody else was asked to embed and store: of those whose stored vector is
-- of this text and model by now, and of no others. Returns the rest, as complete() does, and
--   unstored  the row's text is unchanged, and no vector of it is there; its job is pending again
create or replace function backline.confirm(
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

-- Keeps the cache of vectors within p_bytes: the oldest go, p_limit of them at most. Their number is told
-- from the sequence, which has no gaps but those of calls that failed, and their size from the newest.
create or replace function backline.trim_vectors(p_bytes bigint, p_limit int default 20000) returns int
language sql set search_path = '' as $$
  with newest as materialized (
    select v.seq, 4 * extensions.vector_dims(v.embedding) + 150 as bytes
    from backline.vectors v order by v.seq desc limit 100
  ), gone as (
    delete from backline.vectors v where v.seq in (
      select x.seq from backline.vectors x
      where x.seq <= (select max(n.seq) - (p_bytes / avg(n.bytes))::bigint from newest n)
      order by x.seq limit p_limit)
    returning 1
  )
  select count(*)::int from gone;
$$;
comment on function backline.trim_vectors is 'API: keeps the cache of vectors within a number of bytes; returns how many of the oldest it dropped.';
