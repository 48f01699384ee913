-- Built by `make docs` from schema/tables/queue.sql. Edit that file instead.

-- Jobs, batch leases and dead letters.

-- A job is one row that needs embedding. pending: worker_id is null; leased: it is not.
-- There are no foreign keys: their checks would cost more than the insert itself.
create table backline.jobs (
  collection_id int  not null,
  key           text collate "C" not null,
  priority      smallint not null,          -- 0: a live edit, 1: a backfill
  attempts      smallint not null default 0,
  enqueued_at   timestamptz not null default now(),
  not_before    timestamptz not null default now(),
  worker_id     bigint,
  lease         bigint,                     -- which claim: tells a worker's late answer from a new one
  primary key (key, collection_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1);

create index jobs_claimable on backline.jobs (collection_id, priority, enqueued_at)
  where worker_id is null;
create index jobs_leased on backline.jobs (worker_id)
  where worker_id is not null;

-- A page is a lease on many rows at once: those that a walk over the table found due, a row here in place
-- of a job for each. A row of it that needs something of its own, another attempt or another worker,
-- leaves it for a job; see convert_to_jobs. Which of its rows are done, their stamps say.
create table backline.batch_leases (
  lease         bigint primary key,         -- as of a job
  collection_id int    not null,
  worker_id     bigint not null,
  keys          text[] collate "C" not null,
  stamped       boolean not null,           -- whether any of them had a stamp, which will be written over
  leased_at     timestamptz not null default now()
);

-- The dead letters: rows that failed for good, with the provider's own words.
create table backline.failures (
  collection_id int   not null,
  key           text  collate "C" not null,
  content_hash  bytea not null,
  model_id      int   not null,
  attempts      int   not null,
  kind          text  not null,             -- rejected | unavailable | refused | …
  error         text  not null,
  run_id        bigint,
  failed_at     timestamptz not null default now(),
  primary key (key, collection_id)
);

alter table backline.jobs enable row level security;
alter table backline.batch_leases enable row level security;
alter table backline.failures enable row level security;
