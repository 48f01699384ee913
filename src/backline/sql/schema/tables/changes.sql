-- The change log, and the locks of its readers.

-- One line for each statement that changed rows of a collection's table. It is all that Backline writes in
-- the host's transaction; apply_changes() makes jobs, stamps, counters and keyword postings from it.
--   +  rows were inserted
--   ~  texts changed, or a vector was set or emptied
--   -  rows were deleted
--   t  the table, or a partition of it, was truncated; keys holds the last key that was processed
--   ?  rows changed, but their keys could not be read
--
-- A transaction that ended before a snapshot has a smaller xid than the snapshot's xmin. Readers therefore
-- skip the part of the index that they have emptied, even while dead lines cannot be vacuumed.
create table backline.changes (
  collection_id int         not null,
  xid           xid8        not null default pg_catalog.pg_current_xact_id(),
  id            bigint      not null generated always as identity (cache 100),
  kind          "char"      not null,
  delta         int         not null default 0,  -- rows of the table, more or fewer
  amount        int         not null,            -- keys
  keys          text[]      collate "C",
  at            timestamptz not null default pg_catalog.now(),
  bulk          boolean     not null default false,  -- part of a statement that changed more than 1,000 rows
  primary key (collection_id, xid, id)
  -- Truncating the file would lock the table against the host's writers.
) with (vacuum_truncate = off, toast.vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.1,
        autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0.5,
        autovacuum_vacuum_cost_delay = 1);
-- Compressing the keys would cost the host's statement more than writing them.
alter table backline.changes alter keys set storage external;

-- Row locks that serialize work on a collection. Unlike an advisory lock, a role without rights on this table
-- cannot take one.
create table backline.locks (
  collection_id int  not null,
  name          text not null check (name in ('log', 'scan', 'compaction')),
  primary key (collection_id, name)
);

-- What polls of a source without triggers have seen, see poll.sql.
create table backline.polls (
  collection_id int         primary key,
  seen          text,                       -- the newest version
  advanced_at   timestamptz not null default '-infinity',  -- when it rose
  reread_at     timestamptz not null default 'infinity',   -- when the overlap before it is read again
  polled_at     timestamptz not null default now(),
  next_at       timestamptz not null default now(),
  swept_at      timestamptz not null default now(),
  counted_at    timestamptz not null default now(),
  counting      interval    not null default '0'           -- duration of the last count
);

alter table backline.changes enable row level security;
alter table backline.locks enable row level security;
alter table backline.polls enable row level security;
