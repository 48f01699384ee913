-- Built by `make docs` from schema/functions/reconcile.sql. Edit that file instead.

-- Finds changes that bypassed the triggers, such as a load with triggers disabled, a restored dump or a
-- vector written by hand. Works page by page beside workers and users. A repair applies only if the row is
-- still in the state that the snapshot showed.

-- Classifies the rows of one page and, with p_repair, enqueues those with a problem. A row whose key is too
-- long becomes a dead letter. A stamp that cannot be trusted is deleted, because claim() would otherwise
-- report the row as up to date.
create or replace function backline.reconcile_page(
  p_collection int, p_after text, p_limit int, p_repair boolean,
  out scanned bigint, out problems jsonb, out last_key text
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_dimensions int;
  v_projection extensions.vector;
  v_leased text[];
  v_long text[];
begin
  c := backline.definition(p_collection);
  select m.dimensions, m.projection into strict v_dimensions, v_projection
  from backline.models m where m.id = c.model_id;
  perform backline.lock(p_collection, 'scan') where p_repair;
  v_leased := backline.batch_leased_keys(p_collection);
  execute format($q$
    with page as materialized (
      select %1$s collate "C" as key, %2$s as content, %3$s::extensions.vector as embedding,
             row_number() over (order by %7$s) as position %8$s
      from %4$s where %5$s order by %7$s limit $3
    ), examined as materialized (
      select p.key, p.position, p.embedding %10$s, p.content = '' as blank, s.ctid as stamp, s.stale,
        s.model_id, s.blank as stamped_blank, s.fingerprint as stamped_fingerprint,
        s.passages as stamped_passages, s.content_hash is distinct from h.hash as differs,
        octet_length(p.key) > backline.longest_key() as long,
        f.ctid as failure, f.model_id = $4 and f.content_hash = h.hash as dead,
        j.waits or p.key = any ($7) and coalesce(s.stale, true) as waits,
        (p.key in (select backline.logged_keys($1))) is true as logged
      from page p
      cross join lateral (select sha256(convert_to(p.content, 'UTF8')) as hash) h
      left join lateral (select x.ctid, x.* from backline.stamps x
        where x.collection_id = $1 and x.key = p.key offset 0) s on true
      left join lateral (select x.ctid, x.* from backline.failures x
        where x.collection_id = $1 and x.key = case when octet_length(p.key) > backline.longest_key()
          then backline.failure_key(p.key) else p.key end offset 0) f on true
      left join lateral (select true as waits from backline.jobs x
        where x.collection_id = $1 and x.key = p.key offset 0) j on true
    ), classified as materialized (
      select n.*, case
          when n.logged then null
          when n.long then case when n.failure is null then 'key that is too long' end
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
          %9$s
        end as problem
      from examined n
    ) %6$s
    select count(*), (array_agg(d.key order by d.position desc))[1],
      coalesce(jsonb_agg(jsonb_build_object('key', d.key, 'problem', d.problem) order by d.position)
               filter (where d.problem is not null), '[]'),
      array_agg(d.key) filter (where d.long and d.problem is not null)
    from classified d
  $q$, backline.key_text(c), c.text_sql, backline.vector_of(c),
       backline.rows_of(c) || case when c.passages is not null then ' cross join '
         || backline.passages_of(c, c.text_sql, '$5', '$6') || ' t' else '' end,
       backline.key_after(c, p_after, '$2'),
       -- A read-only transaction refuses a statement that could write, even if it would not.
       case when p_repair then $q$
    , distrusted as (
      delete from backline.stamps s where s.ctid = any (array(
        select d.stamp from classified d
        where d.problem is not null and d.stamp is not null and not d.differs))
    ), marked as (
      update backline.stamps s set stale = true where not s.stale and s.ctid = any (array(
        select d.stamp from classified d where d.problem is not null and d.stamp is not null and d.differs))
    ), requeued as (
      delete from backline.failures f where f.ctid = any (array(
        select d.failure from classified d where d.problem is not null and d.failure is not null))
    ), queued as (
      insert into backline.jobs (collection_id, key, priority)
      select $1, d.key, 1 from classified d where d.problem is not null and not d.long order by d.key
      on conflict do nothing
    ) $q$ end, backline.key_order(c),
       case when c.passages is not null then ', t.*' else '' end,
       case when c.passages is not null then $s$
          when n.dimensions then 'vector of wrong dimensions'
          when n.gaps or n.passages is distinct from n.stamped_passages then 'passages that are gone or added'
          when n.length or n.strange
            or abs(n.fingerprint - n.stamped_fingerprint) > 1e-4 * sqrt(n.passages)
            then 'vector that Backline did not write' $s$ else $s$
          when extensions.vector_dims(n.embedding) <> $5 then 'vector of wrong dimensions'
          when not (abs(extensions.vector_norm(n.embedding) - 1) < 1e-3
                    or $8 and extensions.vector_norm(n.embedding) > 0)
            or abs(extensions.inner_product(n.embedding, $6) - n.stamped_fingerprint)
               > 1e-4 * greatest(1, extensions.vector_norm(n.embedding))
            then 'vector that Backline did not write' $s$ end,
       case when c.passages is not null then
         ', p.passages, p.fingerprint, p.gaps, p.dimensions, p.length, p.strange' else '' end)
  into scanned, last_key, problems, v_long
  using p_collection, p_after, p_limit, c.model_id, v_dimensions, v_projection, v_leased,
        c.any_length;
  if v_long is not null and p_repair then
    perform backline.refuse_long_keys(p_collection, v_long);
  end if;
end $$;
comment on function backline.reconcile_page is
  'API: finds due rows without a job in the page after key p_after and, with p_repair, enqueues them.';

-- Finds stamps, jobs, failures or vectors of a side table of rows that do not exist, one page at a time.
-- p_repair deletes them.
create or replace function backline.reconcile_orphans(
  p_collection int, p_of text, p_after text, p_limit int, p_repair boolean,
  out scanned bigint, out keys text[], out last_key text
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  s backline.collections;  -- with the columns of the side table
  v_records text;
begin
  if p_of not in ('stamps', 'jobs', 'failures', 'vectors') then
    raise exception using errcode = 'BL001', message =
      format('p_of must be stamps, jobs, failures or vectors, not %L', p_of);
  end if;
  c := backline.definition(p_collection);
  if p_of = 'vectors' and c.into_name is null then
    scanned := 0; keys := '{}';
    return;
  end if;
  v_records := case when p_of <> 'vectors' then 'backline.' || p_of else (backline.side_table(c)).name end;
  s := c;
  s.key_columns := array(select backline.side_key(n) from generate_series(1, cardinality(c.key_columns)) n);
  execute format($q$
    with page as materialized (
      %6$s
    ), orphans as materialized (
      select p.key, p.id from page p left join lateral (
        select true as present from %2$s r
        where %3$s and %4$s = p.row_key offset 0) r on true
      where r.present is null and (p.row_key in (select backline.logged_keys($1))) is not true
    ) %5$s
    select (select count(*) from page), array(select distinct o.key from orphans o order by o.key),
           (select p.key from page p order by p.position desc limit 1)
  $q$, v_records, backline.source(c), backline.key_match(c, 'p.row_key'), backline.key_text(c),
       case when p_repair then format($q$, deleted as (
      delete from %s x where x.ctid = any (array(select o.id from orphans o))
    ) $q$, v_records) end,
       case when p_of <> 'vectors' then format(
         'select x.key, %s as row_key, x.ctid as id, row_number() over (order by x.key) as position '
         'from %s x '
         'where x.collection_id = $1 and ($2 is null or x.key > $2) order by x.key limit $3',
         case p_of when 'failures' then 'coalesce(x.long_key, x.key)' else 'x.key' end, v_records)
       else format(
         'select %1$s as key, %1$s as row_key, r.ctid as id, row_number() over (order by %2$s) as position '
         'from %3$s r '
         'where %4$s order by %2$s fetch first $3 rows with ties',  -- all passages of a row
         backline.key_text(s), backline.key_order(s), v_records,
         backline.key_after(s, p_after, '$2')) end)
  into scanned, keys, last_key using p_collection, p_after, p_limit;
end $$;
comment on function backline.reconcile_orphans is
  'API: finds stamps, jobs, failures or vectors of rows that do not exist and, with p_repair, deletes them.';
