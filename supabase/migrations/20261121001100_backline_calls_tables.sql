-- Built by `make docs` from schema/tables/calls.sql. Edit that file instead.

-- Results of PostgREST calls. A repeated call returns the result of the first one.

create table backline.calls (
  id        uuid primary key,
  result    jsonb,
  called_at timestamptz not null default now()
);

alter table backline.calls enable row level security;
