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
