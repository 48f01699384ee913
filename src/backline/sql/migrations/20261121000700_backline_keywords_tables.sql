-- Built by `make docs` from schema/tables/keywords.sql. Edit that file instead.

-- The keyword index.

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
alter table backline.documents enable row level security;
alter table backline.postings enable row level security;
alter table backline.document_counts enable row level security;
alter table backline.synonyms enable row level security;
