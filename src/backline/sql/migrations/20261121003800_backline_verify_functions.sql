-- Built by `make docs` from schema/functions/verify.sql. Edit that file instead.

-- Verifies stored vectors against the rows they belong to.

-- Checks every property of the stored vectors of one page, in key order.
create or replace function backline.verify_page(
  p_collection int, p_after text, p_limit int,
  out scanned bigint, out embedded bigint, out blank bigint, out excluded bigint, out problems jsonb,
  out last_key text
) language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_dimensions int;
  v_projection extensions.vector;
begin
  c := backline.definition(p_collection);
  select m.dimensions, m.projection into strict v_dimensions, v_projection
  from backline.models m where m.id = c.model_id;
  execute format($q$
    with page as materialized (
      select %1$s collate "C" as key, %2$s as content, %3$s::extensions.vector as embedding,
             %7$s as excluded, row_number() over (order by %6$s) as position %8$s
      from %4$s where %5$s order by %6$s limit $3
    ), judged as materialized (
      select p.key, p.position, p.content = '' as blank, p.excluded,
        case
          when p.excluded and p.embedding is not null then 'vector of a row outside the condition'
          when p.content = '' and p.embedding is not null then 'vector of a row without text'
          when p.content = '' then null
          when p.embedding is null then 'no vector'
          %9$s
          when extensions.vector_dims(p.embedding) <> $5 then 'wrong dimensions'
          when not (abs(extensions.vector_norm(p.embedding) - 1) < 1e-3
                    or $7 and extensions.vector_norm(p.embedding) > 0) then 'not unit length'
          when s.key is null then 'no stamp'
          when s.model_id <> $4 then 'another model'
          when s.content_hash <> sha256(convert_to(p.content, 'UTF8')) then 'stale text'
          %10$s
        end as problem
      from page p left join lateral (select * from backline.stamps x
        where x.collection_id = $1 and x.key = p.key offset 0) s on true
    )
    select count(*), count(*) filter (where not j.blank and j.problem is null),
           count(*) filter (where j.blank and not j.excluded and j.problem is null),
           count(*) filter (where j.excluded and j.problem is null),
           coalesce((select jsonb_agg(jsonb_build_object('key', b.key, 'problem', b.problem))
                     from judged b where b.problem is not null), '[]'),
           (array_agg(j.key order by j.position desc))[1]
    from judged j
  $q$, backline.key_text(c), c.text_sql, backline.vector_of(c),
       backline.rows_of(c) || case when c.passages is not null then ' cross join '
         || backline.passages_of(c, c.text_sql, '$5', '$6') || ' t' else '' end,
       backline.key_after(c, p_after, '$2'), backline.key_order(c), backline.is_excluded(c),
       case when c.passages is not null then ', t.*' else '' end,
       case when c.passages is not null then $s$
          when p.dimensions then 'wrong dimensions' when p.length then 'not unit length'
          when s.model_id = $4 and s.content_hash = sha256(convert_to(p.content, 'UTF8')) and (
            p.gaps or p.passages is distinct from s.passages) then 'passages missing or added'
          when s.model_id = $4 and s.content_hash = sha256(convert_to(p.content, 'UTF8')) and p.strange
            then 'not the passages of the text' $s$ else '' end,
       case when c.passages is not null then $s$
          when not (p.passages = s.passages and abs(p.fingerprint - s.fingerprint) <= 1e-4 * sqrt(p.passages))
            then 'not the vector that was written' $s$ else $s$
          when abs(extensions.inner_product(p.embedding, $6) - s.fingerprint)
               > 1e-4 * greatest(1, extensions.vector_norm(p.embedding))
            then 'not the vector that was written' $s$ end)
  into scanned, embedded, blank, excluded, problems, last_key
  using p_collection, p_after, p_limit, c.model_id, v_dimensions, v_projection,
        c.any_length;
end $$;
comment on function backline.verify_page is 'API: verifies the page of rows after key p_after.';
