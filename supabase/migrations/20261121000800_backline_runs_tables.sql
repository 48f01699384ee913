-- Built by `make docs` from schema/tables/runs.sql. Edit that file instead.

-- Workers, and the backfills they belong to.

-- A worker's record is its lease. While it is valid, the worker's claims are valid.
create table backline.workers (
  id            bigint generated always as identity primary key,
  collection_id int  not null,
  run_id        bigint,
  host          text not null,
  pid           int  not null,
  has_session   boolean not null,           -- holds an advisory lock that is released with its connection
  rate          real not null default 0,    -- recent rows per second
  replaces      bigint,                     -- the id it had before it reconnected
  started_at    timestamptz not null default now(),
  expires_at    timestamptz not null
);

-- A run is one backfill, with its progress and its report.
create table backline.runs (
  id            bigint generated always as identity primary key,
  collection_id int  not null,
  model_id      int  not null,
  state         text not null default 'running'
                check (state in ('running', 'cancelling', 'cancelled', 'completed', 'interrupted')),
  settings      jsonb not null default '{}',
  cursor        text,                       -- the last key that was scanned
  scanned       bigint not null default 0,
  due           bigint not null default 0,
  report        jsonb,
  started_at    timestamptz not null default now(),
  finished_at   timestamptz
);
create index runs_by_collection on backline.runs (collection_id, id desc);

-- Counts of a run, as one row per write. Concurrent write loops would contend for a single counter row.
create table backline.run_counts (
  run_id    bigint not null,
  embedded  bigint not null default 0,
  reused    bigint not null default 0,  -- of these, copied from the cache
  failed    bigint not null default 0,
  batches   bigint not null default 0,  -- completed requests to the embedder
  tokens    bigint not null default 0,
  truncated bigint not null default 0,  -- rows with a text longer than the model reads
  passages  bigint not null default 0   -- passages that were sent to the embedder
);
create index run_counts_by_run on backline.run_counts (run_id);

alter table backline.workers enable row level security;
alter table backline.runs enable row level security;
alter table backline.run_counts enable row level security;
