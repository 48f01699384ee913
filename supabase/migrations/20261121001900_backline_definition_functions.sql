-- Built by `make docs` from schema/functions/definition.sql. Edit that file instead.

-- Finds the table and the columns of a collection after the application has changed their definition.
--
-- A table is found by its oid and a column by its number, so that a rename is followed at once and by every
-- statement. definition() reads the catalog; follow() writes the present names back.

-- Returns a name as one word of a shell command.
create or replace function backline.shell_word(p_name text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_name ~ '^[[:alnum:]_.,:/@+-]+$' then p_name
              else '''' || replace(p_name, '''', '''\''''') || '''' end;
$$;

-- Returns whether a table has triggers of a collection.
create or replace function backline.has_triggers(p_collection int, p_table oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_catalog.pg_trigger t where t.tgrelid = p_table
                 and starts_with(t.tgname::text, 'backline_c' || p_collection || '_'));
$$;

-- Returns the present names of numbered columns with their types, null for those that are gone. Number 0 is
-- the whole row and stays. Without p_by_number the columns are found by name, as in a restored table. A
-- column that was dropped and added again has another number.
create or replace function backline.present_columns(
  p_table oid, p_by_number boolean, p_numbers int2[], p_names text[],
  out numbers int2[], out names text[], out types text[]
) language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_agg(case when w.number = 0 then w.number else a.attnum end order by w.position),
         array_agg(a.attname::text order by w.position),
         array_agg(pg_catalog.format_type(a.atttypid, -1) order by w.position)
  from unnest(p_numbers, p_names) with ordinality w(number, name, position)
  left join lateral (
    select x.* from pg_catalog.pg_attribute x
    where x.attrelid = p_table and x.attnum > 0 and not x.attisdropped
      and (x.attnum = w.number and p_by_number or x.attname = w.name)
    order by x.attnum = w.number and p_by_number desc limit 1) a on true;
$$;

-- Returns the partitions of a table, or the tables that inherit from it, at every level.
create or replace function backline.members(p_table oid) returns oid[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive below(oid) as (
    select i.inhrelid from pg_catalog.pg_inherits i where i.inhparent = p_table
    union
    select i.inhrelid from below b join pg_catalog.pg_inherits i on i.inhparent = b.oid
  )
  select coalesce(array_agg(b.oid order by b.oid), '{}') from below b;
$$;

-- Returns whether the recorded names and types of a collection are the present ones.
create or replace function backline.is_current(c backline.collections) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  v_keys constant int := cardinality(c.key_numbers);
begin
  -- The cast reads the catalog's cache, which a query of pg_class would not.
  return c.table_id::regclass::text = format('%I.%I', c.table_schema, c.table_name) and (
    select array_agg(a.attname::text order by n.position)
             = c.key_columns || c.text_names
               || case when c.into_id is null then array[c.embedding_column] else '{}' end
       and array_agg(pg_catalog.format_type(a.atttypid, -1) order by n.position)
             filter (where n.position between v_keys + 1 and v_keys + cardinality(c.text_numbers))
             = c.text_types
    from unnest(array_remove(c.key_numbers || c.text_numbers || c.vector_number, null))
      with ordinality n(number, position)
    left join pg_catalog.pg_attribute a on a.attrelid = c.table_id and a.attnum = n.number)
    and backline.key_types(c.table_id, c.key_numbers) = c.key_types
    and (c.into_id is null or c.into_id::regclass::text = format('%I.%I', c.into_schema, c.into_name))
    and (c.follow_number is null or exists (
      select from pg_catalog.pg_attribute a where a.attrelid = c.table_id and a.attnum = c.follow_number
        and a.attname = c.follow_column));
end $$;

-- Returns a collection with the present names of its table and columns.
--   code     the SQLSTATE to raise if the collection cannot be used
--   problem  what is wrong, and remedy what mends it
--   changed  why the texts of rows may have changed unseen
--   named    the table that has the recorded name now
--
-- The table is the one with the recorded oid. After a dump and a restore it has another oid: it is then the
-- one of the recorded name with the collection's triggers. After a rename that was recorded, a table with
-- the former name and the same columns is a replacement.
create or replace function backline.resolve(
  c backline.collections, out d backline.collections,
  out code text, out problem text, out remedy text, out changed text, out named oid
) language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_name text := format('%I.%I', c.table_schema, c.table_name);
  v_command constant text := 'Run: backline reconcile ' || backline.shell_word(c.name);
  v_numbers constant int2[] := array_remove(c.key_numbers || c.text_numbers || c.vector_number, null);
  v_names text[] := c.key_columns || c.text_names
    || case when c.into_id is null then array[c.embedding_column] else '{}' end;
  v_keys constant int := cardinality(c.key_numbers);
  v_vector constant int := v_keys + cardinality(c.text_numbers) + 1;
  v_has_triggers constant boolean := backline.has_triggers(c.id, c.table_id);
  v_kept boolean;
  p record;
begin
  d := c;
  if to_regclass(c.former_name) <> c.table_id and (
       select n.names = v_names from backline.present_columns(
         to_regclass(c.former_name), false, v_numbers, v_names) n) then
    v_name := c.former_name;
  end if;
  named := (select k.oid from pg_catalog.pg_class k
            where k.oid = to_regclass(v_name) and (k.relkind in ('r', 'p')
              or c.follow_number is not null and backline.is_read_only(k.oid)));
  -- Another table can have the recorded oid in a restored database.
  v_kept := exists (select from pg_catalog.pg_class k where k.oid = c.table_id and (k.relkind in ('r', 'p')
                    or c.follow_number is not null and backline.is_read_only(k.oid)))
    and (v_has_triggers or (select n.names = v_names from backline.present_columns(
           c.table_id, true, v_numbers, array_fill(null::text, array[cardinality(v_names)])) n)
         or named = c.table_id);
  if named <> c.table_id and not v_has_triggers and (backline.has_triggers(c.id, named)
     -- A view that was dropped and created again has another oid.
     or c.follow_number is not null and backline.is_read_only(named) and v_kept is not true) then
    d.table_id := named;
  elsif not coalesce(v_kept, false) then
    code := 'BL003';
    problem := case when named is null then format('The table %s is gone.', v_name)
      else format('%s is another table now, and the table that the collection followed is gone.', v_name) end;
    remedy := case when named is null then
        'Restore it, or drop the collection: backline drop ' || backline.shell_word(c.name)
      else v_command end;
    return;
  end if;
  select n.nspname, k.relname into strict d.table_schema, d.table_name
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
  where k.oid = d.table_id;
  if named <> d.table_id then
    problem := format('%s is another table now; the collection still follows %s.', v_name,
                      format('%I.%I', d.table_schema, d.table_name));
    remedy := v_command;
  end if;

  if c.into_id is not null then
    select n.nspname, k.relname, k.oid into d.into_schema, d.into_name, d.into_id
    from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
    where k.oid in (c.into_id, to_regclass(format('%I.%I', c.into_schema, c.into_name)))
    order by k.oid = c.into_id desc limit 1;
    if not found then
      code := 'BL002';
      problem := format('The side table %s is gone.', format('%I.%I', c.into_schema, c.into_name));
      remedy := v_command;
      return;
    end if;
  end if;
  if c.follow_number is not null then
    select (n.numbers)[1], (n.names)[1] into d.follow_number, d.follow_column
    from backline.present_columns(
      d.table_id, d.table_id = c.table_id, array[c.follow_number], array[c.follow_column]) n;
    if d.follow_number is null then
      code := 'BL002';
      problem := format('The column %s of %s, which is polled, is gone.', c.follow_column,
                        format('%I.%I', d.table_schema, d.table_name));
      remedy := format('Add it again, or drop the collection: backline drop %s', backline.shell_word(c.name));
      return;
    end if;
  end if;
  select * into p from backline.present_columns(d.table_id, d.table_id = c.table_id, v_numbers, v_names);
  if array_position(p.numbers, null) is not null then
    code := case when array_position(p.numbers, null) <= v_keys then 'BL004' else 'BL002' end;
    problem := format('The column %s of %s is gone.',
                      v_names[array_position(p.numbers, null)],
                      format('%I.%I', d.table_schema, d.table_name));
    remedy := case when array_position(p.numbers, null) = v_vector then v_command else format(
      'Declare the collection again, with another text, condition or key: backline drop %s && '
      'backline add %s --text ''…''', backline.shell_word(c.name),
      backline.shell_word(d.table_schema || '.' || d.table_name)) end;
    return;
  end if;
  -- The triggers read columns by name until follow() makes them again. They miss edits of a column whose name
  -- another one has now.
  select string_agg(case
      when x.added then format('The column %s was dropped and added again.', p.names[x.i])
      when x.taken then format('The column %s is called %s now, and its name is that of another column.',
                               v_names[x.i], p.names[x.i])
      else format('The type of the column %s changed to %s.', p.names[x.i], p.types[x.i]) end,
    ' ' order by x.i)
  into changed
  from (
    select i, p.numbers[i] <> v_numbers[i] and d.table_id = c.table_id as added,
           p.names[i] <> v_names[i] and exists (
             select from pg_catalog.pg_attribute a where a.attrelid = d.table_id and a.attname = v_names[i]
               and not a.attisdropped) as taken
    from generate_subscripts(p.numbers, 1) i) x
  where x.added or x.taken
     or x.i <= v_keys and p.types[x.i] <> split_part(c.key_types[x.i], ' collate ', 1)
     or x.i > v_keys and x.i < v_vector and p.types[x.i] <> c.text_types[x.i - v_keys];
  d.key_numbers := p.numbers[:v_keys];
  d.key_columns := p.names[:v_keys];
  d.key_types := backline.key_types(d.table_id, d.key_numbers);
  if c.into_id is null then
    d.vector_number := p.numbers[v_vector];
    d.embedding_column := p.names[v_vector];
  end if;
  d.text_numbers := p.numbers[v_keys + 1:v_vector - 1];
  d.text_types := p.types[v_keys + 1:v_vector - 1];
  v_names := p.names[v_keys + 1:v_vector - 1];
  d.text_names := v_names;
  d.text_template := backline.rename_in_template(c.text_template, c.text_names, v_names);
  d.text_expression := backline.rename_columns(c.text_expression, c.text_names, v_names, c.text_types);
  d.where_sql := backline.rename_columns(c.where_sql, c.text_names, v_names, c.text_types);
  d.text_sql := backline.rename_columns(c.text_sql, c.text_names, v_names, c.text_types);
end $$;

-- Returns a collection with the present names of its table and columns. Raises if one of them is gone.
create or replace function backline.definition(p_collection int) returns backline.collections
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
  r record;
begin
  select * into strict c from backline.collections where id = p_collection;
  if backline.is_current(c) then
    return backline.with_guard(c);
  end if;
  select * into r from backline.resolve(c);
  if r.code is not null then
    raise exception using errcode = r.code, message = r.problem || ' ' || r.remedy;
  end if;
  return backline.with_guard(r.d);
end $$;
comment on function backline.definition is
  'API: returns a collection with the present names of its table and columns.';

-- Returns how a collection is indexed for keywords, with the present names of the columns. A column that is
-- gone counts as empty.
create or replace function backline.keyword_definition(p_collection int) returns backline.keyword_indexes
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k backline.keyword_indexes;
  c backline.collections;
  d backline.collections;
  v_names text[];
begin
  select * into strict k from backline.keyword_indexes where collection_id = p_collection;
  select * into strict c from backline.collections where id = p_collection;
  d := backline.definition(p_collection);
  select n.numbers, n.names into k.text_numbers, v_names
  from backline.present_columns(d.table_id, d.table_id = c.table_id, k.text_numbers, k.text_names) n;
  if v_names = k.text_names then
    return k;
  end if;
  k.text_sql := backline.rename_columns(k.text_sql, k.text_names, v_names, k.text_types);
  k.language_sql := backline.rename_columns(k.language_sql, k.text_names, v_names, k.text_types);
  k.text_template := backline.rename_in_template(k.text_template, k.text_names, v_names);
  k.text_names := v_names;
  return k;
end $$;

-- Returns why a scan is due since the partitions of a table changed, or null. Rows that came with an attached
-- partition have no record; rows that left with a detached one keep theirs.
create or replace function backline.unseen_partitions(c backline.collections, p_members oid[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  v_came oid[] := array(select m.oid from unnest(p_members) m(oid) where m.oid <> all (c.members));
  v_left int := (select count(*) from unnest(c.members) m(oid) where m.oid <> all (p_members));
  v_unknown boolean;
begin
  for i in reverse cardinality(v_came) .. 1 loop
    execute format($q$
      select exists (select from only %1$s r where not exists (
          select from backline.stamps s where s.collection_id = $1 and s.key = %2$s)
        and not exists (select from backline.jobs j where j.collection_id = $1 and j.key = %2$s))
    $q$, v_came[i]::regclass, backline.key_text(c)) into v_unknown using c.id;
    if not v_unknown then
      v_came := array_remove(v_came, v_came[i]);
    end if;
  end loop;
  return nullif(concat_ws(' ',
    case when v_came <> '{}' then format('Rows came with partitions: %s.', (
      select string_agg(m.oid::regclass::text, ', ') from unnest(v_came) m(oid))) end,
    case when v_left > 0 then format('Rows left with %s partitions.', v_left) end), '');
end $$;

-- Returns those of p_keys that the key of a collection can have. An array of such keys is cast as a whole.
create or replace function backline.castable(p_keys text[], c backline.collections) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_kept text[] := '{}';
  v_key text;
begin
  execute format('select count((%s)) from unnest($1) as u(key)',
                 array_to_string(backline.key_values(c, 'u.key'), ', ')) using p_keys;
  return p_keys;
exception when data_exception then
  foreach v_key in array p_keys loop
    begin
      execute format('select %s', array_to_string(backline.key_values(c, '$1'), ', ')) using v_key;
      v_kept := v_kept || v_key;
    exception when data_exception then null;
    end;
  end loop;
  return v_kept;
end $$;

-- Deletes the records of keys that the key's present types exclude. No row can have them.
create or replace function backline.forget_uncastable(c backline.collections) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_of text;
begin
  foreach v_of in array array['stamps', 'jobs', 'failures'] loop
    execute format($q$
      delete from backline.%I x using (
        select array_agg(y.key) as keys from backline.%1$I y where y.collection_id = $1) k
      where x.collection_id = $1 and x.key <> all (backline.castable(k.keys, $2))
    $q$, v_of) using c.id, c;
  end loop;
  update backline.changes l set keys = k.kept, amount = cardinality(k.kept)
  from (select x.xid, x.id, backline.castable(x.keys, c) as kept from backline.changes x
        where x.collection_id = c.id and x.kind <> 't') k
  where l.collection_id = c.id and l.xid = k.xid and l.id = k.id and l.keys <> k.kept;
end $$;

-- Writes the present names of a collection back and makes its triggers again, if they differ from the
-- recorded ones or if partitions came or went. Returns whether it did. Without the rights, or while the table
-- is locked, it does nothing: definition() gives the present names in any case, and problems() reports what
-- was not followed.
create or replace function backline.follow(p_collection int) returns boolean
-- Writers queue behind a statement that waits to change the triggers of their table.
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
declare
  c backline.collections;
  k backline.keyword_indexes;
  r record;
  v_members oid[];
begin
  select * into strict c from backline.collections where id = p_collection;
  select * into r from backline.resolve(c);
  v_members := backline.members((r.d).table_id);
  if r.code is null then
    perform backline.remove_stray_triggers(p_collection);
  end if;
  if r.code is not null or r.problem is not null or backline.is_current(c) and v_members = c.members then
    return false;
  end if;
  k := backline.keyword_definition(p_collection);
  if (r.d).key_types <> c.key_types then
    perform backline.forget_uncastable(r.d);
  end if;
  update backline.collections o set members = v_members,
    former_name = case when ((r.d).table_schema, (r.d).table_name) <> (o.table_schema, o.table_name)
                       then coalesce(o.former_name, format('%I.%I', o.table_schema, o.table_name))
                       else o.former_name end,
    table_id = (r.d).table_id, table_schema = (r.d).table_schema, table_name = (r.d).table_name,
    key_numbers = (r.d).key_numbers, key_columns = (r.d).key_columns, key_types = (r.d).key_types,
    vector_number = (r.d).vector_number, embedding_column = (r.d).embedding_column,
    into_id = (r.d).into_id, into_schema = (r.d).into_schema, into_name = (r.d).into_name,
    follow_number = (r.d).follow_number, follow_column = (r.d).follow_column,
    text_numbers = (r.d).text_numbers, text_names = (r.d).text_names, text_types = (r.d).text_types,
    text_template = (r.d).text_template, text_expression = (r.d).text_expression,
    where_sql = (r.d).where_sql, text_sql = (r.d).text_sql,
    unscanned = nullif(concat_ws(' ', o.unscanned, r.changed,
                                 backline.unseen_partitions(r.d, v_members)), '')
  where o.id = p_collection;
  update backline.keyword_indexes o set text_template = k.text_template, text_sql = k.text_sql,
    language_sql = k.language_sql, text_numbers = k.text_numbers, text_names = k.text_names
  where o.collection_id = p_collection and array_position(k.text_numbers, null) is null;
  perform backline.install_triggers(p_collection);
  return true;
exception when insufficient_privilege or lock_not_available or unique_violation then
  return false;
end $$;
comment on function backline.follow is
  'API: records the present names of a collection''s table and columns, and makes its triggers again.';

-- Makes a collection follow the table that has its recorded name now, if another one has it, and adds the
-- vector column again if it is gone; p_published allows this in a published table. The stamps stay:
-- reconcile_page() and reconcile_orphans() compare them with the rows. Returns whether anything was done.
create or replace function backline.repoint(p_collection int, p_published boolean default false)
returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
  r record;
  p record;
  v_table oid;
  v_keys int;
  v_vector int;
begin
  select * into strict c from backline.collections where id = p_collection for update;
  v_keys := cardinality(c.key_numbers);
  v_vector := v_keys + cardinality(c.text_numbers) + 1;
  select * into r from backline.resolve(c);
  if r.problem is null then
    return false;
  end if;
  v_table := case when r.code in ('BL002', 'BL004') then (r.d).table_id else r.named end;
  if v_table is null then
    raise exception using errcode = r.code, message = r.problem || ' ' || r.remedy;
  end if;
  if c.into_id is not null then
    perform backline.make_side_table(
      array[c.into_schema, c.into_name], v_table::regclass,
      (backline.present_columns(v_table, v_table = c.table_id, c.key_numbers, c.key_columns)).numbers,
      array_remove((backline.present_columns(
        v_table, v_table = c.table_id, c.text_numbers, c.text_names)).numbers, null),
      format('extensions.%I(%s)', c.vector_type, m.dimensions), c.passages is not null)
    from backline.models m
    where m.id = c.model_id and to_regclass(format('%I.%I', c.into_schema, c.into_name)) is null;
  elsif not exists (select from pg_catalog.pg_attribute a where a.attrelid = v_table
                    and a.attname = c.embedding_column and not a.attisdropped) then
    perform backline.check_publications(
      v_table, c.embedding_column, c.vector_type, m.dimensions, p_published,
      format('run: backline reconcile %s --published', backline.shell_word(c.name)))
    from backline.models m where m.id = c.model_id;
    execute format('alter table %s add column %I extensions.%I(%s)', v_table::regclass,
                   c.embedding_column, c.vector_type, m.dimensions)
    from backline.models m where m.id = c.model_id;
  end if;
  if v_table <> c.table_id then
    perform backline.remove_triggers(p_collection);
  end if;
  select * into p from backline.present_columns(
    v_table, v_table = c.table_id, array_remove(c.key_numbers || c.text_numbers || c.vector_number, null),
    c.key_columns || c.text_names
      || case when c.into_id is null then array[c.embedding_column] else '{}' end);
  if array_position(p.numbers, null) is not null then
    c.table_id := v_table;
    select * into r from backline.resolve(c);
    raise exception using errcode = r.code, message = r.problem || ' ' || r.remedy;
  end if;
  update backline.collections o set table_id = v_table, members = backline.members(v_table),
    table_schema = n.nspname, table_name = k.relname, former_name = null,
    key_numbers = p.numbers[:v_keys], text_numbers = p.numbers[v_keys + 1:v_vector - 1],
    vector_number = case when c.into_id is null then p.numbers[v_vector] end,
    into_id = case when c.into_name is not null
                   then to_regclass(format('%I.%I', c.into_schema, c.into_name)) end,
    key_types = backline.key_types(v_table, p.numbers[:v_keys]),
    text_types = p.types[v_keys + 1:v_vector - 1],
    unscanned = concat_ws(' ', o.unscanned, case when v_table = c.table_id then 'The vector column was added.'
                                                 else 'The table was replaced.' end)
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
  where o.id = p_collection and k.oid = v_table;
  update backline.keyword_indexes k set text_numbers = (
    select n.numbers from backline.present_columns(
      v_table, v_table = c.table_id, k.text_numbers, k.text_names) n)
  where k.collection_id = p_collection;
  perform backline.install_triggers(p_collection);
  return true;
end $$;
comment on function backline.repoint is
  'API: makes a collection follow the table that has its name now. Adds the vector column if it is gone.';

-- Returns what a scan of every row must know at its end.
create or replace function backline.begin_scan(p_collection int) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select jsonb_build_object('unscanned', c.unscanned, 'missed', coalesce(
    pg_catalog.pg_sequence_last_value('backline.missed'::regclass), 0))
  from backline.collections c where c.id = p_collection;
$$;

-- Records that every row was compared since begin_scan(), which returned p_begun. What happened since then
-- still needs a scan.
create or replace function backline.finish_scan(p_collection int, p_begun jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backline.collections c set scanned_at = now(), missed = (p_begun ->> 'missed')::bigint,
    unscanned = case when c.unscanned is distinct from p_begun ->> 'unscanned' then c.unscanned end
  where c.id = p_collection;
$$;
