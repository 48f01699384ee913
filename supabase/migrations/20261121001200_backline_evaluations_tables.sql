-- Built by `make docs` from schema/tables/evaluations.sql. Edit that file instead.

-- Search queries that were asked lately, and comparisons of two collections over such queries.
--
-- Both name their collection and hold no id. A change of the model swaps the names of two collections, and
-- the queries stay with the name that they were asked under.

-- Holds nothing about the person that asked. keep_queries() writes it, and only if the setting allows it.
create table backline.kept_queries (
  collection text not null,
  digest     bytea not null,                -- SHA-256 of the text, which may not fit into an index
  mode       text not null check (mode in ('hybrid', 'semantic', 'keyword')),
  text       text not null,
  times      bigint not null,
  asked_at   timestamptz not null,          -- the last time
  primary key (collection, digest, mode)
);
create index kept_queries_by_age on backline.kept_queries (collection, asked_at);

-- The latest comparisons of each collection with a candidate for its place.
create table backline.evaluations (
  id              bigint generated always as identity primary key,
  collection      text not null,            -- that was searched by users
  model_id        int not null,
  candidate_model int not null,
  made_at         timestamptz not null default now(),
  result          jsonb not null
);
create index evaluations_by_collection on backline.evaluations (collection, id);

alter table backline.kept_queries enable row level security;
alter table backline.evaluations enable row level security;
