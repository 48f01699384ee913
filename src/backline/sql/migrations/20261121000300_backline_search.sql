-- Search: nearest vectors, BM25, and both fused, on stock Postgres with pgvector 0.8 or later.
--
-- Every function that reads a user's table runs with its caller's rights, so that row level security
-- holds for a search as for any other read. What it needs of this schema comes from a few narrow
-- functions with the owner's rights, each of which first asks whether the caller may read the table.

-- ---------------------------------------------------------------------------------- keyword index

-- How a collection is indexed for keywords. A field that is named twice in the template weighs twice.
create table backline.keyword_indexes (
  collection_id int      primary key,
  language      text     not null default 'english',  -- as text: pg_upgrade refuses columns of type regconfig
  text_template text     not null,
  text_sql      text     not null,           -- the template, compiled to an expression over the alias r
  built_at      timestamptz                  -- null until every row of the table is in it
);

-- A row's text as it stands in the postings. An edited row is a new document: the postings of the
-- old one stay where they are until a compaction, and count for nothing.
create table backline.documents (
  collection_id int    not null,
  doc           bigint not null,
  key           text   collate "C" not null,
  length        int    not null,             -- terms in the text, repetitions included
  primary key (collection_id, doc),
  unique (collection_id, key)
);
create sequence backline.document_ids;

-- Who uses a term, as blocks of parallel arrays: a block is a sixth of the size of the same postings
-- as rows, and scores faster. Each statement that edits rows appends one small block a term, and so
-- waits for nobody; compaction merges them. A block of negative size lists documents that are gone.
-- A posting holds 1/tf and length/tf: what the BM25 formula needs beside the live average length.
create table backline.postings (
  collection_id int      not null,
  term          text     collate "C" not null,
  size          int      not null check (size <> 0),
  docs          bigint[] not null,
  inverse_tfs   real[],
  lengths       real[]
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);
create index postings_by_term on backline.postings (collection_id, term) include (size);
-- Arrays of numbers hardly compress, and reading them is what a search does.
alter table backline.postings alter docs set storage external, alter inverse_tfs set storage external,
  alter lengths set storage external;

-- Documents and their total length, as an append-only ledger, like backline.counter_deltas.
create table backline.document_counts (
  collection_id int    not null,
  documents     bigint not null,
  length        bigint not null
);
create index document_counts_by_collection on backline.document_counts (collection_id);

-- Words that people say for what the rows say otherwise: a query for the word also finds the meaning.
create table backline.synonyms (
  collection_id int  not null,
  word          text collate "C" not null check (word = lower(word)),
  meaning       text not null,
  primary key (collection_id, word)
);

alter table backline.keyword_indexes enable row level security;
alter table backline.synonyms        enable row level security;
alter table backline.documents       enable row level security;
alter table backline.postings        enable row level security;
alter table backline.document_counts enable row level security;

-- The terms of a text. A hyphenated word is indexed by its parts and in one piece, so that lo-fi,
-- lofi and lo fi meet. Only the first 100,000 characters count: a tsvector holds at most 1 MB, and a
-- longer text must not break its writer's statement.
create function backline.terms(p_language regconfig, p_text text) returns tsvector
language plpgsql stable parallel safe set search_path = '' as $$
declare
  v_text text := left(p_text, 100000);
  v_joined text;
  v_terms tsvector;
begin
  if strpos(v_text, '-') = 0 then
    return to_tsvector(p_language, v_text);
  end if;
  select string_agg(replace(m[1], '-', ''), ' ') into v_joined
  from regexp_matches(v_text, '(\w+(?:-\w+)+)', 'g') m;
  if v_joined is null then
    return to_tsvector(p_language, v_text);
  end if;
  v_terms := to_tsvector(p_language, v_text || ' ' || v_joined);
  return ts_delete(v_terms, array(select t.lexeme from unnest(v_terms) t where t.lexeme ~ '\w-\w'));
end $$;

-- The statement that indexes the rows of a source, which yields key and content. Rows that already
-- are indexed stay as they are.
--
-- A session plans it once, often for a single row, and keeps the plan for 10,000. So nothing in it is
-- joined: "in (...) is true" always is looked up in a hash, where a join could become 10,000 scans of
-- 10,000 rows each.
create function backline.index_statement(p_collection int, p_source text) returns text
language sql stable set search_path = '' as $$
  select format($q$
    with source as materialized (%2$s),
    fresh as materialized (
      select n.doc, n.key, n.terms,
             (select coalesce(sum(greatest(cardinality(t.positions), 1)), 0) from unnest(n.terms) t) as length
      from (select nextval('backline.document_ids') as doc, s.key,
                   backline.terms(%3$L::regconfig, s.content) as terms
            from source s offset 0) n
    ), placed as materialized (
      insert into backline.documents (collection_id, doc, key, length)
      select %1$s, f.doc, f.key, f.length
      from fresh f on conflict (collection_id, key) do nothing
      returning doc, length
    ), counted as (
      insert into backline.document_counts (collection_id, documents, length)
      select %1$s, count(*), sum(p.length) from placed p having count(*) > 0
    )
    insert into backline.postings (collection_id, term, size, docs, inverse_tfs, lengths)
    select %1$s, u.lexeme, count(*), array_agg(u.doc), array_agg((1 / u.tf)::real), array_agg((u.length / u.tf)::real)
    from (select f.doc, f.length::float8 as length, t.lexeme collate "C" as lexeme,
                 greatest(cardinality(t.positions), 1)::float8 as tf
          from fresh f, unnest(f.terms) t where (f.doc in (select p.doc from placed p)) is true) u
    group by u.lexeme
  $q$, p_collection, p_source, k.language)
  from backline.keyword_indexes k where k.collection_id = p_collection;
$$;

-- The statement that takes the rows of a source, with their old content, out of the index.
create function backline.unindex_statement(p_collection int, p_source text) returns text
language sql stable set search_path = '' as $$
  select format($q$
    with source as materialized (%2$s),
    gone as materialized (
      delete from backline.documents d using source s
      where d.collection_id = %1$s and d.key = s.key
      returning d.doc, d.length, s.content
    ), counted as (
      insert into backline.document_counts (collection_id, documents, length)
      select %1$s, -count(*), -sum(g.length) from gone g having count(*) > 0
    )
    insert into backline.postings (collection_id, term, size, docs)
    select %1$s, u.lexeme, -count(*), array_agg(u.doc)
    from (select g.doc, t.lexeme collate "C" as lexeme
          from gone g, unnest(backline.terms(%3$L::regconfig, g.content)) t) u
    group by u.lexeme
  $q$, p_collection, p_source, k.language)
  from backline.keyword_indexes k where k.collection_id = p_collection;
$$;

create function backline.remove_keyword_triggers(p_collection int) returns void
language plpgsql set search_path = '' as $$
declare
  v_name text;
begin
  foreach v_name in array array['inserted', 'updated', 'deleted', 'truncated'] loop
    execute format('drop function if exists backline.%I() cascade', 'k' || p_collection || '_' || v_name);
  end loop;
end $$;

-- Statement-level triggers that keep the keyword index true within the writer's own transaction.
create function backline.install_keyword_triggers(p_collection int) returns void
language plpgsql set search_path = '' as $$
declare
  c backline.collections;
  v_table text;
  v_text text;
  v_row text;
  v_index text;
  v_event record;
begin
  select * into strict c from backline.collections where id = p_collection;
  select k.text_sql into strict v_text from backline.keyword_indexes k where k.collection_id = p_collection;
  v_table := format('%I.%I', c.table_schema, c.table_name);
  v_row := format('select r.%I::text collate "C" as key, %s as content from ', c.key_column, v_text);
  v_index := 'backline_k' || c.id;
  perform backline.remove_keyword_triggers(p_collection);
  for v_event in
    select * from (values
      ('inserted', 'insert', 'referencing new table as new_rows',
       backline.index_statement(p_collection, v_row || 'new_rows r')),
      ('deleted', 'delete', 'referencing old table as old_rows',
       backline.unindex_statement(p_collection, v_row || 'old_rows r')),
      ('updated', 'update', 'referencing old table as old_rows new table as new_rows',
       backline.unindex_statement(p_collection, format('(%1$s old_rows r) except all (%1$s new_rows r)', v_row))
       || ';' || backline.index_statement(p_collection, format('(%1$s new_rows r) except all (%1$s old_rows r)', v_row))),
      ('truncated', 'truncate', '', format('perform backline.empty_keywords(%s, true)', p_collection))
    ) as e(name, event, tables, body)
  loop
    execute format('create function backline.%I() returns trigger language plpgsql security definer '
                   'set search_path = '''' set timezone = ''UTC'' set datestyle = ''ISO, YMD'' '
                   'set intervalstyle = ''postgres'' set bytea_output = ''hex'' set extra_float_digits = 1 '
                   'set jit = off set enable_seqscan = off as $t$ begin %s; return null; end $t$',
                   'k' || c.id || '_' || v_event.name, v_event.body);
    execute format('revoke all on function backline.%I() from public', 'k' || c.id || '_' || v_event.name);
    -- Backline's own write sets backline.writing, so that storing a vector compares no text.
    execute format('create trigger %I after %s on %s %s for each statement %s execute function backline.%I()',
                   v_index || '_' || v_event.event, v_event.event, v_table, v_event.tables,
                   case v_event.event when 'update' then format(
                     'when (current_setting(''backline.writing'', true) is distinct from ''%s'')', c.id) else '' end,
                   'k' || c.id || '_' || v_event.name);
  end loop;
end $$;

-- Forgets every document of a collection; an empty table's index is whole.
create function backline.empty_keywords(p_collection int, p_built boolean) returns void
language sql set search_path = '' as $$
  delete from backline.postings where collection_id = p_collection;
  delete from backline.documents where collection_id = p_collection;
  delete from backline.document_counts where collection_id = p_collection;
  update backline.keyword_indexes set built_at = case when p_built then now() end
  where collection_id = p_collection;
$$;

-- Declares how a collection is indexed for keywords, from now on; what was indexed is forgotten. A
-- table of up to 1,000 rows is indexed at once, a larger one by build_keywords_page, page by page.
create function backline.set_keywords(p_collection int, p_template text default null, p_language regconfig default null)
returns void language plpgsql set search_path = '' as $$
declare
  c backline.collections;
  v_table text;
  v_rows bigint;
  v_template text;
begin
  select * into strict c from backline.collections where id = p_collection;
  v_table := format('%I.%I', c.table_schema, c.table_name);
  select coalesce(p_template, k.text_template, c.text_template) into v_template
  from (values (1)) one left join backline.keyword_indexes k on k.collection_id = p_collection;
  insert into backline.keyword_indexes as k (collection_id, language, text_template, text_sql)
  values (p_collection, coalesce(p_language, 'pg_catalog.english')::text, v_template,
          backline.compile_template(v_table::regclass, v_template))
  on conflict (collection_id) do update set text_template = excluded.text_template,
    text_sql = excluded.text_sql, language = coalesce(p_language::text, k.language);
  perform backline.install_keyword_triggers(p_collection);
  perform backline.empty_keywords(p_collection, false);
  execute format('select count(*) from (select 1 from %s limit 1001) r', v_table) into v_rows;
  if v_rows <= 1000 then
    perform backline.build_keywords_page(p_collection, null, 1000);
    update backline.keyword_indexes set built_at = now() where collection_id = p_collection;
  end if;
end $$;
comment on function backline.set_keywords is
  'API: sets the template and the language of the keyword index, and empties it; see build_keywords_page.';

-- Indexes what is missing in one page of the table, by key. A row that somebody is editing is left
-- out, for their own statement indexes it; p_wait says to wait for them, should they give up.
create function backline.build_keywords_page(
  p_collection int, p_after text, p_limit int, p_wait boolean default true,
  out scanned bigint, out indexed bigint, out last_key text
) language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 set jit = off as $$
declare
  c backline.collections;
  v_text text;
  v_keys text[];
begin
  select * into strict c from backline.collections where id = p_collection;
  select k.text_sql into strict v_text from backline.keyword_indexes k where k.collection_id = p_collection;
  execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, row_number() over (order by r.%1$I) as position
      from %2$I.%3$I r where %4$s order by r.%1$I limit $2
    )
    select count(*), (array_agg(p.key order by p.position desc))[1],
      array(select m.key from page m where not exists (
        select from backline.documents d where d.collection_id = $3 and d.key = m.key))
    from page p
  $q$, c.key_column, c.table_schema, c.table_name,
       case when p_after is null then 'true' else format('r.%I > $1::%s', c.key_column, c.key_type) end)
  into scanned, last_key, v_keys using p_after, p_limit, p_collection;
  execute backline.index_statement(p_collection, format(
    'select r.%1$I::text collate "C" as key, %2$s as content from %3$I.%4$I r '
    'where r.%1$I = any ($1::%5$s) for share of r %6$s',
    c.key_column, v_text, c.table_schema, c.table_name,
    regexp_replace(c.key_type, '( collate .*)?$', '[]\1'), case when p_wait then '' else 'skip locked' end))
  using v_keys;
  indexed := cardinality(v_keys);
end $$;
comment on function backline.build_keywords_page is
  'API: indexes the keywords of what is missing in the page of rows after key p_after.';

-- Folds the ledger, merges small blocks and drops the postings of documents that are gone. Without
-- p_all it does nothing until 64 statements have written since the last time.
create function backline.compact_keywords(p_collection int, p_all boolean default false) returns int
language plpgsql set search_path = '' set jit = off as $$
declare
  v_block constant int := 8192;
  v_merged int;
begin
  if not p_all and (select count(*) < 64 from backline.document_counts n where n.collection_id = p_collection) then
    return 0;
  end if;
  if not pg_catalog.pg_try_advisory_xact_lock(x'6b657977'::int, p_collection) then
    return 0;
  end if;
  with gone as (
    delete from backline.document_counts n where n.collection_id = p_collection returning n.documents, n.length
  )
  insert into backline.document_counts (collection_id, documents, length)
  select p_collection, sum(g.documents), sum(g.length) from gone g having count(*) > 0;

  with crowded as materialized (
    -- Large blocks are read and written again only where a tenth of the term's documents are gone.
    select p.term, sum(abs(p.size)) filter (where p.size < 0) * 10 >= sum(p.size) filter (where p.size > 0)
                   or sum(abs(p.size)) <= v_block or sum(p.size) <= 0 as whole
    from backline.postings p where p.collection_id = p_collection
    group by p.term having count(*) filter (where p.size < v_block) > case when p_all then 1 else 4 end
  ), taken as materialized (
    delete from backline.postings p using crowded c
    where p.collection_id = p_collection and p.term = c.term and (c.whole or p.size < v_block)
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
comment on function backline.compact_keywords is 'API: merges the keyword index''s small blocks; returns how many.';

-- Workers compact the ledger every few seconds; the keyword index goes with it.
create or replace function backline.compact_counters(p_collection int) returns void
language plpgsql set search_path = '' as $$
begin
  with gone as (
    delete from backline.counter_deltas t
    where t.ctid in (select c.ctid from backline.counter_deltas c
                     where c.collection_id = p_collection for update skip locked)
    returning t.measure, t.model_id, t.amount
  )
  insert into backline.counter_deltas (collection_id, measure, model_id, amount)
  select p_collection, g.measure, g.model_id, sum(g.amount) from gone g
  group by g.measure, g.model_id having sum(g.amount) <> 0;
  perform backline.compact_keywords(p_collection);
end $$;

-- A collection's keyword index comes and goes with it.
create function backline.keywords_follow() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    perform backline.set_keywords(new.id);
    return new;
  end if;
  perform backline.remove_keyword_triggers(old.id);
  perform backline.empty_keywords(old.id, false);
  delete from backline.keyword_indexes where collection_id = old.id;
  delete from backline.synonyms where collection_id = old.id;
  return old;
end $$;
create trigger keywords_inserted after insert on backline.collections
  for each row execute function backline.keywords_follow();
create trigger keywords_deleted after delete on backline.collections
  for each row execute function backline.keywords_follow();
select backline.set_keywords(c.id) from backline.collections c;

-- --------------------------------------------------------------------------------- keyword search

-- Refuses a caller who may not read the collection's table at all; which rows they may read is
-- decided by the table itself, when the search reads them with the caller's own rights.
create function backline.check_reader(p_collection int) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_table regclass;
  v_reader name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
begin
  select format('%I.%I', c.table_schema, c.table_name)::regclass into v_table
  from backline.collections c where c.id = p_collection;
  if v_table is null or not pg_catalog.has_any_column_privilege(v_reader, v_table, 'select') then
    raise exception using errcode = '42501', message =
      format('permission denied to search collection %s as %s', p_collection, v_reader);
  end if;
end $$;

-- Every word at an edit distance of one that begins with the same letter.
-- The idea is Peter Norvig's: https://norvig.com/spell-correct.html
create function backline.misspellings(p_word text) returns setof text
language sql immutable set search_path = '' as $$
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

-- Replaces the synonyms of a collection: {"vox": "vocal", "wax": "vinyl"}.
create function backline.set_synonyms(p_collection int, p_synonyms jsonb) returns void
language sql set search_path = '' as $$
  delete from backline.synonyms s where s.collection_id = p_collection;
  insert into backline.synonyms (collection_id, word, meaning)
  select p_collection, lower(e.key), e.value from jsonb_each_text(p_synonyms) e;
$$;
comment on function backline.set_synonyms is 'API: replaces the words that a search also reads as others.';

-- What a query asks for: its terms that the collection knows, each with a weight and the number of
-- documents that have it. Beside the words themselves (1 each time that they are said) these are
-- neighbours in one piece (0.7; side chain finds sidechain), the collection's synonyms of a word (0.2, or
-- 0.7 where no row has the word itself), and for a word that nobody uses, the likeliest word that it
-- misspells (0.7). Nothing of the query is read as syntax. Only the first 2,000 characters count.
create function backline.query_terms(p_collection int, p_query text)
returns table (term text, weight float8, documents bigint, guessed boolean)
language plpgsql stable rows 10 set search_path = '' set enable_seqscan = off as $$
declare
  v_language regconfig;
  v_query text := left(p_query, 2000);
begin
  select k.language::regconfig into v_language from backline.keyword_indexes k where k.collection_id = p_collection;
  return query
  with words as (
    select m[1] as word, row_number() over () as n from regexp_matches(lower(v_query), '\w+', 'g') m
  ), asked as (
    select t.lexeme, greatest(cardinality(t.positions), 1)::float8 as weight
    from unnest(backline.terms(v_language, v_query)) t
  ), wanted as (
    select a.lexeme, a.weight, true as exact from asked a
    union all
    select t.lexeme, 0.7, false
    from unnest(to_tsvector(v_language, (select string_agg(a.word || b.word, ' ')
                                         from words a join words b on b.n = a.n + 1
                                         where length(a.word) > 1 and length(b.word) > 1))) t
    where not exists (select from asked a where a.lexeme = t.lexeme)
    union all
    select t.lexeme, m.weight, false
    from (select s.meaning, case when exists (
                   select from unnest(to_tsvector(v_language, s.word)) o
                   join backline.postings p on p.collection_id = p_collection and p.term = o.lexeme
                 ) then 0.2 else 0.7 end as weight
          from backline.synonyms s
          where s.collection_id = p_collection and s.word in (select w.word from words w)) m,
    unnest(backline.terms(v_language, m.meaning)) t
    where not exists (select from asked a where a.lexeme = t.lexeme)
  ), known as materialized (
    select w.lexeme, max(w.weight) as weight, bool_or(w.exact) as exact, coalesce((
      select sum(p.size) from backline.postings p
      where p.collection_id = p_collection and p.term = w.lexeme), 0)::bigint as documents
    from wanted w group by w.lexeme
  ), guesses as (
    select g.term, min(u.weight) * 0.7 as weight, min(g.documents) as documents
    from (select k.lexeme, k.weight from known k
          where k.exact and k.documents <= 0 and k.lexeme ~ '^[a-z]{4,20}$' limit 5) u,
    lateral (
      select p.term, sum(p.size)::bigint as documents from backline.postings p
      where p.collection_id = p_collection
        and p.term = any (array(select m from backline.misspellings(u.lexeme) m))
      group by p.term having sum(p.size) > 0 order by 2 desc, 1 limit 1) g
    where not exists (select from known k where k.lexeme = g.term)
    group by g.term
  )
  select k.lexeme, k.weight, k.documents, not k.exact from known k where k.documents > 0
  union all
  select g.term, g.weight, g.documents, true from guesses g;
end $$;

-- The best documents by BM25 (k1 1.2, b 0.75, the idf of Lucene), any term counting, and beside them
-- the scores of the rows p_also. Exact: terms are added from the most telling to the most frequent,
-- and once no unseen document could still get in, the frequent ones are read for the contenders only
-- (MaxScore, Turtle and Flood 1995). p_depth is how far to rank, gone documents included. p_rest is the
-- part that is reckoned with of what the terms not yet read could add: a document hardly ever gets the
-- most of each. Below 1 it is faster, and who would need more than that is left out; scores stay exact.
create function backline.keyword_candidates(
  p_collection int, p_query text, p_limit int, p_also text[] default '{}', p_depth int default null,
  p_rest float8 default 1
) returns table (key text, score float8)
language plpgsql stable security definer rows 100
set search_path = '' set jit = off set enable_seqscan = off set enable_mergejoin = off as $$
declare
  k1 constant float8 := 1.2;
  b constant float8 := 0.75;
  rounding constant float8 := 1e-9;          -- of scores added up in another order
  v_base float8 := k1 * (1 - b);
  v_slope float8;                            -- k1 * b / average length
  v_documents float8; v_length float8;
  v_terms text[]; v_bounds float8[]; v_uses bigint[];
  v_docs bigint[] := '{}'; v_scores float8[] := '{}'; v_also bigint[];
  v_done int := 0; v_from int; v_taken bigint;
  -- Postings to read before asking who can still get in.
  v_budget bigint := case when p_rest < 1 then 8000 else 16000 end;
  v_rest float8;                             -- p_rest of the most that the terms not yet read could add
  v_bar float8;                              -- the score of the last document that gets in so far
  -- More than any score. It is added to the rows p_also, so that they come first: to ask of each of
  -- thousands whether it is one of them takes longer.
  v_first float8;
  v_depth int := coalesce(p_depth, p_limit + 20);
  v_found text[]; v_found_scores float8[];
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
  v_also := array(select d.doc from backline.documents d where d.collection_id = p_collection and d.key = any (p_also));
  v_first := 2 ^ ceil(log(2, (v_rest / p_rest + 1)::numeric));  -- of two, so that the sum keeps the score's digits

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
      -- Nothing is left to read: the best are the answer, and nobody else need be kept.
      select array_agg(f.doc), array_agg(f.score), case when count(*) = v_depth + cardinality(v_also) then 0 end
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
    -- Who cannot get in any more is left out at once: adding up is what takes the time, and keeping
    -- thousands would add them up again.
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
          select unnest(p.docs) as doc, unnest(p.inverse_tfs) as inverse_tf, unnest(p.lengths) as length, t.bound
          from unnest(v_terms[v_done + 1:], v_bounds[v_done + 1:]) t(term, bound)
          join backline.postings p on p.collection_id = p_collection and p.term = t.term and p.size > 0
        ) p where p.doc in (select n.doc from contenders n)
      ) x group by x.doc
      order by 2 desc, x.doc limit v_depth + cardinality(v_also)) s;
  end if;

  -- Equals are equal again, in whichever order they were added up.
  v_scores := array(select round((case when s >= v_first then s - v_first else s end)::numeric, 9)
                    from unnest(v_scores) with ordinality u(s, n) order by n);
  with ranked as materialized (
    select x.doc, x.score from (select unnest(v_docs) as doc, unnest(v_scores) as score) x
    where x.score > 0 order by x.score desc, x.doc limit v_depth
  )
  select array_agg(f.key order by f.score desc, f.key), array_agg(f.score order by f.score desc, f.key)
    into v_found, v_found_scores
  from (select d.key, r.score from ranked r
        join backline.documents d on d.collection_id = p_collection and d.doc = r.doc
        order by r.score desc, d.key limit p_limit) f;
  if coalesce(cardinality(v_found), 0) < p_limit and v_bar is not null then
    -- Too many of the best are gone and wait for a compaction: look further down.
    return query select * from backline.keyword_candidates(p_collection, p_query, p_limit, p_also, v_depth * 8, p_rest);
    return;
  end if;
  return query
    select unnest(v_found), unnest(v_found_scores)
    union all
    select d.key, x.score
    from (select unnest(v_docs) as doc, unnest(v_scores) as score) x
    join backline.documents d on d.collection_id = p_collection and d.doc = x.doc
    where (x.doc in (select unnest(v_also))) is true  -- one by one: a join of both would try every pair
      and d.key <> all (coalesce(v_found, '{}'));
end $$;
comment on function backline.keyword_candidates is
  'API: the keys and BM25 scores of the best rows, and of the rows p_also; the table decides which of them a caller sees.';

-- ---------------------------------------------------------------------------------------- filters

-- One comparison of a filter as SQL over the alias r. The value is read from the parameter at the
-- path p_at; here it only serves to refuse what cannot be compared.
create function backline.compile_comparison(
  p_table regclass, p_op text, p_path text[], p_value jsonb, p_parameter text, p_at text[]
) returns text language plpgsql stable set search_path = '' as $$
declare
  v_op text := case p_op when '!=' then '<>' else p_op end;
  v_type text; v_category "char"; v_left text;
begin
  select pg_catalog.format_type(a.atttypid, null), t.typcategory into v_type, v_category
  from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attname = p_path[1] and a.attnum > 0 and not a.attisdropped;
  if v_type is null then
    raise exception using errcode = 'BL002', message = format(
      'the table %s has no column %L, which the filter names. Its columns: %s', p_table, p_path[1],
      (select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute a
       where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped));
  end if;
  v_left := format('r.%I', p_path[1]);
  if cardinality(p_path) > 1 and v_type not in ('jsonb', 'json') then
    raise exception using errcode = 'BL001', message = format(
      'the filter reads %s, but the column %L is of type %s; only jsonb has parts',
      array_to_string(p_path, '.'), p_path[1], v_type);
  end if;
  if v_type in ('jsonb', 'json') then
    v_left := format('(%s::jsonb #> %L::text[])', v_left, p_path[2:]);
    if v_op in ('like', 'ilike') then
      return format('(%s #>> ''{}'' %s (%s #>> %L::text[]))', v_left, v_op, p_parameter, p_at);
    elsif v_op in ('is null', 'is not null') then
      return format('(nullif(%s, ''null'') %s)', v_left, v_op);
    end if;
    -- Numbers compare with numbers and texts with texts; a part of another kind does not match.
    return format('(jsonb_typeof(%1$s) = jsonb_typeof(%2$s) and %1$s %3$s %2$s)',
                  v_left, format('(%s #> %L::text[])', p_parameter, p_at), v_op);
  end if;
  if v_op in ('is null', 'is not null') then
    return format('(%s %s)', v_left, v_op);
  elsif v_op in ('like', 'ilike') then
    return format('(%s::text %s (%s #>> %L::text[]))', v_left, v_op, p_parameter, p_at);
  elsif v_category not in ('N', 'S', 'D', 'T', 'E', 'B', 'I') and v_type <> 'uuid'
        or v_category = 'B' and v_op not in ('=', '<>') then
    raise exception using errcode = 'BL001', message =
      format('the filter cannot compare the column %L of type %s by %s', p_path[1], v_type, p_op);
  end if;
  begin
    execute format('select ($1)::%s', v_type) using p_value #>> '{}';
  exception when data_exception then
    raise exception using errcode = 'BL001', message = format(
      'the filter compares the column %L of type %s with %s, which is none', p_path[1], v_type, p_value);
  end;
  return format('(%s %s (%s #>> %L::text[])::%s)', v_left, v_op, p_parameter, p_at, v_type);
end $$;

-- A condition on a table's own columns, as SQL over the alias r. The condition comes as a tree:
--   {"op": "and" | "or", "args": [...]}, {"op": "not", "args": [one]},
--   {"op": "=" | "!=" | "<" | "<=" | ">" | ">=" | "like" | "ilike", "path": ["column", "key", ...], "value": scalar},
--   {"op": "in", "path": [...], "value": [scalars]}, {"op": "is null" | "is not null", "path": [...]}
-- A path of more than one step reads into a jsonb column. No value enters the SQL: the SQL reads them
-- from the tree itself, which is the parameter p_parameter of the statement.
create function backline.compile_filter(
  p_table regclass, p_filter jsonb, p_parameter text, p_at text[] default '{}'
) returns text language plpgsql stable set search_path = '' as $$
declare
  v_op text := p_filter ->> 'op';
  v_path text[] := array(select jsonb_array_elements_text(p_filter -> 'path'));
  v_parts text[] := '{}';
begin
  if v_op in ('and', 'or', 'not') then
    for i in 0 .. jsonb_array_length(p_filter -> 'args') - 1 loop
      v_parts := v_parts || backline.compile_filter(
        p_table, p_filter -> 'args' -> i, p_parameter, p_at || array['args', i::text]);
    end loop;
    return format(case v_op when 'not' then '(not coalesce(%s, false))' else '(%s)' end,
                  array_to_string(v_parts, ' ' || v_op || ' '));
  elsif v_op = 'in' then
    for i in 0 .. jsonb_array_length(p_filter -> 'value') - 1 loop
      v_parts := v_parts || backline.compile_comparison(
        p_table, '=', v_path, p_filter -> 'value' -> i, p_parameter, p_at || array['value', i::text]);
    end loop;
    return format('(%s)', array_to_string(v_parts, ' or '));
  elsif v_op in ('=', '!=', '<', '<=', '>', '>=', 'like', 'ilike', 'is null', 'is not null') then
    return backline.compile_comparison(
      p_table, v_op, v_path, p_filter -> 'value', p_parameter, p_at || array['value']);
  end if;
  raise exception using errcode = 'BL001', message = format('the filter has no operator %L', v_op);
end $$;

-- ----------------------------------------------------------------------------------------- search

-- What a search has to know of a collection, for any caller who may read its table.
create function backline.searchable(p_collection int,
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
create function backline.comparable(p_collection int, p_keys text[]) returns table (key text)
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
create function backline.comparison(
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
create function backline.indexed_as(
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
create function backline.readable_columns(p_table regclass) returns text
language sql stable set search_path = '' as $$
  select string_agg(format('r.%I', a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped
    and t.typname not in ('vector', 'halfvec', 'sparsevec', 'tsvector');
$$;

-- What to mark in a hit: the query's terms, and the words that its misspellings were read as.
create function backline.marks(p_collection int, p_text text) returns tsquery
language plpgsql stable security definer set search_path = '' as $$
begin
  perform backline.check_reader(p_collection);
  return (select string_agg(q.marked::text, ' | ')::tsquery from (
    select plainto_tsquery('pg_catalog.simple', t.term) as marked
    from backline.query_terms(p_collection, p_text) t) q where numnode(q.marked) > 0);
end $$;

-- The passages of a text that a query's words are in; the words stand between U+E000 and U+E001.
create function backline.snippet(p_language regconfig, p_text text, p_marks tsquery) returns text
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
create function backline.score_statement(p_mode text) returns text
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
create function backline.search_statement(
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
create function backline.search(
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
create function backline.similarities(p_collection int, p_keys text[])
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
create function backline.search_dense(p_collection int, p_query real[], p_limit int)
returns table (key text, similarity float8, content text, record jsonb)
language sql stable rows 10 set search_path = '' as $$
  select s.key, s.dense, s.content, s.record
  from backline.search(p_collection, 'semantic', null, p_query, p_limit) s;
$$;
comment on function backline.search_dense is 'API: the rows nearest to a vector, by cosine similarity.';

-- ---------------------------------------------------------------------------------- vector index

-- The HNSW index of a collection: its name, the statements that make and unmake it, and whether a
-- valid one is there already, under whatever name.
create function backline.vector_index(p_collection int,
  out name text, out present boolean, out possible boolean, out rows bigint, out bytes bigint,
  out make text, out unmake text
) language plpgsql stable set search_path = '' as $$
declare
  s record;
  i record;
begin
  select * into s from backline.searchable(p_collection);
  -- In half precision the graph takes half the room, so that more of it stays in memory and a search
  -- takes half the time, and finds as much: the nearest are compared once more in full.
  select * into i from backline.comparison(
    'halfvec', s.column_type, s.column_dimensions, s.dimensions, quote_ident(s.embedding_column));
  select left(k.relname, 40) || '_' || left(s.embedding_column, 17) || '_hnsw',
         format('drop index concurrently if exists %I.%I', n.nspname,
                left(k.relname, 40) || '_' || left(s.embedding_column, 17) || '_hnsw')
  into name, unmake
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace where k.oid = s.source;
  -- Of 100,000 near-duplicates an ef_construction of 64 finds 0.965 of the nearest ten, 128 finds 0.988.
  make := format('create index concurrently %I on %s using hnsw (%s %s) with (ef_construction = 128)%s', name,
                 s.source, i.expression, i.operators, case i.guard when 'true' then '' else ' where ' || i.guard end);
  possible := s.dimensions <= 4000;
  present := s.index_type is not null;
  select coalesce(sum(t.amount), 0) into rows from backline.counter_deltas t
  where t.collection_id = p_collection and t.measure = 'embedded';
  -- What the graph takes in memory while it is built: the vectors and 2 m = 32 neighbours each.
  bytes := rows * (s.dimensions * 2 + 600);
end $$;
comment on function backline.vector_index is 'API: the HNSW index of a collection, and the statements that make and unmake it.';

-- Stored vectors, the same ones each time, to measure the index with.
create function backline.sample_vectors(p_collection int, p_count int) returns setof real[]
language plpgsql stable rows 100 set search_path = '' as $$
declare
  s record;
begin
  select * into s from backline.searchable(p_collection);
  return query execute format(
    'select r.%1$I::extensions.vector::real[] from %2$s r where r.%1$I is not null order by md5(r.%3$I::text) limit $1',
    s.embedding_column, s.source, s.key_column) using p_count;
end $$;

-- The rows nearest to a vector as a search for p_limit rows reads them, or by comparing every row.
create function backline.nearest(p_collection int, p_query real[], p_limit int, p_exact boolean)
returns table (key text, distance float8) language plpgsql stable rows 10 set search_path = '' as $$
declare
  s record;
  i record;
begin
  select * into s from backline.searchable(p_collection);
  select * into i from backline.comparison(
    case when p_exact then s.column_type else coalesce(s.index_type, s.column_type) end,
    s.column_type, s.column_dimensions, s.dimensions, format('r.%I', s.embedding_column));
  perform pg_catalog.set_config('jit', 'off', true),
          pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true),
          pg_catalog.set_config('hnsw.ef_search', least(greatest(200, 4 * p_limit), 1000)::text, true),
          pg_catalog.set_config('enable_indexscan', case when p_exact then 'off' else 'on' end, true);
  return query execute format($q$
    select n.key, n.v operator(extensions.<=>) $1::extensions.vector as distance from (
      select r.%1$I::text as key, r.%5$I::extensions.vector as v
      from %2$s r where r.%5$I is not null and %6$s
      order by %3$s operator(extensions.<=>) $1::%4$s limit $2) n
    order by 2, 1
  $q$, s.key_column, s.source, i.expression, i.query_type, s.embedding_column, i.guard)
  using p_query, p_limit;
  perform pg_catalog.set_config('enable_indexscan', 'on', true);
end $$;

-- Marks the keyword index as whole once no row of the table is missing from it.
create function backline.keywords_are_built(p_collection int) returns boolean
language plpgsql set search_path = '' as $$
declare
  c backline.collections;
  v_missing boolean;
begin
  select * into strict c from backline.collections where id = p_collection;
  execute format($q$
    select exists (select from %1$I.%2$I r where not exists (
      select from backline.documents d where d.collection_id = $1 and d.key = r.%3$I::text))
  $q$, c.table_schema, c.table_name, c.key_column) into v_missing using p_collection;
  update backline.keyword_indexes k set built_at = coalesce(k.built_at, now())
  where k.collection_id = p_collection and not v_missing;
  return not v_missing;
end $$;
comment on function backline.keywords_are_built is 'API: whether every row is in the keyword index; searches may use it from then on.';

-- ------------------------------------------------------------------------------------- privileges

-- Lets a role search, with its own rights on the tables: row level security holds.
create function backline.allow_search(p_role regrole) returns void
language plpgsql set search_path = '' as $$
declare
  v_schema name := (select n.nspname from pg_catalog.pg_extension x
                    join pg_catalog.pg_namespace n on n.oid = x.extnamespace where x.extname = 'vector');
begin
  execute format('grant usage on schema backline to %s', p_role);
  if not pg_catalog.has_schema_privilege(p_role, v_schema, 'usage') then
    execute format('grant usage on schema %I to %s', v_schema, p_role);
  end if;
  execute format('grant execute on function backline.search, backline.search_statement, backline.score_statement, backline.search_dense, '
    'backline.searchable, backline.comparable, backline.comparison, backline.keyword_candidates, '
    'backline.compile_filter, backline.compile_comparison, backline.readable_columns, backline.marks, '
    'backline.snippet, backline.similarities to %s', p_role);
end $$;
comment on function backline.allow_search is 'API: lets a role search the collections whose tables it may read.';

revoke all on all tables in schema backline from public;
revoke all on all functions in schema backline from public;
revoke all on all sequences in schema backline from public;
do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    grant all on all tables in schema backline to service_role;
    grant usage on all sequences in schema backline to service_role;
    grant execute on all functions in schema backline to service_role;
  end if;
end $$;
