-- Built by `make docs` from schema/tables/queue.sql. Edit that file instead.

-- Jobs and batch leases.

-- A job is one row that needs embedding. It is pending while worker_id is null, otherwise leased. There are
-- no foreign keys, because their checks would cost more than the insert.
create table backline.jobs (
  collection_id int  not null,
  key           text collate "C" not null,
  priority      smallint not null,          -- 0: edit, 1: backfill
  attempts      smallint not null default 0,
  enqueued_at   timestamptz not null default now(),
  not_before    timestamptz not null default now(),
  worker_id     bigint,
  lease         bigint,                     -- identifies the claim, to reject late results
  snapshot      pg_snapshot,                -- of the claim: which changes it has seen
  primary key (key, collection_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1);

create index jobs_claimable on backline.jobs (collection_id, priority, enqueued_at)
  where worker_id is null;
create index jobs_leased on backline.jobs (worker_id)
  where worker_id is not null;

-- A batch lease covers the due rows of a scanned page with one record instead of a job per row. A row that
-- needs another attempt or another worker is converted to a job; see convert_to_jobs. A row with a current
-- stamp is done.
create table backline.batch_leases (
  lease         bigint primary key,         -- as in jobs
  collection_id int    not null,
  worker_id     bigint not null,
  keys          text[] collate "C" not null,
  stamped       boolean not null,           -- whether any row had a stamp to overwrite
  snapshot      pg_snapshot not null,       -- of the claim: which changes it has seen
  leased_at     timestamptz not null default now()
);

alter table backline.jobs enable row level security;
alter table backline.batch_leases enable row level security;
