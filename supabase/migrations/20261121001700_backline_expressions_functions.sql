-- Built by `make docs` from schema/functions/expressions.sql. Edit that file instead.

-- Compiles SQL expressions over one row, and follows them through renames of columns.
--
-- A compiled expression is what Postgres prints: every column is r.name and the whole row is r.*, and every
-- function has its schema.

-- Returns the parts of a compiled expression in order, and the column or function that each one is. A name
-- after r. is no column if it is that of a function, a type or a collation.
create or replace function backline.expression_parts(p_sql text)
returns table (place bigint, part text, is_column boolean, is_function boolean, name text)
language sql immutable rows 20 set search_path = pg_catalog, pg_temp as $$
  select u.place, concat(u.m[1], u.m[2], u.m[3], u.m[4]),
         coalesce(u.m[1] = '' and u.m[2] like 'r.%' and u.m[3] = '', false),
         coalesce(u.m[1] = '' and u.m[3] = '(' and u.m[2] <> 'varying', false),
         case when u.m[2] like 'r."%' then replace(substr(u.m[2], 4, length(u.m[2]) - 4), '""', '"')
              when u.m[2] like 'r.%' and u.m[2] <> 'r.*' then substr(u.m[2], 3) end
  from regexp_matches(p_sql,
    '((?:::|COLLATE )?)'
    '((?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")*")(?:[.](?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")*"|[*]))*)([(]?)'
    '|(''(?:[^'']|'''')*''|[A-Z0-9_]+|.)', 'g') with ordinality u(m, place);
$$;

-- Returns an expression with the columns p_from under their names p_to. A column whose name in p_to is null
-- is a NULL of its type.
create or replace function backline.rename_columns(p_sql text, p_from text[], p_to text[], p_types text[])
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(case
      when e.name is null or not e.is_column or x.n is null then e.part
      when p_to[x.n] is null then 'NULL::' || p_types[x.n]
      else format('r.%I', p_to[x.n]) end, '' order by e.place)
  from backline.expression_parts(p_sql) e, lateral (select array_position(p_from, e.name) as n) x;
$$;

-- Returns the columns that expressions read, each once. Number 0 without a name is the whole row.
create or replace function backline.read_columns(
  p_table oid, p_sql text, out numbers int2[], out names text[], out types text[]
) language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(array_agg(coalesce(a.attnum, 0) order by n.place), '{}'),
         coalesce(array_agg(n.name order by n.place), '{}'),
         coalesce(array_agg(pg_catalog.format_type(a.atttypid, -1) order by n.place), '{}')
  from (select e.name, min(e.place) as place from backline.expression_parts(p_sql) e
        where e.is_column group by e.name) n
  left join pg_catalog.pg_attribute a on a.attrelid = p_table and a.attname = n.name and not a.attisdropped;
$$;

-- Returns the columns that can change a text: those of p_numbers, and all but vectors for the whole row.
create or replace function backline.text_columns(p_table oid, p_numbers int2[])
returns table (name text, number int2) language sql stable rows 10 set search_path = pg_catalog, pg_temp as $$
  select a.attname::text, a.attnum from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped and (
    a.attnum = any (p_numbers)
    or 0 = any (p_numbers) and t.typname not in ('vector', 'halfvec', 'sparsevec') and a.attgenerated <> 'v')
  order by a.attnum;
$$;

-- Returns the names of a table's columns.
create or replace function backline.column_list(p_table oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute a
  where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped;
$$;

-- Returns the functions that an analyzed expression calls and whose result another call can change, with the
-- reason. Stable functions of Postgres are listed, because many depend on the time or the session. Those that
-- depend on settings of the format are not: every statement of Backline sets them.
create or replace function backline.unsteady_functions(p_tree text)
returns table (name text, reason text) language sql stable rows 5 set search_path = pg_catalog, pg_temp as $$
  select distinct p.oid::regprocedure::text, case
    when p.provolatile = 'v' then 'is volatile'
    when p.pronamespace = 'pg_catalog'::regnamespace then 'depends on the time or on the session'
    else 'is not declared immutable' end
  from (
    select (m.id)[1]::oid as id from regexp_matches(p_tree, ':(?:funcid|opfuncid) ([0-9]+)', 'g') m(id)
    union
    select o.oprcode from regexp_matches(p_tree, ':opno ([0-9]+)', 'g') m(id)
    join pg_catalog.pg_operator o on o.oid = (m.id)[1]::oid
  ) f join pg_catalog.pg_proc p on p.oid = f.id
  where p.provolatile = 'v' or p.provolatile = 's' and (
    p.pronamespace <> 'pg_catalog'::regnamespace or p.proname !~ (
      '^(concat|concat_ws|format|array_to_string|quote_(literal|nullable)|textanycat|anytextcat'
      '|(array|row)_to_json|to_jsonb?|jsonb?_build_(array|object)|jsonb?_populate_record|jsonb_path_.*_tz'
      '|to_(char|date|number|timestamp)|convert|convert_(from|to)|timezone|extract|overlaps|make_timestamptz'
      '|interval_pl_timestamptz|(date|time|timetz|timestamp|timestamptz|interval)(_.*)?)$'))
  order by 1;
$$;

-- Raises unless the view p_view selects one expression of one row, whose value only the row decides.
create or replace function backline.check_expression(p_view oid, p_output text, p_expression text)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_tree constant text := (select w.ev_action::text from pg_catalog.pg_rewrite w where w.ev_class = p_view);
  v_problem text;
begin
  v_problem := case
    when (select array_agg(a.attname::text) from pg_catalog.pg_attribute a
          where a.attrelid = p_view and a.attnum > 0) <> array[p_output]
      then 'is more than one expression. Write a single one, without a comma outside of parentheses'
    when v_tree ~ ':hasSubLinks true' then
      'has a subquery, whose result can change without an edit of the row. Keep what it reads in a column'
    when v_tree ~ ':hasAggs true' or v_tree ~ ':hasWindowFuncs true' then
      'has an aggregate or a window function, which reads other rows. Use columns of this row only'
    when v_tree ~ ':hasTargetSRFs true' then
      'has a function that returns several rows. Join its results: array_to_string(array, '', '')'
    when v_tree ~ '[{]SQLVALUEFUNCTION ' then
      'uses the present time or user, so its result changes without an edit of the row. Keep the result in '
      'a column'
    when v_tree ~ '[{]VAR :varno [0-9]+ :varattno -' then
      'reads a system column, which every write changes. Leave it out'
    end;
  if v_problem is null then
    select string_agg(format('calls %s, which %s', u.name, u.reason), ', and ')
           || ', so the result may change without an edit of the row. Leave it out, keep its result in a '
              'column, or call a function that is declared immutable'
    into v_problem from backline.unsteady_functions(v_tree) u;
  end if;
  if v_problem is not null then
    raise exception using errcode = 'BL001', message =
      format('the expression %L %s', p_expression, v_problem);
  end if;
end $$;

-- Returns an SQL expression over a row r as Postgres prints it, with the columns that it reads. p_type is
-- text or boolean. Postgres analyzes the expression in a view, which is rolled back. Functions without a
-- schema are found in that of the table and in public.
create or replace function backline.compile_expression(
  p_table regclass, p_expression text, p_type text,
  out sql text, out numbers int2[], out names text[], out types text[]
) language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  -- A name that the expression cannot contain, so that it ends where the name is.
  v_output constant text := 'backline_' || md5(random()::text || clock_timestamp());
  v_view constant text := 'backline.' || v_output;
  -- Columns are qualified because there are two relations.
  v_query constant text := format(E'select (%s\n) as %s from %s r, (select null) as %2$s_2',
                                  p_expression, v_output, p_table::text);
  v_cursor refcursor;
  v_type record;
  v_hint text;
begin
  begin
    perform set_config('search_path', format('pg_catalog, %I, public, pg_temp', n.nspname), true)
    from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace where k.oid = p_table;
    open v_cursor no scroll for execute v_query || ' where false';  -- refuses a second statement
    close v_cursor;
    execute format('create view %s as ', v_view) || v_query;
    perform set_config('search_path', 'pg_catalog, pg_temp', true);
    perform backline.check_expression(v_view::regclass, v_output, p_expression);
    select t.typcategory as category, pg_catalog.format_type(a.atttypid, -1) as name into v_type
    from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
    where a.attrelid = v_view::regclass and a.attnum = 1;
    sql := split_part(pg_catalog.pg_get_viewdef(v_view::regclass), ' AS ' || v_output, 1);
    sql := substr(ltrim(sql), length('SELECT ') + 1);
    raise exception using errcode = 'BL900';
  exception
    when sqlstate 'BL900' then null;
    when undefined_column then
      raise exception using errcode = 'BL002', message = format(
        'the expression %L cannot be used: %s in %s. Its columns: %s', p_expression, sqlerrm, p_table,
        backline.column_list(p_table));
    when undefined_table then
      raise exception using errcode = 'BL001', message = format(
        'the expression %L cannot be used: %s. Write a column by its name or as r.name, and the whole row as '
        'r.*', p_expression, sqlerrm);
    when insufficient_privilege then
      raise;
    when syntax_error_or_access_rule_violation or data_exception or feature_not_supported
      or invalid_cursor_definition then
      get stacked diagnostics v_hint = pg_exception_hint;
      raise exception using errcode = 'BL001', message = format(
        'the expression %L is not an SQL expression over a row of %s: %s. %s', p_expression, p_table,
        regexp_replace(sqlerrm, ' at or near .*' || v_output || '.*', ''),
        coalesce(nullif(v_hint, ''), 'Write for example: concat_ws('' '', title, body)'));
  end;
  if v_type.name <> p_type and (p_type <> 'text' or v_type.category <> 'S') then
    raise exception using errcode = 'BL001', message = format(
      'the expression %L has the type %s, not %s. %s', p_expression, v_type.name, p_type,
      case p_type when 'text' then 'Cast it: (…)::text'
                  else 'Write a condition, such as: status = ''live''' end);
  end if;
  -- complete() runs with the search path of the session, where another function can have the name.
  select string_agg(case when e.is_function and strpos(e.part, '.') = 0 then 'pg_catalog.' else '' end
                    || e.part, '' order by e.place)
  into sql from backline.expression_parts(sql) e;
  select c.numbers, c.names, c.types into numbers, names, types from backline.read_columns(p_table, sql) c;
  if numbers = '{}' then
    raise exception using errcode = 'BL001', message = format(
      'the expression %L reads no column of %s. Its columns: %s', p_expression, p_table,
      backline.column_list(p_table));
  end if;
  perform backline.check_generated(p_table, numbers);
end $$;
comment on function backline.compile_expression is
  'API: checks an SQL expression over a row r of a table, and returns it as Postgres prints it.';

-- Raises if an expression reads a column that is generated when it is read.
create or replace function backline.check_generated(p_table regclass, p_numbers int2[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_column text;
begin
  select a.attname into v_column from pg_catalog.pg_attribute a
  where a.attrelid = p_table and a.attnum = any (p_numbers) and a.attgenerated = 'v' limit 1;
  if found then
    raise exception using errcode = 'BL001', message = format(
      'the column %L of %s is generated when it is read, which triggers cannot see. Make it STORED, '
      'or name the columns that it is made of', v_column, p_table);
  end if;
end $$;

-- Returns the text of a row or, if it fails, U+E002 and the reason, which a worker records as a dead letter.
-- Each call plans the expression anew, so only collections in which it has failed use it.
create or replace function backline.try_text(p_sql text, p_row anyelement) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_text text;
begin
  execute format('select %s from unnest($1) r', p_sql) into v_text using array[p_row];
  return v_text;
exception when data_exception or cardinality_violation or raise_exception then
  return U&'\E002' || sqlerrm;
end $$;

-- Returns whether a condition is true for a row, and null if it fails.
create or replace function backline.try_condition(p_sql text, p_row anyelement) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_result boolean;
begin
  execute format('select (%s) is true from unnest($1) r', p_sql) into v_result using array[p_row];
  return v_result;
exception when data_exception or cardinality_violation or raise_exception then
  return null;
end $$;

-- Returns a collection with expressions that never fail, if they have failed before.
create or replace function backline.with_guard(c backline.collections) returns backline.collections
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if c.guarded then
    c.text_sql := format('backline.try_text(%L, r.*)', c.text_sql);
    c.where_sql := case when c.where_sql is not null
                        then format('backline.try_condition(%L, r.*)', c.where_sql) end;
  end if;
  return c;
end $$;

-- Guards the expressions of a collection after they failed for a row, so that the others are embedded.
-- Returns false if they are guarded already, or cannot fail.
create or replace function backline.guard_expressions(p_collection int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update backline.collections c set guarded = true
  where c.id = p_collection and not c.guarded and (c.text_expression is not null or c.where_sql is not null);
  return found;
end $$;
