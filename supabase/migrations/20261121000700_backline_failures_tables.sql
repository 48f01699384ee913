-- Built by `make docs` from schema/tables/failures.sql. Edit that file instead.

-- Dead letters: rows that failed permanently, with the provider's message.
create table backline.failures (
  collection_id int   not null,
  key           text  collate "C" not null,
  content_hash  bytea not null,
  model_id      int   not null,
  attempts      int   not null,
  kind          text  not null,             -- rejected | unavailable | refused | unstable | …
  error         text  not null,
  run_id        bigint,
  failed_at     timestamptz not null default now(),
  long_key      text,                       -- the key, if no index can hold it; see failure_key()
  primary key (key, collection_id)
);

alter table backline.failures enable row level security;
