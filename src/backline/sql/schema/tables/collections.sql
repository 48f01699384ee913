-- Models, and the tables declared for embedding.
--
-- All tables of this schema fill from empty within one backfill. A planner with statistics of a minute ago,
-- or with a plan cached when they were empty, would read a whole table for each row of a page: 100,000 rows
-- took 100 seconds instead of four. Two rules prevent it. Every primary key starts with the column that
-- tells rows apart, and functions look up each key in a lateral subquery with `offset 0`, which keeps the
-- planner from turning the look-up into a join.

-- A model is what made a vector. Two vectors compare only if their model is the same.
create table backline.models (
  id         int generated always as identity primary key,
  provider   text not null,
  name       text not null,
  revision   text not null,
  dimensions int  not null check (dimensions between 1 and 16000),
  projection      extensions.vector not null,    -- see fingerprints, at the stamps
  unique (provider, name, revision, dimensions)
);

-- A collection is a table declared for embedding.
create table backline.collections (
  id               int generated always as identity primary key,
  name             text not null unique,
  table_schema     text not null,
  table_name       text not null,
  key_column       text not null,
  key_type         text not null,           -- what a key in text form is cast to, collation included
  text_template    text not null,           -- '{topic} {category} {suggestion}'
  text_sql         text not null,           -- the same, compiled to an expression over the alias r
  embedding_column text not null,
  model_id         int  not null references backline.models (id),
  max_attempts     int  not null default 5 check (max_attempts > 0),
  -- What becomes of a text that is longer than the model reads: its beginning is embedded, or the mean
  -- of its parts, weighted by their tokens, or it goes to the dead letters.
  long_text        text not null default 'truncate' check (long_text in ('truncate', 'average', 'reject')),
  created_at       timestamptz not null default now(),
  unique (table_schema, table_name, embedding_column)
);

alter table backline.models enable row level security;
alter table backline.collections enable row level security;
