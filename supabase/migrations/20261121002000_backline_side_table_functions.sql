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

-- Makes a side table for the rows of a table, and returns it. Roles that can read the table can read it.
create or replace function backline.make_side_table(
  p_into text[], p_table regclass, p_key int2[], p_type text, p_passages boolean default false
) returns oid language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_name constant text := format('%I.%I', p_into[1], p_into[2]);
  v_columns text;
  v_names text;
  v_role text;
begin
  if not exists (select from pg_catalog.pg_namespace n where n.nspname = p_into[1]) then
    execute format('create schema %I', p_into[1]);
  end if;
  -- Types without a length: a column that becomes longer needs no change here.
  select string_agg(format('%s %s not null', n.name, u.type), ', ' order by u.position),
         string_agg(n.name, ', ' order by u.position)
  into v_columns, v_names
  from unnest(backline.key_types(p_table, p_key)) with ordinality u(type, position)
  cross join lateral backline.side_key(u.position) n(name);
  if p_passages then
    v_columns := v_columns || ', ordinal int not null, start int not null, "end" int not null, '
                              'heading text not null, hash bytea not null';
    v_names := v_names || ', ordinal';
  end if;
  execute format('create table %s (%s, embedding %s not null, primary key (%s))',
                 v_name, v_columns, p_type, v_names);
  execute format('comment on table %s is %L', v_name, format(
    'Vectors of the rows of %s. Backline writes them; key_1, key_2, … are the key of the row.%s', p_table,
    case when p_passages then ' A row has one for each passage of its text, from the character start to end; '
      'hash is the SHA-256 of heading, a new line unless it is empty, and the passage.' else '' end));
  execute format('alter table %s enable row level security', v_name);
  execute format('create policy "service role" on %s to service_role using (true) with check (true)', v_name)
  where exists (select from pg_catalog.pg_roles where rolname = 'service_role');
  for v_role in
    select distinct case g.grantee when 0 then 'public' else g.grantee::regrole::text end
    from pg_catalog.pg_class k cross join lateral pg_catalog.aclexplode(k.relacl) g
    where k.oid = p_table and g.privilege_type = 'SELECT' and g.grantee <> k.relowner
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
