-- Which rows are due, and what each of them needs. Scans and claims use this rule. An edit makes a row due in
-- triggers.sql, if it changed the text.
--
-- The first functions return SQL text for other statements. A function that returned the value could not be
-- inlined, because it has `set search_path`. In this text $1 is the collection, $4 its model, $5 its
-- long_text, and s the row's stamp. A row p or n has the columns key and content, and those of row_state().

-- Returns the columns of r that a stamp records apart from the text: `missing` for a null vector, and
-- `excluded` for a row outside the condition of the collection.
create or replace function backline.row_state(c backline.collections) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('%s is null as missing, %s as excluded', backline.vector_of(c), backline.is_excluded(c));
$$;

-- Returns the condition that the stored vector is of the present text and model.
create or replace function backline.matches_stamp(p_row text, p_hash text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('(s.key is not null and s.model_id = $4 and s.blank = %1$s.missing '
                'and s.excluded = %1$s.excluded and s.content_hash = %2$s)', p_row, p_hash);
$$;

-- Returns the condition that a row p of a page is due. A dead letter is not due until its text or the model
-- changes, and a row whose key is too long never is. Only a row with a stamp is hashed: without a stamp it is
-- due whatever its text. The dead letters are looked up only if the collection has any.
create or replace function backline.due_condition(p_collection int) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('octet_length(p.key) <= backline.longest_key() and not (not s.stale and %s) %s',
    backline.matches_stamp('p', $h$sha256(convert_to(p.content, 'UTF8'))$h$),
    case when exists (select from backline.failures f where f.collection_id = p_collection) then
      $f$ and (select true from backline.failures f
               where f.collection_id = $1 and f.key = p.key and f.model_id = $4
                 and f.content_hash = sha256(convert_to(p.content, 'UTF8')) offset 0) is null $f$ end);
$$;

-- Returns the condition that the cache has a vector of a text.
create or replace function backline.cached_condition(p_hash text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format($c$ ((select true from backline.vectors v
    where v.model_id = $4 and v.content_hash = %s
      and (v.cut is null or v.cut = $5) offset 0) is not null) $c$, p_hash);
$$;

-- Returns the expression of what a row needs that is not up to date. p_cache is false if the cache has no
-- vectors of the model, and the look-up is then left out.
--   embed  the text must be embedded
--   reuse  the cache has a vector of this text: complete() copies it
--   blank  the text is empty: complete() clears the vector
create or replace function backline.needed_action(p_content text, p_hash text, p_cache boolean) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format($c$ case when %s = '' then 'blank' %s else 'embed' end $c$, p_content,
    case when p_cache then format($c$ when %s then 'reuse' $c$, backline.cached_condition(p_hash)) end);
$$;

-- Stamps rows outside the condition that have no vector, so that no statement writes to them. A row with a
-- job or a lease is left to its worker, which may be storing a vector.
create or replace function backline.stamp_excluded(c backline.collections, p_keys text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_leased constant text[] := backline.batch_leased_keys(c.id);
begin
  execute format($q$
    insert into backline.stamps as s (collection_id, key, model_id, content_hash, blank, excluded)
    select $1, r.key, $2, sha256(''), true, true
    from unnest($3) as u(key) cross join lateral (
      select %1$s as key, %2$s from %3$s where %4$s offset 0) r
    where r.excluded and r.missing and octet_length(r.key) <= backline.longest_key() and r.key <> all ($4)
      and (select true from backline.jobs j where j.collection_id = $1 and j.key = r.key offset 0) is null
    order by r.key
    on conflict (key, collection_id) do update set model_id = excluded.model_id,
      content_hash = excluded.content_hash, blank = true, excluded = true, stale = false, long = false,
      fingerprint = null, rewrites = 0, stamped_at = clock_timestamp()
    where s.stale or not s.excluded or s.model_id <> excluded.model_id
  $q$, backline.key_text(c), backline.row_state(c), backline.rows_of(c), backline.key_match(c, 'u.key'))
  using c.id, c.model_id, p_keys, v_leased;
end $$;

-- Stamps the rows of a page that are outside the condition.
create or replace function backline.exclude_page(
  p_collection int, p_after text, p_limit int, out scanned bigint, out last_key text
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_keys text[];
begin
  perform backline.lock(p_collection, 'scan');
  execute format($q$
    with page as materialized (
      select %1$s as key, %2$s as excluded, row_number() over (order by %3$s) as position
      from %4$s r where %5$s order by %3$s limit $2
    )
    select count(*), (array_agg(p.key order by p.position desc))[1],
           array_agg(p.key) filter (where p.excluded) from page p
  $q$, backline.key_text(c), backline.is_excluded(c), backline.key_order(c), backline.source(c),
       backline.key_after(c, p_after, '$1'))
  into scanned, last_key, v_keys using p_after, p_limit;
  if v_keys is not null then
    perform backline.stamp_excluded(c, v_keys);
  end if;
end $$;
comment on function backline.exclude_page is
  'API: counts the rows outside the condition in the page after key p_after as excluded.';

-- Returns one page of the table in key order, with whether each row is due.
create or replace function backline.scan_page(
  p_collection int, p_after text, p_limit int, p_with_text boolean default false
) returns table (key text, due boolean, stamped boolean, content text, content_hash bytea, cached boolean)
language plpgsql stable rows 1000
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
begin
  c := backline.definition(p_collection);
  return query execute format($q$
    with page as materialized (
      select %1$s collate "C" as key, %2$s as content, %3$s,
             row_number() over (order by %8$s) as position
      from %4$s where %5$s order by %8$s limit $3
    )
    select p.key, %6$s, s.key is not null and not s.stale, %7$s
    from page p
    left join lateral (select * from backline.stamps x
                       where x.collection_id = $1 and x.key = p.key offset 0) s on true
    order by p.position
  $q$, backline.key_text(c), c.text_sql, backline.row_state(c), backline.rows_of(c),
       backline.key_after(c, p_after, '$2'),
       backline.due_condition(p_collection),
       case when p_with_text then
         $t$ p.content, sha256(convert_to(p.content, 'UTF8')), $t$
         -- A standby has no unlogged table.
         || case when pg_catalog.pg_is_in_recovery() then 'false'
                 else backline.cached_condition($h$sha256(convert_to(p.content, 'UTF8'))$h$) end
       else 'null::text, null::bytea, false' end, backline.key_order(c))
  using p_collection, p_after, p_limit, c.model_id, c.long_text;
end $$;
comment on function backline.scan_page is
  'API: returns the page of rows after key p_after, and which of them are due.';

-- Enqueues the due rows of a page, and records those whose key is too long as dead letters.
create or replace function backline.enqueue_page(
  p_collection int, p_after text, p_limit int,
  out scanned bigint, out due bigint, out last_key text
) language plpgsql set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_leased text[];
  v_long text[];
begin
  perform backline.lock(p_collection, 'scan');
  v_leased := backline.batch_leased_keys(p_collection);
  with page as materialized (
    select r.key, r.due and (r.stamped or r.key <> all (v_leased)) as due, r.stamped,
           row_number() over () as position
    from backline.scan_page(p_collection, p_after, p_limit) r
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
         (select p.key from page p order by p.position desc limit 1),
         (select array_agg(p.key) from page p where octet_length(p.key) > backline.longest_key())
  into scanned, due, last_key, v_long;
  if v_long is not null then
    perform backline.refuse_long_keys(p_collection, v_long);
  end if;
end $$;
comment on function backline.enqueue_page is
  'API: enqueues the due rows of the page after key p_after. last_key is null at the end of the table.';

-- Returns what rows need before any of them is embedded, given the hashes of their texts: the actions of
-- claim(), or
--   changed  the row's text has another hash
-- row_key is the key in the table's own form, such as '7' for '007', or null if the row does not exist. A key
-- that is no value of the key's types, or no JSON array of several, is of no row.
create or replace function backline.inspect(p_collection int, p_keys text[], p_hashes bytea[])
returns table (key text, action text, row_key text)
language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c constant backline.collections := backline.definition(p_collection);
  v_castable constant text[] := backline.castable(p_keys, c);
begin
  return query execute format($q$
    select i.key, case
      when r.present is null then 'gone'
      when r.hash <> i.hash then 'changed'
      when not s.stale and %6$s then 'up_to_date'
      else %7$s end, r.key
    from unnest($2, $3, $6) with ordinality as i(key, hash, possible, position)
    left join lateral (
      select true as present, t.key, t.missing, t.excluded, t.content,
             sha256(convert_to(t.content, 'UTF8')) as hash
      from (select %1$s as key, %2$s as content, %3$s
            from %4$s where %5$s offset 0) t) r on true
    left join lateral (
      select x.* from backline.stamps x where x.collection_id = $1 and x.key = r.key offset 0) s on true
    order by i.position
  $q$, backline.key_text(c), c.text_sql, backline.row_state(c), backline.rows_of(c),
       backline.key_match(c, 'i.possible'), backline.matches_stamp('r', 'i.hash'),
       backline.needed_action('r.content', 'i.hash', p_cache => c.passages is null))
  using p_collection, p_keys, p_hashes, c.model_id, c.long_text, array(
    select case when u.key = any (v_castable) then u.key end
    from unnest(p_keys) with ordinality u(key, position) order by u.position);
end $$;
comment on function backline.inspect is
  'API: returns what rows need, given the hashes of their texts, before any of them is embedded.';
