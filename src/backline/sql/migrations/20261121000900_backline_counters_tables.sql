-- Built by `make docs` from schema/tables/counters.sql. Edit that file instead.

-- Row counts by state.

-- Counters as append-only deltas. Their sum is correct at any moment and cheap at any size, and writers do
-- not contend for one row. Workers compact the table.
create table backline.counter_deltas (
  collection_id int    not null,
  measure       text   not null check (
    measure in ('rows', 'embedded', 'blank', 'excluded', 'long', 'pending', 'failed')),
  model_id      int    not null default 0,  -- of a measure of stamps, else 0; 'long' is a part of 'embedded'
  amount        bigint not null
);
create index counter_deltas_by_collection on backline.counter_deltas (collection_id);

alter table backline.counter_deltas enable row level security;
