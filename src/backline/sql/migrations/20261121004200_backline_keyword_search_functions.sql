-- Built by `make docs` from schema/functions/keyword_search.sql. Edit that file instead.

-- Searches the keyword index.

-- Raises an error unless the caller can read the collection's table. Row level security is applied later,
-- when the search reads the table with the caller's rights.
create or replace function backline.check_reader(p_collection int) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_table oid;
  v_reader name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  select d.table_id into v_table
  from backline.collections c cross join lateral backline.definition(c.id) d where c.id = p_collection;
  if v_table is null or not pg_catalog.has_any_column_privilege(v_reader, v_table, 'select') then
    raise exception using errcode = '42501', message =
      format('permission denied to search collection %s as %s', p_collection, v_reader);
  end if;
end $$;

-- Returns the words at edit distance 1 that begin with the same letter, as in
-- https://norvig.com/spell-correct.html.
create or replace function backline.misspellings(p_word text) returns setof text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select left(p_word, i - 1) || substr(p_word, i + 1) from generate_series(2, length(p_word)) i
  union
  select left(p_word, i - 1) || substr(p_word, i + 1, 1) || substr(p_word, i, 1) || substr(p_word, i + 2)
  from generate_series(2, length(p_word) - 1) i
  union
  select left(p_word, i - 1) || chr(c) || substr(p_word, i + 1)
  from generate_series(2, length(p_word)) i, generate_series(97, 122) c
  union
  select left(p_word, i - 1) || chr(c) || substr(p_word, i)
  from generate_series(2, length(p_word) + 1) i, generate_series(97, 122) c;
$$;

-- Returns the parts of a query. plain is what to rank by: the query without the marks of phrases, and without
-- what it excludes. A row must match each of the patterns required and none of excluded, in its folded text:
--   "a phrase"               required, as whole words in this order
--   -word, -"a phrase"       excluded; the word begins with a letter, so that -18 stays a number
-- A query of more than 200 characters is a text, of which quotes and dashes are part.
create or replace function backline.query_parts(
  p_query text, out plain text, out required text[], out excluded text[]
) language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_query text := translate(p_query, '“”„«»', '"""""');
  v_pattern constant text := '(^|\s)(-?)(?:"([^"]*)"|((?<=-)[[:alpha:]][^\s"]*))(?=\s|$|[.,;:!?)])';
begin
  plain := p_query;
  required := '{}';
  excluded := '{}';
  if length(p_query) > 200 or v_query !~ '"|(^|\s)-' then
    return;
  end if;
  select coalesce(array_agg(x.pattern) filter (where not x.negative), '{}'),
         coalesce(array_agg(x.pattern) filter (where x.negative), '{}')
  into required, excluded
  from (select m[2] = '-' as negative, backline.phrase_pattern(coalesce(m[3], m[4])) as pattern
        from regexp_matches(v_query, v_pattern, 'g') m) x where x.pattern is not null;
  plain := btrim(translate(regexp_replace(v_query, replace(v_pattern, '(-?)', '(-)'), ' ', 'g'), '"', ' '));
  if plain !~ '\w' then  -- nothing would be left to rank by
    plain := p_query;
    excluded := '{}';
  end if;
end $$;

-- Returns a regular expression of the words of a phrase, in this order, or null without a word. Within a
-- script that is written without spaces, a word begins and ends anywhere.
create or replace function backline.phrase_pattern(p_phrase text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when w.words[1] ~ ('^' || backline.unspaced()) then '' else '\m' end
         || array_to_string(w.words, '\W+')
         || case when w.words[cardinality(w.words)] ~ (backline.unspaced() || '$') then '' else '\M' end
  from (select array_agg(m[1]) as words from regexp_matches(backline.folded(p_phrase), '\w+', 'g') m) w
  where w.words is not null;
$$;

-- Returns whether a text has each required pattern and no excluded one.
create or replace function backline.matches_parts(p_text text, p_required text[], p_excluded text[])
returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_text text := backline.folded(coalesce(p_text, ''));
begin
  return coalesce((select bool_and(v_text ~ u.pattern) from unnest(p_required) as u(pattern)), true)
     and not coalesce((select bool_or(v_text ~ u.pattern) from unnest(p_excluded) as u(pattern)), false);
end $$;

-- Returns the patterns of the words of a query that consists of stop words, such as "the who", which the
-- index does not have. Returns null for any other query.
create or replace function backline.stop_words(p_collection int, p_query text) returns text[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform backline.check_reader(p_collection);
  if exists (select from backline.keyword_indexes k
             cross join lateral unnest(k.languages || k.language) as u(name)
             where k.collection_id = p_collection
               and backline.terms(u.name::regconfig, left(p_query, 2000)) <> '') then
    return null;
  end if;
  return (select array_agg(backline.phrase_pattern(w.word)) from (
    select distinct m[1] as word
    from regexp_matches(backline.folded(left(p_query, 2000)), '\w+', 'g') m limit 8) w);
end $$;

-- Returns the terms of a query that exist in the index, with their weights and document counts:
--   1 per occurrence   the words of the query
--   0.7                two adjacent words joined, so that "side chain" finds "sidechain"
--   0.2 or 0.7         synonyms of a word; 0.7 if the word itself is not in the index
--   0.7                the most frequent correction of a word that is not in the index; of the last word also
--                      the most frequent word that begins with it
-- The column original has the corrected word. Only the first 2,000 characters are read.
create or replace function backline.query_terms(p_collection int, p_query text)
returns table (term text, weight float8, documents bigint, guessed boolean, original text)
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  v_languages regconfig[];
  v_query text := left(p_query, 2000);
  v_last text := substring(backline.folded(v_query) from '[a-z]{3,20}$');
begin
  select array(select distinct u.name::regconfig from unnest(k.languages || k.language) as u(name))
  into v_languages from backline.keyword_indexes k where k.collection_id = p_collection;
  return query
  with words as (
    select m[1] as word, row_number() over () as n
    from regexp_matches(backline.folded(v_query), '\w+', 'g') m
  ), lexemes as (
    select t.lexeme, max(greatest(cardinality(t.positions), 1))::float8 as weight
    from unnest(v_languages) as g(language)
    cross join lateral unnest(backline.terms(g.language, v_query)) t group by t.lexeme
  ), expanded as (
    select a.lexeme, a.weight, true as exact from lexemes a
    union all
    select t.lexeme, 0.7, false
    from unnest(v_languages) as g(language)
    cross join lateral unnest(to_tsvector(g.language, (
      select string_agg(a.word || b.word, ' ') from words a join words b on b.n = a.n + 1
      where length(a.word) > 1 and length(b.word) > 1 and not a.word ~ backline.unspaced()))) t
    where not exists (select from lexemes a where a.lexeme = t.lexeme)
    union all
    select t.lexeme, m.weight, false
    from (select s.meaning, case when exists (
                   select from unnest(v_languages) as g(language)
                   cross join lateral unnest(backline.terms(g.language, s.word)) o
                   join backline.postings p on p.collection_id = p_collection and p.term = o.lexeme
                 ) then 0.2 else 0.7 end as weight
          from backline.synonyms s
          where s.collection_id = p_collection and s.word in (select w.word from words w)) m,
    unnest(v_languages) as g(language) cross join lateral unnest(backline.terms(g.language, m.meaning)) t
    where not exists (select from lexemes a where a.lexeme = t.lexeme)
  ), indexed as materialized (
    select w.lexeme, max(w.weight) as weight, bool_or(w.exact) as exact, coalesce((
      select sum(p.size) from backline.postings p
      where p.collection_id = p_collection and p.term = w.lexeme), 0)::bigint as documents
    from expanded w group by w.lexeme
  ), corrections as (
    select g.term, min(u.weight) * 0.7 as weight, min(g.documents) as documents, min(u.lexeme) as original
    from (select k.lexeme, k.weight from indexed k
          where k.exact and k.documents <= 0 and k.lexeme ~ '^[a-z]{3,20}$' limit 5) u,
    lateral (
      select c.term, c.documents from (
        select p.term, sum(p.size)::bigint as documents from backline.postings p
        where p.collection_id = p_collection and length(u.lexeme) > 3
          and p.term = any (array(select m from backline.misspellings(u.lexeme) m))
        group by p.term having sum(p.size) > 0
        union all
        select p.term, sum(p.size)::bigint from backline.postings p
        where p.collection_id = p_collection and v_last like u.lexeme || '%'
          and p.term collate "C" > u.lexeme and p.term collate "C" < u.lexeme || '~'
        group by p.term having sum(p.size) > 0) c
      order by c.documents desc, c.term limit 1) g
    where not exists (select from indexed k where k.lexeme = g.term)
    group by g.term
  )
  select k.lexeme, k.weight, k.documents, not k.exact, null from indexed k where k.documents > 0
  union all
  select g.term, g.weight, g.documents, true, g.original from corrections g;
end $$;

-- Returns the text to embed for a query: without what it excludes, and with its misspelled words corrected.
-- The ending that stemming took from a word is kept.
create or replace function backline.query_text(p_collection int, p_query text) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_text text;
  t record;
begin
  perform backline.check_reader(p_collection);
  v_text := (backline.query_parts(p_query)).plain;
  for t in select q.term, q.original from backline.query_terms(p_collection, v_text) q
           where q.original is not null loop
    v_text := regexp_replace(v_text, '\m' || t.original, replace(t.term, '\', '\\'), 'gi');
  end loop;
  return v_text;
end $$;
comment on function backline.query_text is
  'API: returns the text to embed for a query, with misspelled words corrected.';

-- Returns the best documents by BM25 (k1 = 1.2, b = 0.75, Lucene's idf), with OR semantics, and the scores of
-- the rows p_also.
--
-- The result is exact. Terms are processed in descending order of their maximum contribution. Once no unseen
-- document can reach the top p_depth, the remaining terms are read only for the documents already scored
-- (MaxScore, Turtle and Flood 1995). p_depth counts deleted documents too. p_rest scales the maximum
-- contribution of the unread terms. A value below 1 is faster and can miss documents that need more than that
-- share, but the scores it returns are still exact.
create or replace function backline.keyword_candidates(
  p_collection int, p_query text, p_limit int, p_also text[] default '{}', p_depth int default null,
  p_rest float8 default 1
) returns table (key text, score float8)
language plpgsql stable security definer rows 100
set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off set enable_mergejoin = off as $$
declare
  k1 constant float8 := 1.2;
  b constant float8 := 0.75;
  rounding constant float8 := 1e-9;          -- of scores summed in a different order
  v_base float8 := k1 * (1 - b);
  v_slope float8;                            -- k1 * b / average length
  v_documents float8; v_length float8;
  v_terms text[]; v_bounds float8[]; v_uses bigint[];
  v_docs bigint[] := '{}'; v_scores float8[] := '{}'; v_also bigint[];
  v_done int := 0; v_from int; v_taken bigint;
  -- Postings to read before the next test for early termination.
  v_budget bigint := case when p_rest < 1 then 8000 else 16000 end;
  v_rest float8;                             -- p_rest of the maximum contribution of the unread terms
  v_bar float8;                              -- the score at rank v_depth so far
  -- Larger than any score. Adding it to the rows p_also ranks them first, which is faster than testing
  -- thousands of documents for membership.
  v_first float8;
  v_depth int := coalesce(p_depth, p_limit + 20);
  v_keys text[]; v_key_scores float8[];
begin
  perform backline.check_reader(p_collection);
  select sum(n.documents), sum(n.length) into v_documents, v_length
  from backline.document_counts n where n.collection_id = p_collection;
  select array_agg(t.term order by t.bound desc, t.term), array_agg(t.bound order by t.bound desc, t.term),
         array_agg(t.documents order by t.bound desc, t.term), p_rest * sum(t.bound)
    into v_terms, v_bounds, v_uses, v_rest
  from (select q.term, q.documents, q.weight * (k1 + 1)
               * ln(1 + greatest(v_documents - q.documents + 0.5, 0.5) / (q.documents + 0.5)) as bound
        from backline.query_terms(p_collection, p_query) q order by bound desc limit 64) t;
  if v_terms is null or not v_documents > 0 then
    return;
  end if;
  v_slope := k1 * b / greatest(v_length / v_documents, 1);
  v_also := array(select d.doc from backline.documents d
                  where d.collection_id = p_collection and d.key = any (p_also));
  -- A power of two, so that the sum keeps the score's digits.
  v_first := 2 ^ ceil(log(2, (v_rest / p_rest + 1)::numeric));

  while v_done < cardinality(v_terms) and (v_bar is null or v_rest >= v_bar) loop
    v_from := v_done + 1;
    v_taken := 0;
    while v_done < cardinality(v_terms) and (v_taken = 0 or v_taken + v_uses[v_done + 1] <= v_budget) loop
      v_done := v_done + 1;
      v_taken := v_taken + v_uses[v_done];
      v_rest := v_rest - p_rest * v_bounds[v_done];
    end loop;
    v_budget := v_budget * 3;
    if v_done = cardinality(v_terms) then
      -- The last terms: select the top documents directly. Keeping the others would serve no later round.
      select array_agg(f.doc), array_agg(f.score),
             case when count(*) = v_depth + cardinality(v_also) then 0 end
        into v_docs, v_scores, v_bar from (
        select x.doc, sum(x.score) as score from (
          select unnest(v_docs) as doc, unnest(v_scores) as score
          union all
          select unnest(v_also), v_first
          union all
          select unnest(p.docs), t.bound / (1 + v_base * unnest(p.inverse_tfs) + v_slope * unnest(p.lengths))
          from unnest(v_terms[v_from:v_done], v_bounds[v_from:v_done]) t(term, bound)
          join backline.postings p on p.collection_id = p_collection and p.term = t.term and p.size > 0
        ) x group by x.doc
        order by 2 desc, x.doc limit v_depth + cardinality(v_also)) f;
      exit;
    end if;
    -- Drops documents that can no longer reach the top. Summing dominates the cost, and each kept document is
    -- summed again in the next round.
    with scored as materialized (
      select x.doc, sum(x.score) as score from (
        select unnest(v_docs) as doc, unnest(v_scores) as score
        union all
        select unnest(p.docs), t.bound / (1 + v_base * unnest(p.inverse_tfs) + v_slope * unnest(p.lengths))
        from unnest(v_terms[v_from:v_done], v_bounds[v_from:v_done]) t(term, bound)
        join backline.postings p on p.collection_id = p_collection and p.term = t.term and p.size > 0
      ) x group by x.doc
    ), bar as materialized (
      select s.score from scored s order by s.score desc offset v_depth - 1 limit 1
    )
    select array_agg(s.doc), array_agg(s.score), (select b.score from bar b) into v_docs, v_scores, v_bar
    from scored s
    where s.score + v_rest + rounding >= coalesce((select b.score from bar b), 0)
       or s.doc in (select unnest(v_also));
  end loop;

  if v_done < cardinality(v_terms) then
    select array_agg(s.doc), array_agg(s.score) into v_docs, v_scores from (
      with contenders as materialized (
        select unnest(v_docs) as doc, unnest(v_scores) as score
        union all
        select unnest(v_also), v_first
      )
      select x.doc, sum(x.score) as score from (
        select n.doc, n.score from contenders n
        union all
        select p.doc, p.bound / (1 + v_base * p.inverse_tf + v_slope * p.length) from (
          select unnest(p.docs) as doc, unnest(p.inverse_tfs) as inverse_tf,
                 unnest(p.lengths) as length, t.bound
          from unnest(v_terms[v_done + 1:], v_bounds[v_done + 1:]) t(term, bound)
          join backline.postings p on p.collection_id = p_collection and p.term = t.term and p.size > 0
        ) p where p.doc in (select n.doc from contenders n)
      ) x group by x.doc
      order by 2 desc, x.doc limit v_depth + cardinality(v_also)) s;
  end if;

  -- Rounds scores, so that equal scores compare as equal whatever the order of summation.
  v_scores := array(select round((case when s >= v_first then s - v_first else s end)::numeric, 9)
                    from unnest(v_scores) with ordinality u(s, n) order by n);
  with ranked as materialized (
    select x.doc, x.score from (select unnest(v_docs) as doc, unnest(v_scores) as score) x
    where x.score > 0 order by x.score desc, x.doc limit v_depth
  )
  select array_agg(f.key order by f.score desc, f.key), array_agg(f.score order by f.score desc, f.key)
    into v_keys, v_key_scores
  from (select d.key, r.score from ranked r
        join backline.documents d on d.collection_id = p_collection and d.doc = r.doc
        order by r.score desc, d.key limit p_limit) f;
  if coalesce(cardinality(v_keys), 0) < p_limit and v_bar is not null then
    -- Too many of the top documents are deleted and await compaction. Search deeper.
    return query select * from backline.keyword_candidates(
      p_collection, p_query, p_limit, p_also, v_depth * 8, p_rest);
    return;
  end if;
  return query
    select unnest(v_keys), unnest(v_key_scores)
    union all
    select d.key, x.score
    from (select unnest(v_docs) as doc, unnest(v_scores) as score) x
    join backline.documents d on d.collection_id = p_collection and d.doc = x.doc
    -- A subquery, because a join of both arrays would try every pair.
    where (x.doc in (select unnest(v_also))) is true
      and d.key <> all (coalesce(v_keys, '{}'));
end $$;
comment on function backline.keyword_candidates is
  'API: returns the keys and BM25 scores of the best rows and of the rows p_also, before row level security.';
