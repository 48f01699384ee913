-- Built by `make docs` from schema/functions/unstable.sql. Edit that file instead.

-- Rows that change when their vector is stored: a trigger of the host changes the text, here or in another
-- row, replaces the vector, or suppresses the update.

-- Returns the host's triggers that fire when the vectors of a collection are stored.
create or replace function backline.host_triggers(p_table oid, p_number int2) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(
    select distinct t.tgname::text
    from pg_catalog.pg_attribute v
    join pg_catalog.pg_class k on k.oid = v.attrelid
    left join lateral pg_catalog.pg_partition_tree(k.oid) p on k.relkind = 'p'
    join pg_catalog.pg_trigger t on t.tgrelid = coalesce(p.relid, k.oid)
    join pg_catalog.pg_proc f on f.oid = t.tgfoid and f.pronamespace <> 'backline'::regnamespace
    where v.attrelid = p_table and v.attnum = p_number
      and not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & 16 <> 0  -- fires on an update
      and (t.tgattr::text = '' or exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = t.tgrelid and a.attname = v.attname and a.attnum = any (t.tgattr)))
    order by 1);
$$;

-- Returns whether storing a vector may change more of the table than the vector.
-- Every write asks, so the plans are kept: making them anew took 0.5 ms a write.
create or replace function backline.has_side_effects(p_table oid, p_number int2) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' as $$
begin
  if exists (select from pg_catalog.pg_attribute a
             where a.attrelid = p_table and a.attnum > 0 and a.attgenerated <> '')
     or (select k.relhasrules from pg_catalog.pg_class k where k.oid = p_table) then
    return true;
  end if;
  return (exists (select from pg_catalog.pg_trigger t
                  where t.tgrelid = p_table and not t.tgisinternal and not starts_with(t.tgname, 'backline_'))
          or exists (select from pg_catalog.pg_inherits i where i.inhparent = p_table))
    and backline.host_triggers(p_table, p_number) <> '{}';
end $$;

-- Returns why the vector of a row does not stay that of its text. p_changed are the columns of the text that
-- the write changed.
create or replace function backline.unstable_message(c backline.collections, p_changed text[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format(
    case when p_changed = '{}' then
      'The table does not keep the vector that is stored in %1$I: %2$s undoes or suppresses the update. '
      'Let it pass updates of %1$I, then run: backline failures retry'
    else
      'Storing the vector changes the text of the row: %2$s changes %3$s each time. Leave that out of the '
      'text (backline drop, then backline add), or let the trigger fire on updates of other columns only '
      '(create trigger … before update of %4$s …), then run: backline failures retry' end,
    c.embedding_column,
    coalesce('the trigger ' || nullif(array_to_string(
      backline.host_triggers(c.table_id, c.vector_number), ', '), ''), 'a rule or a generated column'),
    array_to_string(p_changed, ', '),
    coalesce((select string_agg(quote_ident(n.name), ', ')
              from backline.text_columns(c.table_id, c.text_numbers) n
              where n.name <> all (p_changed)), '…'));
$$;

-- Returns the columns of a row's text as an expression over the alias r.
create or replace function backline.text_record(c backline.collections) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('(select pg_catalog.to_jsonb(x) from (select %s) x)',
                string_agg(format('r.%I', n.name), ', '))
  from backline.text_columns(c.table_id, c.text_numbers) n;
$$;

-- Returns the texts of the rows that an earlier write has changed, by key.
create or replace function backline.texts_before(c backline.collections, p_keys text[]) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_texts jsonb;
begin
  if exists (select from backline.stamps s where s.collection_id = c.id and s.rewrites > 0) then
    execute format($q$
      select jsonb_object_agg(s.key, r.columns)
      from unnest($2) as u(key)
      cross join lateral (select x.key from backline.stamps x
                          where x.collection_id = $1 and x.key = u.key and x.rewrites > 0 offset 0) s
      cross join lateral (select %s as columns from %s r where %s offset 0) r
    $q$, backline.text_record(c), backline.source(c), backline.key_match(c, 's.key'))
    into v_texts using c.id, p_keys;
  end if;
  return coalesce(v_texts, '{}');
end $$;

-- Records rows that are not as their write left them. The first time, the row is embedded again with its
-- present text: a trigger may have corrected it once and for all. The second time in a row it becomes a dead
-- letter, if it was written alone: p_guilty are these. p_before is what texts_before() returned.
create or replace function backline.resolve_rewritten(
  p_collection int, p_worker bigint, p_run bigint, p_keys text[], p_leases bigint[], p_before jsonb,
  p_guilty text[]
) returns table (key text, outcome text) language plpgsql rows 10
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_seqscan = off as $$
#variable_conflict use_column
declare
  c backline.collections := backline.definition(p_collection);
begin
  perform backline.convert_to_jobs(
    array(select p.lease from backline.batch_leases p where p.lease = any (p_leases)), p_keys);
  return query execute format($q$
    with examined as materialized (
      select u.key, r.present, r.hash, r.columns from (select distinct unnest($4) as key) u
      left join lateral (select true as present, sha256(convert_to(%1$s, 'UTF8')) as hash, %2$s as columns
                         from %3$s r where %4$s offset 0) r on true
    ), counted as (
      -- No text has this hash, so that the row is due whatever vector it has.
      insert into backline.stamps as s (collection_id, key, model_id, content_hash, stale, rewrites)
      select $1, e.key, $5, '', true, 1 from examined e where e.present
      on conflict on constraint stamps_pkey do update set model_id = excluded.model_id, content_hash = '',
        stale = true, fingerprint = null,
        rewrites = case when s.key = any ($8) then s.rewrites + 1 else 1 end
      returning s.key, s.rewrites
    ), dead as (
      insert into backline.failures
        (collection_id, key, content_hash, model_id, attempts, kind, error, run_id)
      select $1, e.key, e.hash, $5, n.rewrites, 'unstable', backline.unstable_message($7, array(
               select b.name from jsonb_each($6 -> e.key) b(name, value)
               where b.value is distinct from e.columns -> b.name)), $3
      from examined e join counted n on n.key = e.key where n.rewrites > 1
      on conflict on constraint failures_pkey do update set content_hash = excluded.content_hash,
        model_id = excluded.model_id, attempts = excluded.attempts, kind = excluded.kind,
        error = excluded.error, run_id = excluded.run_id, failed_at = now()
      returning key
    ), queued as (
      insert into backline.jobs as j (collection_id, key, priority)
      select $1, n.key, 0 from counted n where n.rewrites = 1
      on conflict on constraint jobs_pkey do update set worker_id = null, not_before = now()
      where coalesce(j.worker_id, $2) = $2
    ), ended as (
      delete from backline.jobs j using counted n
      where n.rewrites > 1 and j.collection_id = $1 and j.key = n.key and coalesce(j.worker_id, $2) = $2
    )
    select e.key, case when e.present is null then 'gone'
                       when n.rewrites > 1 then 'unstable' else 'changed' end
    from examined e left join counted n on n.key = e.key
  $q$, c.text_sql, backline.text_record(c), backline.source(c), backline.key_match(c, 'u.key'))
  using p_collection, p_worker, p_run, p_keys, c.model_id, p_before, c, p_guilty;
  insert into backline.run_counts (run_id, failed)
  select p_run, count(*) from backline.failures f
  where p_run is not null and f.collection_id = p_collection and f.key = any (p_keys)
    and f.run_id = p_run and f.kind = 'unstable' and f.failed_at = now()
  having count(*) > 0;
end $$;

-- Raises if storing the vector of a row changes its text each time. A sample row is written twice, with two
-- vectors, and everything is rolled back. A column of a date or time that had a value counts as changing each
-- time, because now() is the same in both writes.
create or replace function backline.require_stable_text(p_collection int) returns void
language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_source constant text := backline.source(c);
  v_dimensions constant int := (select m.dimensions from backline.models m where m.id = c.model_id);
  v_key text;
  v_texts jsonb[];
  v_changed text[];
begin
  if c.into_name is not null or not backline.has_side_effects(c.table_id, c.vector_number) then
    return;
  end if;
  begin
    execute format('select %s, array[%s] from %s r where %s <> '''' order by %s '
                   'limit 1 for no key update skip locked', backline.key_text(c),
                   backline.text_record(c), v_source, c.text_sql, backline.key_order(c))
    into v_key, v_texts;
    -- The host's triggers run with the path of its sessions, not with that of this function.
    perform pg_catalog.set_config('search_path', s.reset_val, true)
    from pg_catalog.pg_settings s where s.name = 'search_path';
    for i in 1..2 loop
      execute format('update %s r set %I = $1 where %s', v_source, c.embedding_column,
                     backline.key_match(c, '$2'))
      using array_fill(sqrt(1.0 / v_dimensions) * (3 - 2 * i), array[v_dimensions])::extensions.vector, v_key;
      set constraints all immediate;
      execute format('select $2 || %s from %s r where %s', backline.text_record(c), v_source,
                     backline.key_match(c, '$1')) into v_texts using v_key, v_texts;
    end loop;
    v_changed := array(
      select n.name from backline.text_columns(c.table_id, c.text_numbers) n
      join pg_catalog.pg_attribute a on a.attrelid = c.table_id and a.attnum = n.number
      join pg_catalog.pg_type y on y.oid = a.atttypid
      where v_texts[2] -> n.name <> v_texts[3] -> n.name
         or y.typcategory = 'D' and v_texts[1] -> n.name not in ('null', v_texts[2] -> n.name));
    raise exception using errcode = 'BL900';
  exception when others then  -- a row that the table refuses is reported when it is written
    v_changed := case when sqlstate = 'BL900' then v_changed else '{}' end;
  end;
  if v_changed <> '{}' then
    raise exception using errcode = 'BL001', message = backline.unstable_message(c, v_changed);
  end if;
end $$;
