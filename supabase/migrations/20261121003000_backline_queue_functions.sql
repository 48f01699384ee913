-- Built by `make docs` from schema/functions/queue.sql. Edit that file instead.

-- Leases due rows to workers, and releases leases.

-- Returns the keys of all batch leases of a collection. Those with a current stamp are done.
create or replace function backline.batch_leased_keys(p_collection int) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select unnest(p.keys) from backline.batch_leases p where p.collection_id = p_collection);
$$;

-- Converts the unfinished rows of batch leases, or those in p_keys, to jobs with the same worker and lease.
-- The jobs keep the time of the lease as enqueued_at, because outstanding() must not count released work as
-- newly enqueued. Rows locked by another transaction stay in the batch lease: waiting for them here would
-- block other sessions.
create or replace function backline.convert_to_jobs(p_leases bigint[], p_keys text[] default null)
returns void language plpgsql set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  p backline.batch_leases;
  c backline.collections;
  v_held text[];
begin
  for p in
    select * from backline.batch_leases x where x.lease = any (p_leases) order by x.lease for update
  loop
    c := backline.definition(p.collection_id);
    execute format($q$
      with open as materialized (
        select u.key from unnest($3) as u(key)
        where ($6 is null or u.key = any ($6)) and (
          select true from backline.stamps s
          where s.collection_id = $1 and s.key = u.key and not s.stale and s.model_id = $5 offset 0) is null
      ), free as materialized (
        select o.key from open o join %1$s r on %2$s %4$s
      ), queued as (
        insert into backline.jobs (collection_id, key, priority, enqueued_at, worker_id, lease, snapshot)
        select $1, f.key, 1, $7, $2, $4, $8 from free f order by f.key
        on conflict do nothing
      )
      select array(select x.key from (select o.key from open o except select f.key from free f) x
                   join %1$s r on %3$s)
    $q$, backline.source(c), backline.key_match(c, 'o.key'), backline.key_match(c, 'x.key'),
         -- Rows of a view cannot be locked, and nothing is written to those of a source that is polled.
         case when c.follow_number is null then 'for no key update of r skip locked' end)
    into v_held using p.collection_id, p.worker_id, p.keys, p.lease, c.model_id, p_keys, p.leased_at,
                      p.snapshot;
    v_held := v_held || array(select u.key from unnest(p.keys) as u(key) where u.key <> all (p_keys));
    if v_held = '{}' then
      delete from backline.batch_leases x where x.lease = p.lease;
    elsif cardinality(v_held) < cardinality(p.keys) then
      update backline.batch_leases x set keys = v_held where x.lease = p.lease;
    end if;
  end loop;
end $$;

-- Deletes the batch leases of a worker except those in p_leases, which it has not finished. The others are
-- finished, or the worker never received them because the response to its claim was lost.
create or replace function backline.end_finished_batches(p_worker bigint, p_leases bigint[]) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  delete from backline.batch_leases p where p.worker_id = p_worker and p.lease <> all (p_leases);
$$;
comment on function backline.end_finished_batches is
  'API: deletes the batch leases of a worker except those in p_leases.';

-- Raises an error if the collection's model is no longer the one that the worker embeds with. Its vectors
-- would otherwise be stored under the wrong model.
create or replace function backline.require_model(p_expected int, p_actual int) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_actual <> p_expected then
    raise exception using errcode = 'BL005', message = format(
      'The collection''s model is now %s; this worker embeds with %s. Start it again.',
      (select format('%s/%s@%s', m.provider, m.name, m.dimensions)
       from backline.models m where m.id = p_expected),
      (select format('%s/%s@%s', m.provider, m.name, m.dimensions)
       from backline.models m where m.id = p_actual));
  end if;
end $$;

-- Leases up to p_limit jobs to a worker, and returns what each row needs:
--   embed       the text must be embedded
--   reuse       the cache has a vector of this text: complete() copies it
--   blank       the text is empty: complete() clears the vector
--   up_to_date  the stored vector is of this text: complete() only deletes the job
--   gone        the row does not exist: complete() only deletes the job
-- It first applies lines of the change log; see apply_changes() for p_edits_only.
create or replace function backline.claim(
  p_collection int, p_worker bigint, p_limit int, p_model int default null,
  p_edits_only boolean default false
) returns table (key text, action text, content text, content_hash bytea, attempts int, lease bigint)
language plpgsql rows 500
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  c backline.collections;
begin
  begin
    -- A large statement may have left no row that is due.
    -- After a statement timeout, the caller repeats the claim with a smaller limit.
    while backline.apply_changes(p_collection, p_edits_only, least(500, greatest(p_limit, 50))) loop
      exit when clock_timestamp() > statement_timestamp() + interval '200 ms' or exists (
        select from backline.jobs j
        where j.collection_id = p_collection and j.worker_id is null and j.not_before <= now());
    end loop;
  exception when lock_not_available then  -- a worker has locked a stamp or a job: the next claim applies them
  end;
  c := backline.definition(p_collection);
  perform backline.require_model(c.model_id, p_model);
  return query execute format($q$
    with leased as materialized (
      update backline.jobs j set worker_id = $2, lease = $6, snapshot = pg_current_snapshot()
      where j.ctid = any (array(
        select x.ctid from backline.jobs x
        where x.collection_id = $1 and x.worker_id is null and x.not_before <= now()
        order by x.priority, x.enqueued_at limit $3
        for update skip locked))
      returning j.key, j.attempts
    ), examined as materialized (
      select l.key, l.attempts, r.present, r.content, sha256(convert_to(r.content, 'UTF8')) as hash,
             r.missing, r.excluded
      from leased l left join lateral (
        select true as present, %2$s as content, %3$s
        from %4$s where %1$s offset 0
      ) r on true
    )
    select n.key,
      case when n.present is null then 'gone' when %5$s then 'up_to_date' else %6$s end,
      n.content, n.hash, n.attempts::int, $6
    from examined n left join lateral (
      select x.key, x.content_hash, x.model_id, x.blank, x.excluded from backline.stamps x
      where x.collection_id = $1 and x.key = n.key offset 0) s on true
  $q$, backline.key_match(c, 'l.key'), c.text_sql, backline.row_state(c), backline.rows_of(c),
       backline.matches_stamp('n', 'n.hash'),
       backline.needed_action('n.content', 'n.hash', p_cache => c.passages is null))
  using p_collection, p_worker, p_limit, c.model_id, c.long_text,
        pg_catalog.pg_current_xact_id()::text::bigint;
end $$;
comment on function backline.claim is
  'API: leases jobs to a worker, with each row''s text and what it needs.';

-- Scans one page and leases its due rows to a worker: enqueue_page() and claim() in one statement, with one
-- batch lease instead of a job per row. Rows that have a job or another batch lease are skipped. p_unfinished
-- lists the batch leases that the worker has not finished; see end_finished_batches(). The arrays describe
-- the leased rows and are null if none is due.
create or replace function backline.claim_batch(
  p_collection int, p_worker bigint, p_run bigint, p_after text, p_limit int, p_model int,
  p_unfinished bigint[] default '{}',
  out scanned bigint, out last_key text,
  out keys text[], out actions text[], out contents text[], out hashes bytea[],
  out lease bigint
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_leased text[];
  v_stamped boolean;
  v_snapshot pg_snapshot;
  v_long text[];
begin
  c := backline.definition(p_collection);
  perform backline.require_model(c.model_id, p_model);
  perform backline.poll_source(p_collection) where p_after is null and c.follow_number is not null;
  perform backline.lock(p_collection, 'scan');
  perform backline.end_finished_batches(p_worker, p_unfinished);
  if c.where_sql is not null then
    perform backline.exclude_page(p_collection, p_after, p_limit);
  end if;
  v_leased := backline.batch_leased_keys(p_collection);
  lease := pg_catalog.pg_current_xact_id()::text::bigint;
  execute format($q$
    with page as materialized (
      select %1$s collate "C" as key, %2$s as content, %3$s,
             row_number() over (order by %9$s) as position
      from %4$s where %5$s order by %9$s limit $3
    ), due as materialized (
      select p.key, p.content, sha256(convert_to(p.content, 'UTF8')) as hash,
             s.key is not null as stamped, case when not s.stale then s.ctid end as stamp
      from page p
      left join lateral (select x.ctid, x.* from backline.stamps x
                         where x.collection_id = $1 and x.key = p.key offset 0) s on true
      where %6$s
        -- In the same statement as the claim: an edit between two statements could enqueue a claimed row.
        and ((select not exists (select from backline.jobs j
                                 where j.collection_id = $1 and j.worker_id is null)
                 and not exists (select from backline.jobs j
                                 where j.collection_id = $1 and j.worker_id is not null))
             or (select true from backline.jobs j
                 where j.collection_id = $1 and j.key = p.key offset 0) is null)
        %7$s
    ), marked as (
      update backline.stamps s set stale = true
      where s.ctid = any (array(select d.stamp from due d where d.stamp is not null))
    )
    select (select count(*) from page),
           (select p.key from page p order by p.position desc limit 1),
           array_agg(d.key), array_agg(%8$s),
           array_agg(d.content), array_agg(d.hash), bool_or(d.stamped), pg_current_snapshot(),
           (select array_agg(p.key) from page p where octet_length(p.key) > backline.longest_key())
    from due d
  $q$, backline.key_text(c), c.text_sql, backline.row_state(c), backline.rows_of(c),
       backline.key_after(c, p_after, '$2'),
       backline.due_condition(p_collection),
       -- This look-up and that of the cache are left out of most scans, which do not need them.
       case when v_leased <> '{}' then 'and (not coalesce(s.stale, true) or p.key <> all ($6))' end,
       backline.needed_action('d.content', 'd.hash', p_cache => c.passages is null and exists (
         select from backline.vectors v where v.model_id = c.model_id)), backline.key_order(c))
  into scanned, last_key, keys, actions, contents, hashes, v_stamped, v_snapshot, v_long
  using p_collection, p_after, p_limit, c.model_id, c.long_text, v_leased;

  if v_long is not null then
    perform backline.refuse_long_keys(p_collection, v_long);
  end if;
  insert into backline.batch_leases (lease, collection_id, worker_id, keys, stamped, snapshot)
  select claim_batch.lease, p_collection, p_worker, claim_batch.keys, v_stamped, v_snapshot
  where claim_batch.keys is not null;

  update backline.runs r
  set scanned = r.scanned + claim_batch.scanned, due = r.due + coalesce(cardinality(claim_batch.keys), 0),
      cursor = coalesce(claim_batch.last_key, r.cursor)
  where r.id = p_run;
end $$;
comment on function backline.claim_batch is
  'API: leases the due rows of the page after key p_after to a worker. last_key is null at the end.';

-- Releases the jobs of a worker, all of them or those in p_keys, without counting an attempt. Jobs locked by
-- another transaction are skipped: waiting for them while holding others would block other sessions.
create or replace function backline.release(p_worker bigint, p_keys text[] default null) returns int
language sql set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  select backline.convert_to_jobs(
    array(select p.lease from backline.batch_leases p where p.worker_id = p_worker), p_keys);
  with freed as (
    update backline.jobs j set worker_id = null
    where j.ctid = any (array(
      select x.ctid from backline.jobs x
      where x.worker_id = p_worker and (p_keys is null or x.key = any (p_keys))
      for update skip locked))
    returning 1
  )
  select count(*)::int from freed;
$$;
comment on function backline.release is 'API: releases leased jobs.';
