-- Built by `make docs` from schema/tables/keywords.sql. Edit that file instead.

-- The keyword index: an inverted index in tables.

-- How a collection is indexed for keywords. A field named twice in the template has twice the weight.
create table backline.keyword_indexes (
  collection_id int      primary key,
  -- text, because pg_upgrade rejects columns of type regconfig
  language      text     not null default 'english',
  language_sql  text,                        -- that of a row r, see language_of(); null for one of all
  languages     text[]   not null default '{}',  -- that the rows have
  text_template text,                        -- null for the text of the collection
  text_sql      text     not null,           -- the template as an expression over the alias r
  text_numbers  int2[]   not null,           -- the columns that the template names, as in collections
  text_names    text[]   not null,
  text_types    text[]   not null,
  version       int      not null default 0, -- the terms_version() of the index
  built_at      timestamptz                  -- null until every row of the table is indexed
);

-- A version of a row's text. An edit creates a new document. The postings of the old one are ignored and
-- removed by the next compaction.
create table backline.documents (
  collection_id int    not null,
  doc           bigint not null,
  key           text   collate "C" not null,
  length        int    not null,             -- terms in the text, repetitions included
  terms         text[] not null,             -- to mark their postings as deleted after an edit
  primary key (collection_id, doc),
  unique (collection_id, key)
);
create sequence backline.document_ids;

-- Postings of a term, in blocks of parallel arrays. A block is a sixth of the size of the same postings as
-- rows, and is faster to score. Each statement that edits rows appends one small block per term, so that
-- writers never wait. Compaction merges them. A block of negative size lists deleted documents. A posting
-- stores 1/tf and length/tf, which BM25 combines with the current average length.
create table backline.postings (
  collection_id int      not null,
  term          text     collate "C" not null,
  size          int      not null check (size <> 0),
  docs          bigint[] not null,
  inverse_tfs   real[],
  lengths       real[]
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);
create index postings_by_term on backline.postings (collection_id, term) include (size);
-- Arrays of numbers hardly compress, and decompressing them would dominate the time of a search.
alter table backline.postings alter docs set storage external, alter inverse_tfs set storage external,
  alter lengths set storage external;

-- Number and total length of documents, as append-only deltas like backline.counter_deltas.
create table backline.document_counts (
  collection_id int    not null,
  documents     bigint not null,
  length        bigint not null
);
create index document_counts_by_collection on backline.document_counts (collection_id);

-- Synonyms: a query with the word also finds the meaning.
create table backline.synonyms (
  collection_id int  not null,
  word          text collate "C" not null check (word = lower(word)),
  meaning       text not null,
  primary key (collection_id, word)
);

alter table backline.keyword_indexes enable row level security;
alter table backline.documents enable row level security;
alter table backline.postings enable row level security;
alter table backline.document_counts enable row level security;
alter table backline.synonyms enable row level security;
