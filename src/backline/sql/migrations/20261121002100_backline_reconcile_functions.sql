-- Built by `make docs` from schema/functions/reconcile.sql. Edit that file instead.

-- -------------------------------------------------------------------------------------- reconcile
--
-- Finds what happened behind the triggers' back, and sends it through the queue: a load with triggers
-- off, a table restored from a dump, a vector put there by hand. Page by page, beside workers and users:
-- what is found by one snapshot is repaired only where it still is as the snapshot had it.

-- Judges one page of the table, and with p_repair sends what is wrong through the queue. A vector that
-- cannot be trusted loses its stamp, or the claim would find the row fresh.
create or replace function backline.reconcile_page(
  p_collection int, p_after text, p_limit int, p_repair boolean,
  out scanned bigint, out problems jsonb, out last_key text
) language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_dimensions int;
  v_projection extensions.vector;
  v_paged text[];
begin
  select * into strict c from backline.collections where id = p_collection;
  select m.dimensions, m.projection into strict v_dimensions, v_projection from backline.models m where m.id = c.model_id;
  perform backline.lock_collection(p_collection) where p_repair;
  v_paged := backline.paged(p_collection);
  execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, %2$s as content, r.%3$I::extensions.vector as embedding,
             row_number() over (order by r.%1$I) as position
      from %4$s r where %5$s order by r.%1$I limit $3
    ), seen as materialized (
      select p.key, p.position, p.content = '' as blank, p.embedding, s.ctid as stamp, s.stale, s.model_id,
        s.blank as stamped_blank, s.fingerprint, s.content_hash is distinct from h.hash as differs,
        f.ctid as failure, f.model_id = $4 and f.content_hash = h.hash as dead,
        j.waits or p.key = any ($8) and coalesce(s.stale, true) as waits
      from page p
      cross join lateral (select sha256(convert_to(p.content, 'UTF8')) as hash) h
      left join lateral (select x.ctid, x.* from backline.stamps x
        where x.collection_id = $1 and x.key = p.key offset 0) s on true
      left join lateral (select x.ctid, x.* from backline.failures x
        where x.collection_id = $1 and x.key = p.key offset 0) f on true
      left join lateral (select true as waits from backline.jobs x
        where x.collection_id = $1 and x.key = p.key offset 0) j on true
    ), judged as materialized (
      select n.*, case
          when n.failure is not null and not n.dead then 'dead letter of another text'
          when n.dead then null
          when n.stamp is null and n.waits then null
          when n.stamp is null and n.embedding is not null then 'vector without a stamp'
          when n.stamp is null then 'row that was never enqueued'
          when n.stale and n.waits then null
          when n.stale then 'edit without a job'
          when n.model_id <> $4 then case when n.waits then null else 'vector of another model' end
          when n.differs then case when n.waits then null else 'text that changed unnoticed' end
          when n.stamped_blank and n.embedding is not null then 'vector of a row without text'
          when n.stamped_blank then null
          when n.embedding is null then 'vector that is gone'
          when extensions.vector_dims(n.embedding) <> $5 then 'vector of wrong dimensions'
          when not abs(extensions.vector_norm(n.embedding) - 1) < 1e-3
            or abs(extensions.inner_product(n.embedding, $6) - n.fingerprint) > 1e-4
            then 'vector that Backline did not write'
        end as problem
      from seen n
    ), distrusted as (
      delete from backline.stamps s where $7 and s.ctid = any (array(
        select d.stamp from judged d where d.problem is not null and d.stamp is not null and not d.differs))
    ), marked as (
      update backline.stamps s set stale = true where $7 and not s.stale and s.ctid = any (array(
        select d.stamp from judged d where d.problem is not null and d.stamp is not null and d.differs))
    ), requeued as (
      delete from backline.failures f where $7 and f.ctid = any (array(
        select d.failure from judged d where d.problem is not null and d.failure is not null))
    ), queued as (
      insert into backline.jobs (collection_id, key, priority)
      select $1, d.key, 1 from judged d where $7 and d.problem is not null order by d.key
      on conflict do nothing
    )
    select count(*), (array_agg(d.key order by d.position desc))[1],
      coalesce(jsonb_agg(jsonb_build_object('key', d.key, 'problem', d.problem) order by d.position)
               filter (where d.problem is not null), '[]')
    from judged d
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name),
       case when p_after is null then 'true' else format('r.%I > $2::%s', c.key_column, c.key_type) end)
  into scanned, last_key, problems
  using p_collection, p_after, p_limit, c.model_id, v_dimensions, v_projection, p_repair, v_paged;
end $$;
comment on function backline.reconcile_page is
  'API: finds rows of the page after key p_after that need work and that nobody would do, and with p_repair enqueues them.';

-- One page of stamps, jobs or failures: those of rows that do not exist, which p_repair removes.
create or replace function backline.reconcile_orphans(
  p_collection int, p_of text, p_after text, p_limit int, p_repair boolean,
  out scanned bigint, out keys text[], out last_key text
) language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
begin
  if p_of not in ('stamps', 'jobs', 'failures') then
    raise exception using errcode = 'BL001', message = format('there are no orphans of %L', p_of);
  end if;
  select * into strict c from backline.collections where id = p_collection;
  execute format($q$
    with page as materialized (
      select x.key, x.ctid as id from backline.%1$I x
      where x.collection_id = $1 and ($2 is null or x.key > $2) order by x.key limit $3
    ), orphans as materialized (
      select p.key, p.id from page p left join lateral (
        select true as found from %2$s r
        where r.%3$I = p.key::%4$s and r.%3$I::text = p.key offset 0) r on true
      where r.found is null
    ), gone as (
      delete from backline.%1$I x where $4 and x.ctid = any (array(select o.id from orphans o))
    )
    select (select count(*) from page), array(select o.key from orphans o order by o.key),
           (select max(p.key) from page p)
  $q$, p_of, format('%I.%I', c.table_schema, c.table_name), c.key_column, c.key_type)
  into scanned, keys, last_key using p_collection, p_after, p_limit, p_repair;
end $$;
comment on function backline.reconcile_orphans is
  'API: finds stamps, jobs or failures of rows that do not exist, and with p_repair removes them.';
