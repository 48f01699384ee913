-- Built by `make docs` from schema/functions/filters.sql. Edit that file instead.

-- Compiles filters to SQL.

-- Returns one comparison of a filter as SQL over the alias r. The statement reads the value from its
-- parameter at the path p_at. p_value is used here only to reject values that cannot be compared with the
-- column.
create or replace function backline.compile_comparison(
  p_table regclass, p_op text, p_path text[], p_value jsonb, p_parameter text, p_at text[]
) returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_op text := case p_op when '!=' then '<>' else p_op end;
  v_type text; v_category "char"; v_left text;
begin
  select pg_catalog.format_type(a.atttypid, null), t.typcategory into v_type, v_category
  from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attname = p_path[1] and a.attnum > 0 and not a.attisdropped;
  if v_type is null then
    raise exception using errcode = 'BL002', message = format(
      'the table %s has no column %L, which the filter names. Its columns: %s', p_table, p_path[1],
      (select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute a
       where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped));
  end if;
  v_left := format('r.%I', p_path[1]);
  if cardinality(p_path) > 1 and v_type not in ('jsonb', 'json') then
    raise exception using errcode = 'BL001', message = format(
      'the filter reads %s, but the column %L is of type %s; only jsonb has parts',
      array_to_string(p_path, '.'), p_path[1], v_type);
  end if;
  if v_type in ('jsonb', 'json') then
    v_left := format('(%s::jsonb #> %L::text[])', v_left, p_path[2:]);
    if v_op in ('like', 'ilike') then
      return format('(%s #>> ''{}'' %s (%s #>> %L::text[]))', v_left, v_op, p_parameter, p_at);
    elsif v_op in ('is null', 'is not null') then
      return format('(nullif(%s, ''null'') %s)', v_left, v_op);
    end if;
    -- Values of different JSON types never match: a number is not compared with a string.
    return format('(jsonb_typeof(%1$s) = jsonb_typeof(%2$s) and %1$s %3$s %2$s)',
                  v_left, format('(%s #> %L::text[])', p_parameter, p_at), v_op);
  end if;
  if v_op in ('is null', 'is not null') then
    return format('(%s %s)', v_left, v_op);
  elsif v_op in ('like', 'ilike') then
    return format('(%s::text %s (%s #>> %L::text[]))', v_left, v_op, p_parameter, p_at);
  elsif v_category not in ('N', 'S', 'D', 'T', 'E', 'B', 'I') and v_type <> 'uuid'
        or v_category = 'B' and v_op not in ('=', '<>') then
    raise exception using errcode = 'BL001', message =
      format('the filter cannot compare the column %L of type %s by %s', p_path[1], v_type, p_op);
  end if;
  begin
    execute format('select ($1)::%s', v_type) using p_value #>> '{}';
  exception when data_exception then
    raise exception using errcode = 'BL001', message = format(
      'the filter compares the column %L of type %s with %s, which is not of that type',
      p_path[1], v_type, p_value);
  end;
  return format('(%s %s (%s #>> %L::text[])::%s)', v_left, v_op, p_parameter, p_at, v_type);
end $$;

-- Returns a condition on a table's columns as SQL over the alias r. The condition is a tree:
--   {"op": "and" | "or", "args": [...]}, {"op": "not", "args": [one]},
--   {"op": "=" | "!=" | "<" | "<=" | ">" | ">=" | "like" | "ilike", "path": ["column", "key", ...],
--    "value": scalar},
--   {"op": "in", "path": [...], "value": [scalars]}, {"op": "is null" | "is not null", "path": [...]}
-- A path with more than one step reads from a jsonb column. Values are never written into the SQL. The
-- statement reads them from the tree, which is its parameter p_parameter.
create or replace function backline.compile_filter(
  p_table regclass, p_filter jsonb, p_parameter text, p_at text[] default '{}'
) returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_op text := p_filter ->> 'op';
  v_path text[] := array(select jsonb_array_elements_text(p_filter -> 'path'));
  v_parts text[] := '{}';
begin
  if v_op in ('and', 'or', 'not') then
    for i in 0 .. jsonb_array_length(p_filter -> 'args') - 1 loop
      v_parts := v_parts || backline.compile_filter(
        p_table, p_filter -> 'args' -> i, p_parameter, p_at || array['args', i::text]);
    end loop;
    return format(case v_op when 'not' then '(not coalesce(%s, false))' else '(%s)' end,
                  array_to_string(v_parts, ' ' || v_op || ' '));
  elsif v_op = 'in' then
    for i in 0 .. jsonb_array_length(p_filter -> 'value') - 1 loop
      v_parts := v_parts || backline.compile_comparison(
        p_table, '=', v_path, p_filter -> 'value' -> i, p_parameter, p_at || array['value', i::text]);
    end loop;
    return format('(%s)', array_to_string(v_parts, ' or '));
  elsif v_op in ('=', '!=', '<', '<=', '>', '>=', 'like', 'ilike', 'is null', 'is not null') then
    return backline.compile_comparison(
      p_table, v_op, v_path, p_filter -> 'value', p_parameter, p_at || array['value']);
  end if;
  raise exception using errcode = 'BL001', message = format('the filter has no operator %L', v_op);
end $$;
