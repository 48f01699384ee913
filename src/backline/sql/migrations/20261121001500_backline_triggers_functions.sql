-- Built by `make docs` from schema/functions/triggers.sql. Edit that file instead.

-- The triggers of a collection's table, and the functions that they call.

-- Every function that computes the text of a row fixes the settings that the text depends on. The text must
-- be the same in every session, or hashes would not match and edits would be missed.

-- Generates the trigger functions of one collection. With the table's columns in its source, a function
-- compares a thousand changed rows in one plan. The functions are security definer, because a role that edits
-- the table needs no rights in this schema.
create or replace function backline.install_triggers(p_collection int) returns void
language plpgsql set search_path = '' as $$
declare
  c backline.collections;
  v_table text;
  -- The body is inserted as a literal, because a column name can contain any delimiter.
  v_create constant text := 'create or replace function backline.%I() returns trigger '
    'language plpgsql security definer '
    'set search_path = '''' set timezone = ''UTC'' set datestyle = ''ISO, YMD'' '
    'set intervalstyle = ''postgres'' set bytea_output = ''hex'' set extra_float_digits = 1 as %L';
  v_body text;
  v_event text;
begin
  select * into strict c from backline.collections where id = p_collection;
  v_table := format('%I.%I', c.table_schema, c.table_name);

  v_body := format($f$
    begin
      insert into backline.counter_deltas (collection_id, measure, amount)
      select %1$s, 'rows', count(*) from new_rows having count(*) > 0;
      perform backline.enqueue_edits(%1$s, array(select r.%2$I::text from new_rows r));
      return null;
    end $f$, c.id, c.key_column);
  execute format(v_create, 'c' || c.id || '_inserted', v_body);

  -- The key identifies a row, so changing it is a delete and an insert.
  v_body := format($f$
    begin
      perform backline.forget(%1$s, array(
        select r.%2$I::text from old_rows r
        where not exists (select from new_rows n where n.%2$I::text = r.%2$I::text)));
      perform backline.enqueue_edits(%1$s, array(
        select k.key from (select r.%2$I::text as key, %3$s as content from new_rows r) k
        left join (select r.%2$I::text as key, %3$s as content from old_rows r) o on o.key = k.key
        where o.content is distinct from k.content));
      return null;
    end $f$, c.id, c.key_column, c.text_sql);
  execute format(v_create, 'c' || c.id || '_updated', v_body);

  v_body := format($f$
    begin
      insert into backline.counter_deltas (collection_id, measure, amount)
      select %1$s, 'rows', -count(*) from old_rows having count(*) > 0;
      perform backline.forget(%1$s, array(select r.%2$I::text from old_rows r));
      return null;
    end $f$, c.id, c.key_column);
  execute format(v_create, 'c' || c.id || '_deleted', v_body);

  v_body := format($f$
    begin
      delete from backline.jobs where collection_id = %1$s;
      delete from backline.batch_leases where collection_id = %1$s;
      delete from backline.failures where collection_id = %1$s;
      delete from backline.stamps where collection_id = %1$s;
      insert into backline.counter_deltas (collection_id, measure, amount)
      select %1$s, 'rows', -sum(t.amount) from backline.counter_deltas t
      where t.collection_id = %1$s and t.measure = 'rows' having sum(t.amount) <> 0;
      return null;
    end $f$, c.id);
  execute format(v_create, 'c' || c.id || '_truncated', v_body);

  foreach v_event in array array['insert', 'update', 'delete', 'truncate'] loop
    execute format('drop trigger if exists %I on %s', 'backline_c' || c.id || '_' || v_event, v_table);
    execute format('revoke all on function backline.%I() from public',
                   'c' || c.id || '_' || case v_event when 'truncate' then 'truncated'
                                                      when 'insert' then 'inserted'
                                                      when 'update' then 'updated'
                                                      else 'deleted' end);
  end loop;
  -- Backline sets backline.writing during its own writes. The trigger then skips the comparison of texts.
  execute format('create trigger %I after insert on %s referencing new table as new_rows '
                 'for each statement execute function backline.%I()',
                 'backline_c' || c.id || '_insert', v_table, 'c' || c.id || '_inserted');
  execute format('create trigger %I after update on %s referencing '
                 'old table as old_rows new table as new_rows '
                 'for each statement '
                 'when (current_setting(''backline.writing'', true) is distinct from ''%s'') '
                 'execute function backline.%I()',
                 'backline_c' || c.id || '_update', v_table, c.id, 'c' || c.id || '_updated');
  execute format('create trigger %I after delete on %s referencing old table as old_rows '
                 'for each statement execute function backline.%I()',
                 'backline_c' || c.id || '_delete', v_table, 'c' || c.id || '_deleted');
  execute format('create trigger %I after truncate on %s '
                 'for each statement execute function backline.%I()',
                 'backline_c' || c.id || '_truncate', v_table, 'c' || c.id || '_truncated');
end $$;

create or replace function backline.remove_triggers(p_collection int) returns void
language plpgsql set search_path = '' as $$
declare
  c backline.collections;
  v_name text;
begin
  select * into strict c from backline.collections where id = p_collection;
  foreach v_name in array array['inserted', 'updated', 'deleted', 'truncated'] loop
    execute format('drop function if exists backline.%I() cascade', 'c' || c.id || '_' || v_name);
  end loop;
end $$;

-- Returns the triggers of a collection that do not fire.
create or replace function backline.trigger_problems(p_collection int) returns table (name text, problem text)
language sql stable rows 8 set search_path = '' as $$
  select e.name, case when t.oid is null then 'missing' else 'disabled' end
  from backline.collections c
  cross join lateral (
    select 'backline_' || k.kind || c.id || '_' || v.event as name
    from unnest(array['insert', 'update', 'delete', 'truncate']) v(event)
    cross join (values ('c'), ('k')) k(kind)) e
  left join pg_catalog.pg_trigger t on t.tgname = e.name
    and t.tgrelid = to_regclass(format('%I.%I', c.table_schema, c.table_name))
  where c.id = p_collection and (t.oid is null or t.tgenabled not in ('O', 'A'))
  order by 1;
$$;
comment on function backline.trigger_problems is
  'API: returns the triggers of a collection that are missing or disabled.';

-- Enqueues edited rows with priority 0. A worker that holds the old text loses its lease, so that the new
-- text need not wait for a slow embedding call.
create or replace function backline.enqueue_edits(p_collection int, p_keys text[]) returns void
language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  if cardinality(p_keys) = 0 then
    return;
  end if;
  insert into backline.jobs as j (collection_id, key, priority)
  select p_collection, k.key, 0 from (select distinct u.key from unnest(p_keys) as u(key)) k order by k.key
  on conflict (collection_id, key) do update
    set worker_id = null, attempts = 0, priority = 0, not_before = now();
  update backline.stamps s set stale = true where s.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.stamps y
      where y.collection_id = p_collection and y.key = u.key and not y.stale offset 0) x));
  delete from backline.failures f where f.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.failures y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
  perform pg_catalog.pg_notify('backline', p_collection::text);
end $$;

-- Deletes the jobs, stamps and dead letters of deleted rows.
create or replace function backline.forget(p_collection int, p_keys text[]) returns void
language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  if cardinality(p_keys) = 0 then
    return;
  end if;
  delete from backline.jobs j where j.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.jobs y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
  delete from backline.stamps s where s.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.stamps y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
  delete from backline.failures f where f.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.failures y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
end $$;
