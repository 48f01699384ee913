-- Builds and maintains the keyword index.

-- Returns the text search configuration of a value such as 'de', 'de-AT' or 'german': `simple` for a language
-- that Postgres does not have, and p_default for null.
create or replace function backline.language_of(p_value text, p_default text) returns text
language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select case when p_value is null then p_default else coalesce((
    select n.name from (values
      ('ar', 'arabic'), ('hy', 'armenian'), ('eu', 'basque'), ('ca', 'catalan'), ('da', 'danish'),
      ('nl', 'dutch'), ('en', 'english'), ('fi', 'finnish'), ('fr', 'french'), ('de', 'german'),
      ('el', 'greek'), ('hi', 'hindi'), ('hu', 'hungarian'), ('id', 'indonesian'), ('ga', 'irish'),
      ('it', 'italian'), ('lt', 'lithuanian'), ('ne', 'nepali'), ('no', 'norwegian'), ('nb', 'norwegian'),
      ('nn', 'norwegian'), ('pt', 'portuguese'), ('ro', 'romanian'), ('ru', 'russian'), ('sr', 'serbian'),
      ('es', 'spanish'), ('sv', 'swedish'), ('ta', 'tamil'), ('tr', 'turkish'), ('yi', 'yiddish')
    ) as n(code, name)
    join pg_catalog.pg_ts_config g on g.cfgname = n.name and g.cfgnamespace = 'pg_catalog'::regnamespace
    where split_part(translate(lower(p_value), '_', '-'), '-', 1) in (n.code, n.name) limit 1), 'simple') end;
$$;

-- Returns the expression of the language of a row r.
create or replace function backline.row_language(k backline.keyword_indexes) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when k.language_sql is null then quote_literal(k.language)
              else format('backline.language_of(%s::text, %L)', k.language_sql, k.language) end;
$$;

-- Returns the statement that indexes the rows of p_source, a query for key, content and language. Rows that
-- are already indexed stay unchanged.
--
-- The planner does not know the number of keys. The statement therefore contains no joins: "in (...) is true"
-- is always a hash look-up, while a join can become 10,000 scans of 10,000 rows.
create or replace function backline.index_statement(p_collection int, p_source text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format($q$
    with source as materialized (%2$s),
    fresh as materialized (
      select n.doc, n.key, n.terms,
             (select coalesce(sum(greatest(cardinality(t.positions), 1)), 0) from unnest(n.terms) t) as length
      from (select nextval('backline.document_ids') as doc, s.key,
                   backline.terms(s.language::regconfig, s.content) as terms
            from source s offset 0) n
    ), placed as materialized (
      insert into backline.documents (collection_id, doc, key, length, terms)
      select %1$s, f.doc, f.key, f.length, tsvector_to_array(f.terms)
      from fresh f on conflict (collection_id, key) do nothing
      returning doc, length
    ), counted as (
      insert into backline.document_counts (collection_id, documents, length)
      select %1$s, count(*), sum(p.length) from placed p having count(*) > 0
    )
    insert into backline.postings (collection_id, term, size, docs, inverse_tfs, lengths)
    select %1$s, u.lexeme, count(*), array_agg(u.doc), array_agg((1 / u.tf)::real),
           array_agg((u.length / u.tf)::real)
    from (select f.doc, f.length::float8 as length, t.lexeme collate "C" as lexeme,
                 greatest(cardinality(t.positions), 1)::float8 as tf
          from fresh f, unnest(f.terms) t where (f.doc in (select p.doc from placed p)) is true) u
    group by u.lexeme
  $q$, p_collection, p_source);
$$;

-- Removes documents by key, and returns the keys of those that existed.
create or replace function backline.unindex_keys(p_collection int, p_keys text[]) returns text[]
language sql set search_path = pg_catalog, pg_temp
set jit = off set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off as $$
  with gone as materialized (
    delete from backline.documents d where d.ctid = any (array(
      select x.id from unnest(p_keys) as u(key) cross join lateral (
        select y.ctid as id from backline.documents y
        where y.collection_id = p_collection and y.key = u.key offset 0) x))
    returning d.key, d.doc, d.length, d.terms
  ), counted as (
    insert into backline.document_counts (collection_id, documents, length)
    select p_collection, -count(*), -sum(g.length) from gone g having count(*) > 0
  ), marked as (
    insert into backline.postings (collection_id, term, size, docs)
    select p_collection, u.term, -count(*), array_agg(u.doc)
    from (select g.doc, unnest(g.terms) as term from gone g) u group by u.term
  )
  select array(select g.key from gone g);
$$;

-- Indexes the present texts of rows in place of the earlier ones. Without p_all, and until the index is
-- built, rows that it does not have yet are left to build_keywords_page().
create or replace function backline.index_keys(p_collection int, p_keys text[], p_all boolean default false)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  c backline.collections;
  k backline.keyword_indexes;
  v_keys text[];
begin
  select * into k from backline.keyword_indexes x where x.collection_id = p_collection;
  v_keys := backline.unindex_keys(p_collection, p_keys);
  if p_all or k.built_at is not null then
    v_keys := array(select u.key from unnest(p_keys) as u(key)
                    where octet_length(u.key) <= backline.longest_key());
  end if;
  if v_keys <> '{}' then
    c := backline.definition(p_collection);
    k := backline.keyword_definition(p_collection);
    if c.guarded then  -- a row of which the text fails has no keywords
      k.text_sql := format('pg_catalog.regexp_replace(backline.try_text(%L, r.*), %L, '''')', k.text_sql,
                           U&'^\E002.*');
    end if;
    execute backline.index_statement(p_collection, format(
      'select x.* from unnest($1) as u(key) cross join lateral ('
      'select %s collate "C" as key, %s as content, %s as language from %s r where %s offset 0) x',
      backline.key_text(c), backline.conditional_text(k.text_sql, c.where_sql), backline.row_language(k),
      backline.source(c), backline.key_match(c, 'u.key'))) using v_keys;
    perform backline.add_languages(c, k, v_keys) where k.language_sql is not null;
  end if;
end $$;

-- Records the languages of rows, which a query is read in.
create or replace function backline.add_languages(
  c backline.collections, k backline.keyword_indexes, p_keys text[]
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_languages text[];
begin
  execute format(
    'select array_agg(distinct x.language) from unnest($1) as u(key) '
    'cross join lateral (select %s as language from %s r where %s offset 0) x',
    backline.row_language(k), backline.source(c), backline.key_match(c, 'u.key'))
  into v_languages using p_keys;
  update backline.keyword_indexes o
  set languages = array(select distinct u.name from unnest(o.languages || v_languages) as u(name) order by 1)
  where o.collection_id = c.id and not v_languages <@ o.languages;
end $$;

-- Indexes the present texts of edited rows. If that fails, as with a dropped language, the index is marked as
-- incomplete without these rows: keywords must not stop the jobs. build_keywords_page() raises the error.
create or replace function backline.follow_keywords(p_collection int, p_keys text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform backline.index_keys(p_collection, p_keys);
exception when others then
  if left(sqlstate, 2) in ('40', '53', '55', '57', '58') then  -- the next attempt may succeed
    raise;
  end if;
  if backline.guard_expressions(p_collection) then
    perform backline.index_keys(p_collection, p_keys);
    return;
  end if;
  perform backline.unindex_keys(p_collection, p_keys);
  update backline.keyword_indexes k set built_at = null where k.collection_id = p_collection;
end $$;

-- Deletes every document of a collection. p_built marks the index as complete, which it is for an empty
-- table. The lock waits for a compaction, because this statement does not see the postings that it merges.
create or replace function backline.empty_keywords(p_collection int, p_built boolean) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select backline.lock(p_collection, 'compaction');
  delete from backline.postings where collection_id = p_collection;
  delete from backline.documents where collection_id = p_collection;
  delete from backline.document_counts where collection_id = p_collection;
  update backline.keyword_indexes
  set built_at = case when p_built then now() end, version = backline.terms_version()
  where collection_id = p_collection;
$$;

-- Returns the language of the first texts of a collection: the one whose stop words they have most, at least
-- a tenth of the words. Short titles have few; they count as English in ASCII, otherwise as no language.
create or replace function backline.guess_language(c backline.collections) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_language text;
begin
  execute format($q$
    with texts as materialized (
      select t.text from (select left(%s, 500) as text from %s r limit 10000) t where t.text <> '' limit 100
    ), words as materialized (
      select lower(m[1]) as word, count(*) as uses
      from texts t, regexp_matches(t.text, '\w+', 'g') m group by 1
    )
    select coalesce(
      (select left(d.dictname, -5) from pg_catalog.pg_ts_dict d cross join words w
       where d.dictname like '%%\_stem' and d.dictnamespace = 'pg_catalog'::regnamespace
       group by d.dictname
       having sum(w.uses) filter (where ts_lexize(d.dictname::regdictionary, w.word) = '{}')
                > 0.1 * sum(w.uses)
       order by sum(w.uses) filter (where ts_lexize(d.dictname::regdictionary, w.word) = '{}') desc, 1
       limit 1),
      case when exists (select from words w where octet_length(w.word) > length(w.word)
                        having sum(w.uses) > 0.1 * (select sum(x.uses) from words x))
           then 'simple' else 'english' end)
  $q$, c.text_sql, backline.source(c)) into v_language;
  return 'pg_catalog.' || v_language;
exception when data_exception or cardinality_violation or raise_exception then  -- for a row, see try_text()
  return 'pg_catalog.english';
end $$;

-- Sets how a collection is indexed for keywords, and discards the existing index. A table of up to 1,000 rows
-- is indexed here. A larger one is indexed by build_keywords_page.
create or replace function backline.set_keywords(
  p_collection int, p_template text default null, p_language regconfig default null,
  p_language_column text default null, p_build boolean default true
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections;
  v_table text;
  v_rows bigint;
  v_template text;
  v_language text;
begin
  perform backline.lock(p_collection, 'log');
  c := backline.definition(p_collection);
  v_table := format('%I.%I', c.table_schema, c.table_name);
  select coalesce(p_template, k.text_template, c.text_template) into v_template
  from (values (1)) one left join backline.keyword_indexes k on k.collection_id = p_collection;
  select case when p_language_column is null then k.language_sql else (backline.compile_expression(
           v_table::regclass, format('r.%I::text', p_language_column), 'text')).sql end into v_language
  from (values (1)) one left join backline.keyword_indexes k on k.collection_id = p_collection;
  insert into backline.keyword_indexes as k
    (collection_id, language, language_sql, text_template, text_sql, text_numbers, text_names, text_types)
  select p_collection, coalesce(p_language::text, k.language, backline.guess_language(c)), v_language,
         v_template, t.text_sql, n.numbers, n.names, n.types
  from backline.compile_text(
    v_table::regclass, v_template, case when v_template is null then c.text_expression end, null) t
  cross join lateral backline.read_columns(v_table::regclass, concat_ws(' ', t.text_sql, v_language)) n
  left join backline.keyword_indexes k on k.collection_id = p_collection
  on conflict (collection_id) do update set text_template = excluded.text_template,
    language_sql = excluded.language_sql, languages = '{}',
    text_sql = excluded.text_sql, text_numbers = excluded.text_numbers, text_names = excluded.text_names,
    text_types = excluded.text_types, language = coalesce(p_language::text, k.language);
  perform backline.install_triggers(p_collection);  -- they compare the columns of this template too
  perform backline.empty_keywords(p_collection, false);
  execute format('select count(*) from (select 1 from %s limit 1001) r', v_table) into v_rows;
  if v_rows <= 1000 and p_build then
    perform backline.build_keywords_page(p_collection, null, 1000);
    update backline.keyword_indexes set built_at = now() where collection_id = p_collection;
  end if;
end $$;
comment on function backline.set_keywords is
  'API: sets template and language of the keyword index and empties it. See build_keywords_page.';

-- Indexes the missing rows of one page, in key order. Changes of these rows are applied later: the lock keeps
-- apply_changes() from running at the same time. The first page empties an index of another terms_version().
create or replace function backline.build_keywords_page(
  p_collection int, p_after text, p_limit int,
  out scanned bigint, out indexed bigint, out last_key text
) language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  c backline.collections;
  v_keys text[];
begin
  perform backline.lock(p_collection, 'log');
  if p_after is null and exists (select from backline.keyword_indexes k where k.collection_id = p_collection
                                 and k.version <> backline.terms_version()) then
    perform backline.empty_keywords(p_collection, false);
  end if;
  c := backline.definition(p_collection);
  execute format($q$
    with page as materialized (
      select %1$s collate "C" as key, row_number() over (order by %2$s) as position
      from %3$s r where %4$s order by %2$s limit $2
    )
    select count(*), (array_agg(p.key order by p.position desc))[1],
      array(select m.key from page m where octet_length(m.key) <= backline.longest_key() and not exists (
        select from backline.documents d where d.collection_id = $3 and d.key = m.key))
    from page p
  $q$, backline.key_text(c), backline.key_order(c), backline.source(c),
       backline.key_after(c, p_after, '$1'))
  into scanned, last_key, v_keys using p_after, p_limit, p_collection;
  perform backline.index_keys(p_collection, v_keys, true);
  indexed := cardinality(v_keys);
end $$;
comment on function backline.build_keywords_page is
  'API: indexes the keywords of the missing rows in the page after key p_after.';

-- Marks the keyword index as complete if every row of the table is in it.
create or replace function backline.keywords_are_built(p_collection int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  c backline.collections;
  v_missing boolean;
begin
  perform backline.lock(p_collection, 'log');  -- a change is either visible here, or applied to a built index
  c := backline.definition(p_collection);
  execute format($q$
    select exists (select from %1$s r where octet_length(%2$s) <= backline.longest_key()
      and not exists (select from backline.documents d where d.collection_id = $1 and d.key = %2$s))
  $q$, backline.source(c), backline.key_text(c)) into v_missing using p_collection;
  update backline.keyword_indexes k set built_at = coalesce(k.built_at, now())
  where k.collection_id = p_collection and not v_missing;
  return not v_missing;
end $$;
comment on function backline.keywords_are_built is
  'API: returns whether every row is in the keyword index, and if so enables it for searches.';

-- Merges document counts and small blocks, and removes the postings of deleted documents. Without p_all it
-- does nothing until 64 statements have written since the last compaction.
--
-- The plan does not depend on statistics: blocks are found by index, and deleted documents by hash.
create or replace function backline.compact_keywords(p_collection int, p_all boolean default false)
returns int language plpgsql set search_path = pg_catalog, pg_temp set jit = off
set enable_seqscan = off set enable_nestloop = off set enable_mergejoin = off as $$
declare
  v_block constant int := 8192;
  v_merged int;
begin
  if not p_all and (select count(*) < 64 from backline.document_counts n
                    where n.collection_id = p_collection) then
    return 0;
  end if;
  if not backline.try_lock(p_collection, 'compaction') then
    return 0;
  end if;
  with deleted as (
    delete from backline.document_counts n where n.collection_id = p_collection
    returning n.documents, n.length
  )
  insert into backline.document_counts (collection_id, documents, length)
  select p_collection, sum(g.documents), sum(g.length) from deleted g having count(*) > 0;

  with crowded as materialized (
    -- Large blocks are rewritten only if a tenth of the term's documents are deleted.
    select p.term, sum(abs(p.size)) filter (where p.size < 0) * 10 >= sum(p.size) filter (where p.size > 0)
                   or sum(abs(p.size)) <= v_block or sum(p.size) <= 0 as whole
    from backline.postings p where p.collection_id = p_collection
    group by p.term having count(*) filter (where p.size < v_block) > case when p_all then 1 else 4 end
  ), taken as materialized (
    delete from backline.postings p where p.ctid = any (array(
      select x.id from crowded c cross join lateral (
        select y.ctid as id from backline.postings y
        where y.collection_id = p_collection and y.term = c.term and (c.whole or y.size < v_block)
        offset 0) x))
    returning p.term, p.size, p.docs, p.inverse_tfs, p.lengths
  ), dead as materialized (
    select t.term, unnest(t.docs) as doc from taken t where t.size < 0
  ), alive as materialized (
    select t.term, unnest(t.docs) as doc, unnest(t.inverse_tfs) as inverse_tf, unnest(t.lengths) as length
    from taken t where t.size > 0
  ), kept as (
    select a.*, (row_number() over (partition by a.term order by a.doc) - 1) / v_block as block
    from alive a where not exists (select from dead d where d.term = a.term and d.doc = a.doc)
  ), merged as (
    insert into backline.postings (collection_id, term, size, docs, inverse_tfs, lengths)
    select p_collection, k.term, count(*), array_agg(k.doc), array_agg(k.inverse_tf), array_agg(k.length)
    from kept k group by k.term, k.block returning 1
  ), still_dead as (
    insert into backline.postings (collection_id, term, size, docs)
    select p_collection, d.term, -count(*), array_agg(d.doc) from dead d
    where not exists (select from alive a where a.term = d.term and a.doc = d.doc)
    group by d.term returning 1
  )
  select count(*) into v_merged from taken;
  return v_merged;
end $$;
comment on function backline.compact_keywords is
  'API: merges the keyword index''s small blocks and returns their number.';

-- Creates and deletes a collection's keyword index together with the collection.
create or replace function backline.keywords_follow() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    -- try_lock() would wait for another session that inserts the row.
    insert into backline.locks (collection_id, name)
    select new.id, u.name from unnest(array['log', 'scan', 'compaction']) as u(name)
    on conflict do nothing;
    if new.role = 'serving' then
      perform backline.set_keywords(new.id);
    end if;
    return new;
  end if;
  perform backline.empty_keywords(old.id, false);
  delete from backline.keyword_indexes where collection_id = old.id;
  delete from backline.synonyms where collection_id = old.id;
  return old;
end $$;
create or replace trigger keywords_inserted after insert on backline.collections
  for each row execute function backline.keywords_follow();
create or replace trigger keywords_deleted after delete on backline.collections
  for each row execute function backline.keywords_follow();

-- Replaces the synonyms of a collection, for example {"vox": "vocal", "wax": "vinyl"}.
create or replace function backline.set_synonyms(p_collection int, p_synonyms jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  delete from backline.synonyms s where s.collection_id = p_collection;
  insert into backline.synonyms (collection_id, word, meaning)
  select p_collection, lower(e.key), e.value from jsonb_each_text(p_synonyms) e;
$$;
comment on function backline.set_synonyms is 'API: replaces the synonyms of a collection.';
