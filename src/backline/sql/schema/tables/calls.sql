-- Results of PostgREST calls, kept so that a repeated call returns the first result.

create table backline.calls (
  id        uuid primary key,
  answer    jsonb,
  called_at timestamptz not null default now()
);

alter table backline.calls enable row level security;
