-- Built by `make docs` from schema/functions/music_knowledge.sql. Edit that file instead.

-- Maintains public.music_knowledge.updated_at.

create or replace function backline.touch_updated_at() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.updated_at := now();
  return new;
end $$;
revoke all on function backline.touch_updated_at() from public;

-- Storing an embedding is not an edit, so the trigger lists the other columns.
create or replace trigger music_knowledge_touch
  before update of topic, category, title, suggestion, asked_as, parameters, confidence
  on public.music_knowledge
  for each row execute function backline.touch_updated_at();
