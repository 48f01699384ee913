-- Built by `make docs` from schema/tables/model_changes.sql. Edit that file instead.

-- Changes of the model of a collection while it is searched.

-- A change has two targets: collections over the same table, each with vectors, stamps, jobs and keywords of
-- its own. The serving one has the name of the collection, the other one that name with a suffix.
--   filling     the new target, NAME@next, is being filled; the former one serves
--   indexing    every row is embedded, and its indexes are being built
--   ready       the new target can serve
--   serving     the new target serves; the former one, NAME@old, is kept for a rollback
--   retiring    the former target is being dropped
--   retired     it is dropped: the end
--   cancelling  the new target is being dropped
--   cancelled   it is dropped: the end
create table backline.model_changes (
  id           bigint generated always as identity primary key,
  name         text not null,
  state        text not null default 'filling' check (state in
    ('filling', 'indexing', 'ready', 'serving', 'retiring', 'retired', 'cancelling', 'cancelled')),
  former_id    int  not null,                -- collections
  new_id       int  not null,
  former_model int not null,                -- models
  new_model    int  not null,
  copies       boolean not null,             -- the former target's vectors can be copied, see copy_page()
  copied_to    text,                         -- the last key that was copied
  frozen       boolean not null default false,  -- edits do not reach the former target
  started_at   timestamptz not null default now(),
  changed_at   timestamptz not null default now()
);
create unique index model_changes_open on backline.model_changes (name)
  where state not in ('retired', 'cancelled');

alter table backline.model_changes enable row level security;
