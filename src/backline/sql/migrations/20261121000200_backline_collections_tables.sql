-- Built by `make docs` from schema/tables/collections.sql. Edit that file instead.

-- Models, and the tables declared for embedding.
--
-- Every table of this schema can fill from empty within one backfill. With statistics a minute old, or a plan
-- cached while it was empty, the planner would read a whole table for each row of a page. 100,000 rows then
-- took 100 seconds instead of four. Two rules prevent this: every primary key starts with the column that
-- identifies the row, and functions look up keys in a lateral subquery with `offset 0`, which the planner
-- cannot turn into a join.

-- The model that made a vector. Only vectors of the same model compare.
create table backline.models (
  id         int generated always as identity primary key,
  provider   text not null,
  name       text not null,
  revision   text not null,
  dimensions int  not null check (dimensions between 1 and 16000),
  projection      extensions.vector not null,    -- for fingerprints, see stamps
  unique (provider, name, revision, dimensions)
);

-- A collection is a table declared for embedding.
create table backline.collections (
  id               int generated always as identity primary key,
  name             text not null unique,
  table_schema     text not null,
  table_name       text not null,
  key_column       text not null,
  key_type         text not null,           -- for casts from text, collation included
  text_template    text not null,           -- '{topic} {category} {suggestion}'
  text_sql         text not null,           -- the template as an expression over the alias r
  embedding_column text not null,
  model_id         int  not null references backline.models (id),
  max_attempts     int  not null default 5 check (max_attempts > 0),
  -- How to embed a text longer than the model reads: its beginning, the mean of its parts weighted by tokens,
  -- or not at all, as a dead letter.
  long_text        text not null default 'truncate' check (long_text in ('truncate', 'average', 'reject')),
  created_at       timestamptz not null default now(),
  unique (table_schema, table_name, embedding_column)
);

alter table backline.models enable row level security;
alter table backline.collections enable row level security;
