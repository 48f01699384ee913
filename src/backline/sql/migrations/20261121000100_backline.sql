-- Backline's own schema: what is embedded, what waits, what failed, and the protocol that every
-- worker speaks (Python over Postgres, PostgREST, the Edge Function). A rule is written once, here.
--
-- Public API: the functions that carry a COMMENT starting with "API:". Everything else is private
-- and may change with any release. Nothing here is readable by anon or authenticated.
--
-- `extensions.` is where pgvector lives on Supabase; `backline migrate` puts the real schema in its
-- place on any other Postgres.

create schema if not exists extensions;
create extension if not exists vector with schema extensions;

-- The three roles of a Supabase project, so that grants and policies mean the same everywhere.
-- On a server where this role may not create roles, the grants below are skipped.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute format('create role %I nologin noinherit', v_role);
    end if;
  end loop;
exception when insufficient_privilege then
  raise notice 'backline: this role may not create the roles anon, authenticated and service_role; their grants are skipped';
end $$;

create schema backline;
revoke all on schema backline from public;

-- ---------------------------------------------------------------------------------------- tables
--
-- These tables fill from empty within one backfill, so that a planner with statistics of a minute ago,
-- or a plan cached when they were empty, reads a whole table for each row of a page: 100,000 rows took
-- a hundred seconds in place of four. Two things prevent it. In every primary key the column that
-- tells rows apart comes first, and the functions below look up each key by itself: `offset 0` in a
-- lateral subquery is what keeps a planner from turning the look-up round.

-- A model is what made a vector. Two vectors compare only if their model is the same.
create table backline.models (
  id         int generated always as identity primary key,
  provider   text not null,
  name       text not null,
  revision   text not null,
  dimensions int  not null check (dimensions between 1 and 16000),
  projection      extensions.vector not null,    -- see fingerprints, at the stamps
  unique (provider, name, revision, dimensions)
);

-- A collection is a table declared for embedding.
create table backline.collections (
  id               int generated always as identity primary key,
  name             text not null unique,
  table_schema     text not null,
  table_name       text not null,
  key_column       text not null,
  key_type         text not null,           -- what a key in text form is cast to, collation included
  text_template    text not null,           -- '{topic} {category} {suggestion}'
  text_sql         text not null,           -- the same, compiled to an expression over the alias r
  embedding_column text not null,
  model_id         int  not null references backline.models (id),
  max_attempts     int  not null default 5 check (max_attempts > 0),
  -- What becomes of a text that is longer than the model reads: its beginning is embedded, or the mean
  -- of its parts, weighted by their tokens, or it goes to the dead letters.
  long_text        text not null default 'truncate' check (long_text in ('truncate', 'average', 'reject')),
  created_at       timestamptz not null default now(),
  unique (table_schema, table_name, embedding_column)
);

-- A stamp says what the stored vector was made from. `blank` stamps a row that has no text and so,
-- rightly, no vector. `stale` is set the moment the row's text changes. `long` marks a text that is
-- longer than the model reads.
--
-- The fingerprint tells a vector that somebody else put there. It is the vector's inner product with
-- the model's projection, a fixed pseudo-random vector: two unrelated vectors of unit length have it equal
-- within the tolerance once in some 5,000 times. A hash would miss none, and take 3 µs a row of 384
-- dimensions, 17 of 1,536, where this takes 0.4 and 1; and it survives a move to a machine, a version
-- or a column type that rounds the last digit otherwise.
create table backline.stamps (
  collection_id int   not null,
  key           text  collate "C" not null,
  model_id      int   not null,
  content_hash  bytea not null,             -- sha256 of the UTF-8 text
  blank         boolean not null default false,
  stale         boolean not null default false,
  long          boolean not null default false,
  fingerprint   real,                       -- null where there is no vector
  stamped_at    timestamptz not null default clock_timestamp(),
  primary key (key, collection_id)
);
create index stamps_long on backline.stamps (collection_id, key) where long;

-- A job is one row that needs embedding. pending: worker_id is null; leased: it is not.
-- There are no foreign keys: their checks would cost more than the insert itself.
create table backline.jobs (
  collection_id int  not null,
  key           text collate "C" not null,
  priority      smallint not null,          -- 0: a live edit, 1: a backfill
  attempts      smallint not null default 0,
  enqueued_at   timestamptz not null default now(),
  not_before    timestamptz not null default now(),
  worker_id     bigint,
  lease         bigint,                     -- which claim: tells a worker's late answer from a new one
  primary key (key, collection_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1);

create index jobs_claimable on backline.jobs (collection_id, priority, enqueued_at)
  where worker_id is null;
create index jobs_leased on backline.jobs (worker_id)
  where worker_id is not null;

-- A page is a lease on many rows at once: those that a walk over the table found due, a row here in place
-- of a job for each. A row of it that needs something of its own, another attempt or another worker,
-- leaves it for a job; see convert_to_jobs. Which of its rows are done, their stamps say.
create table backline.batch_leases (
  lease         bigint primary key,         -- as of a job
  collection_id int    not null,
  worker_id     bigint not null,
  keys          text[] collate "C" not null,
  stamped       boolean not null,           -- whether any of them had a stamp, which will be written over
  leased_at     timestamptz not null default now()
);

-- The dead letters: rows that failed for good, with the provider's own words.
create table backline.failures (
  collection_id int   not null,
  key           text  collate "C" not null,
  content_hash  bytea not null,
  model_id      int   not null,
  attempts      int   not null,
  kind          text  not null,             -- rejected | unavailable | refused | …
  error         text  not null,
  run_id        bigint,
  failed_at     timestamptz not null default now(),
  primary key (key, collection_id)
);

-- Vectors by content: the same text is never paid for twice. Unlogged: it is only a cache, and a
-- crash of the server may empty it. trim_vectors() keeps it within a bound. `cut` says how the vector
-- of a text that is longer than the model reads was made; it is of use to collections that do likewise.
create unlogged table backline.vectors (
  model_id     int   not null,
  content_hash bytea not null,
  seq          bigint generated always as identity,
  cut          text check (cut in ('truncate', 'average')),
  embedding    extensions.vector not null,
  primary key (content_hash, model_id)
);
create index vectors_seq on backline.vectors (seq);

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

-- Counts as an append-only ledger: a sum is true at any moment and cheap at any size, and writers
-- never wait for one another as they would on one counter row. Workers compact it.
create table backline.counter_deltas (
  collection_id int    not null,
  measure       text   not null check (measure in ('rows', 'embedded', 'blank', 'long', 'pending', 'failed')),
  model_id      int    not null default 0,  -- of 'embedded', 'blank' and 'long' (among 'embedded'), else 0
  amount        bigint not null
);
create index counter_deltas_by_collection on backline.counter_deltas (collection_id);

alter table backline.models      enable row level security;
alter table backline.collections enable row level security;
alter table backline.stamps      enable row level security;
alter table backline.jobs        enable row level security;
alter table backline.batch_leases       enable row level security;
alter table backline.failures    enable row level security;
alter table backline.vectors     enable row level security;
alter table backline.workers     enable row level security;
alter table backline.runs        enable row level security;
alter table backline.run_counts  enable row level security;
alter table backline.counter_deltas     enable row level security;

-- --------------------------------------------------------------------------------------- tallies

create function backline.count_jobs() returns trigger language plpgsql set search_path = '' as $$
begin
  insert into backline.counter_deltas (collection_id, measure, amount)
  select t.collection_id, 'pending', case tg_op when 'INSERT' then count(*) else -count(*) end
  from changed t group by t.collection_id;
  return null;
end $$;

create trigger count_inserted after insert on backline.jobs
  referencing new table as changed for each statement execute function backline.count_jobs();
create trigger count_deleted after delete on backline.jobs
  referencing old table as changed for each statement execute function backline.count_jobs();

create function backline.count_failures() returns trigger language plpgsql set search_path = '' as $$
begin
  insert into backline.counter_deltas (collection_id, measure, amount)
  select t.collection_id, 'failed', case tg_op when 'INSERT' then count(*) else -count(*) end
  from changed t group by t.collection_id;
  return null;
end $$;

create trigger count_inserted after insert on backline.failures
  referencing new table as changed for each statement execute function backline.count_failures();
create trigger count_deleted after delete on backline.failures
  referencing old table as changed for each statement execute function backline.count_failures();

create function backline.count_stamps() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op <> 'INSERT' then
    with counted as (
      select o.collection_id, o.model_id, o.blank, o.long, count(*) as amount
      from old_rows o where not o.stale group by o.collection_id, o.model_id, o.blank, o.long
    )
    insert into backline.counter_deltas (collection_id, measure, model_id, amount)
    select c.collection_id, case when c.blank then 'blank' else 'embedded' end, c.model_id, -c.amount from counted c
    union all select c.collection_id, 'long', c.model_id, -c.amount from counted c where c.long;
  end if;
  if tg_op <> 'DELETE' then
    with counted as (
      select n.collection_id, n.model_id, n.blank, n.long, count(*) as amount
      from new_rows n where not n.stale group by n.collection_id, n.model_id, n.blank, n.long
    )
    insert into backline.counter_deltas (collection_id, measure, model_id, amount)
    select c.collection_id, case when c.blank then 'blank' else 'embedded' end, c.model_id, c.amount from counted c
    union all select c.collection_id, 'long', c.model_id, c.amount from counted c where c.long;
  end if;
  return null;
end $$;

create trigger count_inserted after insert on backline.stamps
  referencing new table as new_rows for each statement execute function backline.count_stamps();
create trigger count_updated after update on backline.stamps
  referencing old table as old_rows new table as new_rows
  for each statement execute function backline.count_stamps();
create trigger count_deleted after delete on backline.stamps
  referencing old table as old_rows for each statement execute function backline.count_stamps();

-- Folds the ledger of a collection into one line a measure. Skips what another compaction holds.
create function backline.compact_counters(p_collection int) returns void
language sql set search_path = '' as $$
  with gone as (
    delete from backline.counter_deltas t
    where t.ctid in (select c.ctid from backline.counter_deltas c
                     where c.collection_id = p_collection for update skip locked)
    returning t.measure, t.model_id, t.amount
  )
  insert into backline.counter_deltas (collection_id, measure, model_id, amount)
  select p_collection, g.measure, g.model_id, sum(g.amount) from gone g
  group by g.measure, g.model_id having sum(g.amount) <> 0;
$$;

-- Sets the ledger right by counting, and returns what it corrected. The count is one statement, so
-- one snapshot: what a concurrent transaction adds is counted by its own ledger line later, never
-- twice and never not at all. Recounts take turns, or two would make the same correction twice.
create function backline.recount(p_collection int, p_correct boolean default true) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_source text;
  v_corrected jsonb;
begin
  select format('%I.%I', c.table_schema, c.table_name) into strict v_source
  from backline.collections c where c.id = p_collection;
  perform backline.lock_collection(p_collection);
  execute format($q$
    with wrong as (
      select d.measure, d.model_id, sum(d.amount) as amount from (
        select 'rows' as measure, 0 as model_id, count(*) as amount from %1$s
        union all
        select case when s.blank then 'blank' else 'embedded' end, s.model_id, count(*)
        from backline.stamps s where s.collection_id = $1 and not s.stale group by s.blank, s.model_id
        union all
        select 'long', s.model_id, count(*)
        from backline.stamps s where s.collection_id = $1 and s.long and not s.stale group by s.model_id
        union all
        select 'pending', 0, count(*) from backline.jobs j where j.collection_id = $1
        union all
        select 'failed', 0, count(*) from backline.failures f where f.collection_id = $1
        union all
        select t.measure, t.model_id, -sum(t.amount) from backline.counter_deltas t
        where t.collection_id = $1 group by t.measure, t.model_id
      ) d group by d.measure, d.model_id having sum(d.amount) <> 0
    ), corrected as (
      insert into backline.counter_deltas (collection_id, measure, model_id, amount)
      select $1, w.measure, w.model_id, w.amount from wrong w where $2
    )
    select coalesce(jsonb_object_agg(m.measure, m.amount), '{}')
    from (select w.measure, sum(w.amount) as amount from wrong w group by w.measure) m
  $q$, v_source) into v_corrected using p_collection, p_correct;
  return v_corrected;
end $$;
comment on function backline.recount is
  'API: recounts rows, embedded, blank, long, pending and failed; corrects the ledger, unless told not to, and returns by how much it is off.';

-- ------------------------------------------------------------------------------------ collections

-- The expression over alias r that a template stands for. NULL reads as nothing, the ends are
-- trimmed, '{{' and '}}' are literal braces.
create function backline.compile_template(p_table regclass, p_template text) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_rest text := p_template;
  v_parts text[] := '{}';
  v_at int;
  v_column text;
begin
  while v_rest <> '' loop
    if left(v_rest, 2) in ('{{', '}}') then
      v_parts := v_parts || quote_literal(left(v_rest, 1));
      v_rest := substr(v_rest, 3);
    elsif left(v_rest, 1) = '{' then
      v_at := strpos(v_rest, '}');
      if v_at = 0 then
        raise exception using errcode = 'BL001', message =
          format('the template %L has a { without a }. Write {column}, or {{ for a brace', p_template);
      end if;
      v_column := btrim(substr(v_rest, 2, v_at - 2));
      if not exists (select from pg_catalog.pg_attribute a where a.attrelid = p_table
                     and a.attname = v_column and a.attnum > 0 and not a.attisdropped) then
        raise exception using errcode = 'BL002', message = format(
          'the table %s has no column %L, which the template %L names. Its columns: %s', p_table,
          v_column, p_template,
          (select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute a
           where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped));
      end if;
      if exists (select from pg_catalog.pg_attribute a where a.attrelid = p_table
                 and a.attname = v_column and a.attgenerated = 'v') then
        raise exception using errcode = 'BL001', message = format(
          'the column %L of %s is generated when it is read, which triggers cannot see. Make it STORED, '
          'or name the columns that it is made of', v_column, p_table);
      end if;
      v_parts := v_parts || format('r.%I', v_column);
      v_rest := substr(v_rest, v_at + 1);
    else
      v_at := coalesce(nullif(least(
        coalesce(nullif(strpos(v_rest, '{'), 0), length(v_rest) + 1),
        coalesce(nullif(strpos(v_rest, '}'), 0), length(v_rest) + 1)), 1), 2);
      v_parts := v_parts || quote_literal(left(v_rest, v_at - 1));
      v_rest := substr(v_rest, v_at);
    end if;
  end loop;
  if p_template !~ '[{]' or not exists (select from unnest(v_parts) p where p like 'r.%') then
    raise exception using errcode = 'BL001', message =
      format('the template %L names no column. Write for example ''{title} {body}''', p_template);
  end if;
  return format('pg_catalog.btrim(pg_catalog.concat(%s), E'' \t\n\r'')', array_to_string(v_parts, ', '));
end $$;

-- A pseudo-random vector, every component within -1 and 1 (Knuth's multiplicative hash of its number).
create function backline.projection(p_dimensions int) returns extensions.vector
language sql immutable set search_path = '' as $$
  select array_agg((i * 2654435761 % 4294967296 / 2147483648.0 - 1)::real order by i)::extensions.vector
  from generate_series(1, p_dimensions::bigint) i;
$$;

-- The id of a model, made where there is none.
create function backline.model_id(p_provider text, p_name text, p_revision text, p_dimensions int)
returns int language plpgsql set search_path = '' as $$
declare
  v_id int;
begin
  insert into backline.models (provider, name, revision, dimensions, projection)
  values (p_provider, p_name, p_revision, p_dimensions, backline.projection(p_dimensions))
  on conflict do nothing;
  select m.id into v_id from backline.models m
  where m.provider = p_provider and m.name = p_name and m.revision = p_revision
    and m.dimensions = p_dimensions;
  return v_id;
end $$;

-- Every function that makes the text of a row pins the settings that texts depend on: a row has one
-- text, whoever reads it, or an edit would be missed and a hash would never match again.

-- The trigger functions of one collection. They are generated because a function that knows its
-- table's columns compares a thousand changed rows in one plan; security definer, because whoever
-- edits the table need not have any right in this schema.
create function backline.install_triggers(p_collection int) returns void
language plpgsql set search_path = '' as $$
declare
  c backline.collections;
  v_table text;
  -- The body goes in as a literal: a column may be named like any delimiter.
  v_create constant text := 'create or replace function backline.%I() returns trigger '
    'language plpgsql security definer '
    'set search_path = '''' set timezone = ''UTC'' set datestyle = ''ISO, YMD'' '
    'set intervalstyle = ''postgres'' set bytea_output = ''hex'' set extra_float_digits = 1 as %L';
  v_body text;
  v_event text;
begin
  select * into strict c from backline.collections where id = p_collection;
  v_table := format('%I.%I', c.table_schema, c.table_name);

  v_body := format($f$
    begin
      insert into backline.counter_deltas (collection_id, measure, amount)
      select %1$s, 'rows', count(*) from new_rows having count(*) > 0;
      perform backline.enqueue_edits(%1$s, array(select r.%2$I::text from new_rows r));
      return null;
    end $f$, c.id, c.key_column);
  execute format(v_create, 'c' || c.id || '_inserted', v_body);

  -- A row is known by its key, so a changed key is a delete and an insert.
  v_body := format($f$
    begin
      perform backline.forget(%1$s, array(
        select r.%2$I::text from old_rows r
        where not exists (select from new_rows n where n.%2$I::text = r.%2$I::text)));
      perform backline.enqueue_edits(%1$s, array(
        select k.key from (select r.%2$I::text as key, %3$s as content from new_rows r) k
        left join (select r.%2$I::text as key, %3$s as content from old_rows r) o on o.key = k.key
        where o.content is distinct from k.content));
      return null;
    end $f$, c.id, c.key_column, c.text_sql);
  execute format(v_create, 'c' || c.id || '_updated', v_body);

  v_body := format($f$
    begin
      insert into backline.counter_deltas (collection_id, measure, amount)
      select %1$s, 'rows', -count(*) from old_rows having count(*) > 0;
      perform backline.forget(%1$s, array(select r.%2$I::text from old_rows r));
      return null;
    end $f$, c.id, c.key_column);
  execute format(v_create, 'c' || c.id || '_deleted', v_body);

  v_body := format($f$
    begin
      delete from backline.jobs where collection_id = %1$s;
      delete from backline.batch_leases where collection_id = %1$s;
      delete from backline.failures where collection_id = %1$s;
      delete from backline.stamps where collection_id = %1$s;
      insert into backline.counter_deltas (collection_id, measure, amount)
      select %1$s, 'rows', -sum(t.amount) from backline.counter_deltas t
      where t.collection_id = %1$s and t.measure = 'rows' having sum(t.amount) <> 0;
      return null;
    end $f$, c.id);
  execute format(v_create, 'c' || c.id || '_truncated', v_body);

  foreach v_event in array array['insert', 'update', 'delete', 'truncate'] loop
    execute format('drop trigger if exists %I on %s', 'backline_c' || c.id || '_' || v_event, v_table);
    execute format('revoke all on function backline.%I() from public',
                   'c' || c.id || '_' || case v_event when 'truncate' then 'truncated'
                                                      when 'insert' then 'inserted'
                                                      when 'update' then 'updated'
                                                      else 'deleted' end);
  end loop;
  -- Backline's own write sets backline.writing, so that storing a vector compares no text.
  execute format('create trigger %I after insert on %s referencing new table as new_rows '
                 'for each statement execute function backline.%I()',
                 'backline_c' || c.id || '_insert', v_table, 'c' || c.id || '_inserted');
  execute format('create trigger %I after update on %s referencing old table as old_rows new table as new_rows '
                 'for each statement when (current_setting(''backline.writing'', true) is distinct from ''%s'') '
                 'execute function backline.%I()',
                 'backline_c' || c.id || '_update', v_table, c.id, 'c' || c.id || '_updated');
  execute format('create trigger %I after delete on %s referencing old table as old_rows '
                 'for each statement execute function backline.%I()',
                 'backline_c' || c.id || '_delete', v_table, 'c' || c.id || '_deleted');
  execute format('create trigger %I after truncate on %s '
                 'for each statement execute function backline.%I()',
                 'backline_c' || c.id || '_truncate', v_table, 'c' || c.id || '_truncated');
end $$;

create function backline.add_collection(
  p_name text, p_table regclass, p_key text, p_template text, p_column text,
  p_provider text, p_model text, p_revision text, p_dimensions int,
  p_column_type text default 'vector', p_long_text text default 'truncate'
) returns int language plpgsql set search_path = '' as $$
declare
  v_schema text; v_table text; v_kind "char"; v_key text; v_key_type text; v_id int; v_sql text;
begin
  select n.nspname, k.relname, k.relkind into strict v_schema, v_table, v_kind
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
  where k.oid = p_table;
  if v_kind not in ('r', 'p') then
    raise exception using errcode = 'BL003', message =
      format('%s is not a table. Backline writes vectors into tables, not into views', p_table);
  end if;

  -- One column that tells rows apart: the primary key, or a unique NOT NULL column named by the caller.
  -- The cast carries the column's collation, or its index could not be used; and no length, or a
  -- character(8) would be cast to its first letter.
  select a.attname, pg_catalog.format_type(a.atttypid, -1)
         || coalesce(' collate ' || quote_ident(l.nspname) || '.' || quote_ident(o.collname), '')
    into v_key, v_key_type
  from pg_catalog.pg_index i
  join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
  left join pg_catalog.pg_collation o on o.oid = a.attcollation
  left join pg_catalog.pg_namespace l on l.oid = o.collnamespace
  where i.indrelid = p_table and i.indnkeyatts = 1 and i.indisunique and i.indpred is null
    and i.indisvalid and a.attnotnull and (p_key is null and i.indisprimary or a.attname = p_key)
  limit 1;
  if v_key is null then
    raise exception using errcode = 'BL004', message = case
      when p_key is null then format(
        'the table %s has no single-column primary key. Add one, or name a unique NOT NULL column with --key', p_table)
      else format('the column %L of %s is not unique and NOT NULL (or does not exist), so it cannot tell rows apart', p_key, p_table)
      end;
  end if;

  v_sql := backline.compile_template(p_table, p_template);
  execute format('alter table %s add column if not exists %I %s', p_table, p_column,
                 format('extensions.%I(%s)', p_column_type, p_dimensions));
  insert into backline.collections
    (name, table_schema, table_name, key_column, key_type, text_template, text_sql, embedding_column, model_id,
     long_text)
  values (p_name, v_schema, v_table, v_key, v_key_type, p_template, v_sql, p_column,
          backline.model_id(p_provider, p_model, p_revision, p_dimensions), p_long_text)
  returning id into v_id;
  perform backline.install_triggers(v_id);
  return v_id;
end $$;
comment on function backline.add_collection is
  'API: declares a table for embedding: adds the column where it is missing, and the triggers.';

-- Changes the model of a collection. Every row is due again; the next backfill embeds it anew.
create function backline.set_model(
  p_collection int, p_provider text, p_model text, p_revision text, p_dimensions int
) returns void language sql set search_path = '' as $$
  update backline.collections
  set model_id = backline.model_id(p_provider, p_model, p_revision, p_dimensions)
  where id = p_collection;
$$;
comment on function backline.set_model is 'API: changes the model of a collection; its rows become due.';

create function backline.remove_triggers(p_collection int) returns void
language plpgsql set search_path = '' as $$
declare
  c backline.collections;
  v_name text;
begin
  select * into strict c from backline.collections where id = p_collection;
  foreach v_name in array array['inserted', 'updated', 'deleted', 'truncated'] loop
    execute format('drop function if exists backline.%I() cascade', 'c' || c.id || '_' || v_name);
  end loop;
end $$;

create function backline.drop_collection(p_collection int, p_drop_column boolean) returns void
language plpgsql set search_path = '' as $$
declare
  c backline.collections;
begin
  select * into strict c from backline.collections where id = p_collection for update;
  perform backline.remove_triggers(p_collection);
  if p_drop_column and to_regclass(format('%I.%I', c.table_schema, c.table_name)) is not null then
    execute format('alter table %I.%I drop column if exists %I', c.table_schema, c.table_name, c.embedding_column);
  end if;
  delete from backline.jobs where collection_id = p_collection;
  delete from backline.batch_leases where collection_id = p_collection;
  delete from backline.failures where collection_id = p_collection;
  delete from backline.stamps where collection_id = p_collection;
  delete from backline.workers where collection_id = p_collection;
  delete from backline.run_counts n using backline.runs r where r.collection_id = p_collection and n.run_id = r.id;
  delete from backline.runs where collection_id = p_collection;
  delete from backline.collections where id = p_collection;
  delete from backline.counter_deltas where collection_id = p_collection;
end $$;
comment on function backline.drop_collection is
  'API: undoes add_collection; keeps the column with its vectors unless told to drop it.';

-- ------------------------------------------------------------------------------------------- jobs

-- A live edit: the row needs embedding, now. Whoever holds its old text loses the lease, so that
-- the new text need not wait for a slow call to end.
create function backline.enqueue_edits(p_collection int, p_keys text[]) returns void
language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  if cardinality(p_keys) = 0 then
    return;
  end if;
  insert into backline.jobs as j (collection_id, key, priority)
  select p_collection, k.key, 0 from (select distinct u.key from unnest(p_keys) as u(key)) k order by k.key
  on conflict (collection_id, key) do update
    set worker_id = null, attempts = 0, priority = 0, not_before = now();
  update backline.stamps s set stale = true where s.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.stamps y
      where y.collection_id = p_collection and y.key = u.key and not y.stale offset 0) x));
  delete from backline.failures f where f.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.failures y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
  perform pg_catalog.pg_notify('backline', p_collection::text);
end $$;

-- A deleted row leaves nothing behind.
create function backline.forget(p_collection int, p_keys text[]) returns void
language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  if cardinality(p_keys) = 0 then
    return;
  end if;
  delete from backline.jobs j where j.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.jobs y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
  delete from backline.stamps s where s.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.stamps y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
  delete from backline.failures f where f.ctid = any (array(
    select x.ctid from unnest(p_keys) as u(key) cross join lateral (
      select y.ctid from backline.failures y
      where y.collection_id = p_collection and y.key = u.key offset 0) x));
end $$;

-- Whoever makes work of rows that wait for nothing yet takes turns, until the end of its transaction: two
-- that looked at once would both find a row free, and two that recounted would both correct.
create function backline.lock_collection(p_collection int) returns void
language sql set search_path = '' as $$
  select pg_catalog.pg_advisory_xact_lock((x'6261636c'::bigint << 31) | p_collection);
$$;

-- The rows of a collection that are leased by the page. Those of them whose stamp is not stale are done.
create function backline.paged(p_collection int) returns text[]
language sql stable set search_path = '' as $$
  select array(select unnest(p.keys) from backline.batch_leases p where p.collection_id = p_collection);
$$;

-- Makes jobs, under the same worker and lease, of the rows of pages that are not done: of all of them, or
-- of those in p_keys. They count from when they were leased: who asks what is outstanding since then must
-- not take work that was freed a moment ago for work that came later. A row that somebody's open transaction
-- holds stays in its page: to wait for it here would make other users wait for that transaction too.
create function backline.convert_to_jobs(p_leases bigint[], p_keys text[] default null) returns void
language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  p backline.batch_leases;
  c backline.collections;
  v_held text[];
begin
  for p in select * from backline.batch_leases x where x.lease = any (p_leases) order by x.lease for update loop
    select * into strict c from backline.collections where id = p.collection_id;
    execute format($q$
      with open as materialized (
        select u.key from unnest($3) as u(key)
        where ($6 is null or u.key = any ($6)) and (
          select true from backline.stamps s
          where s.collection_id = $1 and s.key = u.key and not s.stale and s.model_id = $5 offset 0) is null
      ), free as materialized (
        select o.key from open o join %1$s r on r.%2$I = o.key::%3$s for no key update of r skip locked
      ), queued as (
        insert into backline.jobs (collection_id, key, priority, enqueued_at, worker_id, lease)
        select $1, f.key, 1, $7, $2, $4 from free f order by f.key
        on conflict do nothing
      )
      select array(select x.key from (select o.key from open o except select f.key from free f) x
                   join %1$s r on r.%2$I = x.key::%3$s)
    $q$, format('%I.%I', c.table_schema, c.table_name), c.key_column, c.key_type)
    into v_held using p.collection_id, p.worker_id, p.keys, p.lease, c.model_id, p_keys, p.leased_at;
    v_held := v_held || array(select u.key from unnest(p.keys) as u(key) where u.key <> all (p_keys));
    if v_held = '{}' then
      delete from backline.batch_leases x where x.lease = p.lease;
    elsif cardinality(v_held) < cardinality(p.keys) then
      update backline.batch_leases x set keys = v_held where x.lease = p.lease;
    end if;
  end loop;
end $$;

-- Ends the pages of a worker but for those it knows to be unfinished: the others are done, or it never
-- heard of them, because the answer to its claim was lost.
create function backline.end_finished_batches(p_worker bigint, p_leases bigint[]) returns void
language sql set search_path = '' as $$
  delete from backline.batch_leases p where p.worker_id = p_worker and p.lease <> all (p_leases);
$$;
comment on function backline.end_finished_batches is 'API: ends the pages of a worker, but for those that it is still at.';

-- One page of the table, by key: each row, and whether it is due, that is, its stamp is missing or
-- out of date. Dead letters are not due until their text or the model changes or somebody retries.
create function backline.scan_page(p_collection int, p_after text, p_limit int, p_with_text boolean default false)
returns table (key text, due boolean, stamped boolean, content text, content_hash bytea, cached boolean)
language plpgsql stable rows 1000
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
begin
  select * into strict c from backline.collections where id = p_collection;
  return query execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, %2$s as content, r.%3$I is null as missing,
             row_number() over (order by r.%1$I) as position
      from %4$s r where %5$s order by r.%1$I limit $3
    )
    -- A row without a stamp is due whatever its text: only where there is one is the text hashed.
    select p.key,
           (s.key is null or s.stale or s.model_id <> $4 or p.missing <> s.blank
              or s.content_hash <> sha256(convert_to(p.content, 'UTF8')))
             and (f.key is null or f.model_id <> $4
                  or f.content_hash <> sha256(convert_to(p.content, 'UTF8'))),
           s.key is not null and not s.stale, %6$s
    from page p
    left join lateral (select * from backline.stamps x
                       where x.collection_id = $1 and x.key = p.key offset 0) s on true
    left join lateral (select * from backline.failures x
                       where x.collection_id = $1 and x.key = p.key offset 0) f on true
    order by p.position
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name),
       case when p_after is null then 'true' else format('r.%I > $2::%s', c.key_column, c.key_type) end,
       case when p_with_text then
         $t$ p.content, sha256(convert_to(p.content, 'UTF8')), coalesce((
           select true from backline.vectors v
           where v.model_id = $4 and v.content_hash = sha256(convert_to(p.content, 'UTF8'))
             and (v.cut is null or v.cut = $5) offset 0), false) $t$
       else 'null::text, null::bytea, false' end)
  using p_collection, p_after, p_limit, c.model_id, c.long_text;
end $$;
comment on function backline.scan_page is 'API: one page of rows after key p_after, and which of them are due.';

-- Enqueues what is due in a page.
create function backline.enqueue_page(
  p_collection int, p_after text, p_limit int,
  out scanned bigint, out due bigint, out last_key text
) language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_paged text[];
begin
  perform backline.lock_collection(p_collection);
  v_paged := backline.paged(p_collection);
  with page as materialized (
    select w.key, w.due and (w.stamped or w.key <> all (v_paged)) as due, w.stamped, row_number() over () as position
    from backline.scan_page(p_collection, p_after, p_limit) w
  ), marked as (
    update backline.stamps s set stale = true
    where s.ctid = any (array(
      select x.ctid from page p cross join lateral (
        select y.ctid from backline.stamps y
        where y.collection_id = p_collection and y.key = p.key offset 0) x
      where p.due and p.stamped))
  ), queued as (
    insert into backline.jobs (collection_id, key, priority)
    select p_collection, p.key, 1 from page p where p.due
    on conflict do nothing
  )
  select (select count(*) from page), (select count(*) from page p where p.due),
         (select p.key from page p order by p.position desc limit 1)
  into scanned, due, last_key;
end $$;
comment on function backline.enqueue_page is
  'API: enqueues what is due in the page of rows after key p_after; last_key is null at the end.';

-- A worker embeds with one model. Where the collection's is another one by now, nothing that the
-- worker makes may be stored: its vectors would carry the name of a model that did not make them.
create function backline.require_model(p_wanted int, p_given int) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_given <> p_wanted then
    raise exception using errcode = 'BL005', message = format(
      'The collection''s model is now %s; this worker embeds with %s. Start it again.',
      (select format('%s/%s@%s', m.provider, m.name, m.dimensions) from backline.models m where m.id = p_wanted),
      (select format('%s/%s@%s', m.provider, m.name, m.dimensions) from backline.models m where m.id = p_given));
  end if;
end $$;

-- Leases up to p_limit jobs to a worker and says what each row needs:
--   embed   its text has to be embedded
--   reuse   this very text was embedded before: complete() takes the vector from the cache
--   blank   there is no text: complete() clears the vector
--   up_to_date   the stored vector already is of this text: complete() only ends the job
--   gone    the row no longer exists: likewise
create function backline.claim(p_collection int, p_worker bigint, p_limit int, p_model int default null)
returns table (key text, action text, content text, content_hash bytea, attempts int, lease bigint)
language plpgsql rows 500
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  c backline.collections;
begin
  select * into strict c from backline.collections where id = p_collection;
  perform backline.require_model(c.model_id, p_model);
  return query execute format($q$
    with leased as materialized (
      update backline.jobs j set worker_id = $2, lease = $5
      where j.ctid = any (array(
        select x.ctid from backline.jobs x
        where x.collection_id = $1 and x.worker_id is null and x.not_before <= now()
        order by x.priority, x.enqueued_at limit $3
        for update skip locked))
      returning j.key, j.attempts
    ), seen as materialized (
      select l.key, l.attempts, r.found, r.content, sha256(convert_to(r.content, 'UTF8')) as hash, r.missing
      from leased l left join lateral (
        select true as found, %2$s as content, r.%3$I is null as missing
        from %4$s r where r.%1$I = l.key::%5$s offset 0
      ) r on true
    )
    select n.key,
      case when n.found is null then 'gone'
           when s.content_hash = n.hash and s.model_id = $4 and n.missing = s.blank then 'up_to_date'
           when n.content = '' then 'blank'
           when (select true from backline.vectors v where v.model_id = $4 and v.content_hash = n.hash
                   and (v.cut is null or v.cut = $6) offset 0) then 'reuse'
           else 'embed' end,
      n.content, n.hash, n.attempts::int, $5
    from seen n left join lateral (
      select x.content_hash, x.model_id, x.blank from backline.stamps x
      where x.collection_id = $1 and x.key = n.key offset 0) s on true
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name), c.key_type)
  using p_collection, p_worker, p_limit, c.model_id, pg_catalog.pg_current_xact_id()::text::bigint, c.long_text;
end $$;
comment on function backline.claim is 'API: leases jobs to a worker, with each row''s text and what it needs.';

-- Walks one page and leases what is due in it to the worker that asks: enqueue_page() and claim() in
-- one, with one row for the page in place of a job for each row. What another page or a job has is left
-- to it. p_known are the pages that the worker is still at; see end_finished_batches(). The arrays are of the rows
-- that are now the worker's, null where there are none.
create function backline.claim_batch(
  p_collection int, p_worker bigint, p_run bigint, p_after text, p_limit int, p_model int,
  p_known bigint[] default '{}',
  out scanned bigint, out last_key text,
  out keys text[], out actions text[], out contents text[], out hashes bytea[],
  out lease bigint
) language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_paged text[];
  v_stamped boolean;
begin
  select * into strict c from backline.collections where id = p_collection;
  perform backline.require_model(c.model_id, p_model);
  perform backline.lock_collection(p_collection);
  perform backline.end_finished_batches(p_worker, p_known);
  v_paged := backline.paged(p_collection);
  lease := pg_catalog.pg_current_xact_id()::text::bigint;
  execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, %2$s as content, r.%3$I is null as missing,
             row_number() over (order by r.%1$I) as position
      from %4$s r where %5$s order by r.%1$I limit $3
    ), due as materialized (
      select p.key, p.content, sha256(convert_to(p.content, 'UTF8')) as hash,
             s.key is not null as stamped, case when not s.stale then s.ctid end as stamp
      from page p
      left join lateral (select x.ctid, x.* from backline.stamps x
                         where x.collection_id = $1 and x.key = p.key offset 0) s on true
      where (s.key is null or s.stale or s.model_id <> $4 or p.missing <> s.blank
             or s.content_hash <> sha256(convert_to(p.content, 'UTF8')))
        -- Asked here: an edit between two statements would make a job of a row that is claimed then.
        and ((select not exists (select from backline.jobs j where j.collection_id = $1 and j.worker_id is null)
                 and not exists (select from backline.jobs j where j.collection_id = $1 and j.worker_id is not null))
             or (select true from backline.jobs j
                 where j.collection_id = $1 and j.key = p.key offset 0) is null)
        %6$s %7$s
    ), marked as (
      update backline.stamps s set stale = true
      where s.ctid = any (array(select d.stamp from due d where d.stamp is not null))
    )
    select (select count(*) from page),
           (select p.key from page p order by p.position desc limit 1),
           array_agg(d.key), array_agg(case when d.content = '' then 'blank' %8$s else 'embed' end),
           array_agg(d.content), array_agg(d.hash), bool_or(d.stamped)
    from due d
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name),
       case when p_after is null then 'true' else format('r.%I > $2::%s', c.key_column, c.key_type) end,
       -- The look-ups that most walks never need.
       case when v_paged <> '{}' then 'and (not coalesce(s.stale, true) or p.key <> all ($5))' end,
       case when exists (select from backline.failures f where f.collection_id = p_collection) then
         $t$ and (select true from backline.failures f
              where f.collection_id = $1 and f.key = p.key and f.model_id = $4
                and f.content_hash = sha256(convert_to(p.content, 'UTF8')) offset 0) is null $t$ end,
       case when exists (select from backline.vectors v where v.model_id = c.model_id) then
         $t$ when (select true from backline.vectors v where v.model_id = $4 and v.content_hash = d.hash
                and (v.cut is null or v.cut = $6) offset 0) then 'reuse' $t$ end)
  into scanned, last_key, keys, actions, contents, hashes, v_stamped
  using p_collection, p_after, p_limit, c.model_id, v_paged, c.long_text;

  insert into backline.batch_leases (lease, collection_id, worker_id, keys, stamped)
  select claim_batch.lease, p_collection, p_worker, claim_batch.keys, v_stamped
  where claim_batch.keys is not null;

  update backline.runs r
  set scanned = r.scanned + claim_batch.scanned, due = r.due + coalesce(cardinality(claim_batch.keys), 0),
      cursor = coalesce(claim_batch.last_key, r.cursor)
  where r.id = p_run;
end $$;
comment on function backline.claim_batch is
  'API: leases what is due in the page of rows after key p_after to a worker; last_key is null at the end.';

-- Stores what a worker brings, and ends the jobs. Compare and set: a vector is written only where
-- the row still exists and its text still is what was embedded. A row that somebody is editing at
-- this moment is waited for no longer than 20 ms, then skipped, so that nobody ever waits for a
-- waiting Backline.
-- Returns the rows that were not written, and why:
--   changed  the text is another one now; its job is pending again
--   gone     the row no longer exists; its job is ended
--   busy     the row or its job is locked; nothing happened, bring it again
--   lost     the cache no longer has the vector that was to be reused; its job is pending again
--
-- p_long says of which rows the text is longer than the model reads; null says of none.
--
-- The rows come as parallel arrays. They were a temporary table filled by COPY once: making it
-- ready and emptying it took 5 ms a transaction, two thirds of the time of a single edit.
create function backline.complete(
  p_collection int, p_worker bigint, p_run bigint, p_cache boolean,
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors extensions.vector[],
  p_batches bigint default 0, p_tokens bigint default 0, p_truncated bigint default 0,
  p_model int default null, p_leases bigint[] default null,
  p_path text default pg_catalog.current_setting('search_path'), p_long boolean[] default null
) returns table (key text, outcome text)
language plpgsql rows 10
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set lock_timeout = '200ms'
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
#variable_conflict use_column
declare
  c backline.collections;
  v_source text;
  v_type text;
  v_projection extensions.vector;
  v_vectors extensions.vector[] := p_vectors;
  v_long boolean[] := p_long;
  v_write text;
  v_stamp text;
  v_finish text;
  -- Leave out what changes nothing, or a call that is repeated would count twice.
  v_again constant text := $q$
      on conflict (collection_id, key) do update set model_id = excluded.model_id,
        content_hash = excluded.content_hash, blank = excluded.blank, stale = false, long = excluded.long,
        fingerprint = excluded.fingerprint, stamped_at = clock_timestamp()
      where s.stale or (s.model_id, s.content_hash, s.blank, s.long, s.fingerprint)
        is distinct from (excluded.model_id, excluded.content_hash, excluded.blank, excluded.long, excluded.fingerprint)
  $q$;
  v_written text[];
  v_new text[];
  v_has_jobs boolean;
  v_stamped boolean;
begin
  select * into strict c from backline.collections where id = p_collection;
  perform backline.require_model(c.model_id, p_model);
  -- A row in a page has no job, or one of a later edit, for which it will be found fresh. And a stamp that
  -- is surely the row's first takes an eighth less of the time.
  select p_leases is null or not coalesce(bool_and(coalesce(u.lease = any (g.all), false)), false),
         p_leases is null or not coalesce(bool_and(coalesce(u.lease = any (g.unstamped), false)), false)
  into v_has_jobs, v_stamped
  from (select array_agg(p.lease) as all, array_agg(p.lease) filter (where not p.stamped) as unstamped
        from backline.batch_leases p where p.collection_id = p_collection) g
  left join unnest(p_leases) as u(lease) on true;
  v_source := format('%I.%I', c.table_schema, c.table_name);
  select m.projection into strict v_projection from backline.models m where m.id = c.model_id;
  select pg_catalog.format_type(a.atttypid, a.atttypmod) into strict v_type
  from pg_catalog.pg_attribute a
  where a.attrelid = v_source::regclass and a.attname = c.embedding_column and not a.attisdropped;

  if p_cache then
    -- A row that is there already must not draw a number: by the numbers the cache is kept short.
    insert into backline.vectors (model_id, content_hash, cut, embedding)
    select distinct on (i.content_hash) c.model_id, i.content_hash, case when i.long then c.long_text end, i.embedding
    from unnest(p_hashes, p_vectors, p_long) as i(content_hash, embedding, long)
    where i.embedding is not null and (
      select true from backline.vectors v
      where v.model_id = c.model_id and v.content_hash = i.content_hash offset 0) is null
    on conflict do nothing;
  end if;
  if 'reuse' = any (p_actions) then
    select array_agg(coalesce(i.embedding, v.embedding) order by i.position),
           array_agg(coalesce(i.long, false) or v.cut is not null order by i.position)
    into v_vectors, v_long
    from unnest(p_hashes, p_actions, p_vectors, p_long) with ordinality
      as i(content_hash, action, embedding, long, position)
    left join lateral (
      select x.embedding, x.cut from backline.vectors x where i.action = 'reuse' and i.embedding is null
        and x.model_id = c.model_id and x.content_hash = i.content_hash
        and (x.cut is null or x.cut = c.long_text) offset 0) v on true;
  end if;

  perform pg_catalog.set_config('backline.writing', p_collection::text, true);
  -- The table's own triggers find their tables as they do in any other statement of this session:
  -- the default of p_path is read before this function sets its own.
  perform pg_catalog.set_config('search_path', p_path, true);
  -- In two halves around what is written: names and literals of users' hold any character, so
  -- nothing is looked for in a text that has them.
  v_write := format('with written as (update %s r set %I = f.embedding::%s from ',
                    v_source, c.embedding_column, v_type);
  v_stamp := format($q$
      where r.%1$I = f.key::%2$s
        and (f.action = 'blank' or f.action in ('embed', 'reuse') and f.embedding is not null)
        and pg_catalog.sha256(pg_catalog.convert_to(%3$s, 'UTF8')) = f.content_hash
      returning f.key, f.action, f.content_hash, coalesce(f.long, false) as long,
        extensions.inner_product(f.embedding%4$s, $8)::real as fingerprint
    ), stamped as (
      insert into backline.stamps as s (collection_id, key, model_id, content_hash, blank, long, fingerprint)
      select $1, w.key, $2, w.content_hash, w.action = 'blank', w.long, w.fingerprint from written w
  $q$, c.key_column, c.key_type, c.text_sql,
       -- As the column has it, if it rounds.
       case when v_type like '%halfvec%' then '::extensions.halfvec::extensions.vector' end);
  v_finish := format($q$
      returning s.key
    ) %s %s
    select array(select w.key from written w), array(select n.key from stamped n)
  $q$,
       case when exists (select from backline.failures f where f.collection_id = p_collection) then
         ', resolved as (delete from backline.failures f where f.ctid = any (array(
            select x.ctid from written w cross join lateral (
              select y.ctid from backline.failures y
              where y.collection_id = $1 and y.key = w.key offset 0) x)))' end,
       case when v_has_jobs then
         ', ended as (delete from backline.jobs j where j.ctid = any (array(
            select x.ctid from written w cross join lateral (
              select y.ctid from backline.jobs y
              where y.collection_id = $1 and y.key = w.key offset 0) x)))' end);
  perform pg_catalog.set_config('lock_timeout', '20ms', true);
  begin
    -- Nearly always nobody holds one of the rows, and locking them first would cost a tenth more.
    execute v_write || 'unnest($3, $4, $5, $6, $7) as f(key, action, content_hash, embedding, long)'
      || v_stamp || case when v_stamped then v_again else '' end || v_finish
    into v_written, v_new
    using p_collection, c.model_id, p_keys, p_actions, p_hashes, v_vectors, v_long, v_projection;
  exception when lock_not_available or unique_violation then  -- held, or stamped by somebody meanwhile
    execute v_write || format($q$ (
        select i.* from unnest($3, $4, $5, $6, $7) as i(key, action, content_hash, embedding, long)
        join %s r on r.%I = i.key::%s for no key update of r skip locked) f $q$,
      v_source, c.key_column, c.key_type) || v_stamp || v_again || v_finish
    into v_written, v_new
    using p_collection, c.model_id, p_keys, p_actions, p_hashes, v_vectors, v_long, v_projection;
  end;
  perform pg_catalog.set_config('search_path', '', true);
  perform pg_catalog.set_config('backline.writing', '', true);

  -- Only what this very call stamped counts, so that a call that is repeated because nobody knows whether
  -- it was committed counts nothing twice.
  if p_run is not null then
    insert into backline.run_counts (run_id, embedded, reused, batches, tokens, truncated)
    select p_run, count(*) filter (where i.action <> 'blank'), count(*) filter (where i.action = 'reuse'),
           p_batches, p_tokens, greatest(count(*) filter (where i.long), case when v_long is null then p_truncated end)
    from unnest(p_keys, p_actions, v_long) as i(key, action, long) where i.key = any (v_new);
  end if;

  if cardinality(v_written) < cardinality(p_keys) then
    return query select * from backline.resolve_unwritten(p_collection, p_worker, v_written,
                                               p_keys, p_actions, p_hashes, v_vectors, p_leases);
  end if;
end $$;
comment on function backline.complete is
  'API: stores vectors where the text is unchanged, and ends the jobs.';

-- Keeps the cache of vectors within p_bytes: the oldest go, p_limit of them at most. Their number is told
-- from the sequence, which has no gaps but those of calls that failed, and their size from the newest.
create function backline.trim_vectors(p_bytes bigint, p_limit int default 20000) returns int
language sql set search_path = '' as $$
  with newest as materialized (
    select v.seq, 4 * extensions.vector_dims(v.embedding) + 150 as bytes
    from backline.vectors v order by v.seq desc limit 100
  ), gone as (
    delete from backline.vectors v where v.seq in (
      select x.seq from backline.vectors x
      where x.seq <= (select max(n.seq) - (p_bytes / avg(n.bytes))::bigint from newest n)
      order by x.seq limit p_limit)
    returning 1
  )
  select count(*)::int from gone;
$$;
comment on function backline.trim_vectors is 'API: keeps the cache of vectors within a number of bytes; returns how many of the oldest it dropped.';

-- The second half of complete(): what becomes of the rows that were not written.
create function backline.resolve_unwritten(
  p_collection int, p_worker bigint, p_written text[],
  p_keys text[], p_actions text[], p_hashes bytea[], p_vectors extensions.vector[], p_leases bigint[]
)
returns table (key text, outcome text)
language plpgsql rows 10
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
  c backline.collections;
  v_pages bigint[] := array(select p.lease from backline.batch_leases p where p.lease = any (p_leases));
  v_due text[];
begin
  select * into strict c from backline.collections where id = p_collection;
  if v_pages <> '{}' then
    -- What is to be done again needs a job of its own.
    execute format($q$
      select array_agg(i.key) from unnest($1, $2, $3, $4) as i(key, action, content_hash, embedding)
      cross join lateral (select %2$s as content from %3$s r where r.%1$I = i.key::%4$s offset 0) r
      where i.key <> all ($5) and (
        sha256(convert_to(r.content, 'UTF8')) is distinct from i.content_hash
        or i.action = 'reuse' and i.embedding is null or i.action = 'up_to_date')
    $q$, c.key_column, c.text_sql, format('%I.%I', c.table_schema, c.table_name), c.key_type)
    into v_due using p_keys, p_actions, p_hashes, p_vectors, p_written;
    begin
      perform backline.convert_to_jobs(v_pages, coalesce(v_due, '{}'));
    exception when lock_not_available then  -- somebody's open transaction is in the way: bring them again
      return query select u.key, 'busy' from unnest(p_keys) as u(key) where u.key <> all (p_written);
      return;
    end;
  end if;
  return query execute format($q$
    with rest as materialized (
      select i.key, i.lease, i.position,
        case when r.found is null then 'gone'
             when sha256(convert_to(r.content, 'UTF8')) is distinct from i.content_hash then 'changed'
             when i.action = 'up_to_date' and (
               select true from backline.stamps s where s.collection_id = $1 and s.key = i.key
                 and s.content_hash = i.content_hash and s.model_id = $8 offset 0) then 'up_to_date'
             when i.action = 'up_to_date' then 'changed'
             when i.action = 'reuse' and i.embedding is null then 'lost'
             else 'busy' end as outcome
      from unnest($4, $5, $6, $7, $9) with ordinality
        as i(key, action, content_hash, embedding, lease, position)
      left join lateral (select true as found, %2$s as content from %3$s r
                         where r.%1$I = i.key::%4$s offset 0) r on true
      where i.key <> all ($3)
    ), mine as materialized (
      select n.key, n.position, n.outcome, j.id from rest n cross join lateral (
        select x.ctid as id from backline.jobs x
        where x.collection_id = $1 and x.key = n.key and x.worker_id = $2
          and (n.lease is null or n.lease = x.lease)
        for update skip locked offset 0) j
      where n.outcome <> 'busy'
    ), stamps as materialized (
      select m.outcome, s.id from mine m cross join lateral (
        select x.ctid as id from backline.stamps x
        where x.collection_id = $1 and x.key = m.key offset 0) s
    ), ended as (
      delete from backline.jobs j
      where j.ctid = any (array(select m.id from mine m where m.outcome in ('gone', 'up_to_date')))
    ), freed as (
      update backline.jobs j set worker_id = null, not_before = now()
      where j.ctid = any (array(select m.id from mine m where m.outcome in ('changed', 'lost')))
    ), refreshed as (
      update backline.stamps s set stale = false
      where s.ctid = any (array(select x.id from stamps x where x.outcome = 'up_to_date')) and s.stale
    ), orphaned as (
      delete from backline.stamps s
      where s.ctid = any (array(select x.id from stamps x where x.outcome = 'gone'))
    )
    select n.key,
      case when n.outcome <> 'busy' and n.position <> all (array(select m.position from mine m))
             and ((select true from backline.jobs j
                   where j.collection_id = $1 and j.key = n.key and j.worker_id = $2
                     and (n.lease is null or n.lease = j.lease) offset 0)
                  or n.outcome in ('changed', 'lost') and exists (
                    select from backline.batch_leases p where p.lease = n.lease and n.key = any (p.keys)))
           then 'busy' else n.outcome end
    from rest n
    where n.outcome <> 'up_to_date' or n.position <> all (array(select m.position from mine m))
  $q$, c.key_column, c.text_sql, format('%I.%I', c.table_schema, c.table_name), c.key_type)
  using p_collection, p_worker, p_written, p_keys, p_actions, p_hashes, p_vectors, c.model_id, p_leases;
end $$;

-- Records failed attempts: [{"key", "content_hash" (hex), "kind", "error", "retry_in" (seconds) or null,
-- "lease"}].
-- With retry_in, the job waits and is tried again, up to the collection's max_attempts; with none,
-- or when they are used up, it goes to the dead letters. Jobs that this worker no longer holds
-- (their row was edited meanwhile) are left alone, and a row whose text is another one now is
-- pending again: the verdict was on the old one. Returns the keys of jobs that somebody's open
-- transaction holds: nothing happened to them, report them again.
create function backline.fail(p_collection int, p_worker bigint, p_run bigint, p_rows jsonb)
returns text[] language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_dead int;
  v_busy text[];
begin
  select * into strict c from backline.collections where id = p_collection;
  perform backline.convert_to_jobs(array_agg(distinct x.lease), array_agg(x.key))
  from jsonb_to_recordset(p_rows) as x(key text, lease bigint);
  execute format($q$
    with reported as materialized (
      select x.key, decode(x.content_hash, 'hex') as content_hash, x.kind, x.error, x.retry_in, x.lease
      from jsonb_to_recordset($4) as x(key text, content_hash text, kind text, error text, retry_in float8, lease bigint)
    ), held as materialized (
      select j.id, j.key, j.attempts + 1 as attempts, n.content_hash, n.kind, n.error, n.retry_in,
        case when r.found is null then 'gone'
             when sha256(convert_to(r.content, 'UTF8')) <> n.content_hash then 'changed'
             when n.retry_in is null or j.attempts + 1 >= $5 then 'dead'
             else 'retry' end as outcome
      from reported n
      cross join lateral (select x.ctid as id, x.key, x.attempts from backline.jobs x
        where x.collection_id = $1 and x.key = n.key and x.worker_id = $2
          and (n.lease is null or n.lease = x.lease)
        for update skip locked offset 0) j
      left join lateral (select true as found, %2$s as content from %3$s r
        where r.%1$I = n.key::%4$s offset 0) r on true
    ), freed as (
      update backline.jobs j set worker_id = null,
        attempts = case h.outcome when 'retry' then h.attempts else j.attempts end,
        not_before = now() + make_interval(secs => case h.outcome when 'retry' then h.retry_in else 0 end)
      from held h where h.outcome in ('retry', 'changed') and j.ctid = h.id
    ), ended as (
      delete from backline.jobs j
      where j.ctid = any (array(select h.id from held h where h.outcome in ('dead', 'gone')))
    ), dead_lettered as (
      insert into backline.failures (collection_id, key, content_hash, model_id, attempts, kind, error, run_id)
      select $1, h.key, h.content_hash, $6, h.attempts, h.kind, h.error, $3
      from held h where h.outcome = 'dead'
      on conflict (collection_id, key) do update set content_hash = excluded.content_hash,
        model_id = excluded.model_id, attempts = excluded.attempts, kind = excluded.kind,
        error = excluded.error, run_id = excluded.run_id, failed_at = now()
      returning 1
    )
    select (select count(*) from dead_lettered),
      array(select n.key from reported n
            where n.key <> all (array(select h.key from held h)) and (
              (select true from backline.jobs x where x.collection_id = $1 and x.key = n.key
                 and x.worker_id = $2 and (n.lease is null or n.lease = x.lease) offset 0)
              or exists (select from backline.batch_leases p where p.lease = n.lease and n.key = any (p.keys))))
  $q$, c.key_column, c.text_sql, format('%I.%I', c.table_schema, c.table_name), c.key_type)
  into v_dead, v_busy using p_collection, p_worker, p_run, p_rows, c.max_attempts, c.model_id;
  insert into backline.run_counts (run_id, failed) select p_run, v_dead where p_run is not null and v_dead > 0;
  return v_busy;
end $$;
comment on function backline.fail is 'API: records failed attempts; see its comment in the migration.';

-- Gives back what a worker holds, all of it or some: no attempt is counted. A job that a user's open
-- transaction has in hand is skipped, here and in all that follows: whoever waited for it, holding
-- other jobs meanwhile, would make other users wait for that transaction too.
create function backline.release(p_worker bigint, p_keys text[] default null) returns int
language sql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  select backline.convert_to_jobs(array(select p.lease from backline.batch_leases p where p.worker_id = p_worker), p_keys);
  with freed as (
    update backline.jobs j set worker_id = null
    where j.ctid = any (array(
      select x.ctid from backline.jobs x
      where x.worker_id = p_worker and (p_keys is null or x.key = any (p_keys))
      for update skip locked))
    returning 1
  )
  select count(*)::int from freed;
$$;
comment on function backline.release is 'API: gives leased jobs back.';

create function backline.retry_failures(p_collection int, p_keys text[] default null) returns int
language sql set search_path = '' as $$
  with requeued as (
    delete from backline.failures f
    where f.ctid = any (array(
      select x.ctid from backline.failures x
      where x.collection_id = p_collection and (p_keys is null or x.key = any (p_keys))
      for update skip locked))
    returning f.key
  ), queued as (
    insert into backline.jobs (collection_id, key, priority)
    select p_collection, r.key, 1 from requeued r
    on conflict do nothing returning 1
  )
  select count(*)::int from requeued;
$$;
comment on function backline.retry_failures is 'API: sends dead letters, all or some, through the queue again.';

create function backline.drop_failures(p_collection int, p_keys text[] default null) returns int
language sql set search_path = '' as $$
  with dropped as (
    delete from backline.failures f
    where f.ctid = any (array(
      select x.ctid from backline.failures x
      where x.collection_id = p_collection and (p_keys is null or x.key = any (p_keys))
      for update skip locked))
    returning 1
  )
  select count(*)::int from dropped;
$$;
comment on function backline.drop_failures is 'API: forgets dead letters, all or some.';

-- ---------------------------------------------------------------------------------------- workers

-- The advisory lock that a worker with a session of its own holds while it lives.
create function backline.worker_lock(p_worker bigint) returns bigint
language sql immutable set search_path = '' as $$ select (x'6261636b'::bigint << 31) | p_worker $$;

create function backline.register_worker(
  p_collection int, p_host text, p_pid int, p_has_session boolean, p_lease interval,
  p_run bigint default null, p_replaces bigint default null
) returns bigint language plpgsql set search_path = '' as $$
declare
  v_id bigint;
  v_lost bigint[];
begin
  insert into backline.workers (collection_id, run_id, host, pid, has_session, replaces, expires_at)
  values (p_collection, p_run, p_host, p_pid, p_has_session, p_replaces, now() + p_lease) returning id into v_id;
  if p_has_session then
    perform pg_catalog.pg_advisory_lock(backline.worker_lock(v_id));
  end if;
  if p_replaces is not null then  -- the same worker, after its connection was lost
    -- Also an earlier try to replace it, of which it never heard that it was made.
    v_lost := p_replaces || array(select w.id from backline.workers w where w.replaces = p_replaces and w.id <> v_id);
    update backline.jobs j set worker_id = v_id
    where j.ctid = any (array(
      select x.ctid from backline.jobs x where x.worker_id = any (v_lost) for update skip locked));
    update backline.batch_leases p set worker_id = v_id where p.worker_id = any (v_lost);
    delete from backline.workers w where w.id = any (v_lost);
  end if;
  return v_id;
end $$;
comment on function backline.register_worker is 'API: makes a worker; its leases live as long as it does.';

-- Renews the lease; false where it was lost, and with it everything that was claimed.
create function backline.heartbeat(p_worker bigint, p_lease interval, p_rate real) returns boolean
language sql set search_path = '' as $$
  with renewed as (
    update backline.workers set expires_at = now() + p_lease, rate = p_rate where id = p_worker returning 1
  )
  select exists (select from renewed);
$$;
comment on function backline.heartbeat is 'API: renews a worker''s lease.';

create function backline.unregister_worker(p_worker bigint) returns void
language sql set search_path = '' as $$
  select backline.release(p_worker);
  delete from backline.workers where id = p_worker;  -- what is left of its leases, reap() frees
$$;
comment on function backline.unregister_worker is 'API: ends a worker and gives back what it holds.';

-- Frees what dead workers held: those whose lease has run out, and at once those whose connection
-- is gone, which its advisory lock shows. Then every lease without a worker is free, whoever took
-- it: a process that slept past its lease may have claimed in the moment before it noticed. p_worker is who
-- asks: it lives, even if its connection is gone and it has not noticed yet. Returns how many workers were
-- found dead.
create function backline.release_dead_workers(p_collection int, p_worker bigint default null) returns int
language plpgsql set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_dead bigint[];
begin
  select coalesce(array_agg(w.id), '{}') into v_dead from backline.workers w
  where w.collection_id = p_collection
    and (w.expires_at < now()
         or w.has_session and p_worker is distinct from w.id and (p_worker = w.replaces) is not true
            and pg_catalog.pg_try_advisory_xact_lock(backline.worker_lock(w.id)));
  -- A run has a worker but for the moments of its beginning and its report. One that is taken for
  -- dead while it reports has the last word all the same.
  update backline.runs r set state = 'interrupted', finished_at = now()
  where r.collection_id = p_collection and r.state in ('running', 'cancelling')
    and (r.started_at < now() - interval '1 minute'
         or exists (select from backline.workers w where w.run_id = r.id and w.id = any (v_dead)))
    and not exists (select from backline.workers w where w.run_id = r.id and w.id <> all (v_dead));
  delete from backline.workers w where w.id = any (v_dead);
  perform backline.convert_to_jobs(array(
    select p.lease from backline.batch_leases p
    where p.collection_id = p_collection and not exists (select from backline.workers w where w.id = p.worker_id)));
  -- From one holder to the next by the index: whatever the planner believes, it does not read the queue.
  with recursive holders as (
    (select j.worker_id as id from backline.jobs j where j.worker_id is not null
     order by j.worker_id limit 1)
    union all
    select (select j.worker_id from backline.jobs j where j.worker_id > h.id order by j.worker_id limit 1)
    from holders h where h.id is not null
  )
  update backline.jobs j set worker_id = null
  where j.ctid = any (array(
    select x.id from holders h cross join lateral (
      select y.ctid as id from backline.jobs y
      where y.worker_id = h.id and y.collection_id = p_collection
      for update skip locked offset 0) x
    where h.id is not null and not exists (select from backline.workers w where w.id = h.id)));
  return cardinality(v_dead);
end $$;
comment on function backline.release_dead_workers is 'API: frees what dead workers held.';

-- ------------------------------------------------------------------------------------------- runs

create function backline.start_run(p_collection int, p_settings jsonb) returns bigint
language sql set search_path = '' as $$
  insert into backline.runs (collection_id, model_id, settings)
  select c.id, c.model_id, p_settings from backline.collections c where c.id = p_collection
  returning id;
$$;
comment on function backline.start_run is 'API: records the beginning of a backfill.';

-- May be called again with the report, which comes after the index is built: the run ended before.
create function backline.finish_run(p_run bigint, p_state text, p_report jsonb) returns void
language sql set search_path = '' as $$
  update backline.runs set state = p_state, report = p_report,
    finished_at = case when state = p_state then coalesce(finished_at, now()) else now() end
  where id = p_run;
$$;
comment on function backline.finish_run is 'API: records the end of a run.';

create function backline.cancel_run(p_run bigint) returns text
language sql set search_path = '' as $$
  update backline.runs set state = 'cancelling' where id = p_run and state = 'running' returning state;
$$;
comment on function backline.cancel_run is 'API: asks a running run to stop; its workers notice within seconds.';

-- Whether work enqueued, or leased by the page, up to p_before is still open, and in how many seconds the next is due.
create function backline.outstanding(p_collection int, p_before timestamptz,
  out remain boolean, out due_in float8
) language sql stable set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  select exists (select from backline.jobs j where j.collection_id = p_collection and j.worker_id is null
                   and j.priority in (0, 1) and j.enqueued_at <= p_before)
         or exists (select from backline.jobs j where j.collection_id = p_collection
                      and j.worker_id is not null and j.enqueued_at <= p_before)
         or exists (select from backline.batch_leases p where p.collection_id = p_collection and p.leased_at <= p_before),
         (select extract(epoch from greatest(min(j.not_before) - now(), interval '0'))::float8
          from (select x.not_before from backline.jobs x where x.collection_id = p_collection
                  and x.worker_id is null order by x.priority, x.enqueued_at limit 1000) j);
$$;
comment on function backline.outstanding is 'API: whether work enqueued up to a moment is still open.';

-- --------------------------------------------------------------------------------- what is there

-- Coverage and health, from the ledger: cheap at any size. Ten million pending jobs and a worker beside
-- them took 1.8 s until nothing here could read the whole queue.
create function backline.coverage(p_collection int) returns jsonb
language sql stable set search_path = ''
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
  with counts as (
    select coalesce(sum(t.amount) filter (where t.measure = 'rows'), 0)::bigint as total,
           coalesce(sum(t.amount) filter (where t.measure = 'embedded' and t.model_id = c.model_id), 0)::bigint as embedded,
           coalesce(sum(t.amount) filter (where t.measure = 'blank' and t.model_id = c.model_id), 0)::bigint as blank,
           coalesce(sum(t.amount) filter (where t.measure = 'long' and t.model_id = c.model_id), 0)::bigint as long,
           coalesce(sum(t.amount) filter (where t.measure = 'pending'), 0)::bigint as pending,
           coalesce(sum(t.amount) filter (where t.measure = 'failed'), 0)::bigint as failed
    from backline.collections c left join backline.counter_deltas t on t.collection_id = c.id
    where c.id = p_collection
  ), held as materialized (
    select l.jobs, l.at from backline.workers w cross join lateral (
      select count(*) as jobs, min(j.enqueued_at) as at from backline.jobs j
      where j.worker_id = w.id and j.collection_id = p_collection offset 0) l
    where w.collection_id = p_collection
  ), paged as materialized (  -- what is open of the pages: their stamps tell
    select count(*) as jobs, min(p.leased_at) as at
    from backline.batch_leases p cross join unnest(p.keys) as u(key)
    where p.collection_id = p_collection and (
      select true from backline.stamps s
      where s.collection_id = p_collection and s.key = u.key and not s.stale offset 0) is null
  ), oldest as (
    select min(o.enqueued_at) as at from (
      (select j.enqueued_at from backline.jobs j where j.collection_id = p_collection
         and j.worker_id is null and j.priority = 0 order by j.priority, j.enqueued_at limit 1)
      union all
      (select j.enqueued_at from backline.jobs j where j.collection_id = p_collection
         and j.worker_id is null and j.priority = 1 order by j.priority, j.enqueued_at limit 1)
      union all
      (select min(h.at) from held h)
      union all
      (select g.at from paged g)
    ) o
  ), working as (
    select count(*) as workers, coalesce(sum(w.rate), 0)::float8 as rate from backline.workers w
    where w.collection_id = p_collection and w.expires_at > now()
  ), leased as (
    select (coalesce(sum(h.jobs), 0) + (select g.jobs from paged g))::bigint as in_flight from held h
  )
  select jsonb_build_object(
    'rows', n.total, 'embedded', n.embedded, 'blank', n.blank, 'long', n.long,
    'pending', n.pending + (select g.jobs from paged g), 'failed', n.failed, 'in_flight', l.in_flight,
    'workers', w.workers, 'rate', w.rate,
    'lag_seconds', coalesce(extract(epoch from now() - o.at), 0)::float8)
  from counts n, oldest o, working w, leased l;
$$;
comment on function backline.coverage is 'API: coverage, queue, lag and rate of a collection.';

-- Checks one page of rows, by key, against everything that is promised of a stored vector.
create function backline.verify_page(
  p_collection int, p_after text, p_limit int,
  out scanned bigint, out embedded bigint, out blank bigint, out problems jsonb, out last_key text
) language plpgsql stable
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_dimensions int;
  v_projection extensions.vector;
begin
  select * into strict c from backline.collections where id = p_collection;
  select m.dimensions, m.projection into strict v_dimensions, v_projection from backline.models m where m.id = c.model_id;
  execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, %2$s as content, r.%3$I::extensions.vector as embedding,
             row_number() over (order by r.%1$I) as position
      from %4$s r where %5$s order by r.%1$I limit $3
    ), judged as materialized (
      select p.key, p.position, p.content = '' as blank,
        case
          when p.content = '' and p.embedding is not null then 'vector of a row without text'
          when p.content = '' then null
          when p.embedding is null then 'no vector'
          when extensions.vector_dims(p.embedding) <> $5 then 'wrong dimensions'
          when not abs(extensions.vector_norm(p.embedding) - 1) < 1e-3 then 'not unit length'
          when s.key is null then 'no stamp'
          when s.model_id <> $4 then 'another model'
          when s.content_hash <> sha256(convert_to(p.content, 'UTF8')) then 'stale text'
          when abs(extensions.inner_product(p.embedding, $6) - s.fingerprint) > 1e-4 then 'another vector than was written'
        end as problem
      from page p left join lateral (select * from backline.stamps x
        where x.collection_id = $1 and x.key = p.key offset 0) s on true
    )
    select count(*), count(*) filter (where not j.blank and j.problem is null),
           count(*) filter (where j.blank and j.problem is null),
           coalesce((select jsonb_agg(jsonb_build_object('key', b.key, 'problem', b.problem))
                     from judged b where b.problem is not null), '[]'),
           (array_agg(j.key order by j.position desc))[1]
    from judged j
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name),
       case when p_after is null then 'true' else format('r.%I > $2::%s', c.key_column, c.key_type) end)
  into scanned, embedded, blank, problems, last_key
  using p_collection, p_after, p_limit, c.model_id, v_dimensions, v_projection;
end $$;
comment on function backline.verify_page is 'API: checks the page of rows after key p_after.';

-- -------------------------------------------------------------------------------------- reconcile
--
-- Finds what happened behind the triggers' back, and sends it through the queue: a load with triggers
-- off, a table restored from a dump, a vector put there by hand. Page by page, beside workers and users:
-- what is found by one snapshot is repaired only where it still is as the snapshot had it.

-- The triggers of a collection that do not fire.
create function backline.trigger_problems(p_collection int) returns table (name text, problem text)
language sql stable rows 8 set search_path = '' as $$
  select e.name, case when t.oid is null then 'missing' else 'disabled' end
  from backline.collections c
  cross join lateral (
    select 'backline_' || k.kind || c.id || '_' || v.event as name
    from unnest(array['insert', 'update', 'delete', 'truncate']) v(event)
    cross join (select 'c' as kind union all
                select 'k' where to_regclass('backline.keyword_indexes') is not null) k) e
  left join pg_catalog.pg_trigger t on t.tgname = e.name
    and t.tgrelid = to_regclass(format('%I.%I', c.table_schema, c.table_name))
  where c.id = p_collection and (t.oid is null or t.tgenabled not in ('O', 'A'))
  order by 1;
$$;
comment on function backline.trigger_problems is 'API: the triggers of a collection that are missing or disabled.';

-- Judges one page of the table, and with p_repair sends what is wrong through the queue. A vector that
-- cannot be trusted loses its stamp, or the claim would find the row fresh.
create function backline.reconcile_page(
  p_collection int, p_after text, p_limit int, p_repair boolean,
  out scanned bigint, out problems jsonb, out last_key text
) language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
  v_dimensions int;
  v_projection extensions.vector;
  v_paged text[];
begin
  select * into strict c from backline.collections where id = p_collection;
  select m.dimensions, m.projection into strict v_dimensions, v_projection from backline.models m where m.id = c.model_id;
  perform backline.lock_collection(p_collection) where p_repair;
  v_paged := backline.paged(p_collection);
  execute format($q$
    with page as materialized (
      select r.%1$I::text collate "C" as key, %2$s as content, r.%3$I::extensions.vector as embedding,
             row_number() over (order by r.%1$I) as position
      from %4$s r where %5$s order by r.%1$I limit $3
    ), seen as materialized (
      select p.key, p.position, p.content = '' as blank, p.embedding, s.ctid as stamp, s.stale, s.model_id,
        s.blank as stamped_blank, s.fingerprint, s.content_hash is distinct from h.hash as differs,
        f.ctid as failure, f.model_id = $4 and f.content_hash = h.hash as dead,
        j.waits or p.key = any ($8) and coalesce(s.stale, true) as waits
      from page p
      cross join lateral (select sha256(convert_to(p.content, 'UTF8')) as hash) h
      left join lateral (select x.ctid, x.* from backline.stamps x
        where x.collection_id = $1 and x.key = p.key offset 0) s on true
      left join lateral (select x.ctid, x.* from backline.failures x
        where x.collection_id = $1 and x.key = p.key offset 0) f on true
      left join lateral (select true as waits from backline.jobs x
        where x.collection_id = $1 and x.key = p.key offset 0) j on true
    ), judged as materialized (
      select n.*, case
          when n.failure is not null and not n.dead then 'dead letter of another text'
          when n.dead then null
          when n.stamp is null and n.waits then null
          when n.stamp is null and n.embedding is not null then 'vector without a stamp'
          when n.stamp is null then 'row that was never enqueued'
          when n.stale and n.waits then null
          when n.stale then 'edit without a job'
          when n.model_id <> $4 then case when n.waits then null else 'vector of another model' end
          when n.differs then case when n.waits then null else 'text that changed unnoticed' end
          when n.stamped_blank and n.embedding is not null then 'vector of a row without text'
          when n.stamped_blank then null
          when n.embedding is null then 'vector that is gone'
          when extensions.vector_dims(n.embedding) <> $5 then 'vector of wrong dimensions'
          when not abs(extensions.vector_norm(n.embedding) - 1) < 1e-3
            or abs(extensions.inner_product(n.embedding, $6) - n.fingerprint) > 1e-4
            then 'vector that Backline did not write'
        end as problem
      from seen n
    ), distrusted as (
      delete from backline.stamps s where $7 and s.ctid = any (array(
        select d.stamp from judged d where d.problem is not null and d.stamp is not null and not d.differs))
    ), marked as (
      update backline.stamps s set stale = true where $7 and not s.stale and s.ctid = any (array(
        select d.stamp from judged d where d.problem is not null and d.stamp is not null and d.differs))
    ), requeued as (
      delete from backline.failures f where $7 and f.ctid = any (array(
        select d.failure from judged d where d.problem is not null and d.failure is not null))
    ), queued as (
      insert into backline.jobs (collection_id, key, priority)
      select $1, d.key, 1 from judged d where $7 and d.problem is not null order by d.key
      on conflict do nothing
    )
    select count(*), (array_agg(d.key order by d.position desc))[1],
      coalesce(jsonb_agg(jsonb_build_object('key', d.key, 'problem', d.problem) order by d.position)
               filter (where d.problem is not null), '[]')
    from judged d
  $q$, c.key_column, c.text_sql, c.embedding_column, format('%I.%I', c.table_schema, c.table_name),
       case when p_after is null then 'true' else format('r.%I > $2::%s', c.key_column, c.key_type) end)
  into scanned, last_key, problems
  using p_collection, p_after, p_limit, c.model_id, v_dimensions, v_projection, p_repair, v_paged;
end $$;
comment on function backline.reconcile_page is
  'API: finds rows of the page after key p_after that need work and that nobody would do, and with p_repair enqueues them.';

-- One page of stamps, jobs or failures: those of rows that do not exist, which p_repair removes.
create function backline.reconcile_orphans(
  p_collection int, p_of text, p_after text, p_limit int, p_repair boolean,
  out scanned bigint, out keys text[], out last_key text
) language plpgsql
set search_path = '' set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
set jit = off set plan_cache_mode = 'force_custom_plan' set enable_hashjoin = off set enable_mergejoin = off
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  c backline.collections;
begin
  if p_of not in ('stamps', 'jobs', 'failures') then
    raise exception using errcode = 'BL001', message = format('there are no orphans of %L', p_of);
  end if;
  select * into strict c from backline.collections where id = p_collection;
  execute format($q$
    with page as materialized (
      select x.key, x.ctid as id from backline.%1$I x
      where x.collection_id = $1 and ($2 is null or x.key > $2) order by x.key limit $3
    ), orphans as materialized (
      select p.key, p.id from page p left join lateral (
        select true as found from %2$s r
        where r.%3$I = p.key::%4$s and r.%3$I::text = p.key offset 0) r on true
      where r.found is null
    ), gone as (
      delete from backline.%1$I x where $4 and x.ctid = any (array(select o.id from orphans o))
    )
    select (select count(*) from page), array(select o.key from orphans o order by o.key),
           (select max(p.key) from page p)
  $q$, p_of, format('%I.%I', c.table_schema, c.table_name), c.key_column, c.key_type)
  into scanned, keys, last_key using p_collection, p_after, p_limit, p_repair;
end $$;
comment on function backline.reconcile_orphans is
  'API: finds stamps, jobs or failures of rows that do not exist, and with p_repair removes them.';

-- ------------------------------------------------------------------------------------- privileges

revoke all on all tables in schema backline from public;
revoke all on all functions in schema backline from public;
alter default privileges in schema backline revoke execute on functions from public;
do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    grant usage on schema backline to service_role;
    grant all on all tables in schema backline to service_role;
    grant execute on all functions in schema backline to service_role;
  end if;
end $$;
