-- Built by `make docs` from schema/functions/side_table.sql. Edit that file instead.

-- Side tables: vectors outside the table that they belong to, which gets no column and no writes.

-- Returns schema and name of a side table from what was declared. A plain name is one of backline_vectors.
create or replace function backline.side_name(p_into text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when cardinality(n.parts) = 1 then array['backline_vectors'] || n.parts else n.parts end
  from (select pg_catalog.parse_ident(p_into) as parts) n;
$$;

-- Raises unless a side table can be made under a name.
create or replace function backline.check_side_table(p_into text, p_column_type text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_into text[];
begin
  begin
    v_into := backline.side_name(p_into);
  exception when invalid_parameter_value then
    v_into := null;
  end;
  if v_into is null or cardinality(v_into) > 2 then
    raise exception using errcode = 'BL001', message = format(
      '%L does not name a side table. Write --into NAME or --into SCHEMA.NAME, and quotes around a name that '
      'is not in lower case', p_into);
  elsif to_regclass(format('%I.%I', v_into[1], v_into[2])) is not null
        or to_regtype(format('%I.%I', v_into[1], v_into[2])) is not null then
    raise exception using errcode = 'BL007', message = format(
      'a table or a type %I.%I exists already. Choose another name with --into', v_into[1], v_into[2]);
  elsif v_into[1] in ('backline', 'information_schema') or v_into[1] like 'pg\_%' then
    raise exception using errcode = 'BL001', message = format(
      'the schema %I is not one for tables of your own. Choose another with --into', v_into[1]);
  elsif p_column_type not in ('vector', 'halfvec') then
    raise exception using errcode = 'BL001', message =
      format('the type of the vector column is %L; use vector or halfvec', p_column_type);
  end if;
end $$;

-- Raises unless a side table can have p_partitions partitions.
create or replace function backline.check_partitions(p_partitions int, p_into text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if p_partitions not between 1 and 1000 then
    raise exception using errcode = 'BL001', message = format(
      'a side table cannot have %s partitions; use 1 to 1000', p_partitions);
  elsif p_partitions > 1 and p_into is null then
    raise exception using errcode = 'BL001',
      message = 'only a side table can be partitioned. Name it with --into, or leave out --partitions';
  end if;
end $$;

-- Returns the roles with a grant to read columns of a table, 0 for PUBLIC. Number 0 is the whole row.
create or replace function backline.readers(p_table oid, p_columns int2[]) returns oid[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  with columns as (
    select a.attnum, k.relowner, k.relacl || a.attacl as acl
    from pg_catalog.pg_class k join pg_catalog.pg_attribute a on a.attrelid = k.oid
    where k.oid = p_table and a.attnum > 0 and not a.attisdropped
      and (a.attnum = any (p_columns) or 0 = any (p_columns))
  ), granted as (
    select c.attnum, g.grantee from columns c cross join lateral pg_catalog.aclexplode(c.acl) g
    where g.privilege_type = 'SELECT' and g.grantee <> c.relowner
  )
  select array(select distinct r.grantee from granted r where not exists (
    select from columns c where not exists (
      select from granted g where g.attnum = c.attnum and g.grantee in (r.grantee, 0))));
$$;

-- Returns the keys at which the rows of a table, in key order, divide into p_ranges parts of equal size. Each
-- is a list of literals. In a large table, the parts of a sample are equal.
create or replace function backline.key_bounds(p_table regclass, p_key int2[], p_ranges int) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC'
set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 as $$
declare
  v_columns constant text[] := (backline.present_columns(p_table, true, p_key, p_key::text[])).names;
  v_sample text := (
    select format('tablesample system (%s)', 100 * 100000 / k.reltuples) from pg_catalog.pg_class k
    where k.oid = p_table and k.relkind in ('r', 'p', 'm') and k.reltuples > 200000);
  v_bounds text[];
begin
  execute format($q$
    select array_agg(k.bound order by k.place) from (
      select %1$s as bound, row_number() over (order by %2$s) - 1 as place, count(*) over () as total
      from %3$s r %4$s) k
    where k.place > 0 and k.place * $1 / k.total > (k.place - 1) * $1 / k.total
  $q$, (select format('concat_ws('', '', %s)', string_agg(format('quote_literal(r.%I::text)', u.name), ', '
                                                          order by u.position))
        from unnest(v_columns) with ordinality u(name, position)),
       (select string_agg(format('r.%I', u.name), ', ' order by u.position)
        from unnest(v_columns) with ordinality u(name, position)), p_table, v_sample)
  into v_bounds using p_ranges;
  if cardinality(v_bounds) is distinct from p_ranges - 1 then
    raise exception using errcode = 'BL001', message = format(
      '%s has too few rows to divide their keys into %s ranges. Declare it with fewer --partitions, or '
      'without', p_table, p_ranges);
  end if;
  return v_bounds;
end $$;

-- Makes the partitions of a side table between p_bounds. The first and the last one are open.
create or replace function backline.make_partitions(p_into text[], p_columns int, p_bounds text[])
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_ends constant text[] :=
    array_to_string(array_fill('minvalue'::text, array[p_columns]), ', ') || p_bounds
    || array_to_string(array_fill('maxvalue'::text, array[p_columns]), ', ');
  v_name text;
begin
  for i in 1 .. cardinality(v_ends) - 1 loop
    v_name := format('%I.%I', p_into[1], left(p_into[2], 55) || '_' || i);
    if to_regclass(v_name) is not null then
      raise exception using errcode = 'BL007', message = format(
        'a table %s exists already, and a partition needs its name. Choose another name with --into', v_name);
    end if;
    execute format('create table %s partition of %I.%I for values from (%s) to (%s)',
                   v_name, p_into[1], p_into[2], v_ends[i], v_ends[i + 1]);
    -- Default privileges of a schema can let a role read it past the policies of the whole table.
    execute format('alter table %s enable row level security', v_name);
  end loop;
end $$;

-- Makes a side table for the rows of a table, and returns it. Roles that can read the key and the columns of
-- the text can read it. With p_ranges above 1, it is partitioned by key range.
create or replace function backline.make_side_table(
  p_into text[], p_table regclass, p_key int2[], p_text int2[], p_type text,
  p_passages boolean default false, p_ranges int default 1
) returns oid language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_name constant text := format('%I.%I', p_into[1], p_into[2]);
  v_bounds constant text[] := case when p_ranges > 1
                                   then backline.key_bounds(p_table, p_key, p_ranges) end;
  v_columns text;
  v_keys text;
  v_names text;
  v_role text;
begin
  if not exists (select from pg_catalog.pg_namespace n where n.nspname = p_into[1]) then
    execute format('create schema %I', p_into[1]);
  end if;
  -- Types without a length: a column that becomes longer needs no change here.
  select string_agg(format('%s %s not null', n.name, u.type), ', ' order by u.position),
         string_agg(n.name, ', ' order by u.position)
  into v_columns, v_keys
  from unnest(backline.key_types(p_table, p_key)) with ordinality u(type, position)
  cross join lateral backline.side_key(u.position) n(name);
  v_names := v_keys;
  if p_passages then
    v_columns := v_columns || ', ordinal int not null, start int not null, "end" int not null, '
                              'heading text not null, hash bytea not null';
    v_names := v_names || ', ordinal';
  end if;
  execute format('create table %s (%s, embedding %s not null, primary key (%s))%s', v_name, v_columns,
                 p_type, v_names, case when p_ranges > 1 then format(' partition by range (%s)', v_keys) end);
  perform backline.make_partitions(p_into, cardinality(p_key), v_bounds) where p_ranges > 1;
  execute format('comment on table %s is %L', v_name, format(
    'Vectors of the rows of %s. Backline writes them; key_1, key_2, … are the key of the row.%s', p_table,
    case when p_passages then ' A row has one for each passage of its text, from the character start to end; '
      'hash is the SHA-256 of heading, a new line unless it is empty, and the passage.' else '' end));
  execute format('alter table %s enable row level security', v_name);
  execute format('create policy "service role" on %s to service_role using (true) with check (true)', v_name)
  where exists (select from pg_catalog.pg_roles where rolname = 'service_role');
  for v_role in
    select case u.role when 0 then 'public' else u.role::regrole::text end
    from unnest(backline.readers(p_table, p_key || p_text)) as u(role)
  loop
    execute format('grant usage on schema %I to %s', p_into[1], v_role);
    execute format('grant select on %s to %s', v_name, v_role);
  end loop;
  if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    execute format('grant usage on schema %I to service_role', p_into[1]);
    execute format('grant select, insert, update, delete on %s to service_role', v_name);
  end if;
  return v_name::regclass;
end $$;

-- Shows a role the vectors of the rows of r that it sees. The policy calls functions, because Postgres would
-- not drop a table or a column that a policy names. The one without arguments returns whether the role sees
-- every row. It finds the table by name first, because a restored table has another oid.
create or replace function backline.install_visibility(c backline.collections) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_function constant text := format('backline.%I', 'c' || c.id || '_visible');
  v_keys text;
  v_types text;
  v_joined text;
begin
  perform backline.follow_key_types(c);
  select string_agg(a.attname, ', ' order by a.attnum),
         string_agg(pg_catalog.format_type(a.atttypid, -1), ', ' order by a.attnum),
         string_agg(format('r.%I = $%s', c.key_columns[a.attnum], a.attnum), ' and ')
  into v_keys, v_types, v_joined
  from pg_catalog.pg_attribute a
  where a.attrelid = c.into_id and a.attnum between 1 and cardinality(c.key_columns);
  -- With a search path: an operator of the reader must not decide what it sees.
  execute format('create or replace function %s(%s) returns boolean language plpgsql stable '
                 'set search_path = pg_catalog, pg_temp as %L', v_function, v_types, format(
    'begin return exists (select from %s r where %s); end', backline.source(c), v_joined));
  execute format('create or replace function %s() returns boolean language plpgsql stable '
                 'set search_path = pg_catalog, pg_temp as %L', v_function, format(
      -- A view applies the row level security of the tables that it reads.
      'begin return exists (select from pg_catalog.pg_class k where k.oid = coalesce(to_regclass(%L), %s) '
      'and k.relkind in (''r'', ''p'') and not pg_catalog.row_security_active(k.oid)); end',
      backline.source(c), c.table_id));
  execute format('grant execute on function %1$s(), %1$s(%2$s) to public', v_function, v_types);
  if not exists (select from pg_catalog.pg_policy p
                 where p.polrelid = c.into_id and p.polname = 'rows of the source') then
    execute format('create policy "rows of the source" on %1$s for select using '
                   '((select %2$s()) or %2$s(%3$s))', (backline.side_table(c)).name, v_function, v_keys);
  end if;
end $$;

create or replace function backline.drop_visibility(p_collection int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc p
    where p.pronamespace = 'backline'::regnamespace and p.proname = 'c' || p_collection || '_visible'
  loop
    execute format('drop function %s cascade', v_function);  -- with the policy that calls it
  end loop;
end $$;

-- Gives the key of a side table the types of the source's. If a key has no value of the new type, the vectors
-- are deleted, and their rows are due.
create or replace function backline.follow_key_types(c backline.collections) returns void
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  v_name constant text := (backline.side_table(c)).name;
  v_types constant text[] := backline.key_types(
    c.into_id, array(select generate_series(1, cardinality(c.key_types)))::int2[]);
  v_changes text;
begin
  select string_agg(format('alter %1$s type %2$s using %1$s::text::%2$s', k.name, u.type), ', ')
  into v_changes
  from unnest(c.key_types) with ordinality u(type, position)
  cross join lateral backline.side_key(u.position) k(name)
  where u.type <> v_types[u.position];
  if v_changes is null then
    return;
  elsif (select k.relkind = 'p' from pg_catalog.pg_class k where k.oid = c.into_id) then
    raise exception using errcode = 'BL004', message = format(
      'The key of %s has another type now, which the partitions of the side table %s cannot take. Declare '
      'the collection again: backline drop %s && backline add …', backline.source(c), v_name,
      backline.shell_word(c.name));
  end if;
  perform backline.drop_visibility(c.id);  -- a policy keeps the type of a column
  begin
    execute format('alter table %s %s', v_name, v_changes);
  exception when data_exception or unique_violation then
    execute format('truncate %s', v_name);
    execute format('alter table %s %s', v_name, v_changes);
  end;
end $$;

-- Returns the statements that the side table's owner must run so that the current role can read it or, with
-- p_write, fill it.
create or replace function backline.missing_side_grants(p_side oid, p_write boolean) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_remove(array[
    case when not pg_catalog.has_schema_privilege(n.oid, 'usage')
         then format('grant usage on schema %I to %I', n.nspname, current_user) end,
    case when not (pg_catalog.has_table_privilege(k.oid, 'select') and (
                     not p_write or pg_catalog.has_table_privilege(k.oid, 'insert')
                     and pg_catalog.has_table_privilege(k.oid, 'update')
                     and pg_catalog.has_table_privilege(k.oid, 'delete')))
         then format('grant select%s on %I.%I to %I', case when p_write then ', insert, update, delete' end,
                     n.nspname, k.relname, current_user) end,
    case when p_write and pg_catalog.row_security_active(k.oid) and not exists (
           select from pg_catalog.pg_policy p, unnest(p.polroles) o
           where p.polrelid = k.oid and p.polcmd = '*' and pg_catalog.pg_has_role(o, 'usage'))
         then format('create policy %I on %I.%I to %I using (true) with check (true)',
                     'backline ' || current_user, n.nspname, k.relname, current_user) end], null)
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace where k.oid = p_side;
$$;
