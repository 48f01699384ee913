-- Built by `make docs` from schema/tables/counters.sql. Edit that file instead.

-- Counters of rows by state, kept as deltas.

-- Counts as an append-only ledger: a sum is true at any moment and cheap at any size, and writers
-- never wait for one another as they would on one counter row. Workers compact it.
create table backline.counter_deltas (
  collection_id int    not null,
  measure       text   not null check (measure in ('rows', 'embedded', 'blank', 'long', 'pending', 'failed')),
  model_id      int    not null default 0,  -- of 'embedded', 'blank' and 'long' (among 'embedded'), else 0
  amount        bigint not null
);
create index counter_deltas_by_collection on backline.counter_deltas (collection_id);

alter table backline.counter_deltas enable row level security;
