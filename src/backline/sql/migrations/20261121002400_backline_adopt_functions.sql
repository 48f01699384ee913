-- Built by `make docs` from schema/functions/adopt.sql. Edit that file instead.

-- Adopts the vectors that a column holds when its table is declared: stamps their rows without a call to a
-- provider. Until the last page the collection is marked as `adopting`, and no worker fills it.

-- Returns how many vectors a column holds, 0 if it does not exist.
create or replace function backline.vectors_in(p_table regclass, p_column text) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_count bigint := 0;
begin
  if exists (select from pg_catalog.pg_attribute a
             where a.attrelid = p_table and a.attname = p_column and not a.attisdropped) then
    execute format('select count(r.%I) from %s r', p_column, p_table) into v_count;
  end if;
  return v_count;
end $$;

-- Raises if a column holds vectors. p_existing is what to do about them: refuse, adopt or overwrite.
create or replace function backline.check_existing(p_table regclass, p_column text, p_existing text)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_count bigint;
  v_rows bigint;
begin
  if p_existing not in ('refuse', 'adopt', 'overwrite') then
    raise exception using errcode = 'BL001', message =
      format('existing is %L; use refuse, adopt or overwrite', p_existing);
  elsif p_existing <> 'refuse' then
    return;
  end if;
  v_count := backline.vectors_in(p_table, p_column);
  if v_count > 0 then
    execute format('select count(*) from %s', p_table) into v_rows;
    raise exception using errcode = 'BL008', message = format(
      'the column %1$I of %2$s holds %3$s vectors, in %4$s rows. Nothing was changed. To keep them, if a '
      'sample that is embedded again agrees, run the same command with --adopt: backline add %5$s … --adopt. '
      'To replace them: backline add %5$s … --overwrite', p_column, p_table, v_count, v_rows,
      backline.shell_word(p_table::text));
  end if;
end $$;

-- Returns random rows that have a text and a vector. The collection need not exist: a declaration that was
-- rolled back holds no lock while the table is read.
create or replace function backline.adoption_sample(c backline.collections, p_limit int)
returns table (key text, content text, embedding real[])
language plpgsql volatile rows 200
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 set jit = off as $$
begin
  -- The texts of all rows would take longer than their keys. Some of these rows may have none.
  return query execute format($q$
    with picked as materialized (
      select x.key from (select %1$s as key from %2$s where %3$s is not null) x order by random() limit 5 * $1
    )
    select k.key, t.content, t.embedding from picked k cross join lateral (
      select %4$s as content, %3$s::extensions.vector::real[] as embedding from %2$s where %5$s offset 0) t
    where t.content <> '' limit $1
  $q$, backline.key_text(c), backline.rows_of(c), backline.vector_of(c), c.text_sql,
       backline.key_match(c, 'k.key'))
  using p_limit;
end $$;

-- Stamps the rows of one page that have a text and a vector of the model's dimensions. A row that changed
-- since the declaration has a line in the log, a job or a stamp, and is left out: its vector may be of the
-- text before. apply_keys() takes the same lock, so no line becomes a job meanwhile.
create or replace function backline.adopt_page(
  p_collection int, p_after text, p_limit int, out scanned bigint, out adopted bigint, out last_key text
) language plpgsql
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  m backline.models;
  v_other_length boolean;
begin
  c := backline.definition(p_collection);
  if not c.adopting then
    raise exception using errcode = 'BL001', message = format('%s is not being adopted', c.name);
  end if;
  select * into strict m from backline.models x where x.id = c.model_id;
  perform backline.lock(p_collection, 'scan');
  execute format($q$
    with page as materialized (
      select %1$s collate "C" as key, %2$s as content, %3$s::extensions.vector as embedding,
             row_number() over (order by %6$s) as position
      from %4$s where %5$s order by %6$s limit $3
    ), adopted as materialized (
      select p.key, sha256(convert_to(p.content, 'UTF8')) as hash, p.embedding,
             extensions.vector_norm(p.embedding) as length
      from page p
      left join lateral (select true as present from backline.stamps x
                         where x.collection_id = $1 and x.key = p.key offset 0) s on true
      left join lateral (select true as present from backline.jobs x
                         where x.collection_id = $1 and x.key = p.key offset 0) j on true
      where p.content <> '' and extensions.vector_dims(p.embedding) = $5
        and extensions.vector_norm(p.embedding) > 0 and s.present is null and j.present is null
        and (p.key in (select backline.logged_keys($1))) is not true
        and octet_length(p.key) <= backline.longest_key()
    ), stamped as (
      insert into backline.stamps (collection_id, key, model_id, content_hash, fingerprint)
      select $1, a.key, $4, a.hash, extensions.inner_product(a.embedding, $6) from adopted a
      on conflict do nothing returning 1
    )
    select (select count(*) from page), (select count(*) from stamped),
           (select p.key from page p order by p.position desc limit 1),
           (select bool_or(abs(a.length - 1) >= 1e-3) from adopted a)
  $q$, backline.key_text(c), c.text_sql, backline.vector_of(c), backline.rows_of(c),
       backline.key_after(c, p_after, '$2'), backline.key_order(c))
  into scanned, adopted, last_key, v_other_length
  using p_collection, p_after, p_limit, c.model_id, m.dimensions, m.projection;
  if v_other_length then
    update backline.collections x set any_length = true where x.id = p_collection and not x.any_length;
  end if;
end $$;

-- Ends an adoption. Rows without a stamp are due from now on.
create or replace function backline.finish_adoption(p_collection int) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backline.collections c set adopting = false where c.id = p_collection;
$$;
