-- Built by `make docs` from schema/functions/problems.sql. Edit that file instead.

-- What makes the coverage of a collection untrue and cannot be followed: objects that are gone or replaced,
-- writes that no trigger sees, and rows that differ from their records.

-- Returns the keys of a collection's unfinished work, whose rows may differ from their records. Returns null
-- if the change log has lines without keys.
create or replace function backline.open_keys(p_collection int) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when not exists (select from backline.changes l
                               where l.collection_id = p_collection and l.kind in ('?', 't'))
    then backline.batch_leased_keys(p_collection)
      || array(select j.key from backline.jobs j where j.collection_id = p_collection limit 20000)
      || array(select k from backline.logged_keys(p_collection) k limit 20000) end;
$$;

-- Compares every row of a small table with its record. Hash joins, because the planner cannot know how many
-- rows the collection has.
create or replace function backline.compare_rows(
  c backline.collections, p_open text[],
  out total bigint, out orphans text[], out emptied text[], out edited text[]
) language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set enable_nestloop = off set enable_mergejoin = off as $$
begin
  execute format($q$
    with present as materialized (
      select %1$s collate "C" as key, %2$s is null as missing, %3$s as content from %4$s
    ), judged as materialized (
      select s.key, p.key is null as orphan, p.missing, s.stale, s.blank, s.content_hash, p.content
      from backline.stamps s left join present p on p.key = s.key
      where s.collection_id = $1 and s.model_id = $2
        and (s.key in (select u.key from unnest($3) u(key))) is not true
    )
    select (select count(*) from present),
           array(select j.key from judged j where j.orphan),
           array(select j.key from judged j where not j.orphan and not j.stale and j.missing and not j.blank),
           array(select j.key from judged j where not j.orphan and not j.stale
                 and sha256(convert_to(j.content, 'UTF8')) <> j.content_hash)
  $q$, backline.key_text(c), backline.vector_of(c), c.text_sql, backline.rows_of(c))
  into total, orphans, emptied, edited using c.id, c.model_id, p_open;
end $$;

-- Compares a random sample of the rows and of the records of a large table. `unknown` lists rows without any
-- record. TABLESAMPLE reads p_share percent of the blocks.
create or replace function backline.compare_sample(
  c backline.collections, p_open text[], p_share float8,
  out orphans text[], out emptied text[], out edited text[], out unknown text[]
) language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  execute format($q$
    with stamped as materialized (
      select s.key, s.stale, s.blank, s.content_hash
      from backline.stamps s tablesample system ($4)
      where s.collection_id = $1 and s.model_id = $2 and s.key <> all ($3) order by random() limit 20
    ), judged as materialized (
      select s.*, r.present, r.missing, r.content from stamped s left join lateral (
        select true as present, %2$s is null as missing, %3$s as content
        from %6$s where %1$s offset 0) r on true
    ), found as materialized (
      select f.key from (
        select %5$s collate "C" as key from %4$s) f
      where f.key <> all ($3) order by random() limit 20
    )
    select array(select j.key from judged j where j.present is null),
           array(select j.key from judged j where j.missing and not j.stale and not j.blank),
           array(select j.key from judged j where not j.stale
                 and sha256(convert_to(j.content, 'UTF8')) <> j.content_hash),
           array(select f.key from found f where (
                   select true from backline.stamps s
                   where s.collection_id = $1 and s.key = f.key offset 0) is null and (
                   select true from backline.failures d
                   where d.collection_id = $1 and d.key = backline.failure_key(f.key) offset 0) is null)
  $q$, backline.key_match(c, 's.key'), backline.vector_of(c), c.text_sql,
       -- Views and foreign tables have no blocks to sample; their new rows are found by polls.
       case when backline.is_read_only(c.table_id)
            then format('(select * from %s limit 0) r', backline.source(c))
            else backline.source(c) || ' r tablesample system ($4)' end,
       backline.key_text(c), backline.rows_of(c))
  into orphans, emptied, edited, unknown using c.id, c.model_id, p_open, p_share;
end $$;

-- Returns the rows that differ from their records: all of them in a table of up to p_exact rows, else those
-- of a sample of 20.
create or replace function backline.row_problems(c backline.collections, p_exact int)
returns table (kind text, problem text) language plpgsql stable rows 5
set search_path = pg_catalog, pg_temp set lock_timeout = '1s' as $$
declare
  v_rows constant bigint := (select (x.v ->> 'rows')::bigint + (x.v ->> 'excluded')::bigint
                             from (select backline.coverage(c.id) as v) x);
  v_open constant text[] := backline.open_keys(c.id);
  v_small boolean;
  v_surplus bigint;
  v_lack bigint;  -- records of other models are no lack
  v_sampled text := '';
  o record;
begin
  if v_open is null or cardinality(v_open) > greatest(p_exact, 10000) then
    return;
  end if;
  execute format('select count(*) <= %s from (select from %s limit %s) r',
                 p_exact, backline.source(c), p_exact + 1) into v_small;
  if v_small then
    select *, '{}'::text[] as unknown into o from backline.compare_rows(c, v_open);
    if o.total <> v_rows then
      return query select 'rows', format('The table has %s rows, the counters say %s.', o.total, v_rows);
    end if;
  else
    select * into o from backline.compare_sample(c, v_open, least(100, 30000.0 / greatest(v_rows, 1)));
    v_sampled := ' of 20 sampled';
    select sum(case when t.measure = 'rows' then -t.amount
                    when t.measure = 'long' or t.model_id not in (0, c.model_id) then 0
                    else t.amount end),
           sum(case when t.measure = 'rows' then t.amount when t.measure = 'long' then 0 else -t.amount end)
    into v_surplus, v_lack from backline.counter_deltas t where t.collection_id = c.id;
    if v_surplus > 0 and v_open = '{}' and o.orphans = '{}' then
      return query select 'orphans', format('%s more records than rows.', v_surplus);
    elsif v_surplus >= 0 and o.unknown <> '{}' then
      return query select 'rows', format('%s%s rows are not known to Backline, such as %s.',
                                         cardinality(o.unknown), v_sampled, o.unknown[1]);
    elsif v_lack > 0 and v_open = '{}' and c.scanned_at is not null then
      return query select 'rows', format('%s more rows are counted than Backline knows.', v_lack);
    end if;
  end if;
  return query
    select f.kind, format('%s%s %s, such as %s.', cardinality(f.keys), v_sampled, f.what, f.keys[1])
    from (values ('orphans', o.orphans, 'stamps are of rows that do not exist'),
                 ('vectors', o.emptied, 'embedded rows have no vector any more'),
                 ('texts', o.edited, 'embedded rows have another text, which no trigger reported'))
      f(kind, keys, what)
    where f.keys <> '{}';
exception when others then  -- such as a lock on the table, or keys that are not of its type any more
  return query select 'rows', format('The rows of %s could not be checked: %s.', c.name, sqlerrm);
end $$;

-- Returns what is wrong with the definition of a collection's table, apart from what resolve() finds.
create or replace function backline.table_problems(c backline.collections, d backline.collections)
returns table (kind text, problem text, remedy text)
language plpgsql stable rows 5 set search_path = pg_catalog, pg_temp as $$
declare
  v_table constant text := format('%I.%I', d.table_schema, d.table_name);
  v_reconcile constant text := 'Run: backline reconcile ' || backline.shell_word(c.name);
  v_members constant oid[] := backline.members(d.table_id);
  v_partitioned constant boolean := (select k.relkind = 'p' from pg_catalog.pg_class k
                                     where k.oid = d.table_id);
begin
  return query
    select 'triggers', format('Triggers of %s do not fire, so its edits are missed: %s.', v_table,
                              string_agg(format('%s (%s)', t.name, t.problem), ', ')), v_reconcile
    from backline.trigger_problems(c.id) t having count(*) > 0;
  if not v_partitioned and v_members <> '{}' then
    return query select 'inheritance', format(
      'Other tables inherit from %s: %s. Their rows have no key of their own, and edits of them are missed.',
      v_table, (select string_agg(m.oid::regclass::text, ', ') from unnest(v_members) m(oid))),
      format('Take each out: alter table %s no inherit %s', v_members[1]::regclass, v_table);
  end if;
  return query
    select 'inheritance', format('%s belongs to %s now, and writes through that table are missed.', v_table,
                                 i.inhparent::regclass),
           case when k.relkind = 'p' then
             format('Declare %s instead: backline drop %s && backline add %s --text ''…''', k.oid::regclass,
                    backline.shell_word(c.name), backline.shell_word(k.oid::regclass::text))
           else format('Take it out: alter table %s no inherit %s', v_table, k.oid::regclass) end
    from pg_catalog.pg_inherits i join pg_catalog.pg_class k on k.oid = i.inhparent
    where i.inhrelid = d.table_id;
  if v_partitioned then
    return query
      select 'partitions', format('Partitions of %s came or went, and rows with them.', v_table), v_reconcile
      where v_members <> c.members;
  end if;
  return query
    select 'key', format('The key %s of %s is not unique and NOT NULL any more, so it does not identify '
                         'a row.', n.names, v_table),
           format('Make it the key again: alter table %s add primary key (%s)', v_table, n.names)
    from (select string_agg(quote_ident(u.name), ', ') as names from unnest(d.key_columns) u(name)) n
    where not (backline.is_read_only(d.table_id) or backline.is_key(d.table_id, d.key_numbers));
  return query
    select 'column', format('The column %s of %s has the type %s, and cannot hold vectors of %s dimensions.',
                            d.embedding_column, v_table,
                            pg_catalog.format_type(a.atttypid, a.atttypmod), m.dimensions),
           format('Drop the column, then run: backline reconcile %s', backline.shell_word(c.name))
    from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
    join backline.models m on m.id = c.model_id
    where a.attrelid = d.table_id and a.attnum = d.vector_number and (
      t.typname not in ('vector', 'halfvec') or a.atttypmod > 0 and a.atttypmod <> m.dimensions);
  return query
    select 'publication', format('%s is in a publication and has no replica identity, so Postgres refuses '
                                 'to store vectors.', u.source), u.remedy
    from backline.unidentified_tables(d.table_id) u;
end $$;

-- Returns what is wrong with a collection, and the remedy of each problem. A table of up to p_exact rows is
-- compared row by row.
create or replace function backline.problems(p_collection int, p_exact int default 10000)
returns table (kind text, problem text, remedy text)
language plpgsql stable rows 5 set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
  r record;
  v_reconcile text;
  v_grants text[];
begin
  select * into strict c from backline.collections where id = p_collection;
  if c.frozen then  -- its coverage is that of the moment when it was frozen
    return;
  end if;
  v_reconcile := 'Run: backline reconcile ' || backline.shell_word(c.name);
  select * into r from backline.resolve(c);
  return query
    select case r.code when 'BL002' then 'column' when 'BL004' then 'column' else 'table' end,
           r.problem, r.remedy
    where r.problem is not null;
  return query
    select 'unscanned', n.why || ' Rows may have changed unseen.', v_reconcile
    from (select concat_ws(' ', c.unscanned, r.changed) as why) n where n.why <> ''
    union all
    select 'polling', format('%s is polled, and the last poll was at %s: later edits are not known.',
                             format('%I.%I', c.table_schema, c.table_name),
                             to_char(p.polled_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')),
           'Run: backline sync ' || backline.shell_word(c.name)
    from backline.polls p
    where p.collection_id = c.id and greatest(p.next_at, p.polled_at) < now() - interval '2 minutes'
    union all
    select 'adoption', format('The vectors that %s held are not all adopted yet.', c.embedding_column),
           'Run the same backline add … --adopt again' where c.adopting
    union all
    select 'missed', 'Changes of tables could not be recorded.', v_reconcile
    where pg_catalog.pg_sequence_last_value('backline.missed'::regclass) > c.missed;
  if r.code is not null then
    return;
  end if;
  return query select t.* from backline.table_problems(c, r.d) t;
  v_grants := backline.missing_grants((r.d).table_id, (r.d).vector_number, false);
  if v_grants <> '{}' then
    return query
      select 'grants', format('The role %s may not read %s, so its rows were not checked.', current_user,
                              format('%I.%I', (r.d).table_schema, (r.d).table_name)),
             array_to_string(v_grants, '; ');
  else
    return query
      select w.kind, w.problem, v_reconcile from backline.row_problems(backline.with_guard(r.d), p_exact) w;
  end if;
end $$;
comment on function backline.problems is
  'API: returns what makes the coverage of a collection untrue, with the remedies.';
