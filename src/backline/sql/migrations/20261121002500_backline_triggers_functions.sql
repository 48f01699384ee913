-- Built by `make docs` from schema/functions/triggers.sql. Edit that file instead.

-- The triggers of a collection's table. They append one line a statement to the change log and do nothing
-- else, because they run in the host's transaction.

-- Returns the tables that need triggers: the collection's table and each of its partitions. A statement can
-- name a partition directly, and statement triggers fire only for the table that the statement names.
create or replace function backline.triggered_tables(p_collection int) returns setof regclass
language sql stable set search_path = pg_catalog, pg_temp as $$
  select t.oid::regclass
  from backline.collections c
  cross join lateral backline.resolve(c) r
  join pg_catalog.pg_class t on t.oid = any (backline.table_and_partitions((r.d).table_id))
  where c.id = p_collection and t.relkind in ('r', 'p') and c.follow_number is null
    and not c.frozen;
$$;

-- Returns the condition that a row's text may have changed between o and n, or that its vector was set or
-- emptied. Texts are compared as stored, whatever their type's equality. Equal TOAST chunks are equal values,
-- which are not read.
create or replace function backline.changed_condition(p_columns text[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format(
           case when to_regprocedure('pg_catalog.pg_column_toast_chunk_id("any")') is not null then
             '((pg_column_toast_chunk_id(n.%1$I) = pg_column_toast_chunk_id(o.%1$I)) is not true and %2$s)'
           else '%2$s' end,
           u.name, format('n.%1$I::text collate "C" is distinct from o.%1$I::text collate "C"', u.name)),
         ' or ')
         || ' or n."backline empty" <> o."backline empty"'
  from unnest(p_columns) as u(name);
$$;

-- Returns the body of a trigger function. p_capture reads the keys into v_keys. If that fails because the
-- table's definition has changed, p_by_number does it with %s for the key under its present names.
--
-- Keys are read and the line is inserted in one block that catches every error, since each block takes 2 µs.
-- The insert waits for no lock. Then its own lock protects the log until the transaction ends, and later
-- statements insert after the block: a host that writes a thousand rows one by one needs one subtransaction.
-- Many keys are always inserted in the block: they may exceed the memory or the 1 GB of a row.
create or replace function backline.capture_body(
  p_collection int, p_kind text, p_sign int, p_capture text, p_by_number text, p_table regclass, p_key int2[]
) returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format($f$
    declare
      v_kind "char" := %2$L;
      v_keys text[];
      v_removed text[];
      v_moved boolean;
      v_captured boolean := false;
      v_set text;
    begin
      -- complete() sets it while it writes vectors, and checks what becomes of its rows itself. If no trigger
      -- of the host can change a text, no target of the table has to look. Statements of the host's triggers
      -- have a greater depth.
      if current_setting('backline.writing', true) in ('%1$s', 'vectors') and pg_trigger_depth() = 1 then
        return null;
      end if;
      -- A detached partition keeps its triggers until follow() removes them.
      if tg_nargs > 0 and not exists (
           select from pg_trigger t where t.tgrelid = pg_partition_root(tg_relid) and t.tgname = tg_name) then
        return null;
      end if;
      begin
        %4$s
        if v_keys is null then
          return null;
        end if;
        v_captured := true;
        if current_setting('backline.logging', true) is distinct from 'on' or cardinality(v_keys) > 1000 then
          %7$s
          return null;
        end if;
      exception when others then
        if v_captured then
          %8$s
          return null;
        end if;
        begin
          execute format(%5$L, backline.key_text(array(
            select a.attname from unnest(%6$L::int2[]) with ordinality as n(number, position)
            join pg_attribute a on a.attrelid = %9$s and a.attnum = n.number order by n.position)))
          into v_keys;
        exception when others then
          v_kind := '?';
          v_keys := '{}';
        end;
      end;
      if v_keys is null then
        return null;
      end if;
      if current_setting('backline.logging', true) = 'on' and cardinality(v_keys) <= 1000 then
        %3$s
        return null;
      end if;
      begin
        %7$s
      exception when others then
        %8$s
      end;
      return null;
    end $f$,
    p_collection, p_kind, i.line, p_capture, p_by_number, p_key,
    'lock table only backline.changes in row exclusive mode nowait; ' || i.line
      || $i$ v_set := set_config('backline.logging', 'on', true);$i$,
    $i$begin
            perform nextval('backline.missed');
          exception when others then  -- status reports a damaged schema
          end;$i$, p_table::oid)
  from (select format($i$insert into backline.changes (collection_id, kind, delta, amount, keys)
          values (%1$s, v_kind, %2$s * cardinality(v_keys), cardinality(v_keys), v_keys);
          if v_removed is not null then
            insert into backline.changes (collection_id, kind, amount, keys)
            values (%1$s, '-', cardinality(v_removed), v_removed);
          end if;$i$, p_collection, p_sign) as line) i;
$$;

-- Returns the clauses that make values the same text in every session, if the text of a column's type depends
-- on settings. They take 5 µs a statement.
create or replace function backline.text_settings(p_table oid, p_columns text[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when bool_or(t.typtype <> 'e' and t.oid <> all (array[
    'text', 'varchar', 'bpchar', 'name', 'int2', 'int4', 'int8', 'numeric', 'bool', 'uuid', 'json', 'jsonb'
  ]::regtype[])) then $s$ set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
    set bytea_output = 'hex' set extra_float_digits = 1 $s$ else '' end
  from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attname::text = any (p_columns) and not a.attisdropped;
$$;

-- Returns the statements that read the keys of changed rows after an update. The query for many rows is
-- planned at each statement, for the number of its rows. It compares sums of hashes first, which is faster
-- than a join if no text has changed.
create or replace function backline.capture_update(c backline.collections, p_columns text[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  -- These keys are equal if their texts are.
  v_plain constant boolean := cardinality(c.key_types) = 1
    and c.key_types[1] in ('smallint', 'integer', 'bigint', 'uuid');
  v_key constant text := case when v_plain then backline.key_order(c)
    else format('(%s collate "C")', backline.key_text(c)) end;
  v_empty constant text := case when c.into_name is null then format('r.%I is null', c.embedding_column)
    else 'false' end;
  v_row constant text := format('select %s as "backline key", %s as "backline empty", %s from ',
    v_key, v_empty,
    (select string_agg(format('r.%I', u.name), ', ') from unnest(p_columns) as u(name)));
  v_select constant text :=
    'select array_agg(n."backline key"::text), bool_or(o."backline key" is null) ';
  v_from constant text := format(
    'from (%1$s new_rows r) n left join (%1$s old_rows r) o on o."backline key" = n."backline key" '
    'where (o."backline key" is null or %2$s) ', v_row, backline.changed_condition(p_columns));
  -- The lengths keep the hash of two texts from being that of two others with the same characters.
  v_sum constant text := format(
    'select sum(hashtextextended(concat_ws(''/'', %s, %s, %s), 0)) from ',
    (select string_agg(format('coalesce(length(r.%1$I::text), -1), r.%1$I', u.name), ', ')
     from unnest(p_columns) as u(name)),
    v_empty, v_key);
begin
  -- A name may contain a placeholder of format(), so it is never part of a format.
  return format($q$
    if exists (select from new_rows offset 100) then
      execute %1$L into v_keys, v_moved;
    else
      %2$s;
    end if;
    if v_moved then
      v_removed := array(select %3$s::text from old_rows r except select %3$s::text from new_rows r);
    end if; $q$,
    v_select || v_from || 'and (' || v_sum || 'new_rows r) is distinct from (' || v_sum || 'old_rows r)',
    v_select || 'into v_keys, v_moved ' || v_from, v_key);
end $$;

-- Generates the trigger functions of one collection. They are security definer, because a role that edits the
-- table needs no rights in this schema. With p_functions_only the table is not locked, and its triggers stay.
create or replace function backline.install_triggers(p_collection int, p_functions_only boolean default false)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
  v_table regclass;
  v_on regclass;
  v_columns text[];
  v_key text;
  v_event record;
begin
  c := backline.definition(p_collection);
  if c.into_name is not null then
    perform backline.install_visibility(c);
  end if;
  if c.follow_number is not null or c.frozen then  -- polled, or not followed
    return;
  end if;
  v_table := format('%I.%I', c.table_schema, c.table_name)::regclass;
  v_key := backline.key_text(c);
  v_columns := array(select t.name from backline.text_columns(
    v_table, c.text_numbers || (backline.keyword_definition(c.id)).text_numbers) t);
  for v_event in
    select * from (values
      ('insert', 'inserted', '+', 'referencing new table as new_rows', 1,
       format('select array_agg(%s) into v_keys from new_rows r;', v_key),
       'select array_agg(%s) from new_rows r'),
      ('delete', 'deleted', '-', 'referencing old table as old_rows', -1,
       format('select array_agg(%s) into v_keys from old_rows r;', v_key),
       'select array_agg(%s) from old_rows r'),
      ('update', 'updated', '~', 'referencing old table as old_rows new table as new_rows', 0,
       backline.capture_update(c, v_columns),
       'select array_agg(k.key) from (select %1$s from new_rows r '
       'union select %1$s from old_rows r) as k(key)'),
      ('truncate', 'truncated', 't', '', 0, 'v_keys := ''{}'';', '')
    ) as e(event, done, kind, tables, sign, capture, by_number)
  loop
    execute format('create or replace function backline.%I() returns trigger language plpgsql '
                   'security definer set search_path = pg_catalog, pg_temp %s as %L',
                   'c' || c.id || '_' || v_event.done,
                   backline.text_settings(v_table, v_columns || c.key_columns),
                   backline.capture_body(c.id, v_event.kind, v_event.sign, v_event.capture, v_event.by_number,
                                         v_table, c.key_numbers));
    execute format('revoke all on function backline.%I() from public', 'c' || c.id || '_' || v_event.done);
    for v_on in select backline.triggered_tables(c.id) where not p_functions_only loop
      execute format('create or replace trigger %I after %s on %s %s for each statement execute function '
                     'backline.%I(%s)', 'backline_c' || c.id || '_' || v_event.event, v_event.event, v_on,
                     v_event.tables, 'c' || c.id || '_' || v_event.done,
                     case when v_on <> v_table then '''partition''' end);
    end loop;
  end loop;
end $$;

create or replace function backline.remove_triggers(p_collection int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_name text;
begin
  foreach v_name in array array['inserted', 'updated', 'deleted', 'truncated'] loop
    execute format('drop function if exists backline.%I() cascade', 'c' || p_collection || '_' || v_name);
  end loop;
end $$;

-- Removes the triggers of tables that are no longer partitions of the collection's. They do nothing any more,
-- so those of a table that is locked stay until the next call.
create or replace function backline.remove_stray_triggers(p_collection int) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
declare
  v_trigger record;
begin
  for v_trigger in
    select t.tgname, t.tgrelid::regclass as relation from pg_catalog.pg_trigger t
    join pg_catalog.pg_proc p on p.oid = t.tgfoid and p.pronamespace = 'backline'::regnamespace
    where starts_with(t.tgname::text, 'backline_c' || p_collection || '_') and t.tgnargs > 0
      and t.tgrelid not in (select backline.triggered_tables(p_collection))
  loop
    execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.relation);
  end loop;
exception when insufficient_privilege or lock_not_available then
end $$;

-- Returns the triggers of a collection that do not fire.
create or replace function backline.trigger_problems(p_collection int) returns table (name text, problem text)
language sql stable rows 8 set search_path = pg_catalog, pg_temp as $$
  select e.name || case when k.relkind = 'p' or k.relispartition then ' on ' || k.oid::regclass else '' end,
         case when t.oid is null then 'missing' else 'disabled' end
  from backline.triggered_tables(p_collection) as r(id)
  join pg_catalog.pg_class k on k.oid = r.id
  cross join lateral (
    select 'backline_c' || p_collection || '_' || v.event as name
    from unnest(array['insert', 'update', 'delete', 'truncate']) v(event)) e
  left join pg_catalog.pg_trigger t on t.tgname = e.name and t.tgrelid = r.id
  where t.oid is null or t.tgenabled not in ('O', 'A')
  order by 1;
$$;
comment on function backline.trigger_problems is
  'API: returns the triggers of a collection that are missing or disabled.';

-- An upgrade replaces the generated functions too. Replacing the triggers would make the host's writers wait.
select backline.install_triggers(c.id, p_functions_only => true) from backline.collections c
where (backline.resolve(c)).problem is null;
