-- Changes the model of a collection while it is searched; also dimensions, column type, passages or text.
--
-- begin_change() makes a second target, which ordinary backfills and live edits fill. cutover() and
-- rollback_change() swap the names of the two targets in one UPDATE. A search uses one collection id from its
-- beginning to its end, so that it never reads vectors of two models. tables/model_changes.sql lists the
-- states.

-- Returns the change of a collection that has not ended, and locks it.
create or replace function backline.open_change(p_name text) returns backline.model_changes
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  h backline.model_changes;
begin
  select * into h from backline.model_changes x
  where x.name = p_name and x.state not in ('retired', 'cancelled') for update;
  if not found then
    raise exception using errcode = 'BL009', message = format(
      'no change of the model of %L is open. Begin one: backline model change %s --to MODEL',
      p_name, backline.shell_word(p_name));
  end if;
  return h;
end $$;

-- Raises, with the commands that the state of a change permits.
create or replace function backline.refuse_state(h backline.model_changes) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = 'BL009', message = format(
    'the change of the model of %L is %s. Next: ', h.name, h.state) || format(case h.state
      when 'filling' then 'backline model change %1$s, or backline model cancel %1$s'
      when 'indexing' then 'backline model change %1$s, or backline model cancel %1$s'
      when 'ready' then 'backline model cutover %1$s, or backline model cancel %1$s'
      when 'serving' then 'backline model retire %1$s, or backline model rollback %1$s'
      when 'retiring' then 'backline model retire %1$s'
      else 'backline model cancel %1$s' end, backline.shell_word(h.name));
end $$;

-- Records a state of a change, if it is in one of p_from.
create or replace function backline.enter_state(
  h backline.model_changes, p_state text, variadic p_from text[]
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backline.refuse_state(h) where h.state <> all (p_from);
  update backline.model_changes x set state = p_state, changed_at = now() where x.id = h.id;
end $$;

-- Returns the first free name of a column of p_table, or of a relation of p_schema: that of the former target
-- with a number, within the 63 bytes of a name.
create or replace function backline.next_place(p_former text, p_table regclass, p_schema text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select n.name from generate_series(2, 1000) i
  cross join regexp_replace(p_former, '_\d{1,2}$', '') as base
  cross join lateral (
    select left(base, l) || '_' || i as name from generate_series(length(base), 1, -1) l
    where octet_length(left(base, l) || '_' || i) <= 63 order by l desc limit 1) n
  where case when p_schema is null
    then not exists (select from pg_catalog.pg_attribute a
                     where a.attrelid = p_table and a.attname = n.name and not a.attisdropped)
    else to_regclass(format('%I.%I', p_schema, n.name)) is null
         and to_regtype(format('%I.%I', p_schema, n.name)) is null end
  order by i limit 1;
$$;

-- Returns whether vectors of one model can be computed from those of another: it is the same model, and it
-- permits shorter vectors or the lengths are equal.
create or replace function backline.is_copyable(p_former int, p_new int, p_shortens boolean) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select (f.provider, f.name, f.revision) = (n.provider, n.name, n.revision)
         and (f.dimensions = n.dimensions or p_shortens and n.dimensions < f.dimensions)
  from backline.models f, backline.models n where f.id = p_former and n.id = p_new;
$$;

-- Ends an autovacuum of a collection's table and holds off the next, for a statement that locks the table. An
-- autovacuum gives way after deadlock_timeout, 1 s, and waiting in this mode does not hold up any writer.
-- After twice that time, a CREATE INDEX CONCURRENTLY that waits for this transaction would be ended.
create or replace function backline.end_vacuum(c backline.collections) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '1500ms' as $$
begin
  if c.follow_number is null and to_regclass(format('%I.%I', c.table_schema, c.table_name)) = c.table_id then
    execute format('lock table %I.%I in share update exclusive mode', c.table_schema, c.table_name);
  end if;
end $$;

-- Gives the roles that have rights on the former column or side table the same on the new one.
create or replace function backline.copy_grants(c backline.collections, n backline.collections) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_statement text;
begin
  if (c.into_id is null) <> (n.into_id is null) then
    return;  -- problems() lists the statements
  end if;
  for v_statement in
    select format('grant %s%s on %s to %s%s', g.privilege_type,
                  case when n.into_id is null then format(' (%I)', n.embedding_column) end,
                  coalesce(n.into_id, n.table_id)::regclass,
                  case g.grantee when 0 then 'public' else g.grantee::regrole::text end,
                  case when g.is_grantable then ' with grant option' end)
    from (select k.relowner, case when c.into_id is null then a.attacl else k.relacl end as acl
          from pg_catalog.pg_class k
          join pg_catalog.pg_attribute a on a.attrelid = k.oid and a.attname = c.embedding_column
          where k.oid = coalesce(c.into_id, c.table_id)) o
    cross join lateral pg_catalog.aclexplode(o.acl) g where g.grantee <> o.relowner
    union all
    -- The policies of missing_side_grants().
    select format('create policy %I on %s to %s using (true) with check (true)', p.polname,
                  n.into_id::regclass,
                  (select string_agg(u.role::regrole::text, ', ') from unnest(p.polroles) as u(role)))
    from pg_catalog.pg_policy p
    where p.polrelid = c.into_id and p.polcmd = '*' and starts_with(p.polname::text, 'backline ')
  loop
    execute v_statement;
  end loop;
end $$;

-- Begins a change: makes the new target. What is null stays as it is. The vectors are stored in the side
-- table p_into or in the column p_column; without both, in one beside those of the former target.
create or replace function backline.begin_change(
  p_name text, p_provider text, p_model text, p_revision text, p_dimensions int,
  p_column_type text default null, p_into text default null, p_column text default null,
  p_template text default null, p_expression text default null, p_passages jsonb default null,
  p_long_text text default null, p_published boolean default false, p_shortens boolean default false
) returns bigint language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
declare
  h backline.model_changes;
  r backline.collections;  -- as recorded
  c backline.collections;
  k backline.keyword_indexes;
  v_passages jsonb; v_type text; v_into text; v_new int; v_id bigint;
  v_same_text constant boolean := p_template is null and p_expression is null;
begin
  select * into r from backline.collections x where x.name = p_name and x.role = 'serving' for update;
  if not found then
    raise exception using errcode = 'P0002', message = format('There is no collection %L.', p_name);
  end if;
  -- Without its lock: cutover() locks the change before its collections.
  select * into h from backline.model_changes x
  where x.name = p_name and x.state not in ('retired', 'cancelled');
  if found then
    perform backline.refuse_state(h);
  end if;
  perform backline.definition(r.id);  -- raises if the table cannot be used
  select (x.d).* into c from backline.resolve(r) x;
  perform backline.end_vacuum(c);
  k := backline.keyword_definition(r.id);
  v_passages := coalesce(nullif(p_passages, 'null'), case when p_passages is null then c.passages end);
  v_type := coalesce(p_column_type, (
    select t.typname from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
    where a.attrelid = coalesce(c.into_id, c.table_id) and a.attname = c.embedding_column));
  v_into := case
    when p_into is not null then p_into
    when p_column is not null then null
    when c.into_name is not null then format('%I.%I', c.into_schema, backline.next_place(
      c.into_name, null, c.into_schema))
    when v_passages is not null then format('%I.%I', 'backline_vectors', backline.next_place(
      c.table_name || '_passages', null, 'backline_vectors')) end;

  v_new := backline.add_collection(
    p_name || '@next', c.table_id, c.key_columns,
    case when v_same_text then c.text_template else p_template end,
    coalesce(p_column, backline.next_place(c.embedding_column, c.table_id, null)),
    p_provider, p_model, p_revision, p_dimensions, v_type, coalesce(p_long_text, c.long_text), p_published,
    v_into, case when v_same_text then c.text_expression else p_expression end, c.where_sql,
    p_follow => c.follow_column,
    p_partitions => case when v_into is null then 1 else greatest(1, (
      select count(*)::int from pg_catalog.pg_partition_tree(c.into_id::regclass) t where t.isleaf)) end,
    p_passages => v_passages, p_role => 'filling');
  update backline.collections x set max_attempts = c.max_attempts where x.id = v_new;
  -- The table is locked until the end of this transaction: no text is read for its language, and the keywords
  -- are indexed page by page afterwards.
  perform backline.set_keywords(v_new, null, 'pg_catalog.simple', p_build => false);
  update backline.keyword_indexes x
  set language = k.language, language_sql = k.language_sql, text_template = case
        when v_same_text or k.text_template is distinct from c.text_template then k.text_template
        else x.text_template end
  where x.collection_id = v_new;
  perform backline.set_keywords(v_new, p_build => false);
  perform backline.copy_grants(c, n) from backline.collections n where n.id = v_new;
  insert into backline.counter_deltas (collection_id, measure, amount)
  select v_new, 'rows', (g.of ->> 'rows')::bigint + (g.of ->> 'excluded')::bigint
  from backline.coverage(c.id) as g(of);
  insert into backline.synonyms (collection_id, word, meaning)
  select v_new, s.word, s.meaning from backline.synonyms s where s.collection_id = c.id;

  insert into backline.model_changes (name, former_id, new_id, former_model, new_model, copies)
  select p_name, c.id, v_new, c.model_id, n.model_id, backline.is_copyable(c.model_id, n.model_id, p_shortens)
                              and v_passages is not distinct from c.passages
  from backline.collections n where n.id = v_new
  returning id into v_id;
  return v_id;
end $$;
comment on function backline.begin_change is
  'API: makes a second target for another model of a collection, which a backfill of NAME@next fills.';

-- Returns the vector of a shorter or equal length that a model gives. Its first components are the shorter
-- vector, except for the length (Kusupati 2022).
create or replace function backline.shortened(p_vector extensions.vector, p_dimensions int)
returns extensions.vector language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when extensions.vector_dims(p_vector) = p_dimensions then p_vector
    else extensions.l2_normalize(extensions.subvector(p_vector, 1, p_dimensions)) end;
$$;

-- Copies the vectors of one page of rows from the former target to the new one, through complete(), and
-- returns the number of rows in the page. Rows with another text are left to the backfill.
create or replace function backline.copy_page(p_name text, p_limit int default 500) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off as $$
declare
  h backline.model_changes := backline.open_change(p_name);
  f backline.collections := backline.definition(h.former_id);
  v_dimensions int; v_model int; v_scanned bigint; v_last text;
  v_keys text[]; v_hashes bytea[]; v_long boolean[]; v_vectors extensions.vector[]; v_busy text[];
begin
  if h.state <> 'filling' or not h.copies then
    return 0;
  end if;
  select m.id, m.dimensions into v_model, v_dimensions
  from backline.collections n join backline.models m on m.id = n.model_id where n.id = h.new_id;
  execute format($q$
    with page as materialized (
      select %1$s collate "C" as key, row_number() over (order by %2$s) as position,
             %3$s::extensions.vector as vector
      from %4$s where %5$s order by %2$s limit $2
    ), known as (
      select p.key, p.position, s.content_hash, s.long, backline.shortened(p.vector, $4) as vector
      from page p
      cross join lateral (select x.content_hash, x.long from backline.stamps x
        where x.collection_id = $1 and x.key = p.key and not x.stale and not x.blank and x.model_id = $5
        offset 0) s
      where p.vector is not null and (
        select true from backline.stamps y where y.collection_id = $6 and y.key = p.key and not y.stale
          and y.model_id = $7 offset 0) is null
    )
    select (select count(*) from page), (select p.key from page p order by p.position desc limit 1),
           array_agg(n.key), array_agg(n.content_hash), array_agg(n.long), array_agg(n.vector) from known n
  $q$, backline.key_text(f), backline.key_order(f), backline.vector_of(f), backline.rows_of(f),
       backline.key_after(f, h.copied_to, '$3'))
  into v_scanned, v_last, v_keys, v_hashes, v_long, v_vectors
  using f.id, p_limit, h.copied_to, v_dimensions, f.model_id, h.new_id, v_model;
  if f.passages is not null then
    perform backline.copy_passages(h, f, v_keys, v_hashes, v_long, v_model, v_dimensions);
  elsif v_keys is not null then
    -- A row that is locked is left to the backfill too, which finds its vector in the cache.
    v_busy := array(select o.key from backline.complete(
      h.new_id, null, null, false, v_keys, array_fill('embed'::text, array[cardinality(v_keys)]), v_hashes,
      v_vectors, p_model => v_model, p_long => v_long) o where o.outcome = 'busy');
    insert into backline.vectors (model_id, content_hash, cut, embedding)
    select v_model, i.hash, case when i.long then f.long_text end, i.vector
    from unnest(v_keys, v_hashes, v_long, v_vectors) as i(key, hash, long, vector)
    where i.key = any (v_busy) on conflict do nothing;
  end if;
  update backline.model_changes x set copied_to = coalesce(v_last, x.copied_to) where x.id = h.id;
  return v_scanned;
end $$;
comment on function backline.copy_page is
  'API: copies the vectors of one page to the new target of a change that needs no call of the model.';

-- Copies the passages of rows; the arrays are those of copy_page.
create or replace function backline.copy_passages(
  h backline.model_changes, f backline.collections, p_keys text[], p_hashes bytea[], p_long boolean[],
  p_model int, p_dimensions int
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_of int[]; v_starts int[]; v_ends int[]; v_headings text[]; v_passages bytea[];
  v_vectors extensions.vector[];
begin
  if p_keys is null then
    return;
  end if;
  execute format($q$
    select array_agg(k.of order by k.of, e.ordinal), array_agg(e.start order by k.of, e.ordinal),
           array_agg(e."end" order by k.of, e.ordinal), array_agg(e.heading order by k.of, e.ordinal),
           array_agg(e.hash order by k.of, e.ordinal),
           array_agg(backline.shortened(e.embedding::extensions.vector, $2) order by k.of, e.ordinal)
    from unnest($1) with ordinality k(key, of)
    cross join lateral (select * from %1$s e where %2$s offset 0) e
  $q$, (backline.side_table(f)).name, backline.side_match(f, 'k.key'))
  into v_of, v_starts, v_ends, v_headings, v_passages, v_vectors using p_keys, p_dimensions;
  perform count(*) from backline.complete(
    h.new_id, null, null, false, p_keys, array_fill('embed'::text, array[cardinality(p_keys)]), p_hashes,
    array_fill(null::extensions.vector, array[cardinality(p_keys)]), p_model => p_model, p_long => p_long,
    p_of => v_of, p_starts => v_starts, p_ends => v_ends, p_headings => v_headings, p_passages => v_passages,
    p_passage_vectors => v_vectors);
end $$;

-- Raises unless every row of the new target has its vector. With p_lag, edits that are younger may be in
-- flight, or as many as in the former target: a table that is always edited always has some. With p_failed,
-- dead letters are not waited for.
create or replace function backline.require_filled(
  h backline.model_changes, p_failed boolean, p_lag interval
) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_coverage constant jsonb := backline.coverage(h.new_id);
  v_failed constant bigint := (v_coverage ->> 'failed')::bigint;
  v_missing constant bigint := (v_coverage ->> 'rows')::bigint - (v_coverage ->> 'embedded')::bigint
    - (v_coverage ->> 'blank')::bigint;
  v_pending constant bigint := (v_coverage ->> 'pending')::bigint;
  -- That may be in flight: a row that is edited more often than the model answers is current in no target.
  v_edits constant bigint := case
    when p_lag > '0' and v_pending <= (backline.coverage(h.former_id) ->> 'pending')::bigint
      or (v_coverage ->> 'lag_seconds')::float8 <= extract(epoch from p_lag) then v_pending else 0 end;
begin
  if v_failed > 0 and not p_failed then
    raise exception using errcode = 'BL009', message = format(
      '%s rows of %L are dead letters, and would not be found by meaning. See: backline failures list %s. '
      'Or go on without them: --despite-failures', v_failed, h.name || '@next',
      backline.shell_word(h.name || '@next'));
  elsif v_missing > v_failed + v_edits or v_pending > v_edits then
    raise exception using errcode = 'BL010', message = format(
      '%s of %s rows of %L are not embedded yet. Run: backline model change %s', greatest(v_missing, 1),
      v_coverage ->> 'rows', h.name || '@next', backline.shell_word(h.name));
  end if;
end $$;

-- Records that every row is embedded.
create or replace function backline.finish_fill(
  p_name text, p_failed boolean default false, p_lag interval default '0'
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  h backline.model_changes := backline.open_change(p_name);
begin
  perform backline.require_filled(h, p_failed, p_lag) where h.state in ('filling', 'indexing');
  perform backline.enter_state(h, 'indexing', 'filling', 'indexing');
end $$;
comment on function backline.finish_fill is 'API: records that the new target is full. Its indexes are next.';

-- Records that the indexes of the new target are built.
create or replace function backline.finish_indexes(p_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  h backline.model_changes := backline.open_change(p_name);
begin
  if not exists (select from backline.keyword_indexes k
                 where k.collection_id = h.new_id and k.built_at is not null) then
    raise exception using errcode = 'BL010', message = format(
      'the keyword index of %L is not built yet. Run: backline index %s', p_name || '@next',
      backline.shell_word(p_name || '@next'));
  end if;
  perform backline.enter_state(h, 'ready', 'indexing', 'ready');
end $$;
comment on function backline.finish_indexes is 'API: records that the new target can serve.';

-- Gives the name of the collection to p_serving, and its name with a suffix to p_other.
create or replace function backline.swap_targets(
  p_name text, p_serving int, p_other int, p_suffix text, p_role text
) returns void language sql set search_path = pg_catalog, pg_temp as $$
  update backline.collections x
  set name = p_name || case when x.id = p_serving then '' else p_suffix end,
      role = case when x.id = p_serving then 'serving' else p_role end
  where x.id in (p_serving, p_other);
$$;

-- Makes the new target serve.
create or replace function backline.cutover(
  p_name text, p_failed boolean default false, p_lag interval default '0'
) returns void language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
  h backline.model_changes := backline.open_change(p_name);
begin
  if h.state <> 'serving' then
    perform backline.require_filled(h, p_failed, p_lag) where h.state = 'ready';
    perform backline.enter_state(h, 'serving', 'ready');
    perform backline.swap_targets(p_name, h.new_id, h.former_id, '@old', 'retired');
  end if;
end $$;
comment on function backline.cutover is
  'API: makes the new target of a change serve. Searches that have begun end with the former one.';

-- Makes the former target serve again. thaw_target() then makes edits reach it, if it was frozen: that waits
-- for a lock of the table.
create or replace function backline.rollback_change(p_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
  h backline.model_changes := backline.open_change(p_name);
begin
  if h.state <> 'ready' then
    perform backline.enter_state(h, 'ready', 'serving');
    perform backline.swap_targets(p_name, h.former_id, h.new_id, '@next', 'filling');
  end if;
end $$;
comment on function backline.rollback_change is
  'API: makes the former target of a change serve again. If it was frozen, thaw_target() is next.';

-- Stops recording edits for the former target, which saves their cost until a rollback.
create or replace function backline.freeze_target(p_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
declare
  h backline.model_changes := backline.open_change(p_name);
  c backline.collections;
begin
  perform backline.enter_state(h, 'serving', 'serving');
  if h.frozen then
    return;
  end if;
  select (x.d).* into c from backline.collections f cross join lateral backline.resolve(f) x
  where f.id = h.former_id;
  perform backline.end_vacuum(c);
  update backline.model_changes x set frozen = true where x.id = h.id;
  update backline.collections x
  set frozen = true, unscanned = coalesce(x.unscanned, 'The target was frozen.') where x.id = h.former_id;
  perform backline.remove_triggers(h.former_id);
  delete from backline.changes l where l.collection_id = h.former_id;
end $$;
comment on function backline.freeze_target is
  'API: stops keeping the former target of a change fresh. A rollback makes edits since then due.';

-- Records edits for the former target again. Those of the meantime are found by a scan of every row, which
-- reconcile does. Returns whether the target was frozen.
create or replace function backline.thaw_target(p_name text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '200ms' as $$
declare
  h backline.model_changes := backline.open_change(p_name);
begin
  if h.frozen then
    update backline.model_changes x set frozen = false where x.id = h.id;
    -- Another reason than before: a scan that began earlier has missed edits.
    update backline.collections x
    set frozen = false, unscanned = replace(x.unscanned, 'was frozen.', 'was frozen until ' || now() || '.')
    where x.id = h.former_id;
    perform backline.end_vacuum(backline.definition(h.former_id));
    perform backline.install_triggers(h.former_id);
  end if;
  return h.frozen;
end $$;
comment on function backline.thaw_target is
  'API: keeps the former target of a change fresh again. Edits since it was frozen are found by reconcile.';

-- Begins to drop a target: the former one with p_retire, otherwise the new one. Returns its id, or null if
-- the last change ended so already.
create or replace function backline.begin_discard(p_name text, p_retire boolean) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  h backline.model_changes;
begin
  select * into h from backline.model_changes x where x.name = p_name order by x.id desc limit 1;
  if h.state = (case when p_retire then 'retired' else 'cancelled' end) then
    return null;
  end if;
  h := backline.open_change(p_name);
  if p_retire then
    perform backline.enter_state(h, 'retiring', 'serving', 'retiring');
    return h.former_id;
  end if;
  perform backline.enter_state(h, 'cancelling', 'filling', 'indexing', 'ready', 'cancelling');
  return h.new_id;
end $$;
comment on function backline.begin_discard is
  'API: begins to retire the former target of a change, or to cancel the change.';

-- Ends a change, after its target was dropped.
create or replace function backline.finish_discard(p_name text) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backline.model_changes x set changed_at = now(),
    state = case x.state when 'retiring' then 'retired' else 'cancelled' end
  where x.name = p_name and x.state in ('retiring', 'cancelling')
    and not exists (select from backline.collections c
                    where c.id = case x.state when 'retiring' then x.former_id else x.new_id end);
$$;
comment on function backline.finish_discard is 'API: ends a change, after its target was dropped.';

-- Returns the newest changes, the open ones first.
create or replace function backline.change_records(p_name text default null, p_limit int default 20)
returns table (id bigint, name text, state text, former_model text, new_model text, copies boolean,
               frozen boolean, started_at timestamptz, changed_at timestamptz)
language sql stable rows 10 set search_path = pg_catalog, pg_temp as $$
  select h.id, h.name, h.state, format('%s/%s@%s', f.provider, f.name, f.dimensions),
         format('%s/%s@%s', n.provider, n.name, n.dimensions), h.copies, h.frozen, h.started_at, h.changed_at
  from backline.model_changes h
  join backline.models f on f.id = h.former_model join backline.models n on n.id = h.new_model
  where p_name is null or h.name = p_name
  order by h.state in ('retired', 'cancelled'), h.id desc limit p_limit;
$$;
comment on function backline.change_records is 'API: returns changes of models, the open ones first.';
