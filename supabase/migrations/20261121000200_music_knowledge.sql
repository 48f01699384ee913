-- The first collection, and the one that ships: the advice base of a music studio application.
-- A project that already has the table keeps it, and gains only the columns that it lacks.

create table if not exists public.music_knowledge (
  id         uuid primary key default gen_random_uuid(),
  topic      text not null,
  category   text not null,
  suggestion text not null,
  confidence real not null default 0.8 check (confidence between 0 and 1)
);

alter table public.music_knowledge
  add column if not exists title      text not null default '',
  add column if not exists parameters jsonb not null default '{}',
  add column if not exists embedding  extensions.vector(384),
  add column if not exists created_at timestamptz not null default now(),
  add column if not exists updated_at timestamptz not null default now(),
  add column if not exists fts tsvector generated always as (
    setweight(to_tsvector('english'::regconfig, title), 'A') ||
    setweight(to_tsvector('english'::regconfig, replace(topic, '_', ' ') || ' ' || category), 'B') ||
    setweight(to_tsvector('english'::regconfig, suggestion), 'C')
  ) stored;

create index if not exists music_knowledge_fts on public.music_knowledge using gin (fts);
create index if not exists music_knowledge_category on public.music_knowledge (category, topic);

create or replace function backline.touch_updated_at() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.updated_at := now();
  return new;
end $$;
revoke all on function backline.touch_updated_at() from public;

-- A column list, so that storing an embedding does not count as an edit.
create or replace trigger music_knowledge_touch
  before update of topic, category, title, suggestion, parameters, confidence on public.music_knowledge
  for each row execute function backline.touch_updated_at();

alter table public.music_knowledge enable row level security;
drop policy if exists "anyone reads" on public.music_knowledge;
create policy "anyone reads" on public.music_knowledge for select using (true);
revoke all on public.music_knowledge from public;
do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    drop policy if exists "the service role writes" on public.music_knowledge;
    create policy "the service role writes" on public.music_knowledge
      for all to service_role using (true) with check (true);
    revoke all on public.music_knowledge from anon, authenticated;
    grant usage on schema public to anon, authenticated, service_role;
    grant select on public.music_knowledge to anon, authenticated;
    grant select, insert, update, delete on public.music_knowledge to service_role;
  end if;
end $$;

select backline.add_collection(
  'music_knowledge', 'public.music_knowledge', null, '{topic} {category} {suggestion}', 'embedding',
  'local', 'all-MiniLM-L6-v2', 'c9745ed1d9f2', 384);
select backline.recount(id) from backline.collections where name = 'music_knowledge';
