-- Built by `make docs` from schema/tables/runs.sql. Edit that file instead.

-- Workers, and the backfills that they work for.

-- A worker's row is its lease: while it is alive, what it has claimed is its own.
create table backline.workers (
  id            bigint generated always as identity primary key,
  collection_id int  not null,
  run_id        bigint,
  host          text not null,
  pid           int  not null,
  has_session   boolean not null,           -- holds an advisory lock that dies with its connection
  rate          real not null default 0,    -- rows a second, lately
  replaces      bigint,                     -- who it was, before its connection was lost
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
  cursor        text,                       -- the last key that the walk has passed
  scanned       bigint not null default 0,
  due           bigint not null default 0,
  report        jsonb,
  started_at    timestamptz not null default now(),
  finished_at   timestamptz
);
create index runs_by_collection on backline.runs (collection_id, id desc);

-- What the writes of a run did, a line a write: two lanes that commit at once never wait for one
-- another, as they would on one row of counters.
create table backline.run_counts (
  run_id    bigint not null,
  embedded  bigint not null default 0,
  reused    bigint not null default 0,  -- of these, with a vector that was paid for before
  failed    bigint not null default 0,
  batches   bigint not null default 0,  -- requests to the embedder that were answered
  tokens    bigint not null default 0,
  truncated bigint not null default 0   -- rows whose text is longer than the model reads
);
create index run_counts_by_run on backline.run_counts (run_id);

alter table backline.workers enable row level security;
alter table backline.runs enable row level security;
alter table backline.run_counts enable row level security;
