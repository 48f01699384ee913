-- Built by `make docs` from schema/functions/search.sql. Edit that file instead.

-- Search: nearest vectors, BM25, and both fused, on stock Postgres with pgvector 0.8 or later.
--
-- Every function that reads a user's table runs with its caller's rights, so that row level security
-- holds for a search as for any other read. What it needs of this schema comes from a few narrow
-- functions with the owner's rights, each of which first asks whether the caller may read the table.

-- What a search has to know of a collection, for any caller who may read its table.
create or replace function backline.searchable(p_collection int,
  out source regclass, out key_column text, out key_type text, out text_sql text, out embedding_column text,
  out dimensions int, out column_type text, out column_dimensions int,
  out index_type text, out language regconfig, out keywords_built boolean
) language plpgsql stable security definer set search_path = '' as $$
begin
  perform backline.check_reader(p_collection);
  select format('%I.%I', c.table_schema, c.table_name)::regclass, c.key_column, c.key_type, c.text_sql,
         c.embedding_column, m.dimensions, t.typname, case when a.atttypmod > 0 then a.atttypmod end,
         k.language::regconfig, k.built_at is not null,
         backline.indexed_as(a.attrelid, a.attname, t.typname, case when a.atttypmod > 0 then a.atttypmod end, m.dimensions)
  into source, key_column, key_type, text_sql, embedding_column, dimensions, column_type, column_dimensions,
       language, keywords_built, index_type
  from backline.collections c
  join backline.models m on m.id = c.model_id
  left join backline.keyword_indexes k on k.collection_id = c.id
  join pg_catalog.pg_attribute a on a.attrelid = format('%I.%I', c.table_schema, c.table_name)::regclass
    and a.attname = c.embedding_column and not a.attisdropped
  join pg_catalog.pg_type t on t.oid = a.atttypid
  where c.id = p_collection;
end $$;

-- Of these rows, those whose stored vector is of the collection's own model: only they compare.
create or replace function backline.comparable(p_collection int, p_keys text[]) returns table (key text)
language plpgsql stable security definer rows 100
set search_path = '' set enable_seqscan = off as $$
begin
  perform backline.check_reader(p_collection);
  return query
    select s.key from backline.collections c
    join backline.stamps s on s.collection_id = c.id and s.model_id = c.model_id
    where c.id = p_collection and s.key = any (p_keys);
end $$;

-- A vector column compared in full or, with p_as halfvec, in half precision: the expression, the type
-- of the query that compares with it, and the operators of an index over it. A column that takes any
-- number of dimensions is read where they are the model's.
create or replace function backline.comparison(
  p_as text, p_type text, p_column_dimensions int, p_dimensions int, p_column text,
  out expression text, out query_type text, out operators text, out guard text
) language plpgsql immutable set search_path = '' as $$
begin
  query_type := format('extensions.%s(%s)', p_as, p_dimensions);
  operators := format('extensions.%s_cosine_ops', p_as);
  expression := case when p_as = p_type and p_column_dimensions is not null then p_column
                     else format('((%s)::%s)', p_column, query_type) end;
  guard := case when p_column_dimensions is null
                then format('(extensions.vector_dims(%s) = %s)', p_column, p_dimensions) else 'true' end;
end $$;

-- The precision in which a valid HNSW index holds a column, halfvec before vector; null without one.
create or replace function backline.indexed_as(
  p_table regclass, p_column text, p_type text, p_column_dimensions int, p_dimensions int
) returns text language sql stable set search_path = '' as $$
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

-- The columns of r that a reader of a hit wants to see: all but vectors and search vectors, which take
-- longer to write out than everything else.
create or replace function backline.readable_columns(p_table regclass) returns text
language sql stable set search_path = '' as $$
  select string_agg(format('r.%I', a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped
    and t.typname not in ('vector', 'halfvec', 'sparsevec', 'tsvector');
$$;

-- What to mark in a hit: the query's terms, and the words that its misspellings were read as.
create or replace function backline.marks(p_collection int, p_text text) returns tsquery
language plpgsql stable security definer set search_path = '' as $$
begin
  perform backline.check_reader(p_collection);
  return (select string_agg(q.marked::text, ' | ')::tsquery from (
    select plainto_tsquery('pg_catalog.simple', t.term) as marked
    from backline.query_terms(p_collection, p_text) t) q where numnode(q.marked) > 0);
end $$;

-- The passages of a text that a query's words are in; the words stand between U+E000 and U+E001.
create or replace function backline.snippet(p_language regconfig, p_text text, p_marks tsquery) returns text
language sql stable set search_path = '' as $$
  select ts_headline(p_language, left(translate(p_text, U&'\E000\E001', ''), 20000), coalesce(p_marks, ''::tsquery),
    U&'MaxFragments=2, MinWords=12, MaxWords=30, StartSel=\E000, StopSel=\E001, FragmentDelimiter=" … "');
$$;

-- How search_statement scores its pool, as the common table expressions up to "scored".
--
-- Hybrid is a convex combination of the cosine and of BM25 / 16. The share of the words is p_weight where
-- they tell the best row from an ordinary one as well as they do on the whole: 33 points of BM25 for each
-- point of cosine, times the root of the gap, which is what the nearest row's cosine lacks of 1. Words
-- that nearly every candidate has count for less, telling ones for more, above all where the nearest row
-- lacks them, and all for less where a row says nearly the same as the query. Then the query is moved
-- towards the best row (Rocchio 1971), so that what resembles the best answer follows it: the further, the
-- wider the gap, and at most halfway, since a query that is worded as its answer has nothing to gain. An
-- ordinary row is the median of the fifty best of either leg, whatever page is asked for.
create or replace function backline.score_statement(p_mode text) returns text
language sql immutable set search_path = '' as $$
  select case p_mode
    when 'semantic' then 'scored as (select p.key, p.dense, p.keyword, p.dense as score from pool p)'
    when 'keyword' then 'scored as (select p.key, p.dense, p.keyword, nullif(p.keyword, 0) as score from pool p)'
    else $q$
    placed as (
      select p.keyword, p.dense, row_number() over (order by p.keyword desc, p.key) as by_words,
             row_number() over (order by p.dense desc nulls last, p.key) as by_meaning
      from pool p
    ), contrast as (
      select 1.25 * max(p.keyword) - percentile_cont(0.5) within group (order by p.keyword)
               - 0.25 * max(p.keyword) filter (where p.by_meaning = 1) as words,
             max(p.dense) - percentile_cont(0.5) within group (order by p.dense) as meaning,
             greatest(1 - coalesce(max(p.dense), 0), 0) as gap
      from placed p where p.by_meaning <= 50 or p.by_words <= 50 and p.keyword > 0
    ), told as (
      select least(greatest(c.words / 33 / greatest(c.meaning, 0.05) * sqrt(greatest(c.gap, 0.1)),
                            0.1), 10) as ratio, c.gap
      from contrast c
    ), share as materialized (
      select case when $7 = 1 then 1 else $7 * t.ratio / (1 - $7 + $7 * t.ratio) end as words,
             least(6 * t.gap ^ 2, 1) as feedback
      from told t
    ), best as materialized (
      -- the length of the moved query, and 1 at least, for it may have met its opposite
      select case when p.dense is not null then p.vector end as vector,
             sqrt(1 + s.feedback ^ 2 + 2 * s.feedback * greatest(p.dense, 0)) as length
      from pool p, share s
      order by (1 - s.words) * coalesce(p.dense, 0) + s.words * p.keyword / 16 desc, p.key limit 1
    ), scored as (
      select p.key, p.dense, p.keyword, nullif((1 - s.words) * coalesce(
               (p.dense + s.feedback * (1 - (p.vector operator(extensions.<=>) b.vector))) / b.length, p.dense, 0)
               + s.words * p.keyword / 16, 0) as score
      from pool p, share s, best b
    )$q$ end;
$$;

-- The statement that finds and scores. Its parameters: $1 collection, $2 query vector, $3 query text,
-- $4 how deep to look, $5 filter, $6 mode, $7 weight, $8 how many. p_exact leaves the index aside.
-- And the one that reads what was found: $1 to $4 keys, scores, dense and keyword parts, $5 offset,
-- $6 the words to mark in a snippet, $7 whether there are to be snippets.
create or replace function backline.search_statement(
  p_collection int, p_mode text, p_filter jsonb, p_exact boolean default false,
  out finding text, out reading text
) language plpgsql stable set search_path = '' as $$
declare
  s record;
  i record;
  v_filter text := 'true';
  v_nearest text := 'select null::text as key, null::float8 as distance where false';
  v_lexical text := 'select null::text as key, null::float8 as score where false';
begin
  select * into s from backline.searchable(p_collection);
  select * into i from backline.comparison(
    case when p_exact then s.column_type else coalesce(s.index_type, s.column_type) end,
    s.column_type, s.column_dimensions, s.dimensions, format('r.%I', s.embedding_column));
  if p_filter is not null then
    v_filter := backline.compile_filter(s.source, p_filter, '$5');
  end if;
  if p_mode <> 'keyword' then
    v_nearest := format($q$
      select r.%1$I::text collate "C" as key, %3$s operator(extensions.<=>) $2::%4$s as distance
      from %2$s r where r.%5$I is not null and %6$s and %7$s
      order by %3$s operator(extensions.<=>) $2::%4$s limit $4
    $q$, s.key_column, s.source, i.expression, i.query_type, s.embedding_column, i.guard, v_filter);
  end if;
  if p_mode <> 'semantic' then
    if not coalesce(s.keywords_built, false) then
      raise exception using errcode = 'BL001', message = format(
        'the keyword index of %s is not built yet. Run backline index, or search with --mode semantic', s.source);
    end if;
    v_lexical := format(
      'select l.key collate "C" as key, l.score from backline.keyword_candidates($1, $3, $4 %s, %s) l',
      case when p_filter is null then '' else '* 4' end,
      case p_mode when 'hybrid' then 'array(select n.key from nearest n), p_rest => 0.3' else '''{}''' end);
  end if;
  reading := format($q$
    select t.key, t.score, t.dense, nullif(t.keyword, 0), %1$s, (select to_jsonb(c) from (select %2$s) c),
           case when $7 then backline.snippet(%3$L::regconfig, %1$s, $6) end
    from unnest($1::text[], $2::float8[], $3::float8[], $4::float8[]) with ordinality
         t(key, score, dense, keyword, position)
    join %4$s r on r.%5$I = t.key::%6$s
    where t.position > $5 order by t.position
  $q$, s.text_sql, backline.readable_columns(s.source), s.language, s.source, s.key_column, s.key_type);
  finding := format($q$
    with nearest as materialized (%1$s),
    lexical as materialized (%2$s),
    named as materialized (
      select n.key from nearest n union select l.key from lexical l
    ), comparable as materialized (
      select c.key from backline.comparable($1, array(select n.key from named n where $6 <> 'keyword')) c
    ), pool as materialized (
      select n.key, coalesce(l.score, 0) as keyword, v.vector,
             nullif(1 - (v.vector operator(extensions.<=>) $2::extensions.vector), 'NaN') as dense  -- of zeros
      from named n
      join %5$s r on r.%6$I = n.key::%7$s
      left join lexical l on l.key = n.key
      left join comparable c on c.key = n.key
      cross join lateral (
        select case when c.key is not null and %3$s then r.%4$I::extensions.vector end as vector offset 0) v
      where %8$s
    ), %9$s, top as (
      select t.* from scored t where t.score is not null order by t.score desc, t.key limit $8
    )
    select array_agg(t.key order by t.score desc, t.key), array_agg(t.score order by t.score desc, t.key),
           array_agg(t.dense order by t.score desc, t.key), array_agg(t.keyword order by t.score desc, t.key),
           (select count(*) from nearest), (select count(*) from lexical l where l.score > 0)
    from top t
  $q$, v_nearest, v_lexical, i.guard, s.embedding_column, s.source, s.key_column, s.key_type, v_filter,
       backline.score_statement(p_mode));
end $$;

-- The one search. p_mode is semantic, keyword or hybrid; p_filter is what compile_filter reads.
--
-- dense is the cosine similarity of a row's vector to the query's, null where the row has none of the
-- collection's own model; keyword is the BM25 score. Hybrid scores every row that either leg finds by
-- both legs, exactly, and adds them; see score_statement. BM25 is divided by a constant because it grows
-- with what the query says: a long, telling query leans on its words, a vague one on its meaning. See
-- docs/explanation/search.md for the measurements.
create or replace function backline.search(
  p_collection int, p_mode text, p_text text, p_query real[], p_limit int, p_offset int default 0,
  p_filter jsonb default null, p_weight float8 default 0.4, p_snippets boolean default false
) returns table (key text, score float8, dense float8, keyword float8, content text, record jsonb, snippet text)
language plpgsql stable rows 10
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  v_wanted int := p_offset + p_limit;
  v_depth int := greatest(50, 2 * (p_offset + p_limit));  -- 50 gave the same nDCG@10 as 100 on every set
  v_finding text; v_reading text;
  v_keys text[]; v_scores float8[]; v_dense float8[]; v_keyword float8[];
  v_near bigint; v_lexical bigint;
  v_exact boolean := false;
begin
  perform pg_catalog.set_config('jit', 'off', true),
          pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true);
  select q.finding, q.reading into v_finding, v_reading from backline.search_statement(p_collection, p_mode, p_filter) q;
  loop
    -- At 100,000 texts, questions recall 0.988 of the nearest ten with 200 and 0.978 with 100.
    perform pg_catalog.set_config('hnsw.ef_search', least(greatest(200, 2 * v_depth), 1000)::text, true),
            pg_catalog.set_config('enable_indexscan', case when v_exact then 'off' else 'on' end, true);
    execute v_finding into v_keys, v_scores, v_dense, v_keyword, v_near, v_lexical
      using p_collection, p_query, p_text, v_depth, p_filter, p_mode, p_weight, v_wanted;
    exit when coalesce(cardinality(v_keys), 0) >= v_wanted;
    -- Fewer than asked for. A leg that was full lost rows to the filter, to row level security or to
    -- another model: look deeper. An index scan that ended early gave up: read the table itself.
    if p_mode <> 'keyword' and v_near >= v_depth or p_mode <> 'semantic' and v_lexical >= v_depth then
      v_depth := v_depth * 8;
    elsif p_mode <> 'keyword' and not v_exact then
      v_exact := true;
      select q.finding into v_finding from backline.search_statement(p_collection, p_mode, p_filter, true) q;
    else
      exit;
    end if;
  end loop;
  perform pg_catalog.set_config('enable_indexscan', 'on', true);

  return query execute v_reading
  using v_keys, v_scores, v_dense, v_keyword, p_offset,
        case when p_snippets then backline.marks(p_collection, p_text) end, p_snippets;
end $$;
comment on function backline.search is
  'API: the best rows by meaning, by keywords or by both, with the parts of their scores.';

-- How alike rows are, pair by pair: the cosine similarity of their vectors.
create or replace function backline.similarities(p_collection int, p_keys text[])
returns table (one text, other text, similarity float8)
language plpgsql stable rows 100 set search_path = '' set jit = off as $$
declare
  s record;
begin
  select * into s from backline.searchable(p_collection);
  return query execute format($q$
    with chosen as materialized (
      select c.key, r.%1$I::extensions.vector as v
      from backline.comparable($1, $2) c join %2$s r on r.%3$I = c.key::%4$s
      where r.%1$I is not null
    )
    select a.key, b.key, 1 - (a.v operator(extensions.<=>) b.v) from chosen a join chosen b on a.key < b.key
  $q$, s.embedding_column, s.source, s.key_column, s.key_type) using p_collection, p_keys;
end $$;
comment on function backline.similarities is 'API: the cosine similarities between rows, for leaving out near-duplicates.';

-- The rows nearest to a vector, by cosine. Only vectors of the collection's own model compare.
create or replace function backline.search_dense(p_collection int, p_query real[], p_limit int)
returns table (key text, similarity float8, content text, record jsonb)
language sql stable rows 10 set search_path = '' as $$
  select s.key, s.dense, s.content, s.record
  from backline.search(p_collection, 'semantic', null, p_query, p_limit) s;
$$;
comment on function backline.search_dense is 'API: the rows nearest to a vector, by cosine similarity.';
