-- Built by `make docs` from schema/functions/passages.sql. Edit that file instead.

-- Passages: pieces of a row's text, each with its own vector in the side table. A worker splits the text. The
-- job, the lease and the stamp are of the row, and one statement of complete() replaces its passages.
--
-- A passage is embedded with the headings above it, and hash is of what was embedded. The stamp has the
-- number of passages and the sum of their fingerprints. The weights differ, so that it changes if vectors are
-- exchanged.

-- Raises unless the texts of a collection can be split as described.
create or replace function backline.check_passages(p_passages jsonb, p_into text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_passages is null then
    return;
  elsif p_into is null then
    raise exception using errcode = 'BL001',
      message = 'passages are stored in a side table. Name it with --into';
  elsif not p_passages ->> 'by' = any ('{auto,paragraphs,markdown,sentences,tokens}')
    or not (p_passages ->> 'tokens')::int >= 16
    or not (p_passages ->> 'overlap')::int between 0 and (p_passages ->> 'tokens')::int / 2 then
    raise exception using errcode = 'BL001', message = format(
      'passages cannot be %s: by is auto, paragraphs, markdown, sentences or tokens; tokens is at least 16, '
      'and overlap at most half of that', p_passages);
  end if;
end $$;

-- Returns the part of a passage e in the fingerprint of its row, as SQL text. p_projection is an expression.
create or replace function backline.passage_fingerprint(p_vector text, p_ordinal text, p_projection text)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('extensions.inner_product(%s, %s) * (1 + %s %% 101 / 101.0::float8)',
                p_vector, p_projection, p_ordinal);
$$;

-- Returns a lateral subquery with what the passages of r are together, for FROM: their number, fingerprint
-- and faults. p_content is the text of r, or null to leave out the comparison with it.
create or replace function backline.passages_of(
  c backline.collections, p_content text, p_dimensions text, p_projection text
) returns text language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (select format($q$lateral (
    select count(*)::int as passages, sum(%1$s)::real as fingerprint,
           count(*) <> coalesce(max(e.ordinal) + 1, 0) as gaps,
           bool_or(extensions.vector_dims(e.embedding) <> %2$s) as dimensions,
           bool_or(not abs(extensions.vector_norm(e.embedding::extensions.vector) - 1) < 1e-3) as length,
           %3$s as strange
    from (select %6$s as content offset 0) b cross join %4$s e where %5$s offset 0)$q$,
    backline.passage_fingerprint('e.embedding::extensions.vector', 'e.ordinal', p_projection), p_dimensions,
    case when p_content is null then 'false' else $q$bool_or(e.hash <> sha256(convert_to(
      case e.heading when '' then '' else e.heading || e'\n' end
      || substr(b.content, e.start + 1, e."end" - e.start), 'UTF8')))$q$ end,
    s.name, s.joined, coalesce(p_content, 'null::text')) from backline.side_table(c) s);
end $$;

-- Returns the rows r with the vector of their passage nearest to p_query, for FROM.
create or replace function backline.best_passages_of(c backline.collections, p_query text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (select format(
    '(%s r left join lateral (select x.* from (select e.* from %s e where %s offset 0) x '
    'order by x.embedding::extensions.vector operator(extensions.<=>) %s, x.ordinal limit 1) e on true)',
    backline.source(c), s.name, s.joined, p_query) from backline.side_table(c) s);
end $$;

-- Returns a lateral subquery with the passages of r nearest to p_query, at most p_limit, as JSON, and with
-- the text of the best one. d.content is the text of r.
create or replace function backline.passages_found(c backline.collections, p_query text, p_limit text)
returns text language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (select format($q$lateral (
    select jsonb_agg(jsonb_build_object('ordinal', b.ordinal, 'start', b.start, 'end', b."end",
             'heading', b.heading, 'score', b.score, 'text', b.text) order by b.place) as passages,
           min(b.text) filter (where b.place = 1) as best
    from (
      select x.ordinal, x.start, x."end", x.heading, nullif(1 - x.distance, 'NaN') as score,
             substr(d.content, x.start + 1, x."end" - x.start) as text,
             row_number() over (order by x.distance, x.ordinal) as place
      from (select e.*, e.embedding::extensions.vector operator(extensions.<=>) %3$s as distance
            from %1$s e where %2$s order by distance, e.ordinal limit %4$s) x) b)$q$,
    s.name, s.joined, p_query, p_limit) from backline.side_table(c) s);
end $$;

-- Returns the condition that the passages t of a row are those that its stamp s records.
create or replace function backline.passages_match() returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select '(t.passages = s.passages and not t.gaps '
         'and abs(t.fingerprint - s.fingerprint) <= 1e-4 * sqrt(t.passages))';
$$;

-- Returns the vectors of passages of these rows: those in p_vectors, and otherwise of the cache, or of a
-- passage of the same row that has this hash. Null if there is none.
create or replace function backline.passage_vectors(
  c backline.collections, p_keys text[], p_hashes bytea[], p_vectors extensions.vector[]
) returns extensions.vector[] language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = on set enable_mergejoin = off
set enable_sort = on set enable_seqscan = off as $$
declare
  v_vectors extensions.vector[];
  v_projection constant extensions.vector := (
    select m.projection from backline.models m where m.id = c.model_id);
begin
  execute format($q$
    with own as materialized (
      select k.key, e.hash, e.embedding::extensions.vector as embedding
      from (select distinct u.key from unnest($2) as u(key)) k
      cross join lateral (select x.passages, x.fingerprint from backline.stamps x
        where x.collection_id = $1 and x.key = k.key and x.model_id = $4 and x.passages > 0 offset 0) s
      cross join lateral (select * from %1$s r where %2$s offset 0) r
      cross join %3$s t
      cross join lateral (select e.hash, e.embedding from %4$s e where %5$s offset 0) e
      where %6$s
    )
    select array_agg(coalesce(i.embedding, v.embedding, o.embedding) order by i.position)
    from unnest($2, $3, $6) with ordinality as i(key, hash, embedding, position)
    left join lateral (select x.embedding from backline.vectors x where i.embedding is null
      and x.model_id = $4 and x.content_hash = i.hash and x.cut is null offset 0) v on true
    left join (select distinct on (w.key, w.hash) w.* from own w) o on o.key = i.key and o.hash = i.hash
  $q$, backline.source(c), backline.key_match(c, 'k.key'), backline.passages_of(c, null, '0', '$5'),
       (backline.side_table(c)).name, backline.side_match(c, 'k.key'),
       backline.passages_match())
  into v_vectors using c.id, p_keys, p_hashes, c.model_id, v_projection, p_vectors;
  return v_vectors;
end $$;

-- Returns which passages need not be embedded, in order.
create or replace function backline.known_passages(p_collection int, p_keys text[], p_hashes bytea[])
returns boolean[] language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_vectors extensions.vector[] := backline.passage_vectors(
    backline.definition(p_collection), p_keys, p_hashes,
    array_fill(null::extensions.vector, array[cardinality(p_keys)]));
begin
  return array(select v.embedding is not null from unnest(v_vectors) with ordinality v(embedding, position)
               order by v.position);
end $$;
comment on function backline.known_passages is
  'API: returns which passages of rows have a vector already, and need not be embedded.';

-- Returns the part of the statement of complete() that replaces the passages of rows, up to the select of the
-- rows that were written. p_overwrite is false if none of the rows has a vector.
create or replace function backline.passages_write(
  c backline.collections, p_type text, p_rows text, p_match text, p_overwrite boolean
) returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_side constant text := (backline.side_table(c)).name;
  v_keys constant text[] := array(select backline.side_key(n) from generate_series(
                                    1, cardinality(c.key_columns)) n);
begin
  return format($q$
      select distinct on (f.key) f.*, %11$s as excluded from %1$s join %2$s r on %3$s order by f.key
    ), cleared as (
      delete from %4$s e using checked f where %9$s and %5$s
        and (f.action = 'blank' or e.ordinal >= f.passages)
    ), stored as (
      insert into %4$s as e (%6$s, ordinal, start, "end", heading, hash, embedding)
      select %7$s, p.ordinal, p.start, p."end", p.heading, p.hash, p.embedding::%8$s
      from unnest($14, $15, $16, $17, $18, $19, $20)
        as p(key, ordinal, start, "end", heading, hash, embedding)
      where (p.key in (select f.key from checked f where f.action <> 'blank')) is true
      %10$s
    ), written as (select
  $q$, p_rows, backline.source(c), p_match, v_side,
       backline.side_match(c, 'f.key'),
       array_to_string(v_keys, ', '), array_to_string(backline.key_values(c, 'p.key'), ', '), p_type,
       p_overwrite::text, case when p_overwrite then format($q$
      on conflict (%s, ordinal) do update set start = excluded.start, "end" = excluded."end",
        heading = excluded.heading, hash = excluded.hash, embedding = excluded.embedding
      where (e.start, e."end", e.hash, e.heading) is distinct from
              (excluded.start, excluded."end", excluded.hash, excluded.heading)
         or e.embedding operator(extensions.<>) excluded.embedding
       $q$, array_to_string(v_keys, ', ')) else '' end,
       backline.is_excluded(c));
end $$;

-- Returns what complete() writes: of each passage the key, ordinal and vector, and of each row its
-- fingerprint and number of passages. vectors has the first one's, or null if a passage has none. Such a row
-- has lost what it was to reuse.
create or replace function backline.prepare_passages(
  c backline.collections, p_projection extensions.vector, p_type text, p_keys text[], p_actions text[],
  p_of int[], p_hashes bytea[], p_vectors extensions.vector[],
  out keys text[], out ordinals int[], out passages extensions.vector[],
  out vectors extensions.vector[], out fingerprints real[], out counts int[], out actions text[]
) language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_hashjoin = on set enable_sort = on as $$
begin
  if p_of is null and p_actions && '{embed,reuse}' then
    raise exception using errcode = 'BL001', message = format(
      'the texts of %L are split into passages, which this program does not do. Run: backline sync', c.name);
  end if;
  keys := array(select k.key from unnest(p_of) with ordinality u(of, position)
                join unnest(p_keys) with ordinality k(key, of) on k.of = u.of order by u.position);
  passages := case when array_position(p_vectors, null) is null then p_vectors
                   else backline.passage_vectors(c, keys, p_hashes, p_vectors) end;
  ordinals := array(select row_number() over (partition by u.of order by u.position) - 1
                    from unnest(p_of) with ordinality u(of, position) order by u.position);
  execute format($q$
    select array_agg(g.vector order by g.of), array_agg(g.fingerprint order by g.of),
           array_agg(g.passages order by g.of), array_agg(case
             when g.action = 'embed' and g.vector is null then 'reuse' else g.action end order by g.of)
    from (
      select a.of, min(a.action) as action, nullif(count(a.ordinal), 0)::int as passages,
             sum(%s)::real as fingerprint,
             case when bool_and(a.embedding is not null) filter (where a.ordinal is not null)
               then (array_agg(a.embedding) filter (where a.ordinal = 0))[1] end as vector
      from (select u.of, u.action, null::int as ordinal, null::extensions.vector as embedding
            from unnest($1) with ordinality u(action, of)
            union all
            select u.of, null, u.ordinal, u.embedding from unnest($2, $3, $4) u(of, ordinal, embedding)
      ) a group by a.of) g
  $q$, backline.passage_fingerprint(
         'a.embedding' || case when p_type like '%halfvec%' then '::extensions.halfvec::extensions.vector'
                               else '' end, 'a.ordinal', '$5'))
  into vectors, fingerprints, counts, actions using p_actions, p_of, ordinals, passages, p_projection;
end $$;
