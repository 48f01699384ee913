-- Built by `make docs` from schema/functions/declare.sql. Edit that file instead.

-- Checks a declaration. add_collection calls check_table before it changes anything.

-- Returns a table with its partitions.
create or replace function backline.table_and_partitions(p_table regclass) returns oid[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select t.relid::oid from pg_catalog.pg_partition_tree(p_table) t union select p_table::oid);
$$;

-- Raises unless a collection can have this name and no other collection has it.
create or replace function backline.check_name(p_name text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
begin
  if p_name = '' or length(p_name) > 200 or p_name ~ '^-|[[:cntrl:]]' then
    raise exception using errcode = 'BL001', message = format(
      'a collection cannot be named %L: a name has 1 to 200 characters, none of them a control character, '
      'and does not begin with a hyphen. Choose another with --name', p_name);
  elsif p_name ~ '@(next|old)$' then
    raise exception using errcode = 'BL001', message = format(
      'a collection cannot be named %L: names that end in @next or @old are those of the targets of a change '
      'of the model. Choose another with --name', p_name);
  end if;
  select * into c from backline.collections x where x.name = p_name;
  if found then
    raise exception using errcode = 'BL007', message = format(
      'the collection %L on %I.%I exists already. Drop it first: backline drop %s; or choose another --name',
      p_name, c.table_schema, c.table_name, backline.shell_word(p_name));
  end if;
end $$;

-- Raises unless triggers and updates reach every row of a relation, and it is the application's own.
create or replace function backline.check_relation(p_table regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k pg_catalog.pg_class;
  v_schema text; v_owner text; v_relatives text; v_problem text;
begin
  select * into strict k from pg_catalog.pg_class x where x.oid = p_table;
  select n.nspname, pg_catalog.pg_get_userbyid(n.nspowner) into v_schema, v_owner
  from pg_catalog.pg_namespace n where n.oid = k.relnamespace;
  select string_agg(i.inhrelid::regclass || ' inherits from ' || i.inhparent::regclass, ', ') into v_relatives
  from pg_catalog.pg_inherits i where p_table in (i.inhrelid, i.inhparent);

  v_problem := case
    when k.relkind not in ('r', 'p', 'v', 'm', 'f') then format(
      'is not a table but %s. Declare the table that holds the rows',
      case k.relkind when 'S' then 'a sequence' when 'c' then 'a type' else 'an index' end)
    when k.relpersistence = 't' then
      'is a temporary table, which other sessions cannot see. Declare a permanent one'
    when v_schema in ('backline', 'supabase_migrations') then
      'belongs to Backline. Declare a table of your own'
    when v_schema = 'information_schema' or v_schema like 'pg\_%' then
      'belongs to Postgres. Declare a table of your own'
    when v_owner like 'supabase%' and v_schema in (
        'auth', 'storage', 'realtime', '_realtime', 'vault', 'supabase_functions', 'graphql',
        'graphql_public', 'pgbouncer', 'pgsodium', '_analytics') then
      'belongs to Supabase, whose upgrades change it. Declare a table of your own'
    when exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_class'::regclass
                 and d.objid = p_table and d.deptype = 'e') then
      'belongs to an extension, whose tables a dump leaves out. Declare a table of your own'
    when k.relispartition then format(
      'is a partition, and writes to its parent fire no trigger of it. Declare the parent: backline add %s',
      (select backline.shell_word(n.nspname || '.' || r.relname)
       from pg_catalog.pg_class r join pg_catalog.pg_namespace n on n.oid = r.relnamespace
       where r.oid = pg_catalog.pg_partition_root(p_table)))
    when k.relkind = 'r' and v_relatives is not null then format(
      'shares its rows by inheritance (%s), so a key can identify two rows. Make it a partitioned table, or '
      'end the inheritance: alter table CHILD no inherit PARENT', v_relatives)
    when exists (select from pg_catalog.pg_class f
                 where f.oid = any (backline.table_and_partitions(p_table)) and f.relkind = 'f'
                   and f.oid <> p_table) then
      'has a foreign table as a partition, to which triggers do not apply. Detach it first'
    when exists (select from pg_catalog.pg_rewrite w
                 where w.ev_class = p_table and w.is_instead and w.ev_type in ('2', '3', '4')) then
      'has a rule that replaces its writes, so vectors would not be stored. Use a trigger instead'
    end;
  if v_problem is not null then
    raise exception using message = format('%s %s', p_table, v_problem),
      errcode = case when k.relkind in ('r', 'p', 'v', 'm', 'f') then 'BL001' else 'BL003' end;
  end if;
end $$;

-- Returns the columns that identify a row: those named by p_key, else the primary key.
create or replace function backline.choose_key(p_table regclass, p_key text[]) returns int2[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_key int2[];
begin
  if p_key is null then
    select (i.indkey::int2[])[0:i.indnkeyatts - 1] into v_key from pg_catalog.pg_index i
    where i.indrelid = p_table and i.indisprimary and i.indisvalid and i.indnkeyatts <= 8;
    if v_key is null then
      raise exception using errcode = 'BL004', message = format(
        'the table %s has no primary key of at most 8 columns. Add one, or name unique NOT NULL columns '
        'with --key', p_table);
    end if;
    return array(select unnest(v_key));  -- counts from 1
  end if;
  v_key := array(
    select a.attnum from unnest(p_key) with ordinality u(name, position)
    left join pg_catalog.pg_attribute a on a.attrelid = p_table and a.attname = u.name and a.attnum > 0
      and not a.attisdropped order by u.position);
  if array_position(v_key, null) is not null then
    raise exception using errcode = 'BL004', message = format(
      'the table %s has no column %L. Name each column of a key by itself: --key one --key two. '
      'Its columns: %s', p_table, p_key[array_position(v_key, null)],
      (select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute a
       where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped));
  elsif cardinality(p_key) not between 1 and 8
        or not (backline.is_key(p_table, v_key) or backline.is_read_only(p_table)) then
    raise exception using errcode = 'BL004', message = format(
      'the columns %s of %s are not unique and NOT NULL together, so they do not identify a row. A unique '
      'index on exactly these columns is needed, of which there can be 1 to 8',
      array_to_string(p_key, ', '), p_table);
  end if;
  return v_key;
end $$;

-- Raises unless a column can hold the vectors of one model, or can be added.
create or replace function backline.check_vector_column(
  p_table regclass, p_column text, p_column_type text, p_dimensions int
) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  a pg_catalog.pg_attribute;
  v_type text;
  v_problem text;
begin
  if p_column_type not in ('vector', 'halfvec') then
    raise exception using errcode = 'BL001', message =
      format('the type of the vector column is %L; use vector or halfvec', p_column_type);
  end if;
  if octet_length(p_column) not between 1 and 63 then
    raise exception using errcode = 'BL001', message = format(
      'the name of the vector column has %s bytes, and Postgres keeps 1 to 63. Choose another with --column',
      octet_length(p_column));
  end if;
  select * into a from pg_catalog.pg_attribute x
  where x.attrelid = p_table and x.attname = p_column and not x.attisdropped;
  if not found then
    if (select k.reloftype <> 0 from pg_catalog.pg_class k where k.oid = p_table) then
      raise exception using errcode = 'BL001', message = format(
        '%s is a table of a type, to which no column can be added. Detach it first: alter table %s not of',
        p_table, p_table);
    end if;
    return;
  end if;
  if a.attnum < 0 then
    raise exception using errcode = 'BL001', message = format(
      '%I is a system column of every table. Choose another with --column', p_column);
  end if;

  select t.typname into v_type from pg_catalog.pg_type t where t.oid = a.atttypid;
  if v_type not in ('vector', 'halfvec') then
    raise exception using errcode = 'BL006', message = format(
      'the column %I of %s is of type %s; it must be vector or halfvec. Name another column with --column',
      p_column, p_table, v_type);
  elsif a.atttypmod > 0 and a.atttypmod <> p_dimensions then
    raise exception using errcode = 'BL006', message = format(
      'the column %I of %s holds %s dimensions, the model gives %s. Use a separate column for these vectors: '
      '--column embedding_%s', p_column, p_table, a.atttypmod, p_dimensions, p_dimensions);
  end if;
  v_problem := case
    when a.attgenerated <> '' then
      'is generated, so no vector can be written into it. Name another column with --column'
    when exists (
        select from pg_catalog.pg_index i where i.indrelid = p_table and i.indisunique
          and a.attnum = any (i.indkey))
      or exists (select from pg_catalog.pg_partitioned_table p
                 where p.partrelid = p_table and a.attnum = any (p.partattrs)) then
      'is part of a key or of a unique index, but rows with equal texts have equal vectors. Name another '
      'column with --column'
    when a.attnotnull then format(
      'is NOT NULL, and a row without text has no vector. Allow NULL: alter table %s alter column %I '
      'drop not null',
      p_table, p_column)
    end;
  if v_problem is not null then
    raise exception using errcode = 'BL001', message =
      format('the column %I of %s %s', p_column, p_table, v_problem);
  end if;
end $$;

-- Raises if another collection stores its vectors in the same column, also of a partition or of the parent.
create or replace function backline.check_column_is_free(p_table regclass, p_column text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_name text;
begin
  select c.name into v_name from backline.collections c
  left join pg_catalog.pg_attribute a on a.attrelid = c.table_id and a.attnum = c.vector_number
    and not a.attisdropped
  where c.table_id = any (backline.table_and_partitions(p_table)) and c.into_id is null
    and coalesce(a.attname, c.embedding_column) = p_column limit 1;
  if found then
    raise exception using errcode = 'BL007', message = format(
      'the column %I of %s holds the vectors of the collection %L. Choose another column with --column, or '
      'drop the collection first: backline drop %s', p_column, p_table, v_name, backline.shell_word(v_name));
  end if;
end $$;

-- Raises if the text depends on a vector: storing it would change the text, and no vector would be current.
create or replace function backline.check_text(p_table regclass, p_numbers int2[], p_column text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_name text;
begin
  select a.attname into v_name
  from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attnum in (
      select n.number from backline.text_columns(p_table, p_numbers) n)
    and (t.typname in ('vector', 'halfvec', 'sparsevec') or a.attgenerated <> '' and exists (
      select from pg_catalog.pg_depend d join pg_catalog.pg_attribute v
        on v.attrelid = d.refobjid and v.attnum = d.refobjsubid and v.attname = p_column
      left join pg_catalog.pg_attrdef g on g.oid = d.objid and d.classid = 'pg_catalog.pg_attrdef'::regclass
      where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = p_table
        and (g.adrelid = p_table and g.adnum = a.attnum
             or d.classid = 'pg_catalog.pg_class'::regclass and d.objid = p_table and d.objsubid = a.attnum)))
  limit 1;
  if found then
    raise exception using errcode = 'BL001', message = format(
      'the text or the condition reads %I, which is a vector or is computed from one. Storing a vector would '
      'change the text that it belongs to. Leave the column out', v_name);
  end if;
end $$;

-- Returns the publications that send one of these relations, and whether they send updates. With p_column,
-- leaves out those with a column list without that column.
create or replace function backline.publications(p_relations oid[], p_column text default null)
returns table (name text, sends_updates boolean)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select p.pubname::text, p.pubupdate from pg_catalog.pg_publication p
    where p.puballtables
      or exists (select from pg_catalog.pg_publication_namespace s join pg_catalog.pg_class k
                   on k.relnamespace = s.pnnspid
                 where s.pnpubid = p.oid and k.oid = any (p_relations))
      or exists (select from pg_catalog.pg_publication_rel r
                 where r.prpubid = p.oid and r.prrelid = any (p_relations)
                   and (p_column is null or r.prattrs is null or exists (
                     select from pg_catalog.pg_attribute a where a.attrelid = r.prrelid
                       and a.attname = p_column and a.attnum = any (r.prattrs))))
    order by 1;
end $$;

-- Returns published tables that have no replica identity, with the statement that gives each one. Postgres
-- refuses to store vectors there.
create or replace function backline.unidentified_tables(p_table regclass)
returns table (source text, remedy text)
language sql stable rows 1 set search_path = pg_catalog, pg_temp as $$
  select k.oid::regclass::text, format('alter table %s replica identity %s', k.oid::regclass, case
           when u.indisprimary then 'default' when u.name is null then 'full'
           else format('using index %I', u.name) end)
  from pg_catalog.pg_class k
  left join lateral (
    select i.indisprimary, x.relname as name from pg_catalog.pg_index i
    join pg_catalog.pg_class x on x.oid = i.indexrelid
    where i.indrelid = k.oid and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null
      and i.indexprs is null and not exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = k.oid and a.attnum = any (i.indkey) and not a.attnotnull)
    order by i.indisprimary desc, x.relname limit 1) u on true
  where k.oid = any (backline.table_and_partitions(p_table)) and k.relkind = 'r'
    and not case k.relreplident
              when 'f' then true
              when 'd' then coalesce(u.indisprimary, false)
              when 'i' then exists (select from pg_catalog.pg_index i
                                    where i.indrelid = k.oid and i.indisreplident)
              else false end
    and exists (select from backline.publications(
                  array(select r.relid::oid from pg_catalog.pg_partition_ancestors(k.oid) r) || k.oid) p
                where p.sends_updates)
  order by 1;
$$;

-- Raises if a table is published and its subscribers would stop, or its own rows could not be updated.
-- p_then is what to do after the subscribers have the column, if not to declare the table.
create or replace function backline.check_publications(
  p_table regclass, p_column text, p_column_type text, p_dimensions int, p_published boolean,
  p_then text default null
) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_remedies text := (select string_agg(u.remedy, '; ') from backline.unidentified_tables(p_table) u);
  v_names text;
begin
  if v_remedies is not null then
    raise exception using errcode = 'BL001', message = format(
      '%s is published with its updates and has no replica identity, so Postgres would refuse every vector. '
      'Give it one: %s', p_table, v_remedies);
  end if;
  if p_published then
    return;
  end if;
  -- Supabase's Realtime reads this one without a table of its own, so a new column does not stop it.
  select string_agg(p.name, ', ') into v_names
  from backline.publications(backline.table_and_partitions(p_table), p_column) p
  where p.name <> 'supabase_realtime';
  if v_names is not null then
    raise exception using errcode = 'BL001', message = format(
      '%s is published (%s). A subscriber stops at the first change unless its table has the column %I too. '
      '%s the column to every subscriber: alter table %s add column %I %s(%s); then %s. Or publish a list of '
      'columns without it', p_table, v_names, p_column,
      case when p_then is null then format(
        'Store the vectors in a side table: --into %s. Or add', backline.shell_word(quote_ident((
          select k.relname from pg_catalog.pg_class k where k.oid = p_table) || '_vectors')))
      else 'Add' end,
      p_table, p_column, p_column_type, p_dimensions,
      coalesce(p_then, 'declare the table with --published'));
  end if;
end $$;

-- Raises unless a table can be declared as described. Changes nothing.
create or replace function backline.check_table(
  p_table regclass, p_name text, p_column text, p_column_type text, p_dimensions int,
  p_published boolean, p_into text default null
) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  perform backline.check_name(p_name);
  perform backline.check_relation(p_table);
  if p_into is not null then
    perform backline.check_side_table(p_into, p_column_type);
    return;
  end if;
  perform backline.check_column_is_free(p_table, p_column);
  perform backline.check_vector_column(p_table, p_column, p_column_type, p_dimensions);
  perform backline.check_publications(p_table, p_column, p_column_type, p_dimensions, p_published);
end $$;
