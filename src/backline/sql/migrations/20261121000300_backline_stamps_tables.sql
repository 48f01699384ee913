-- Built by `make docs` from schema/tables/stamps.sql. Edit that file instead.

-- What each stored vector was made from, and the cache of vectors by content.

-- A stamp says what the stored vector was made from. `blank` stamps a row that has no text and so,
-- rightly, no vector. `stale` is set the moment the row's text changes. `long` marks a text that is
-- longer than the model reads.
--
-- The fingerprint tells a vector that somebody else put there. It is the vector's inner product with
-- the model's projection, a fixed pseudo-random vector: two unrelated vectors of unit length have it equal
-- within the tolerance once in some 5,000 times. A hash would miss none, and take 3 µs a row of 384
-- dimensions, 17 of 1,536, where this takes 0.4 and 1; and it survives a move to a machine, a version
-- or a column type that rounds the last digit otherwise.
create table backline.stamps (
  collection_id int   not null,
  key           text  collate "C" not null,
  model_id      int   not null,
  content_hash  bytea not null,             -- sha256 of the UTF-8 text
  blank         boolean not null default false,
  stale         boolean not null default false,
  long          boolean not null default false,
  fingerprint   real,                       -- null where there is no vector
  stamped_at    timestamptz not null default clock_timestamp(),
  primary key (key, collection_id)
);
create index stamps_long on backline.stamps (collection_id, key) where long;

-- Vectors by content: the same text is never paid for twice. Unlogged: it is only a cache, and a
-- crash of the server may empty it. trim_vectors() keeps it within a bound. `cut` says how the vector
-- of a text that is longer than the model reads was made; it is of use to collections that do likewise.
create unlogged table backline.vectors (
  model_id     int   not null,
  content_hash bytea not null,
  seq          bigint generated always as identity,
  cut          text check (cut in ('truncate', 'average')),
  embedding    extensions.vector not null,
  primary key (content_hash, model_id)
);
create index vectors_seq on backline.vectors (seq);

alter table backline.stamps enable row level security;
alter table backline.vectors enable row level security;
