-- Built by `make docs` from schema/functions/changes.sql. Edit that file instead.

-- Turns lines of the change log into jobs, stamps, counters and keyword postings.

-- Appends keys to the change log.
create or replace function backline.log_keys(p_collection int, p_kind "char", p_keys text[]) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into backline.changes (collection_id, kind, amount, keys, bulk)
  select p_collection, p_kind, cardinality(p_keys), p_keys, cardinality(p_keys) > 1000 where p_keys <> '{}';
$$;

-- Returns the first xid from which this session may find lines. has_changes() and apply_changes() advance it
-- in a setting of the session.
create or replace function backline.log_start(p_collection int) returns xid8
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(nullif(current_setting('backline.log_start_' || p_collection, true), ''), '0')::xid8;
$$;

-- Returns whether the log has lines of a collection, for polls.
create or replace function backline.has_changes(p_collection int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  v_first xid8;
  v_start xid8;
begin
  -- One statement, hence one snapshot: a line that is committed later has at least the xid of its xmin.
  select f.xid, least(f.xid, pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()))
  into v_first, v_start
  from (values (1)) one left join (
    select l.xid from backline.changes l
    where l.collection_id = p_collection and l.xid >= backline.log_start(p_collection)
    order by l.xid limit 1) f on true;
  if v_start > backline.log_start(p_collection) then
    perform pg_catalog.set_config('backline.log_start_' || p_collection, v_start::text, false);
  end if;
  return v_first is not null;
end $$;
comment on function backline.has_changes is
  'API: returns whether the change log has lines of a collection.';

-- Returns the seconds until a claim of a collection finds work, for polls: 0 is now, and null is never, until
-- another transaction commits. A hundred jobs that wait may hide one that is due, which a claim finds.
create or replace function backline.work_due_in(p_collection int) returns float8
language sql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
  select case when backline.has_changes(p_collection) then 0 else (
    select case when count(*) > 0 then greatest(0, least(
             extract(epoch from min(w.not_before) - clock_timestamp()),
             case when count(*) = 100 then 5 end)) end
    from (select j.not_before from backline.jobs j
          where j.collection_id = p_collection and j.worker_id is null
          order by j.priority, j.enqueued_at limit 100) w) end;
$$;
comment on function backline.work_due_in is
  'API: returns the seconds until a claim finds changes or jobs, or null if there are none.';

-- Returns the keys of all lines, whose rows are known to be waiting.
create or replace function backline.logged_keys(p_collection int) returns setof text
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
  select unnest(l.keys) from backline.changes l
  where l.collection_id = p_collection and l.xid >= backline.log_start(p_collection);
$$;

-- Replaces lines by lines of p_size keys, so that apply_changes() can work in short transactions.
create or replace function backline.split_changes(p_lines tid[], p_size int) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  with long as materialized (
    delete from backline.changes l where l.ctid = any (p_lines) returning l.*
  )
  insert into backline.changes (collection_id, xid, kind, delta, amount, keys, at, bulk)
  select l.collection_id, l.xid, l.kind, sign(l.delta) * cardinality(s.keys), cardinality(s.keys), s.keys,
         l.at, l.bulk or l.amount > 1000
  from long l
  cross join lateral (
    select array_agg(u.key order by u.n) as keys from unnest(l.keys) with ordinality as u(key, n)
    group by (u.n - 1) / p_size) s;
$$;

-- Returns the first lines with up to about p_limit keys, of statements that changed many rows or of the
-- others. Longer lines are split before.
create or replace function backline.next_changes(p_collection int, p_bulk boolean, p_limit int)
returns tid[] language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  v_lines tid[];
  v_long tid[];
begin
  select array_agg(t.line) filter (where t.before < p_limit),
         array_agg(t.line) filter (where t.amount > 2 * p_limit)
  into v_lines, v_long from (
    select x.line, x.amount, sum(x.amount) over (order by x.xid, x.id) - x.amount as before from (
      select l.ctid as line, l.xid, l.id, l.amount from backline.changes l
      where l.collection_id = p_collection and l.xid >= backline.log_start(p_collection) and l.kind <> 't'
        and (l.bulk or l.amount > 1000) = p_bulk
      order by l.xid, l.id limit 500) x) t;
  if v_long is null then
    return v_lines;
  end if;
  perform backline.split_changes(v_long, p_limit);
  return backline.next_changes(p_collection, p_bulk, p_limit);
end $$;

-- Applies up to about p_limit keys of the log, and returns whether lines are left. One session at a time
-- applies the lines of a collection; another returns null at once. Lines of few keys come first. With
-- p_edits_only, lines of more than 1,000 keys wait: a scan of the table finds those rows at a lower cost.
--
-- What happens to a row depends on the row as it stands and not on the line. Lines can therefore be applied
-- late and in any order.
create or replace function backline.apply_changes(
  p_collection int, p_edits_only boolean default false, p_limit int default 500
) returns boolean language plpgsql
set search_path = pg_catalog, pg_temp set enable_seqscan = off set lock_timeout = '200ms' as $$
declare
  v_lines tid[];
  v_delta bigint;
  v_unknown boolean;
  v_keys text[];
  v_xids bigint[];
  v_priorities smallint[];
  v_times timestamptz[];
begin
  if not backline.has_changes(p_collection) then
    return false;
  end if;
  if not backline.try_lock(p_collection, 'log') then
    return null;
  end if;
  v_lines := backline.next_changes(p_collection, false, p_limit);
  if v_lines is null and not p_edits_only then
    v_lines := backline.next_changes(p_collection, true, p_limit);
  end if;
  if v_lines is null then
    return not p_edits_only and backline.apply_truncation(p_collection);
  end if;

  with taken as materialized (
    delete from backline.changes l where l.ctid = any (v_lines) returning l.*
  ), touched as (
    select u.key, max(t.xid::text::bigint) as xid, min(t.bulk::int)::smallint as priority,
           min(t.at) as at
    from taken t cross join unnest(t.keys) as u(key) group by u.key
  )
  select (select sum(t.delta) from taken t), (select bool_or(t.kind = '?') from taken t),
         array_agg(n.key order by n.key), array_agg(n.xid order by n.key),
         array_agg(n.priority order by n.key), array_agg(n.at order by n.key)
  into v_delta, v_unknown, v_keys, v_xids, v_priorities, v_times from touched n;
  if v_delta <> 0 then
    insert into backline.counter_deltas (collection_id, measure, amount)
    values (p_collection, 'rows', v_delta);
  end if;
  if v_unknown then
    perform pg_catalog.nextval('backline.missed');
  end if;
  perform backline.apply_keys(p_collection, v_keys, v_xids, v_priorities, v_times);
  return exists (select from backline.changes l where l.collection_id = p_collection
                             and l.xid >= backline.log_start(p_collection));
end $$;
comment on function backline.apply_changes is
  'API: turns lines of the change log into jobs, and returns whether lines are left, or null if another '
  'session applies them.';

-- Applies part of a truncation: examines the next keys that Backline has records of. A partition may have
-- been truncated, so the other rows may exist.
create or replace function backline.apply_truncation(p_collection int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  v_limit constant int := 500;
  v_xid xid8; v_id bigint; v_after text;
  v_keys text[];
begin
  select l.xid, l.id, l.keys[1] into v_xid, v_id, v_after from backline.changes l
  where l.collection_id = p_collection and l.xid >= backline.log_start(p_collection) and l.kind = 't'
  order by l.xid, l.id limit 1;
  if not found then
    return false;
  end if;
  v_keys := array(
    select k.key from (
      (select s.key from backline.stamps s
       where s.collection_id = p_collection and s.key > coalesce(v_after, '') order by s.key limit v_limit)
      union
      (select d.key from backline.documents d
       where d.collection_id = p_collection and d.key > coalesce(v_after, '') order by d.key limit v_limit)
      union
      (select f.key from backline.failures f
       where f.collection_id = p_collection and f.key > coalesce(v_after, '') order by f.key limit v_limit)
      union
      (select j.key from backline.jobs j
       where j.collection_id = p_collection and j.key > coalesce(v_after, '') order by j.key limit v_limit)
    ) k order by k.key limit v_limit);
  perform backline.apply_keys(
    p_collection,
    array(select coalesce((select f.long_key from backline.failures f
                           where f.collection_id = p_collection and f.key = u.key offset 0), u.key)
          from unnest(v_keys) as u(key)),
    array_fill(v_xid::text::bigint, array[cardinality(v_keys)]),
    array_fill(1::smallint, array[cardinality(v_keys)]), array_fill(now(), array[cardinality(v_keys)]));
  if cardinality(v_keys) = v_limit then
    update backline.changes l set keys = v_keys[v_limit:]
    where l.collection_id = p_collection and l.xid = v_xid and l.id = v_id;
    return true;
  end if;
  delete from backline.changes l where l.collection_id = p_collection and l.xid = v_xid and l.id = v_id;
  perform backline.recount_rows(p_collection);
  return true;
end $$;

-- The longest key in bytes that the indexes of this schema can hold.
create or replace function backline.longest_key() returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 2500 $$;

-- Returns the key of a row's dead letter: an abbreviation of a key that is too long.
create or replace function backline.failure_key(p_key text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when octet_length(p_key) > backline.longest_key()
              then left(p_key, 100) || '… ' || md5(p_key) else p_key end;
$$;

-- Returns why a row with a key of p_bytes has no vector.
create or replace function backline.long_key_error(p_bytes int) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('The key of this row has %s bytes, and at most %s are possible. Declare the table with --key '
                'and a shorter unique column.', p_bytes, backline.longest_key());
$$;

-- Raises if a key is too long to be stored.
create or replace function backline.require_short_keys(p_keys text[]) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_bytes constant int := (select max(octet_length(u.key)) from unnest(p_keys) as u(key));
begin
  if v_bytes > backline.longest_key() then
    raise exception using errcode = '22001', message = backline.long_key_error(v_bytes);
  end if;
end $$;

-- Records rows with longer keys as dead letters, and deletes the dead letters of those that are gone.
create or replace function backline.refuse_long_keys(p_collection int, p_keys text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections := backline.definition(p_collection);
begin
  execute format($q$
    with long as (
      select u.key, backline.failure_key(u.key) as name, octet_length(u.key) as bytes,
             exists (select from %s r where %s) as present
      from unnest($2) as u(key) where octet_length(u.key) > backline.longest_key()
    ), gone as (
      delete from backline.failures f using long l
      where f.collection_id = $1 and f.key = l.name and not l.present
    )
    insert into backline.failures
      (collection_id, key, long_key, content_hash, model_id, attempts, kind, error)
    select $1, l.name, l.key, '', $3, 1, 'rejected', backline.long_key_error(l.bytes)
    from long l where l.present
    on conflict do nothing
  $q$, backline.source(c), backline.key_match(c, 'u.key'))
  using p_collection, p_keys, c.model_id;
end $$;

-- Examines rows by key: due rows get a job, and what Backline knows of missing rows is deleted. p_xids are
-- the transactions that changed them. Locks are taken in the order of complete(): stamps, failures, jobs.
create or replace function backline.apply_keys(
  p_collection int, p_keys text[], p_xids bigint[], p_priorities smallint[], p_times timestamptz[]
) returns void language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_due text[]; v_priorities smallint[]; v_times timestamptz[]; v_gone text[];
  v_stale tid[]; v_failures tid[];
begin
  if coalesce(cardinality(p_keys), 0) = 0 then
    return;
  end if;
  if exists (select from unnest(p_keys) as u(key) where octet_length(u.key) > backline.longest_key()) then
    perform backline.refuse_long_keys(p_collection, p_keys);
  end if;
  c := backline.definition(p_collection);
  perform backline.lock(p_collection, 'scan');  -- a scan could lease the same rows
  if c.where_sql is not null then
    perform backline.stamp_excluded(c, p_keys);
  end if;
  execute format($q$
    with examined as materialized (
      select u.key, u.priority, u.at, p.key is not null as present, s.ctid as stamp, s.stale,
             f.ctid as failure,
             case when p.key is not null and %5$s
               then not coalesce(s.stale, true) or u.key <> all ($6) end as due,
             f.key is not null and (p.key is null or f.model_id <> $4
               or f.content_hash <> sha256(convert_to(p.content, 'UTF8'))) as resolved
      from unnest($2, $3, $7) as u(key, priority, at)
      left join lateral (select x.ctid, x.* from backline.stamps x
                         where x.collection_id = $1 and x.key = u.key offset 0) s on true
      left join lateral (select x.ctid, x.* from backline.failures x
                         where x.collection_id = $1 and x.key = u.key offset 0) f on true
      -- A row without either is due whatever its text.
      left join lateral (select %1$s as key, %3$s,
                                case when coalesce(s.key, f.key) is not null then %2$s end as content
                         from %4$s where %6$s offset 0) p on p.key = u.key
      where octet_length(u.key) <= backline.longest_key()
    )
    select array_agg(e.key) filter (where e.due), array_agg(e.priority) filter (where e.due),
           array_agg(e.at) filter (where e.due),
           array_agg(e.key) filter (where not e.present),
           array_agg(e.stamp) filter (where e.due and not e.stale),
           array_agg(e.failure) filter (where e.resolved)
    from examined e
  $q$, backline.key_text(c), c.text_sql, backline.row_state(c), backline.rows_of(c),
       backline.due_condition(p_collection), backline.key_match(c, 'u.key'))
  into v_due, v_priorities, v_times, v_gone, v_stale, v_failures
  using p_collection, p_keys, p_priorities, c.model_id, c.long_text,
        backline.keys_in_flight(p_collection, p_keys, p_xids), p_times;

  if c.into_name is not null and (v_due is not null or v_gone is not null) then
    perform backline.forget_vectors(c, coalesce(v_gone, '{}'), v_due || v_gone);
  end if;
  -- Most calls have one key and need one of these statements.
  if v_stale is not null then
    update backline.stamps s set stale = true where s.ctid = any (v_stale) and not s.stale;
  end if;
  if v_gone is not null then  -- by key: a worker may update the stamp at this moment
    delete from backline.stamps s using unnest(v_gone) as u(key)
    where s.collection_id = p_collection and s.key = u.key;
  end if;
  if v_failures is not null then
    delete from backline.failures f where f.ctid = any (v_failures);
  end if;
  if v_due is not null then
    -- With the time of the edit: a drain waits for edits that were made before it began.
    insert into backline.jobs as j (collection_id, key, priority, enqueued_at)
    -- A key is several times in a table whose unique constraint was dropped.
    select distinct on (k.key) p_collection, k.key, k.priority, k.at
    from unnest(v_due, v_priorities, v_times) as k(key, priority, at) order by k.key
    on conflict (collection_id, key) do update
      set worker_id = null, attempts = 0, priority = least(j.priority, excluded.priority), not_before = now();
  end if;
  if v_gone is not null then
    delete from backline.jobs j where j.ctid = any (array(
      select x.ctid from unnest(v_gone) as u(key) cross join lateral (
        select y.ctid from backline.jobs y
        where y.collection_id = p_collection and y.key = u.key offset 0) x));
  end if;
  perform backline.follow_keywords(p_collection, p_keys);
end $$;

-- Deletes the vectors of rows that are gone from a side table. The locks on the work of p_keys wait for the
-- calls of complete() that may add them now.
create or replace function backline.forget_vectors(c backline.collections, p_gone text[], p_keys text[])
returns void language plpgsql set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 as $$
begin
  perform from backline.batch_leases p where p.collection_id = c.id and p.keys && p_gone for update;
  perform from backline.jobs j where j.collection_id = c.id and j.key = any (p_keys)
  order by j.key for update;
  execute format('delete from %s e using unnest($1) as u(key) where %s', (backline.side_table(c)).name,
                 backline.side_match(c, 'u.key')) using p_gone;
end $$;

-- Returns the keys that were leased after the change: their worker has the present text.
create or replace function backline.keys_in_flight(p_collection int, p_keys text[], p_xids bigint[])
returns text[] language sql stable
set search_path = pg_catalog, pg_temp set enable_hashjoin = on set enable_nestloop = off as $$
  select array(
    select u.key from (select unnest(b.keys) as key, b.snapshot from backline.batch_leases b
                       where b.collection_id = p_collection) l
    join unnest(p_keys, p_xids) as u(key, xid) on u.key = l.key
    where pg_catalog.pg_visible_in_snapshot(u.xid::text::xid8, l.snapshot)
    union all
    select u.key from unnest(p_keys, p_xids) as u(key, xid)
    where (select pg_catalog.pg_visible_in_snapshot(u.xid::text::xid8, j.snapshot) from backline.jobs j
           where j.collection_id = p_collection and j.key = u.key and j.worker_id is not null offset 0));
$$;

-- Corrects the counter of rows. Lines of the log count when they are applied.
create or replace function backline.recount_rows(p_collection int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections := backline.definition(p_collection);
begin
  execute format($q$
    insert into backline.counter_deltas (collection_id, measure, amount)
    select $1, 'rows', w.amount from (
      select (select count(*) from %s)
             - (select coalesce(sum(d.amount), 0) from backline.counter_deltas d
                where d.collection_id = $1 and d.measure = 'rows')
             - (select coalesce(sum(l.delta), 0) from backline.changes l
                where l.collection_id = $1) as amount) w
    where w.amount <> 0
  $q$, backline.source(c)) using p_collection;
end $$;
