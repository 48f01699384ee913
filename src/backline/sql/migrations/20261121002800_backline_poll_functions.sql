-- Built by `make docs` from schema/functions/poll.sql. Edit that file instead.

-- Follows sources without triggers: views, foreign tables, and tables on which the role may not create them.
-- A poll appends the keys of rows with a newer version to the change log.

-- Returns how far back a poll reads again for transactions that committed late: in the unit of the version
-- column. Null if the type of the column does not tell a newer version.
create or replace function backline.poll_overlap(p_type oid) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_type in ('timestamptz'::regtype, 'timestamp'::regtype) then 'interval ''1 minute'''
              when p_type in ('date'::regtype) then '1'
              when p_type in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
                then '1000' end;
$$;

-- Raises unless a relation can be followed as declared: by triggers, or by polling its column p_follow.
create or replace function backline.check_follow(
  p_table regclass, p_key text[], p_into text, p_follow text
) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_kind text := (select case k.relkind when 'v' then 'a view' when 'm' then 'a materialized view'
                                        when 'f' then 'a foreign table' end
                  from pg_catalog.pg_class k where k.oid = p_table);
  v_type oid := (select a.atttypid from pg_catalog.pg_attribute a
                 where a.attrelid = p_table and a.attname = p_follow and a.attnum > 0 and not a.attisdropped);
  v_missing text;
begin
  v_missing := array_to_string(array_remove(array[
    case when p_into is null then '--into NAME' end,
    case when p_key is null and v_kind is not null then '--key COLUMN' end,
    case when p_follow is null then '--follow COLUMN' end], null), ', ');
  if v_kind is not null and v_missing <> '' then
    raise exception using errcode = case when v_missing = '--key COLUMN' then 'BL004' else 'BL003' end,
      message = format(
        '%s is not a table but %s, which can have neither triggers nor a column of vectors. Add %s: its '
        'vectors go into a side table, a key identifies its rows, and a column that grows with every edit, '
        'such as updated_at, is polled', p_table, v_kind, v_missing);
  elsif p_follow is null and not pg_catalog.has_table_privilege(p_table, 'trigger') then
    raise exception using errcode = '42501', message = format(
      'the role %1$s may not create triggers on %2$s. Let its owner run: grant trigger on %2$s to %1$I. Or '
      'poll a column that grows with every edit: --into NAME --follow COLUMN', current_user, p_table);
  elsif p_follow is null then
    return;
  elsif p_into is null then
    raise exception using errcode = 'BL001', message = format(
      '%s is polled with --follow, which cannot tell an edit from a vector that was stored. Store the '
      'vectors in a side table: --into NAME', p_table);
  elsif v_type is null then
    raise exception using errcode = 'BL002', message = format(
      '%s has no column %L to follow. Name one that grows with every edit. Its columns: %s', p_table,
      p_follow, (select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute a
       where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped));
  elsif backline.poll_overlap(v_type) is null then
    raise exception using errcode = 'BL001', message = format(
      'the column %I of %s is of type %s, which does not tell which rows are newer. Follow a column of type '
      'timestamptz, timestamp, date, integer or numeric', p_follow, p_table,
      pg_catalog.format_type(v_type, -1));
  end if;
end $$;

-- Raises if rows of a view share a key or have none. Reads every row: the caller sets a statement_timeout.
create or replace function backline.check_unique(p_table regclass, p_key text[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_columns constant text := (select string_agg(format('r.%I', k), ', ') from unnest(p_key) k);
  v_rows bigint; v_keys bigint; v_nulls bigint;
begin
  execute format('select count(*), count(distinct (%s)), count(*) filter (where %s) from %s r', v_columns,
                 (select string_agg(format('r.%I is null', k), ' or ') from unnest(p_key) k), p_table)
  into v_rows, v_keys, v_nulls;
  if v_nulls > 0 or v_keys < v_rows then
    raise exception using errcode = 'BL004', message = format(
      'the columns %s of %s do not identify a row: %s rows have the key of another one, and %s have NULL in '
      'it. Name other columns with --key', array_to_string(p_key, ', '), p_table, v_rows - v_keys, v_nulls);
  end if;
end $$;

-- Returns the keys of a query's rows that are due and not in the queue. The query has a page's columns.
-- $1 to $5 are as in due.sql, $6 are the keys of batch leases.
create or replace function backline.unseen_rows(p_collection int, p_rows text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($q$
    with page as materialized (%s)
    select array(
      select p.key from page p
      left join lateral (select * from backline.stamps x
                         where x.collection_id = $1 and x.key = p.key offset 0) s on true
      where %s and (select true from backline.jobs j
                    where j.collection_id = $1 and j.key = p.key offset 0) is null
        and (p.key in (select backline.logged_keys($1))) is not true and p.key <> all ($6)),
    (select count(*) from page), (select p.key from page p order by p.position desc limit 1)
  $q$, p_rows, backline.due_condition(p_collection));
$$;

-- Returns the keys of rows with a version of the overlap before p_seen that differ from their stamps.
create or replace function backline.reread_source(
  c backline.collections, p_seen text, p_type text, p_overlap text
) returns text[] language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_keys text[];
begin
  execute backline.unseen_rows(c.id, format($q$
    select %1$s collate "C" as key, %2$s as content, %3$s, 0 as position
    from %4$s where r.%5$I > $2::%6$s - %7$s and r.%5$I <= $2::%6$s
  $q$, backline.key_text(c), c.text_sql, backline.row_state(c), backline.rows_of(c), c.follow_column, p_type,
       p_overlap))
  into v_keys
  using c.id, p_seen, null::int, c.model_id, c.long_text, backline.batch_leased_keys(c.id);
  return v_keys;
end $$;

-- Polls a source once. Returns the number of rows that it logged, the seconds to wait before the next poll,
-- and whether the caller must sweep the source now. Rows without a version are found by a sweep only.
--
-- A transaction may commit after others with newer versions. For a minute after the version rose, the last
-- minute of versions is read again, and rows that differ from their stamps are logged.
create or replace function backline.poll_source(
  p_collection int, p_sweep_every float8 default null, p_limit int default 5000,
  out logged bigint, out wait float8, out sweep boolean
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off as $$
declare
  c backline.collections;
  p backline.polls;
  v_type text;
  v_overlap text;
  v_newest text;
  v_keys text[];
  v_old text[] := '{}';
  v_reread boolean;
begin
  logged := 0; sweep := false;
  select x.* into c from backline.definition(p_collection) x;
  if c.follow_number is null then
    return;
  end if;
  insert into backline.polls (collection_id) select p_collection
  where not exists (select from backline.polls x where x.collection_id = p_collection) on conflict do nothing;
  select * into p from backline.polls x where x.collection_id = p_collection for update skip locked;
  wait := 1;
  if p.collection_id is null then  -- another session polls
    return;
  end if;
  select pg_catalog.format_type(a.atttypid, -1), backline.poll_overlap(a.atttypid)
  into strict v_type, v_overlap from pg_catalog.pg_attribute a
  where a.attrelid = c.table_id and a.attname = c.follow_column and not a.attisdropped;

  execute format($q$
    select array_agg(distinct n.key), max(n.version)::text from (
      select %1$s as key, r.%2$I as version from %3$s r where %4$s
      order by r.%2$I fetch first ($2) rows with ties) n where n.key is not null
  $q$, backline.key_text(c), c.follow_column, backline.source(c),
       case when p.seen is null then 'true' else format('r.%I > $1::%s', c.follow_column, v_type) end)
  into v_keys, v_newest using p.seen, p_limit;
  v_reread := p.reread_at <= now() and p.seen is not null;
  if v_reread then
    v_old := backline.reread_source(c, p.seen, v_type, v_overlap);
  end if;
  v_keys := coalesce(v_keys, '{}');
  logged := cardinality(v_keys) + cardinality(v_old);
  perform backline.log_keys(p_collection, '~', v_keys);
  perform backline.log_keys(p_collection, '~', v_old);
  -- At most a tenth of the time is spent on polls, however slow the source is.
  wait := case when cardinality(v_keys) >= p_limit then 0
               else greatest(1, 10 * extract(epoch from clock_timestamp() - now())) end;
  sweep := p.swept_at < now() - make_interval(secs => p_sweep_every) is true;
  if logged > 0 or v_reread or sweep or p.polled_at < now() - interval '10 s' then
    update backline.polls x set seen = coalesce(v_newest, p.seen), polled_at = now(),
      next_at = now() + make_interval(secs => wait),
      swept_at = case when sweep then now() else p.swept_at end,
      advanced_at = case when v_newest is not null then now() else p.advanced_at end,
      reread_at = case when v_newest is not null then least(p.reread_at, now() + interval '2 s')
                       when v_reread and p.advanced_at < now() - interval '65 s' then 'infinity'
                       when v_reread then now() + make_interval(secs => greatest(5, 2 * wait))
                       else p.reread_at end
    where x.collection_id = p_collection;
  end if;
  if logged > 0 then
    perform backline.count_source(p_collection);
  end if;
end $$;
comment on function backline.poll_source is
  'API: logs the rows of a source without triggers that have a newer version.';

-- Counts the rows of a source without triggers, whose deltas nothing records. A slow count is a rare one.
create or replace function backline.count_source(p_collection int, p_always boolean default false)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_began timestamptz := clock_timestamp();
  v_rows bigint;
begin
  if not p_always and (select x.counted_at + 20 * x.counting > now() from backline.polls x
                       where x.collection_id = p_collection) then
    return;
  end if;
  execute format('select count(*) from %s', backline.source(c)) into v_rows;
  update backline.polls x set counted_at = now(), counting = clock_timestamp() - v_began
  where x.collection_id = p_collection;
  perform backline.lock(p_collection, 'scan');  -- recount() corrects under it
  insert into backline.counter_deltas (collection_id, measure, amount)
  select p_collection, 'rows', d.amount from (
    select v_rows - coalesce(sum(t.amount), 0) as amount from backline.counter_deltas t
    where t.collection_id = p_collection and t.measure = 'rows') d
  where d.amount <> 0;
end $$;

-- Compares a page of a source, or of the records that Backline has of it, and logs what polls have missed:
-- rows that are due, and records of rows that are gone. p_of is rows, stamps, failures or vectors.
create or replace function backline.sweep_page(
  p_collection int, p_of text, p_after text, p_limit int,
  out scanned bigint, out logged bigint, out last_key text
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_keys text[];
begin
  if p_of <> 'rows' then
    select o.scanned, o.keys, o.last_key into scanned, v_keys, last_key
    from backline.reconcile_orphans(p_collection, p_of, p_after, p_limit, false) o;
    perform backline.log_keys(p_collection, '-', v_keys);
  else
    execute backline.unseen_rows(p_collection, format($q$
      select %1$s collate "C" as key, %2$s as content, %3$s,
             row_number() over (order by %6$s) as position
      from %4$s where %5$s order by %6$s limit $3
    $q$, backline.key_text(c), c.text_sql, backline.row_state(c), backline.rows_of(c),
         backline.key_after(c, p_after, '$2'), backline.key_order(c)))
    into v_keys, scanned, last_key
    using p_collection, p_after, p_limit, c.model_id, c.long_text, backline.batch_leased_keys(p_collection);
    perform backline.log_keys(p_collection, '~', v_keys);
  end if;
  logged := cardinality(v_keys);
end $$;

-- Records the version from which polls of a new collection start: a backfill reads the rows that are there.
create or replace function backline.begin_polls(p_collection int) returns void
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD' as $$
declare
  c backline.collections := backline.definition(p_collection);
begin
  execute format('insert into backline.polls (collection_id, seen) select $1, max(r.%I)::text from %s r',
                 c.follow_column, backline.source(c)) using p_collection;
end $$;
