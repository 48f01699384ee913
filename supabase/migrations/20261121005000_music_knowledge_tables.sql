-- Built by `make docs` from schema/tables/music_knowledge.sql. Edit that file instead.

-- The table of the collection that ships with Backline: the advice base of a music studio application. An
-- existing table is kept, and only the missing columns are added.

-- All roles can read the table and only service_role can write it. A table that already has row level
-- security keeps its policies, because a migration must not widen access.
do $$
declare
  v_is_new boolean := to_regclass('public.music_knowledge') is null;
  v_has_roles boolean := exists (select from pg_catalog.pg_roles where rolname = 'service_role');
  v_readers text := 'public';
  v_role text;
  v_reads boolean;
begin
  create table if not exists public.music_knowledge (
    id         uuid primary key default gen_random_uuid(),
    topic      text not null,
    category   text not null,
    suggestion text not null,
    confidence real not null default 0.8 check (confidence between 0 and 1)
  );
  if v_has_roles then
    grant usage on schema public to anon, authenticated, service_role;
    grant select, insert, update, delete on public.music_knowledge to service_role;
    drop policy if exists "the service role writes" on public.music_knowledge;
    create policy "the service role writes" on public.music_knowledge
      for all to service_role using (true) with check (true);
    v_readers := 'anon, authenticated';
  end if;
  if (select relrowsecurity from pg_catalog.pg_class where oid = 'public.music_knowledge'::regclass) then
    return;
  end if;
  alter table public.music_knowledge enable row level security;
  drop policy if exists "anyone reads" on public.music_knowledge;
  execute format('create policy "anyone reads" on public.music_knowledge for select '
                 'to %s using (true)', v_readers);
  foreach v_role in array case when v_has_roles then array['anon', 'authenticated'] else '{}' end loop
    v_reads := v_is_new or has_table_privilege(v_role, 'public.music_knowledge', 'select');
    execute format('revoke all on public.music_knowledge from %I', v_role);
    if v_reads then
      execute format('grant select on public.music_knowledge to %I', v_role);
    end if;
  end loop;
  revoke all on public.music_knowledge from public;
end $$;

alter table public.music_knowledge
  add column if not exists title      text not null default '',
  add column if not exists asked_as   text not null default '',  -- how users phrase the question
  add column if not exists parameters jsonb not null default '{}',
  add column if not exists embedding  extensions.vector(384),
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now(),
  add column if not exists fts tsvector generated always as (
    setweight(to_tsvector('english'::regconfig, title), 'A') ||
    setweight(to_tsvector('english'::regconfig, replace(topic, '_', ' ') || ' ' || category), 'B') ||
    setweight(to_tsvector('english'::regconfig, suggestion), 'C') ||
    setweight(to_tsvector('english'::regconfig, asked_as), 'D')
  ) stored;

create index if not exists music_knowledge_fts on public.music_knowledge using gin (fts);
create index if not exists music_knowledge_category on public.music_knowledge (category, topic);
