-- Built by `make docs` from schema/tables/stamps.sql. Edit that file instead.

-- What each stored vector was made from, and the cache of vectors by content.

-- A stamp records what the stored vector was made from. `blank` marks a row without text, which has no
-- vector, and `excluded` one outside the condition of the collection, which is blank too. `stale` is set in
-- the transaction that changes the row's text. `long` marks a text longer than the model reads.
--
-- The fingerprint detects a vector that another program has written. It is the inner product of the vector
-- and the model's projection, a fixed pseudo-random vector. Two unrelated unit vectors have the same
-- fingerprint, within the tolerance, once in about 5,000 times. A hash would miss none, but takes 3 µs a row
-- of 384 dimensions and 17 µs of 1,536, instead of 0.4 and 1 µs. The fingerprint also tolerates rounding by
-- another machine, version or column type.
create table backline.stamps (
  collection_id int   not null,
  key           text  collate "C" not null,
  model_id      int   not null,
  content_hash  bytea not null,             -- SHA-256 of the UTF-8 text
  blank         boolean not null default false,
  excluded      boolean not null default false,
  stale         boolean not null default false,
  long          boolean not null default false,
  fingerprint   real,                       -- null without a vector; of several, see passages.sql
  passages      int,                        -- the number of vectors, in a collection of passages
  rewrites      smallint not null default 0,  -- writes in a row that did not leave the row as written
  stamped_at    timestamptz not null default clock_timestamp(),
  primary key (key, collection_id)
);
create index stamps_long on backline.stamps (collection_id, key) where long;
create index stamps_rewritten on backline.stamps (collection_id, key) where rewrites > 0;

-- A cache of vectors by content, so that no text is embedded twice. The table is unlogged: a crash of the
-- server may empty it. trim_vectors() bounds its size. `cut` records how a text longer than the model reads
-- was embedded. Only collections with the same setting reuse such a vector.
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
