-- Statements of search. The rules they apply are in schema/functions.

-- name: search
select * from backline.search(%(collection)s, %(mode)s, %(text)s, %(vector)s::real[], %(limit)s,
  %(offset)s, %(filter)s::jsonb, %(weight)s, %(snippets)s, %(passages)s)

-- name: query_text
select backline.query_text(%(collection)s, %(query)s) as text

-- name: keyword_index
-- How a collection is indexed for keywords, and how many documents are indexed.
select k.language::text as language, k.text_template,
       k.built_at is not null and k.version = backline.terms_version() as built,
       (select coalesce(sum(n.documents), 0)::bigint from backline.document_counts n
        where n.collection_id = k.collection_id) as documents
from backline.keyword_indexes k where k.collection_id = %(collection)s

-- name: set_keywords
select backline.set_keywords(%(collection)s, %(template)s, %(language)s::text::regconfig,
  %(language_column)s)

-- name: text_search_configurations
select c.cfgname as name from pg_catalog.pg_ts_config c order by 1

-- name: build_keywords_page
select * from backline.build_keywords_page(%(collection)s, %(after)s, %(limit)s)

-- name: keywords_are_built
select backline.keywords_are_built(%(collection)s) as built

-- name: compact_keywords
select backline.compact_keywords(%(collection)s, true) as merged

-- name: vector_index
select * from backline.vector_index(%(collection)s)

-- name: sample_vectors
select backline.sample_vectors(%(collection)s, %(count)s) as vector

-- name: nearest
select * from backline.nearest(%(collection)s, %(vector)s::real[], %(limit)s, %(exact)s)

-- name: similarities
select * from backline.similarities(%(collection)s, %(keys)s)

-- name: keep_queries
select backline.keep_queries(%(queries)s)

-- name: delete_queries
select backline.delete_queries(%(collection)s) as deleted

-- name: kept_queries
-- The kept queries of a collection, the latest first.
select k.text, k.mode, k.times, k.asked_at from backline.kept_queries k
where k.collection = %(collection)s order by k.asked_at desc, k.digest, k.mode limit %(limit)s

-- name: kept_count
select count(*) as kept from backline.kept_queries k where k.collection = %(collection)s

-- name: queries_by_meaning
-- The latest kept queries that were compared with vectors.
select k.text from backline.kept_queries k
where k.collection = %(collection)s and k.mode <> 'keyword'
group by k.digest, k.text order by max(k.asked_at) desc, k.digest limit %(limit)s

-- name: missing_rows
-- The first of these keys that no row of the table has, and how many there are.
select min(i.key) as key, count(*) as count
from backline.inspect(%(collection)s, %(keys)s::text[], '{}') i
where i.row_key is distinct from i.key

-- name: vectors_of
-- How many rows have a vector of the collection's present model, outdated ones included.
select count(*) as vectors from backline.collections c
join backline.stamps s on s.collection_id = c.id and s.model_id = c.model_id and not s.blank
where c.id = %(collection)s

-- name: store_evaluation
select backline.store_evaluation(%(collection)s, %(model)s, %(candidate_model)s, %(result)s) as made_at

-- name: latest_evaluation
select e.made_at, e.result from backline.evaluations e
where e.collection = %(collection)s order by e.id desc limit 1
