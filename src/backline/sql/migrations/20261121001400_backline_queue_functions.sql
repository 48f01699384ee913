-- Built by `make docs` from schema/functions/queue.sql. Edit that file instead.

-- Finds due rows, leases them to workers, and releases leases.

-- Whoever makes work of rows that wait for nothing yet takes turns, until the end of its transaction: two
-- that looked at once would both find a row free, and two that recounted would both correct.
create or replace function backline.lock_collection(p_collection int) returns void
language sql set search_path = '' as $$
  select pg_catalog.pg_advisory_xact_lock((x'6261636c'::bigint << 31) | p_collection);
$$;

-- The rows of a collection that are leased by the page. Those of them whose stamp is not stale are done.
create or replace function backline.paged(p_collection int) returns text[]
language sql stable set search_path = '' as $$
  select array(select unnest(p.keys) from backline.batch_leases p where p.collection_id = p_collection);
$$;

-- Makes jobs, under the same worker and lease, of the rows of pages that are not done: of all of them, or
-- of those in p_keys. They count from when they were leased: who asks what is outstanding since then must
-- not take work that was freed a moment ago for work that came later. A row that somebody's open transaction
-- holds stays in its page: to wait for it here would make other users wait for that transaction too.
create or replace function backline.convert_to_jobs(p_leases bigint[], p_keys text[] default null) returns void
language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  p backline.batch_leases;
  c backline.collections;
  v_held text[];
begin
  for p in select * from backline.batch_leases x where x.lease = any (p_leases) order by x.lease for update loop
    select * into strict c from backline.collections where id = p.collection_id;
    execute format($q$
      with open as materialized (
        select u.key from unnest($3) as u(key)
        where ($6 is null or u.key = any ($6)) and (
          select true from backline.stamps s
          where s.collection_id = $1 and s.key = u.key and not s.stale and s.model_id = $5 offset 0) is null
      ), free as materialized (
        select o.key from open o join %1$s r on r.%2$I = o.key::%3$s for no key update of r skip locked
      ), queued as (
        insert into backline.jobs (collection_id, key, priority, enqueued_at, worker_id, lease)
        select $1, f.key, 1, $7, $2, $4 from free f order by f.key
        on conflict do nothing
      )
      select array(select x.key from (select o.key from open o except select f.key from free f) x
                   join %1$s r on r.%2$I = x.key::%3$s)
    $q$, format('%I.%I', c.table_schema, c.table_name), c.key_column, c.key_type)
    into v_held using p.collection_id, p.worker_id, p.keys, p.lease, c.model_id, p_keys, p.leased_at;
    v_held := v_held || array(select u.key from unnest(p.keys) as u(key) where u.key <> all (p_keys));
    if v_held = '{}' then
      delete from backline.batch_leases x where x.lease = p.lease;
    elsif cardinality(v_held) < cardinality(p.keys) then
      update backline.batch_leases x set keys = v_held where x.lease = p.lease;
    end if;
  end loop;
end $$;

-- Ends the pages of a worker but for those it knows to be unfinished: the others are done, or it never
-- heard of them, because the answer to its claim was lost.
create or replace function backline.end_finished_batches(p_worker bigint, p_leases bigint[]) returns void
language sql set search_path = '' as $$
  delete from backline.batch_leases p where p.worker_id = p_worker and p.lease <> all (p_leases);
$$;
comment on function backline.end_finished_batches is 'API: ends the pages of a worker, but for those that it is still at.';

-- One page of the table, by key: each row, and whether it is due, that is, its stamp is missing or
-- out of date. Dead letters are not due until their text or the model changes or somebody retries.
create or replace function backline.scan_page(p_collection int, p_after text, p_limit int, p_with_text boolean default false)
returns table (key text, due boolean, stamped boolean, content text, content_hash bytea, cached boolean)
language plpgsql stable rows 1000
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
begin
  select * into strict c from backline.collections where id = p_collection;
  return query execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, %2$s as content, r.%3$I is null as missing,
             row_number() over (order by r.%1$I) as position
      from %4$s r where %5$s order by r.%1$I limit $3
    )
    -- A row without a stamp is due whatever its text: only where there is one is the text hashed.
    select p.key,
           (s.key is null or s.stale or s.model_id <> $4 or p.missing <> s.blank
              or s.content_hash <> sha256(convert_to(p.content, 'UTF8')))
             and (f.key is null or f.model_id <> $4
                  or f.content_hash <> sha256(convert_to(p.content, 'UTF8'))),
           s.key is not null and not s.stale, %6$s
    from page p
    left join lateral (select * from backline.stamps x
                       where x.collection_id = $1 and x.key = p.key offset 0) s on true
    left join lateral (select * from backline.failures x
                       where x.collection_id = $1 and x.key = p.key offset 0) f on true
    order by p.position
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name),
       case when p_after is null then 'true' else format('r.%I > $2::%s', c.key_column, c.key_type) end,
       case when p_with_text then
         $t$ p.content, sha256(convert_to(p.content, 'UTF8')), coalesce((
           select true from backline.vectors v
           where v.model_id = $4 and v.content_hash = sha256(convert_to(p.content, 'UTF8'))
             and (v.cut is null or v.cut = $5) offset 0), false) $t$
       else 'null::text, null::bytea, false' end)
  using p_collection, p_after, p_limit, c.model_id, c.long_text;
end $$;
comment on function backline.scan_page is 'API: one page of rows after key p_after, and which of them are due.';

-- Enqueues what is due in a page.
create or replace function backline.enqueue_page(
  p_collection int, p_after text, p_limit int,
  out scanned bigint, out due bigint, out last_key text
) language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_paged text[];
begin
  perform backline.lock_collection(p_collection);
  v_paged := backline.paged(p_collection);
  with page as materialized (
    select w.key, w.due and (w.stamped or w.key <> all (v_paged)) as due, w.stamped, row_number() over () as position
    from backline.scan_page(p_collection, p_after, p_limit) w
  ), marked as (
    update backline.stamps s set stale = true
    where s.ctid = any (array(
      select x.ctid from page p cross join lateral (
        select y.ctid from backline.stamps y
        where y.collection_id = p_collection and y.key = p.key offset 0) x
      where p.due and p.stamped))
  ), queued as (
    insert into backline.jobs (collection_id, key, priority)
    select p_collection, p.key, 1 from page p where p.due
    on conflict do nothing
  )
  select (select count(*) from page), (select count(*) from page p where p.due),
         (select p.key from page p order by p.position desc limit 1)
  into scanned, due, last_key;
end $$;
comment on function backline.enqueue_page is
  'API: enqueues what is due in the page of rows after key p_after; last_key is null at the end.';

-- A worker embeds with one model. Where the collection's is another one by now, nothing that the
-- worker makes may be stored: its vectors would carry the name of a model that did not make them.
create or replace function backline.require_model(p_wanted int, p_given int) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_given <> p_wanted then
    raise exception using errcode = 'BL005', message = format(
      'The collection''s model is now %s; this worker embeds with %s. Start it again.',
      (select format('%s/%s@%s', m.provider, m.name, m.dimensions) from backline.models m where m.id = p_wanted),
      (select format('%s/%s@%s', m.provider, m.name, m.dimensions) from backline.models m where m.id = p_given));
  end if;
end $$;

-- Leases up to p_limit jobs to a worker and says what each row needs:
--   embed   its text has to be embedded
--   reuse   this very text was embedded before: complete() takes the vector from the cache
--   blank   there is no text: complete() clears the vector
--   up_to_date   the stored vector already is of this text: complete() only ends the job
--   gone    the row no longer exists: likewise
create or replace function backline.claim(p_collection int, p_worker bigint, p_limit int, p_model int default null)
returns table (key text, action text, content text, content_hash bytea, attempts int, lease bigint)
language plpgsql rows 500
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  c backline.collections;
begin
  select * into strict c from backline.collections where id = p_collection;
  perform backline.require_model(c.model_id, p_model);
  return query execute format($q$
    with leased as materialized (
      update backline.jobs j set worker_id = $2, lease = $5
      where j.ctid = any (array(
        select x.ctid from backline.jobs x
        where x.collection_id = $1 and x.worker_id is null and x.not_before <= now()
        order by x.priority, x.enqueued_at limit $3
        for update skip locked))
      returning j.key, j.attempts
    ), seen as materialized (
      select l.key, l.attempts, r.found, r.content, sha256(convert_to(r.content, 'UTF8')) as hash, r.missing
      from leased l left join lateral (
        select true as found, %2$s as content, r.%3$I is null as missing
        from %4$s r where r.%1$I = l.key::%5$s offset 0
      ) r on true
    )
    select n.key,
      case when n.found is null then 'gone'
           when s.content_hash = n.hash and s.model_id = $4 and n.missing = s.blank then 'up_to_date'
           when n.content = '' then 'blank'
           when (select true from backline.vectors v where v.model_id = $4 and v.content_hash = n.hash
                   and (v.cut is null or v.cut = $6) offset 0) then 'reuse'
           else 'embed' end,
      n.content, n.hash, n.attempts::int, $5
    from seen n left join lateral (
      select x.content_hash, x.model_id, x.blank from backline.stamps x
      where x.collection_id = $1 and x.key = n.key offset 0) s on true
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name), c.key_type)
  using p_collection, p_worker, p_limit, c.model_id, pg_catalog.pg_current_xact_id()::text::bigint, c.long_text;
end $$;
comment on function backline.claim is 'API: leases jobs to a worker, with each row''s text and what it needs.';

-- Walks one page and leases what is due in it to the worker that asks: enqueue_page() and claim() in
-- one, with one row for the page in place of a job for each row. What another page or a job has is left
-- to it. p_known are the pages that the worker is still at; see end_finished_batches(). The arrays are of the rows
-- that are now the worker's, null where there are none.
create or replace function backline.claim_batch(
  p_collection int, p_worker bigint, p_run bigint, p_after text, p_limit int, p_model int,
  p_known bigint[] default '{}',
  out scanned bigint, out last_key text,
  out keys text[], out actions text[], out contents text[], out hashes bytea[],
  out lease bigint
) language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_paged text[];
  v_stamped boolean;
begin
  select * into strict c from backline.collections where id = p_collection;
  perform backline.require_model(c.model_id, p_model);
  perform backline.lock_collection(p_collection);
  perform backline.end_finished_batches(p_worker, p_known);
  v_paged := backline.paged(p_collection);
  lease := pg_catalog.pg_current_xact_id()::text::bigint;
  execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, %2$s as content, r.%3$I is null as missing,
             row_number() over (order by r.%1$I) as position
      from %4$s r where %5$s order by r.%1$I limit $3
    ), due as materialized (
      select p.key, p.content, sha256(convert_to(p.content, 'UTF8')) as hash,
             s.key is not null as stamped, case when not s.stale then s.ctid end as stamp
      from page p
      left join lateral (select x.ctid, x.* from backline.stamps x
                         where x.collection_id = $1 and x.key = p.key offset 0) s on true
      where (s.key is null or s.stale or s.model_id <> $4 or p.missing <> s.blank
             or s.content_hash <> sha256(convert_to(p.content, 'UTF8')))
        -- Asked here: an edit between two statements would make a job of a row that is claimed then.
        and ((select not exists (select from backline.jobs j where j.collection_id = $1 and j.worker_id is null)
                 and not exists (select from backline.jobs j where j.collection_id = $1 and j.worker_id is not null))
             or (select true from backline.jobs j
                 where j.collection_id = $1 and j.key = p.key offset 0) is null)
        %6$s %7$s
    ), marked as (
      update backline.stamps s set stale = true
      where s.ctid = any (array(select d.stamp from due d where d.stamp is not null))
    )
    select (select count(*) from page),
           (select p.key from page p order by p.position desc limit 1),
           array_agg(d.key), array_agg(case when d.content = '' then 'blank' %8$s else 'embed' end),
           array_agg(d.content), array_agg(d.hash), bool_or(d.stamped)
    from due d
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name),
       case when p_after is null then 'true' else format('r.%I > $2::%s', c.key_column, c.key_type) end,
       -- The look-ups that most walks never need.
       case when v_paged <> '{}' then 'and (not coalesce(s.stale, true) or p.key <> all ($5))' end,
       case when exists (select from backline.failures f where f.collection_id = p_collection) then
         $t$ and (select true from backline.failures f
              where f.collection_id = $1 and f.key = p.key and f.model_id = $4
                and f.content_hash = sha256(convert_to(p.content, 'UTF8')) offset 0) is null $t$ end,
       case when exists (select from backline.vectors v where v.model_id = c.model_id) then
         $t$ when (select true from backline.vectors v where v.model_id = $4 and v.content_hash = d.hash
                and (v.cut is null or v.cut = $6) offset 0) then 'reuse' $t$ end)
  into scanned, last_key, keys, actions, contents, hashes, v_stamped
  using p_collection, p_after, p_limit, c.model_id, v_paged, c.long_text;

  insert into backline.batch_leases (lease, collection_id, worker_id, keys, stamped)
  select claim_batch.lease, p_collection, p_worker, claim_batch.keys, v_stamped
  where claim_batch.keys is not null;

  update backline.runs r
  set scanned = r.scanned + claim_batch.scanned, due = r.due + coalesce(cardinality(claim_batch.keys), 0),
      cursor = coalesce(claim_batch.last_key, r.cursor)
  where r.id = p_run;
end $$;
comment on function backline.claim_batch is
  'API: leases what is due in the page of rows after key p_after to a worker; last_key is null at the end.';

-- Gives back what a worker holds, all of it or some: no attempt is counted. A job that a user's open
-- transaction has in hand is skipped, here and in all that follows: whoever waited for it, holding
-- other jobs meanwhile, would make other users wait for that transaction too.
create or replace function backline.release(p_worker bigint, p_keys text[] default null) returns int
language sql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  select backline.convert_to_jobs(array(select p.lease from backline.batch_leases p where p.worker_id = p_worker), p_keys);
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
comment on function backline.release is 'API: gives leased jobs back.';
