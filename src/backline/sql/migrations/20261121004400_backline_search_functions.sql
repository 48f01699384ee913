-- Built by `make docs` from schema/functions/search.sql. Edit that file instead.

-- Search by vector, by BM25 and by both, on stock Postgres with pgvector 0.8 or later.
--
-- Every function that reads a user's table runs with the caller's rights, so that row level security applies.
-- A few narrow security definer functions read the schema backline. Each of them first checks that the caller
-- can read the collection's table.

-- Returns what a search needs to know about a collection.
create or replace function backline.searchable(p_collection int,
  out c backline.collections,
  out dimensions int, out column_type text, out column_dimensions int,
  out index_type text, out language regconfig, out row_language text, out keyword_text text
) language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform backline.check_reader(p_collection);
  c := backline.definition(p_collection);
  select m.dimensions, t.typname, case when a.atttypmod > 0 then a.atttypmod end,
         k.language::regconfig, backline.row_language(k), k.text_sql,
         backline.indexed_as(a.attrelid, a.attname, t.typname,
                             case when a.atttypmod > 0 then a.atttypmod end, m.dimensions)
  into dimensions, column_type, column_dimensions,
       language, row_language, keyword_text, index_type
  from backline.models m
  left join lateral (select x.* from backline.keyword_definition(c.id) x) k on true
  join pg_catalog.pg_attribute a on a.attrelid = coalesce(c.into_id, c.table_id)
    and a.attname = c.embedding_column and not a.attisdropped
  join pg_catalog.pg_type t on t.oid = a.atttypid
  where m.id = c.model_id;
end $$;

-- Returns those of p_keys that have a vector of the collection's present model. Vectors of different models
-- do not compare.
create or replace function backline.comparable(p_collection int, p_keys text[]) returns table (key text)
language plpgsql stable security definer rows 100
set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  perform backline.check_reader(p_collection);
  return query
    select s.key from backline.collections c
    join backline.stamps s on s.collection_id = c.id and s.model_id = c.model_id
    where c.id = p_collection and s.key = any (p_keys);
end $$;

-- Returns how to compare a vector column in full precision or, with p_as = 'halfvec', in half precision: the
-- expression, the type of the query, and the operator class of an index. A column without fixed dimensions is
-- guarded to the rows with the model's dimensions.
create or replace function backline.comparison(
  p_as text, p_type text, p_column_dimensions int, p_dimensions int, p_column text,
  out expression text, out query_type text, out operators text, out guard text
) language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  query_type := format('extensions.%s(%s)', p_as, p_dimensions);
  operators := format('extensions.%s_cosine_ops', p_as);
  expression := case when p_as = p_type and p_column_dimensions is not null then p_column
                     else format('((%s)::%s)', p_column, query_type) end;
  guard := case when p_column_dimensions is null
                then format('(extensions.vector_dims(%s) = %s)', p_column, p_dimensions) else 'true' end;
end $$;

-- Returns the precision of the column's valid HNSW index, preferring halfvec to vector, or null without an
-- index.
create or replace function backline.indexed_as(
  p_table regclass, p_column text, p_type text, p_column_dimensions int, p_dimensions int
) returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select a.name from pg_catalog.pg_index x
  join pg_catalog.pg_class k on k.oid = x.indexrelid
  join pg_catalog.pg_am m on m.oid = k.relam and m.amname = 'hnsw'
  join pg_catalog.pg_opclass o on o.oid = x.indclass[0]
  join (values ('halfvec'), ('vector')) a(name) on o.opcname = a.name || '_cosine_ops'
  cross join lateral backline.comparison(
    a.name, p_type, p_column_dimensions, p_dimensions, quote_ident(p_column)) c
  where x.indrelid = p_table and x.indisvalid
    and pg_catalog.pg_get_indexdef(x.indexrelid, 1, false) = c.expression
    and coalesce(pg_catalog.pg_get_expr(x.indpred, x.indrelid), 'true') = c.guard
  order by a.name limit 1;
$$;

-- Returns the columns of r to include in a hit: all except vectors and search vectors, which cost more to
-- serialize than the rest.
create or replace function backline.readable_columns(p_table regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(format('r.%I', a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped
    and t.typname not in ('vector', 'halfvec', 'sparsevec', 'tsvector');
$$;

-- Returns what to highlight in a hit: the query's terms, including corrections of misspelled words.
create or replace function backline.marks(p_collection int, p_text text) returns tsquery
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform backline.check_reader(p_collection);
  return (select string_agg(q.marked::text, ' | ')::tsquery from (
    select plainto_tsquery('pg_catalog.simple', t.term) as marked
    from backline.query_terms(p_collection, p_text) t) q where numnode(q.marked) > 0);
end $$;

-- Returns the passages of a text that contain words of the query, which are enclosed in U+E000 and U+E001.
create or replace function backline.snippet(p_language regconfig, p_text text, p_marks tsquery) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select ts_headline(p_language, left(translate(p_text, U&'\E000\E001', ''), 20000),
    coalesce(p_marks, ''::tsquery),
    U&'MaxFragments=2, MinWords=12, MaxWords=30, StartSel=\E000, StopSel=\E001, FragmentDelimiter=" … "');
$$;

-- Returns the common table expressions that score the pool of search_statement, up to "scored".
--
-- Hybrid is a convex sum of the cosine and of BM25 as a share of the query's best BM25, so that the length of
-- a question does not matter. Of a best BM25 below 2, a word that many rows have, it is a share of 2. The odds of the keywords' share are those of p_weight, times the root of the
-- gap and divided by the agreement. The gap is 1 minus the highest cosine, at least 0.1: near a row, small
-- differences of the cosine count. The agreement is the mean share of the best BM25 that the three nearest
-- rows have, at least 0.2: if they lack the words, the words count more.
create or replace function backline.score_statement(p_mode text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case p_mode
    when 'semantic' then 'scored as (select p.key, p.dense, p.keyword, p.dense as score from pool p)'
    when 'keyword' then
      'scored as (select p.key, p.dense, p.keyword, nullif(p.keyword, 0) as score from pool p)'
    else $q$
    nearest_rows as (
      select p.keyword from pool p order by p.dense desc nulls last, p.key limit 3
    ), legs as (
      select nullif(max(p.keyword), 0) as best, greatest(1 - coalesce(max(p.dense), 0), 0.1) as gap,
             (select avg(n.keyword) from nearest_rows n) as agreeing
      from pool p
    ), share as materialized (
      select l.best,
             case when l.best is null then 0 when $7 = 1 then 1 else o.odds / (1 + o.odds) end as words
      from legs l
      cross join lateral (
        select $7 / nullif(1 - $7, 0) * sqrt(l.gap) / greatest(l.agreeing / l.best, 0.2) as odds) o
    ), scored as (
      select p.key, p.dense, p.keyword,
             nullif((1 - s.words) * coalesce(p.dense, 0)
                    + s.words * coalesce(p.keyword / greatest(s.best, 2), 0), 0) as score
      from pool p, share s
    )$q$ end;
$$;

-- Returns two statements. `finding` finds and scores rows. Its parameters: $1 collection, $2 query vector, $3
-- query text, $4 depth, $5 filter, $6 mode, $7 weight, $8 limit, $9 required and $10 excluded patterns of
-- query_parts(), which p_parts announces, $11 patterns of stop_words(). p_exact bypasses the index.
-- `reading` reads the rows found. Its parameters: $1 to $4 keys, scores, dense and keyword scores, $5 offset,
-- $6 the words to highlight, $7 whether to return snippets, $8 the query vector, $9 the passages of a row.
--
-- A row that is split into passages is as near as its nearest passage. The index returns passages, so four
-- times as many are read.
create or replace function backline.search_statement(
  p_collection int, p_mode text, p_filter jsonb, p_exact boolean default false,
  p_parts boolean default false, out finding text, out reading text
) language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  s record;
  i record;
  v_source text;
  v_filter text := 'true';
  v_nearest text := 'select null::text as key, null::float8 as distance, 1 as found where false';
  v_split boolean; v_rows text;
  v_lexical text := 'select null::text as key, null::float8 as score where false';
begin
  select * into s from backline.searchable(p_collection);
  v_source := backline.source(s.c);
  v_split := (s.c).passages is not null;
  v_rows := case when v_split then backline.best_passages_of(s.c, '$2::extensions.vector')
                 else backline.rows_of(s.c) end;
  select * into i from backline.comparison(
    case when p_exact then s.column_type else coalesce(s.index_type, s.column_type) end,
    s.column_type, s.column_dimensions, s.dimensions, backline.vector_of(s.c));
  if p_filter is not null then
    v_filter := backline.compile_filter((s.c).table_id, p_filter, '$5');
  end if;
  -- A row that has left the condition keeps its vector until a worker has seen the edit.
  v_filter := concat_ws(
    ' and ', format('(%s)', v_filter), '(' || (s.c).where_sql || ')',
    case when p_parts then format('backline.matches_parts(%s, $9, $10)', s.keyword_text) end);
  if p_mode <> 'keyword' then
    v_nearest := format($q$
      select %1$s collate "C" as key, %3$s operator(extensions.<=>) $2::%4$s as distance, 1 as found
      from %2$s where %5$s is not null and %6$s and %7$s
      order by %3$s operator(extensions.<=>) $2::%4$s limit $4 %8$s
    $q$, backline.key_text(s.c), case when v_split then backline.all_passages_of(s.c)
                                      else backline.rows_of(s.c) end, i.expression, i.query_type,
       backline.vector_of(s.c), i.guard, v_filter, case when v_split then '* 4' else '' end);
    if v_split then
      v_nearest := format('select n.key, min(n.distance) as distance, count(*) as found from (%s) n '
                          'group by n.key', v_nearest);
    end if;
  end if;
  if p_mode <> 'semantic' then
    -- The index has no stop words: for a query of nothing else, the first rows that have them all.
    v_lexical := format($q$
      select l.key collate "C" as key, l.score from backline.keyword_candidates($1, $3, $4 %s, %s) l
      union all
      (select %s collate "C", 1 from %s r
       where $11 is not null and backline.matches_parts(%s, $11, '{}') and %s limit $4)
    $q$, case when p_filter is null and not p_parts then '' else '* 4' end,
         case p_mode when 'hybrid' then 'array(select n.key from nearest n), p_rest => 0.3' else '''{}''' end,
         backline.key_text(s.c), v_source, s.keyword_text, v_filter);
  end if;
  reading := format($q$
    select t.key, t.score, t.dense, nullif(t.keyword, 0), d.content,
           (select to_jsonb(c) from (select %2$s) c),
           case when $7 then backline.snippet((%3$s)::regconfig, %6$s, $6) end, %7$s
    from unnest($1::text[], $2::float8[], $3::float8[], $4::float8[]) with ordinality
         t(key, score, dense, keyword, position)
    join %4$s r on %5$s
    cross join lateral (select %1$s as content offset 0) d
    %8$s
    where t.position > $5 order by t.position
  $q$, (s.c).text_sql, backline.readable_columns((s.c).table_id), s.row_language, v_source,
       backline.key_match(s.c, 't.key'),
       case when v_split then 'coalesce(g.best, d.content)' else 'd.content' end,
       case when v_split then 'g.passages' else 'null::jsonb' end,
       case when v_split then format('left join %s g on true',
              backline.passages_found(s.c, '$8::extensions.vector',
                                      'case when t.dense is not null then $9 else 0 end')) else '' end);
  finding := format($q$
    with nearest as materialized (%1$s),
    lexical as materialized (%2$s),
    named as materialized (
      select n.key from nearest n union select l.key from lexical l
    ), comparable as materialized (
      select c.key from backline.comparable($1, array(select n.key from named n where $6 <> 'keyword')) c
    ), pool as materialized (
      select n.key, coalesce(l.score, 0) as keyword, v.vector,
             -- NaN: the cosine of a zero vector
             nullif(1 - (v.vector operator(extensions.<=>) $2::extensions.vector), 'NaN') as dense
      from named n
      join %5$s on %6$s
      left join lexical l on l.key = n.key
      left join comparable c on c.key = n.key
      cross join lateral (
        select case when c.key is not null and %3$s then %4$s::extensions.vector end as vector offset 0) v
      where %7$s
    ), %8$s, top as (
      select t.* from scored t where t.score is not null order by t.score desc, t.key limit $8
    )
    select array_agg(t.key order by t.score desc, t.key), array_agg(t.score order by t.score desc, t.key),
           array_agg(t.dense order by t.score desc, t.key), array_agg(t.keyword order by t.score desc, t.key),
           (select coalesce(sum(n.found), 0)::bigint %9$s from nearest n),
           (select count(*) from lexical l where l.score > 0)
    from top t
  $q$, v_nearest, v_lexical, i.guard, backline.vector_of(s.c), v_rows,
       backline.key_match(s.c, 'n.key'), v_filter, backline.score_statement(p_mode),
       case when v_split then '/ 4' else '' end);
end $$;

-- Searches a collection. p_mode is semantic, keyword or hybrid. p_filter is a tree for compile_filter.
--
-- dense is the cosine similarity of the row's vector to the query, or null if the row has no vector of the
-- collection's model. keyword is the BM25 score. Hybrid computes both scores exactly for every row that
-- either leg finds, and combines them; see score_statement. Words are found in the rows that are indexed so
-- far: a search never builds an index.
--
-- passages has the best passages of a row, at most p_passages, if rows are split.
create or replace function backline.search(
  p_collection int, p_mode text, p_text text, p_query real[], p_limit int, p_offset int default 0,
  p_filter jsonb default null, p_weight float8 default 0.4, p_snippets boolean default false,
  p_passages int default 3
) returns table (key text, score float8, dense float8, keyword float8, content text, record jsonb,
                 snippet text, passages jsonb)
language plpgsql stable rows 10
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  v_needed int := p_offset + p_limit;
  v_depth int := greatest(50, 2 * (p_offset + p_limit));  -- 100 gave the same nDCG@10 on every data set
  v_finding text; v_reading text;
  v_keys text[]; v_scores float8[]; v_dense float8[]; v_keyword float8[];
  v_near bigint; v_lexical bigint;
  v_exact boolean := false;
  q record;
  v_parts boolean;
  v_stop_words text[];
begin
  perform pg_catalog.set_config('jit', 'off', true),
          pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true);
  q := backline.query_parts(p_text);
  v_parts := cardinality(q.required || q.excluded) > 0;
  if p_mode <> 'semantic' then
    v_stop_words := backline.stop_words(p_collection, q.plain);
  end if;
  select t.finding, t.reading into v_finding, v_reading
  from backline.search_statement(p_collection, p_mode, p_filter, false, v_parts) t;
  loop
    -- With 100,000 texts, recall@10 of questions is 0.988 at 200 and 0.978 at 100.
    perform pg_catalog.set_config('hnsw.ef_search', least(greatest(200, 2 * v_depth), 1000)::text, true),
            pg_catalog.set_config('enable_indexscan', case when v_exact then 'off' else 'on' end, true);
    execute v_finding into v_keys, v_scores, v_dense, v_keyword, v_near, v_lexical
      using p_collection, p_query, q.plain, v_depth, p_filter, p_mode, p_weight, v_needed, q.required,
            q.excluded, v_stop_words;
    exit when coalesce(cardinality(v_keys), 0) >= v_needed;
    -- Too few rows. If a leg was full, it lost rows to the filter, to row level security or to another model:
    -- search deeper. Otherwise the index scan ended early: compare every row.
    if p_mode <> 'keyword' and v_near >= v_depth or p_mode <> 'semantic' and v_lexical >= v_depth then
      v_depth := v_depth * 8;
    elsif p_mode <> 'keyword' and not v_exact then
      v_exact := true;
      select t.finding into v_finding
      from backline.search_statement(p_collection, p_mode, p_filter, true, v_parts) t;
    else
      exit;
    end if;
  end loop;
  perform pg_catalog.set_config('enable_indexscan', 'on', true);

  return query execute v_reading
  using v_keys, v_scores, v_dense, v_keyword, p_offset,
        case when p_snippets then backline.marks(p_collection, q.plain) end, p_snippets, p_query,
        p_passages;
end $$;
comment on function backline.search is
  'API: returns the best rows by vector, by keywords or by both, with the parts of their scores.';

-- Returns the cosine similarity of each pair of rows: of passages, that of their means.
create or replace function backline.similarities(p_collection int, p_keys text[])
returns table (one text, other text, similarity float8)
language plpgsql stable rows 100 set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  s record;
begin
  select * into s from backline.searchable(p_collection);
  return query execute format($q$
    with chosen as materialized (
      select c.key, %1$s::extensions.vector as v
      from backline.comparable($1, $2) c join %2$s on %3$s
      where %1$s is not null
    )
    select a.key, b.key, 1 - (a.v operator(extensions.<=>) b.v) from chosen a join chosen b on a.key < b.key
  $q$, backline.vector_of(s.c), backline.whole_rows_of(s.c), backline.key_match(s.c, 'c.key'))
  using p_collection, p_keys;
end $$;
comment on function backline.similarities is
  'API: returns the cosine similarities between rows, for removing near-duplicates.';
