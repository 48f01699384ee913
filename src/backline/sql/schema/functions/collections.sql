-- Declares collections and describes them.

-- A pseudo-random vector with components between -1 and 1, from Knuth's multiplicative hash of the
-- component's number.
create or replace function backline.projection(p_dimensions int) returns extensions.vector
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select array_agg((i * 2654435761 % 4294967296 / 2147483648.0 - 1)::real order by i)::extensions.vector
  from generate_series(1, p_dimensions::bigint) i;
$$;

-- Returns the id of a model. Inserts the model if it does not exist.
create or replace function backline.model_id(p_provider text, p_name text, p_revision text, p_dimensions int)
returns int language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_id int;
begin
  insert into backline.models (provider, name, revision, dimensions, projection)
  values (p_provider, p_name, p_revision, p_dimensions, backline.projection(p_dimensions))
  on conflict do nothing;
  select m.id into v_id from backline.models m
  where m.provider = p_provider and m.name = p_name and m.revision = p_revision
    and m.dimensions = p_dimensions;
  return v_id;
end $$;

create or replace function backline.add_collection(
  p_name text, p_table regclass, p_key text[], p_template text, p_column text,
  p_provider text, p_model text, p_revision text, p_dimensions int,
  p_column_type text default 'vector', p_long_text text default 'truncate',
  p_published boolean default false, p_into text default null, p_expression text default null,
  p_where text default null, p_language text default null, p_language_column text default null,
  p_follow text default null, p_existing text default 'refuse', p_passages jsonb default null,
  p_partitions int default 1, p_role text default 'serving'
) returns int language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_schema text; v_table text; v_key int2[]; v_into text[]; v_id int; t record;
begin
  perform backline.check_follow(p_table, p_key, p_into, p_follow);
  perform backline.check_passages(p_passages, p_into);
  perform backline.check_partitions(p_partitions, p_into);
  perform backline.check_table(
    p_table, case p_role when 'serving' then p_name end, p_column, p_column_type, p_dimensions, p_published,
    p_into);
  select n.nspname, k.relname into strict v_schema, v_table
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
  where k.oid = p_table;

  perform backline.check_existing(p_table, p_column, p_existing) where p_into is null;
  v_key := backline.choose_key(p_table, p_key);
  v_into := backline.side_name(p_into);

  t := backline.compile_text(p_table, p_template, p_expression, p_where);
  perform backline.check_text(p_table, t.numbers, case when p_into is null then p_column end);
  if p_into is null then
    execute format('alter table %s add column if not exists %I %s', p_table, p_column,
                   format('extensions.%I(%s)', p_column_type, p_dimensions));
  end if;
  insert into backline.collections
    (name, table_id, table_schema, table_name, key_numbers, key_columns, key_types, text_template,
     text_expression, where_sql, text_sql, text_numbers, text_names, text_types, vector_number,
     embedding_column, model_id, long_text, members, follow_number, follow_column, adopting,
     into_schema, into_name, into_id, vector_type, passages, role)
  select p_name, p_table, v_schema, v_table, v_key,
         (backline.present_columns(p_table, true, v_key, v_key::text[])).names,
         backline.key_types(p_table, v_key), p_template, t.expression, t.where_sql, t.text_sql, t.numbers,
         t.names, t.types,
         case when p_into is null then a.attnum end,
         case when p_into is null then p_column else 'embedding' end,
         backline.model_id(p_provider, p_model, p_revision, p_dimensions), p_long_text,
         backline.members(p_table), (
           select f.attnum from pg_catalog.pg_attribute f
           where f.attrelid = p_table and f.attname = p_follow and not f.attisdropped), p_follow,
         p_existing = 'adopt' and p_into is null, v_into[1], v_into[2],
         case when v_into is not null then
           backline.make_side_table(v_into, p_table, v_key, t.numbers,
                                    format('extensions.%I(%s)', p_column_type, p_dimensions),
                                    p_passages is not null, p_partitions) end,
         coalesce((select y.typname from pg_catalog.pg_type y where y.oid = a.atttypid and p_into is null),
                  p_column_type), p_passages, p_role
  from (values (1)) one
  left join pg_catalog.pg_attribute a on a.attrelid = p_table and a.attname = p_column
    and not a.attisdropped
  returning id into v_id;  -- creates the keyword index of a serving target, which installs the triggers
  perform backline.set_keywords(v_id, null, p_language::regconfig, p_language_column)
  where num_nonnulls(p_language, p_language_column) > 0;
  perform backline.begin_polls(v_id) where p_follow is not null;
  perform backline.require_stable_text(v_id);
  return v_id;
end $$;
comment on function backline.add_collection is
  'API: declares a table for embedding. Adds the vector column if it is missing, and installs the triggers. '
  'With p_published, also a table of a publication: its subscribers must have the column. With p_into, '
  'stores the vectors in a side table of that name. The text is the template or else p_expression, an SQL '
  'expression over the row r. p_where is a condition on rows. p_language is that of the keywords; null '
  'guesses it. p_language_column has that of each row. With p_follow, polls that column instead of triggers. '
  'p_existing is what to do if the column holds vectors: refuse, overwrite, or adopt, which needs '
  'finish_adoption. With p_passages, each passage of a text has a vector in the side table: '
  '{"by": "auto", "tokens": 256, "overlap": 0}. p_partitions divides the side table by key range. p_role is '
  'for begin_change.';

-- Changes the model of a collection. Every row becomes due, and the next backfill embeds it again.
create or replace function backline.set_model(
  p_collection int, p_provider text, p_model text, p_revision text, p_dimensions int
) returns void language sql set search_path = pg_catalog, pg_temp as $$
  update backline.collections
  set model_id = backline.model_id(p_provider, p_model, p_revision, p_dimensions)
  where id = p_collection;
$$;
comment on function backline.set_model is 'API: changes the model of a collection. Its rows become due.';

-- Records another text or condition. Until finish_text_change(), p_reason makes a scan of every row due.
create or replace function backline.change_text(
  c backline.collections, p_template text, p_expression text, p_where text, p_reason text
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  t record;
begin
  t := backline.compile_text(c.table_id, p_template, p_expression, p_where);
  perform backline.check_text(
    c.table_id, t.numbers, case when c.into_name is null then c.embedding_column end);
  update backline.collections o set text_template = p_template, text_expression = t.expression,
    where_sql = t.where_sql, text_sql = t.text_sql, text_numbers = t.numbers, text_names = t.names,
    text_types = t.types, unscanned = concat_ws(' ', o.unscanned, p_reason)
  where o.id = c.id;
end $$;

create or replace function backline.finish_text_change(p_collection int, p_reason text) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backline.collections o
  set guarded = false, unscanned = nullif(btrim(replace(o.unscanned, p_reason, '')), '')
  where o.id = p_collection;
$$;

-- Changes the condition on rows, null for every row, and returns the former one. log_condition_change() then
-- enqueues the rows that it moves in or out.
create or replace function backline.set_where(p_collection int, p_where text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
begin
  perform backline.lock(p_collection, 'log');
  c := backline.definition(p_collection);
  perform backline.change_text(c, c.text_template, c.text_expression, p_where, 'The condition was changed.');
  perform backline.install_triggers(p_collection);  -- they compare the columns of the condition too
  return c.where_sql;
end $$;
comment on function backline.set_where is
  'API: changes the condition on rows of a collection and returns the former one. See log_condition_change.';

-- Appends the rows of one page to the change log that the condition p_former and the present one treat
-- differently. Each page is a transaction, so that no lock of the table lasts.
create or replace function backline.log_condition_change(
  p_collection int, p_former text, p_after text, p_limit int,
  out scanned bigint, out moved bigint, out last_key text
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_keys text[];
begin
  execute format($q$
    with page as materialized (
      select %1$s as key, row_number() over (order by %2$s) as position,
             (%3$s) is true as was, (%4$s) is true as inside,
             -- The former condition may have failed for the row.
             exists (select from backline.failures f where f.collection_id = $1 and f.key = %1$s) as failed
      from %5$s r where %6$s order by %2$s limit $3
    )
    select count(*), count(*) filter (where p.was <> p.inside),
           (array_agg(p.key order by p.position desc))[1],
           array_agg(p.key order by p.position) filter (where p.was <> p.inside or p.failed)
    from page p
  $q$, backline.key_text(c), backline.key_order(c), coalesce(p_former, 'true'), coalesce(c.where_sql, 'true'),
       backline.source(c), backline.key_after(c, p_after, '$2'))
  into scanned, moved, last_key, v_keys using p_collection, p_after, p_limit;
  perform backline.log_keys(p_collection, '~', v_keys);
  perform backline.finish_text_change(p_collection, 'The condition was changed.') where scanned < p_limit;
end $$;
comment on function backline.log_condition_change is
  'API: enqueues the rows in the page after key p_after that a change of the condition moved in or out.';

-- Changes the text of a collection, and that of its keywords if it was the same. log_text_change() then
-- enqueues the rows whose text differs.
create or replace function backline.set_text(p_collection int, p_template text, p_expression text)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
  k backline.keyword_indexes;
begin
  perform backline.lock(p_collection, 'log');
  c := backline.definition(p_collection);
  k := backline.keyword_definition(p_collection);
  perform backline.change_text(c, p_template, p_expression, (
    select (x.r).where_sql from (select (backline.resolve(o)).d as r from backline.collections o
                                 where o.id = p_collection) x),  -- without the guard
    'The text was changed.');
  if k.text_template is not distinct from c.text_template then
    update backline.keyword_indexes o set text_template = null where o.collection_id = p_collection;
    perform backline.set_keywords(p_collection, p_template);
  else
    perform backline.install_triggers(p_collection);
  end if;
end $$;
comment on function backline.set_text is
  'API: changes the text of a collection, a template or an SQL expression. See log_text_change.';

-- Appends the rows of one page to the change log whose text is not that of their stamp.
create or replace function backline.log_text_change(
  p_collection int, p_after text, p_limit int, out scanned bigint, out moved bigint, out last_key text
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_keys text[];
begin
  execute format($q$
    with page as materialized (
      select %1$s as key, row_number() over (order by %2$s) as position,
             sha256(convert_to(%3$s, 'UTF8')) as hash
      from %4$s r where %5$s order by %2$s limit $3
    )
    select count(*), (array_agg(p.key order by p.position desc))[1],
           array_agg(p.key order by p.position) filter (where s.content_hash is distinct from p.hash)
    from page p
    left join lateral (select x.content_hash from backline.stamps x
                       where x.collection_id = $1 and x.key = p.key offset 0) s on true
  $q$, backline.key_text(c), backline.key_order(c), c.text_sql, backline.source(c),
       backline.key_after(c, p_after, '$2'))
  into scanned, last_key, v_keys using p_collection, p_after, p_limit;
  moved := coalesce(cardinality(v_keys), 0);
  perform backline.log_keys(p_collection, '~', v_keys);
  perform backline.finish_text_change(p_collection, 'The text was changed.') where scanned < p_limit;
end $$;
comment on function backline.log_text_change is
  'API: enqueues the rows in the page after key p_after whose text differs from the one that was embedded.';

-- Raises if a collection is one of the targets of a change, unless this target is being dropped.
create or replace function backline.check_droppable(c backline.collections) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  h backline.model_changes;
begin
  select * into h from backline.model_changes x
  where c.id in (x.former_id, x.new_id) and x.state not in ('retired', 'cancelled');
  if found and h.state <> (case when c.id = h.former_id then 'retiring' else 'cancelling' end) then
    raise exception using errcode = 'BL009', message = format(
      'the model of %L is being changed, and %L is one of the two targets. End the change first: %s',
      h.name, c.name, case when h.state in ('serving', 'retiring') then 'backline model retire '
                           else 'backline model cancel ' end || backline.shell_word(h.name));
  end if;
end $$;

-- Drops the triggers of a collection and, with p_drop_column, its column or its side table. Called in a
-- transaction of its own, it locks the table for a moment only.
create or replace function backline.drop_place(p_collection int, p_drop_column boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
begin
  select * into strict c from backline.collections where id = p_collection for update;
  select (r.d).* into c from backline.resolve(c) r;
  perform backline.check_droppable(c);
  perform backline.end_vacuum(c);
  perform backline.lock(p_collection, 'log');  -- otherwise a worker could add records meanwhile
  perform backline.remove_triggers(p_collection);
  perform backline.drop_visibility(p_collection);
  if p_drop_column and c.into_id is not null then
    execute format('drop table if exists %s', (backline.side_table(c)).name);
  elsif p_drop_column and to_regclass(format('%I.%I', c.table_schema, c.table_name)) = c.table_id then
    execute format('alter table %I.%I drop column if exists %I',
                   c.table_schema, c.table_name, c.embedding_column);
  end if;
end $$;

create or replace function backline.drop_collection(p_collection int, p_drop_column boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backline.drop_place(p_collection, p_drop_column);
  delete from backline.jobs where collection_id = p_collection;
  delete from backline.batch_leases where collection_id = p_collection;
  delete from backline.failures where collection_id = p_collection;
  delete from backline.stamps where collection_id = p_collection;
  delete from backline.workers where collection_id = p_collection;
  delete from backline.run_counts n using backline.runs r
  where r.collection_id = p_collection and n.run_id = r.id;
  delete from backline.runs where collection_id = p_collection;
  delete from backline.model_changes h using backline.collections c
  where c.id = p_collection and c.role = 'serving' and h.name = c.name
    and h.state in ('retired', 'cancelled');
  delete from backline.kept_queries k using backline.collections c
  where c.id = p_collection and k.collection = c.name;
  delete from backline.evaluations e using backline.collections c
  where c.id = p_collection and e.collection = c.name;
  delete from backline.collections where id = p_collection;
  delete from backline.counter_deltas where collection_id = p_collection;
  delete from backline.changes where collection_id = p_collection;
  delete from backline.locks where collection_id = p_collection;
  delete from backline.polls where collection_id = p_collection;
end $$;
comment on function backline.drop_collection is
  'API: reverses add_collection. Drops the vector column only if p_drop_column is true.';

-- Returns the statements that the table's owner must run so that the current role can read a table or, with
-- p_write, fill one of its columns. A table with row level security and no policy for the role looks empty,
-- so a backfill would report it as complete. The policies for reading and for writing have different names,
-- so that both can exist.
create or replace function backline.missing_grants(
  p_table oid, p_column smallint, p_write boolean
) returns text[] language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_remove(array[
    case when not pg_catalog.has_schema_privilege(n.oid, 'usage')
         then format('grant usage on schema %I to %I', n.nspname, current_user) end,
    case when not (pg_catalog.has_any_column_privilege(k.oid, 'select') and (
                     not p_write
                     or coalesce(pg_catalog.has_column_privilege(k.oid, p_column, 'update'), true)))
         then format('grant select%s on %I.%I to %I', case when p_write then ', update' else '' end,
                     n.nspname, k.relname, current_user) end,
    case when pg_catalog.row_security_active(k.oid) and (
           select bool_or(p.polcmd in ('*', 'r')) and (not p_write or bool_or(p.polcmd in ('*', 'w')))
           from pg_catalog.pg_policy p where p.polrelid = k.oid and p.polpermissive and (
             p.polroles = '{0}' or exists (
               select from unnest(p.polroles) r where pg_catalog.pg_has_role(r, 'usage')))) is not true
         then format('create policy %I on %I.%I %sto %I using (true)%s',
                     case when p_write then 'backline ' else 'backline reads as ' end || current_user,
                     n.nspname, k.relname, case when p_write then '' else 'for select ' end, current_user,
                     case when p_write then ' with check (true)' else '' end) end], null)
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace where k.oid = p_table;
$$;

-- Returns the collections with the present state of their tables in the catalog.
create or replace function backline.collection_records()
returns table (id int, name text, table_schema text, table_name text, key_columns text[], text_template text,
               text_expression text, where_sql text, embedding_column text, max_attempts int,
               model_id int, provider text, model text, revision text, dimensions int, table_exists boolean,
               column_type text, column_dimensions int, into_schema text, into_name text, passages jsonb,
               long_text text, missing_grants text[], missing_to_read text[], unusable text[],
               scanned_at timestamptz, adopting boolean, follow text, role text, frozen boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select (r.d).id, (r.d).name, (r.d).table_schema, (r.d).table_name, (r.d).key_columns, (r.d).text_template,
         (r.d).text_expression, (r.d).where_sql, (r.d).embedding_column, (r.d).max_attempts,
         m.id, m.provider, m.name, m.revision, m.dimensions, k.oid is not null, t.typname::text,
         case when a.atttypmod > 0 then a.atttypmod end,
         (r.d).into_schema, (r.d).into_name, (r.d).passages, (r.d).long_text,
         backline.missing_grants(k.oid, a.attnum, (r.d).into_id is null)
           || backline.missing_side_grants((r.d).into_id, true),
         backline.missing_grants(k.oid, a.attnum, false)
           || backline.missing_side_grants((r.d).into_id, false),
         case when r.code is not null then array[r.code, r.problem || ' ' || r.remedy] end, c.scanned_at,
         c.adopting, (r.d).follow_column, c.role, c.frozen
  from backline.collections c
  cross join lateral backline.resolve(c) r
  join backline.models m on m.id = c.model_id
  left join pg_catalog.pg_class k on k.oid = (r.d).table_id
    and (k.relkind in ('r', 'p') or (r.d).follow_number is not null and backline.is_read_only(k.oid))
  left join pg_catalog.pg_attribute a on a.attrelid = coalesce((r.d).into_id, k.oid)
    and a.attname = (r.d).embedding_column
    and not a.attisdropped
  left join pg_catalog.pg_type t on t.oid = a.atttypid
  order by c.name;
$$;

-- Returns the collections that the caller can see. A role that can read backline.collections sees all of
-- them. Any other role sees those with a table that it can read, which are the ones it can search.
create or replace function backline.readable_collections() returns setof jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_reader name := coalesce(nullif(pg_catalog.current_setting('role', true), 'none'), session_user);
begin
  return query
    select to_jsonb(r) from backline.collection_records() r
    where pg_catalog.has_table_privilege(v_reader, 'backline.collections', 'select')
       or r.table_exists and pg_catalog.has_any_column_privilege(
            v_reader, format('%I.%I', r.table_schema, r.table_name)::regclass, 'select');
end $$;
