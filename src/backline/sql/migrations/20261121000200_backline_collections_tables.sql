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
  name             text not null unique deferrable,  -- a cut-over swaps two names
  role             text not null default 'serving' check (role in ('serving', 'filling', 'retired')),
  frozen           boolean not null default false,  -- without triggers, see model_change.sql
  -- The table and its columns by oid and number, which a rename does not change. The names are those that
  -- follow() recorded; definition() returns the present ones.
  table_id         oid  not null,
  key_numbers      int2[] not null check (cardinality(key_numbers) between 1 and 8),
  vector_number    int2,                    -- null for a side table
  text_numbers     int2[] not null,         -- the columns of text and condition; 0 is the whole row
  text_names       text[] not null,         -- null for the whole row
  text_types       text[] not null,
  table_schema     text not null,
  table_name       text not null,
  key_columns      text[] not null,
  key_types        text[] not null,         -- for casts from text, collation included
  text_template    text,                    -- '{topic} {category} {suggestion}', or null with an expression
  text_expression  text,                    -- the text as an expression over the alias r
  where_sql        text,                    -- the condition on rows over the alias r; null for every row
  text_sql         text not null,           -- the text of a row, empty without the condition
  guarded          boolean not null default false,  -- the text or the condition has failed for a row
  embedding_column text not null,           -- of the table or of the side table
  vector_type      text not null default 'vector',  -- of a column or a side table that is made again
  -- The side table, if the vectors are not in a column of the table. It has the columns key_1, key_2, … and
  -- no foreign key, whose trigger would run in the application's statements.
  into_id          oid,
  into_schema      text,
  into_name        text,
  -- The version column of a source without triggers, see poll.sql.
  follow_number    int2,
  follow_column    text,
  model_id         int  not null references backline.models (id),
  max_attempts     int  not null default 5 check (max_attempts > 0),
  -- How to embed a text longer than the model reads: its beginning, the mean of its parts weighted by tokens,
  -- or not at all, as a dead letter.
  long_text        text not null default 'truncate' check (long_text in ('truncate', 'average', 'reject')),
  -- How texts are split into passages, each a row of the side table: {"by", "tokens", "overlap"}. Null if a
  -- row has one vector.
  passages         jsonb,
  created_at       timestamptz not null default now(),
  former_name      text,                    -- of the table, before a rename that follow() recorded
  members          oid[] not null default '{}',  -- the partitions or children that were seen, see problems()
  unscanned        text,                    -- why rows may have changed unseen, until a scan of every row
  scanned_at       timestamptz,             -- the end of the last scan of every row
  missed           bigint not null default 0,  -- the value of the sequence missed at that scan
  adopting         boolean not null default false,  -- vectors are being stamped, see adopt.sql
  any_length       boolean not null default false,  -- adopted vectors are not of unit length
  unique (table_id, vector_number)
);

-- Advances whenever a change of a table could not be recorded; see problems().
create sequence if not exists backline.missed;

alter table backline.models enable row level security;
alter table backline.collections enable row level security;
