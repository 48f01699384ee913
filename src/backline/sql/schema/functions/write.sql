-- Stores vectors: compare and set, in one UPDATE.

-- Stores vectors and deletes the jobs. Compare and set: a vector is written only if the row still exists with
-- the text that was embedded. A row locked by another transaction is skipped after 20 ms, so that other
-- sessions never queue behind Backline.
--
-- Returns the rows that were not written:
--   changed  the text has changed, maybe by this write; the job is pending again
--   unstable the write changes the row each time; the job is now a dead letter, see unstable.sql
--   gone     the row does not exist; the job is deleted
--   busy     the row or its job is locked and unchanged; the caller must store it again
--   lost     the cache no longer has the vector to reuse; the job is pending again
--
-- p_long marks the rows with a text longer than the model reads, and may be null.
--
-- In a collection of passages, each element of the arrays from p_of on is one passage, in order. p_of is the
-- position of its row in p_keys. A passage without a vector gets that of an equal one; see passages.sql.
--
-- The rows are parallel arrays. A temporary table filled by COPY took 5 ms a transaction to create and
-- truncate, two thirds of the time of a single edit.
create or replace function backline.complete(
  p_collection int, p_worker bigint, p_run bigint, p_cache boolean,
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors extensions.vector[],
  p_batches bigint default 0, p_tokens bigint default 0, p_truncated bigint default 0,
  p_model int default null, p_leases bigint[] default null,
  p_path text default pg_catalog.current_setting('search_path'), p_long boolean[] default null,
  p_sent bigint default 0, p_of int[] default null, p_starts int[] default null, p_ends int[] default null,
  p_headings text[] default null, p_passages bytea[] default null,
  p_passage_vectors extensions.vector[] default null
) returns table (key text, outcome text)
language plpgsql rows 10
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set lock_timeout = '200ms' set work_mem = '32MB'
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
  v_actions text[] := p_actions;
  v_rows text := 'unnest($3, $4, $5, $6, $7) as f(key, action, content_hash, embedding, long)';
  v_fingerprints real[]; v_counts int[]; v_keys text[]; v_ordinals int[]; v_passages extensions.vector[];
  v_match text;
  v_update text;
  v_result text;
  v_reread text;
  v_stamp text;
  v_write text;
  v_finish text;
  -- Leaves unchanged stamps out of the result, so that a repeated call is not counted twice.
  v_on_conflict constant text := $q$
      on conflict (collection_id, key) do update set model_id = excluded.model_id,
        content_hash = excluded.content_hash, blank = excluded.blank, excluded = excluded.excluded,
        stale = false, long = excluded.long, fingerprint = excluded.fingerprint,
        passages = excluded.passages, rewrites = 0, stamped_at = clock_timestamp()
      where s.stale or (s.model_id, s.content_hash, s.blank, s.excluded, s.long, s.fingerprint, s.passages)
        is distinct from (excluded.model_id, excluded.content_hash, excluded.blank, excluded.excluded,
                          excluded.long, excluded.fingerprint, excluded.passages)
  $q$;
  v_effects boolean;
  v_before jsonb;
  v_free text[];  -- the rows that no other session has locked; null for all
  v_suspects text[];
  v_guilty text[] := '{}';
  v_key text;
  v_some text[];
  v_updated text[];
  v_written text[];
  v_rewritten text[] := '{}';
  v_new text[];
  v_once text := '';
  v_has_jobs boolean;
  v_stamped boolean;
begin
  c := backline.definition(p_collection);
  perform backline.require_model(c.model_id, p_model);
  perform backline.require_short_keys(p_keys);
  -- A row of a batch lease has no job, except that of a later edit, which claim() will find up to date.
  -- Inserting a first stamp without ON CONFLICT takes an eighth less time.
  select p_leases is null or not coalesce(bool_and(coalesce(u.lease = any (g.all), false)), false),
         p_leases is null or not coalesce(bool_and(coalesce(u.lease = any (g.unstamped), false)), false)
  into v_has_jobs, v_stamped
  from (select array_agg(p.lease) as all, array_agg(p.lease) filter (where not p.stamped) as unstamped
        from backline.batch_leases p where p.collection_id = p_collection) g
  left join unnest(p_leases) as u(lease) on true;
  v_source := backline.source(c);
  if c.into_name is not null then
    -- Nothing locks the rows of the source. These locks make apply_keys() wait, which could otherwise remove
    -- what is known of a deleted row before this call adds to it. The text is read after them. An edit can
    -- have released a job.
    perform from backline.batch_leases p where p.lease = any (p_leases) for share;
    perform from backline.jobs j where j.collection_id = p_collection and j.key = any (p_keys)
    order by j.key for update;
  end if;
  select m.projection into strict v_projection from backline.models m where m.id = c.model_id;
  select pg_catalog.format_type(a.atttypid, a.atttypmod) into strict v_type
  from pg_catalog.pg_attribute a
  where a.attrelid = coalesce(c.into_id, v_source::regclass) and a.attname = c.embedding_column
    and not a.attisdropped;

  if p_cache then
    -- An existing row must not draw a sequence number, because the cache is trimmed by those numbers.
    insert into backline.vectors (model_id, content_hash, cut, embedding)
    select distinct on (i.content_hash) c.model_id, i.content_hash,
           case when i.long then c.long_text end, i.embedding
    from unnest(p_hashes || p_passages, p_vectors || p_passage_vectors, p_long)
      as i(content_hash, embedding, long)
    where i.embedding is not null and (
      select true from backline.vectors v
      where v.model_id = c.model_id and v.content_hash = i.content_hash offset 0) is null
    on conflict do nothing;
  end if;
  if c.passages is not null then
    select v.keys, v.ordinals, v.passages, v.vectors, v.fingerprints, v.counts, v.actions
    into v_keys, v_ordinals, v_passages, v_vectors, v_fingerprints, v_counts, v_actions
    from backline.prepare_passages(c, v_projection, v_type, p_keys, p_actions, p_of, p_passages,
                                   p_passage_vectors) v;
    v_rows := 'unnest($3, $4, $5, $6, $7, $12, $13) '
              'as f(key, action, content_hash, embedding, long, fingerprint, passages)';
  elsif 'reuse' = any (p_actions) then
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

  v_effects := c.into_name is null and backline.has_side_effects(c.table_id, c.vector_number);
  if v_effects then
    v_before := backline.texts_before(c, p_keys);
    v_suspects := array(select jsonb_object_keys(v_before));
    v_stamped := true;
  end if;
  perform pg_catalog.set_config(
    'backline.writing', case when v_effects then p_collection::text else 'vectors' end, true);
  -- The table's own triggers run with the session's search_path. The default of p_path is evaluated before
  -- this function sets its own.
  perform pg_catalog.set_config('search_path', p_path, true);
  -- The statements are built in parts around the source of the rows. Replacing a placeholder would not be
  -- safe, because names and literals can contain any text.
  v_match := format($q$
        %1$s
        and (f.action = 'blank' or f.action in ('embed', 'reuse') and f.embedding is not null)
        and pg_catalog.sha256(pg_catalog.convert_to(%2$s, 'UTF8')) = f.content_hash
        and ($9 is null or f.key = any ($9))
  $q$, backline.key_match(c, 'f.key'), c.text_sql);
  v_update := format('update %s r set %I = f.embedding::%s from %s where ',
                     v_source, c.embedding_column, v_type, v_rows) || v_match;
  v_result := case when c.passages is not null then
    'f.key, f.action, f.content_hash, coalesce(f.long, false) as long, f.fingerprint, f.passages' else
              format('f.key, f.action, f.content_hash, coalesce(f.long, false) as long, '
                     'extensions.inner_product(f.embedding%s, $8)::real as fingerprint, '
                     'null::int as passages',
                     -- The fingerprint is of the rounded vector, if the column rounds.
                     case when v_type like '%halfvec%' then '::extensions.halfvec::extensions.vector' end)
              end;
  -- What the row is after the write, and after every trigger, decides whether it is stamped.
  v_reread := format($q$
      select distinct on (f.key) %1$s, r.excluded from %2$s cross join lateral (
        select %7$s as excluded from %3$s r where %4$s and coalesce(
          r.%5$I operator(extensions.=) f.embedding::%6$s, r.%5$I is null and f.embedding is null) offset 0) r
      order by f.key
  $q$, v_result, v_rows, v_source, v_match, c.embedding_column, v_type, backline.is_excluded(c));
  v_stamp := $q$
    ), stamped as (
      insert into backline.stamps as s
        (collection_id, key, model_id, content_hash, blank, excluded, long, fingerprint, passages)
      select $q$;
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
              where y.collection_id = $1 and y.key = w.key ' || case when c.into_name is not null then
                -- A later edit released the job, because the row was not locked.
                'and y.worker_id = $10 and ($11 is null or y.lease = any ($11))' else '' end
            || ' offset 0) x)))' end);
  perform pg_catalog.set_config('lock_timeout', '20ms', true);
  for v_attempt in 1..2 loop
    begin
      if v_effects then
        v_updated := '{}';
        v_guilty := '{}';
        -- A row that an earlier write changed is written alone: another row's write may have been the
        -- cause.
        for v_key in select null union all select * from unnest(v_suspects) loop
          v_some := array(select k.key from unnest(coalesce(v_free, p_keys)) as k(key)
                          where case when v_key is null then k.key <> all (v_suspects)
                                     else k.key = v_key end);
          execute 'with updated as (' || v_update
            || ' returning f.key) select array(select u.key from updated u)' into v_new
          using p_collection, c.model_id, p_keys, p_actions, p_hashes, v_vectors, v_long, v_projection,
                v_some;
          v_updated := v_updated || v_new;
          set constraints all immediate;
          if v_key is not null then
            execute 'select array(select w.key from (' || v_reread || ') w)' into v_new
            using p_collection, c.model_id, p_keys, p_actions, p_hashes, v_vectors, v_long, v_projection,
                  v_some;
            if v_new = '{}' then
              v_guilty := v_guilty || v_key;
            end if;
          end if;
        end loop;
      end if;
      v_write := case
        when v_effects then 'written as (' || v_reread
        when c.into_name is null then 'written as (' || v_update
          || format(' returning %s, %s as excluded', v_result, backline.is_excluded(c))
        else 'checked as materialized (' || backline.side_write(c, v_type, v_rows, v_match, v_stamped)
          || v_result || ', f.excluded from checked f' end;
      execute 'with ' || v_write
        || v_stamp || v_once
        || '$1, w.key, $2, w.content_hash, w.action = ''blank'', w.excluded, w.long, w.fingerprint, '
           'w.passages from written w'
        || case when v_stamped then v_on_conflict else '' end || v_finish
      into v_written, v_new
      using p_collection, c.model_id, p_keys, v_actions, p_hashes, v_vectors, v_long, v_projection, v_free,
            p_worker, p_leases, v_fingerprints, v_counts, v_keys, v_ordinals, p_starts, p_ends, p_headings,
            p_passages, v_passages;
      exit;
    -- Rows are rarely locked, and locking them first would take a tenth more time. A stamp exists if another
    -- transaction stamped the row, or if several rows have its key since a constraint was dropped.
    exception when lock_not_available or unique_violation or cardinality_violation then
      if v_attempt = 2 then
        raise;
      end if;
      v_stamped := true;
      v_once := 'distinct on (w.key) ';
      continue when c.into_name is not null;
      execute format('select array(select i.key from unnest($1) as i(key) join %s r on %s '
                     'for no key update of r skip locked)', v_source, backline.key_match(c, 'i.key'))
      into v_free using p_keys;
    end;
  end loop;
  if v_effects and cardinality(v_written) < cardinality(p_keys) then
    execute format('select array(select f.key from %s where f.key <> all ($10) and (f.key = any ($11) '
                   'or exists (select from %s r where %s)))', v_rows, v_source, v_match)
    into v_rewritten
    using p_collection, c.model_id, p_keys, p_actions, p_hashes, v_vectors, v_long, v_projection, v_free,
          v_written, v_updated;
  end if;
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  perform pg_catalog.set_config('backline.writing', '', true);

  -- Counts only the rows that this call stamped, so that a repeated call counts nothing twice.
  if p_run is not null then
    insert into backline.run_counts (run_id, embedded, reused, batches, tokens, truncated, passages)
    select p_run, count(*) filter (where i.action <> 'blank'), count(*) filter (where i.action = 'reuse'),
           p_batches, p_tokens,
           greatest(count(*) filter (where i.long), case when v_long is null then p_truncated end), p_sent
    from unnest(p_keys, p_actions, v_long) as i(key, action, long) where i.key = any (v_new);
  end if;

  if v_rewritten <> '{}' then
    return query select * from backline.resolve_rewritten(p_collection, p_worker, p_run, v_rewritten,
                                               p_leases, v_before, v_guilty);
    v_written := v_written || v_rewritten;
  end if;
  if cardinality(v_written) < cardinality(p_keys) then
    return query select * from backline.resolve_unwritten(p_collection, p_worker, v_written,
                                               p_keys, v_actions, p_hashes, v_vectors, p_leases);
  end if;
end $$;
comment on function backline.complete is
  'API: stores vectors of rows that still have the embedded text, and deletes the jobs.';

-- Returns the part of the statement of complete() that writes to a side table, up to the select of the rows
-- that were written. p_overwrite is false if none of the rows has a vector. Those of passages are in $14 to
-- $20.
create or replace function backline.side_write(
  c backline.collections, p_type text, p_rows text, p_match text, p_overwrite boolean
) returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when c.passages is not null
    then backline.passages_write(c, p_type, p_rows, p_match, p_overwrite) else format($q$
      select distinct on (f.key) f.*, %1$s, %10$s as excluded from %2$s join %3$s r on %4$s order by f.key
    ), cleared as (
      delete from %5$s e using checked f where f.action = 'blank' and %6$s
    ), stored as (
      insert into %5$s as e (%7$s, embedding) select %7$s, f.embedding::%8$s from checked f
      where f.action <> 'blank' %9$s
    ), written as (select
  $q$, string_agg(format('r.%I as %s', u.name, n.name), ', ' order by u.position),
       p_rows, backline.source(c), p_match, (backline.side_table(c)).name,
       string_agg(format('e.%1$s = f.%1$s', n.name), ' and '),
       string_agg(n.name, ', ' order by u.position), p_type,
       case when p_overwrite then format('on conflict (%s) do update set embedding = excluded.embedding',
                                         string_agg(n.name, ', ')) else '' end, backline.is_excluded(c)) end
  from unnest(c.key_columns) with ordinality u(name, position)
  cross join lateral backline.side_key(u.position) n(name);
$$;

-- The second half of complete(): determines and applies the outcome of the rows that were not written.
create or replace function backline.resolve_unwritten(
  p_collection int, p_worker bigint, p_written text[],
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors extensions.vector[], p_leases bigint[]
)
returns table (key text, outcome text)
language plpgsql rows 10
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
  c backline.collections;
  v_pages bigint[] := array(select p.lease from backline.batch_leases p where p.lease = any (p_leases));
  v_due text[];
begin
  c := backline.definition(p_collection);
  if v_pages <> '{}' then
    -- Rows to embed again need their own job.
    execute format($q$
      select array_agg(i.key) from unnest($1, $2, $3, $4) as i(key, action, content_hash, embedding)
      cross join lateral (select %1$s as content from %2$s r where %3$s offset 0) r
      where i.key <> all ($5) and (
        sha256(convert_to(r.content, 'UTF8')) is distinct from i.content_hash
        or i.action = 'reuse' and i.embedding is null or i.action = 'up_to_date')
    $q$, c.text_sql, backline.source(c), backline.key_match(c, 'i.key'))
    into v_due using p_keys, p_actions, p_hashes, p_vectors, p_written;
    begin
      perform backline.convert_to_jobs(v_pages, coalesce(v_due, '{}'));
    exception when lock_not_available then  -- a lock is in the way: the caller stores them again
      return query select u.key, 'busy' from unnest(p_keys) as u(key) where u.key <> all (p_written);
      return;
    end;
  end if;
  return query execute format($q$
    with unwritten as materialized (
      select i.key, i.lease, i.position,
        case when r.present is null then 'gone'
             when sha256(convert_to(r.content, 'UTF8')) is distinct from i.content_hash then 'changed'
             when i.action = 'up_to_date' and (
               select true from backline.stamps s where s.collection_id = $1 and s.key = i.key
                 and s.content_hash = i.content_hash and s.model_id = $8 offset 0) then 'up_to_date'
             when i.action = 'up_to_date' then 'changed'
             when i.action = 'reuse' and i.embedding is null then 'lost'
             else 'busy' end as outcome
      from unnest($4, $5, $6, $7, $9) with ordinality
        as i(key, action, content_hash, embedding, lease, position)
      left join lateral (select true as present, %1$s as content from %2$s r
                         where %3$s offset 0) r on true
      where i.key <> all ($3)
    ), held as materialized (
      select n.key, n.position, n.outcome, j.id from unwritten n cross join lateral (
        select x.ctid as id from backline.jobs x
        where x.collection_id = $1 and x.key = n.key and x.worker_id = $2
          and (n.lease is null or n.lease = x.lease)
        for update skip locked offset 0) j
      where n.outcome <> 'busy'
    ), stamps as materialized (
      select m.outcome, s.id from held m cross join lateral (
        select x.ctid as id from backline.stamps x
        where x.collection_id = $1 and x.key = m.key offset 0) s
    ), ended as (
      delete from backline.jobs j
      where j.ctid = any (array(select m.id from held m where m.outcome in ('gone', 'up_to_date')))
    ), freed as (
      update backline.jobs j set worker_id = null, not_before = now()
      where j.ctid = any (array(select m.id from held m where m.outcome in ('changed', 'lost')))
    ), refreshed as (
      update backline.stamps s set stale = false
      where s.ctid = any (array(select x.id from stamps x where x.outcome = 'up_to_date')) and s.stale
    ), deleted_stamps as (
      delete from backline.stamps s
      where s.ctid = any (array(select x.id from stamps x where x.outcome = 'gone'))
    )
    select n.key,
      case when n.outcome <> 'busy' and n.position <> all (array(select m.position from held m))
             and ((select true from backline.jobs j
                   where j.collection_id = $1 and j.key = n.key and j.worker_id = $2
                     and (n.lease is null or n.lease = j.lease) offset 0)
                  or n.outcome in ('changed', 'lost') and exists (
                    select from backline.batch_leases p where p.lease = n.lease and n.key = any (p.keys)))
           then 'busy' else n.outcome end
    from unwritten n
    where n.outcome <> 'up_to_date' or n.position <> all (array(select m.position from held m))
  $q$, c.text_sql, backline.source(c), backline.key_match(c, 'i.key'))
  using p_collection, p_worker, p_written, p_keys, p_actions, p_hashes, p_vectors, c.model_id, p_leases;
end $$;

-- Deletes the jobs of rows that a server or an Edge Function embedded, if the stored vector is of this text
-- and model. Returns the others with the outcomes of complete(), and
--   unstored  the text is unchanged but has no vector; the job is pending again
create or replace function backline.confirm(
  p_call uuid, p_collection int, p_worker bigint, p_run bigint,
  p_keys text[], p_hashes bytea[], p_leases bigint[], p_batches bigint, p_model int
) returns jsonb language plpgsql set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' as $$
declare
  v_repeated boolean; v_result jsonb; v_actions jsonb;
begin
  select * into v_repeated, v_result from backline.begin_call(p_call);
  if v_repeated then
    return v_result;
  end if;
  perform backline.require_model(c.model_id, p_model) from backline.collections c where c.id = p_collection;
  select jsonb_object_agg(i.key, i.action) into v_actions
  from backline.inspect(p_collection, p_keys, p_hashes) i;
  if p_run is not null then
    insert into backline.run_counts (run_id, embedded, batches)
    select p_run, count(*) filter (where n.value = '"up_to_date"'), p_batches from jsonb_each(v_actions) n;
  end if;
  select coalesce(jsonb_agg(jsonb_build_array(s.key, case
           when s.outcome = 'changed' and v_actions ->> s.key <> 'changed' then 'unstored'
           else s.outcome end)), '[]') into v_result
  from backline.resolve_unwritten(p_collection, p_worker, '{}', p_keys,
                       array_fill('up_to_date'::text, array[cardinality(p_keys)]), p_hashes,
                       array_fill(null::extensions.vector, array[cardinality(p_keys)]), p_leases) s
  where s.outcome <> 'up_to_date';
  return backline.finish_call(p_call, v_result);
end $$;
comment on function backline.confirm is
  'API: deletes the jobs of rows that were embedded elsewhere, if the database has their vectors.';

-- Trims the cache of vectors to p_bytes by deleting the oldest, at most p_limit at a time. Sequence numbers
-- give the number of rows, since only failed calls leave gaps. The newest rows give their size.
create or replace function backline.trim_vectors(p_bytes bigint, p_limit int default 20000) returns int
language sql set search_path = pg_catalog, pg_temp as $$
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
comment on function backline.trim_vectors is
  'API: trims the cache of vectors to a number of bytes, and returns the number of deleted vectors.';
