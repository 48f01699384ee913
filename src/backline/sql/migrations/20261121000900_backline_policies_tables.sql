-- Built by `make docs` from schema/tables/policies.sql. Edit that file instead.

-- Policies of the tables above.

-- Row level security keeps everybody out of Backline's own tables but their owner, and roles that bypass
-- it, as service_role does on Supabase. On other servers, and for a role of your own that is a member of
-- service_role, a table without a policy looks empty; so service_role gets one for each.
do $$
declare
  v_table regclass;
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    return;
  end if;
  for v_table in
    select c.oid from pg_catalog.pg_class c
    where c.relnamespace = 'backline'::regnamespace and c.relkind = 'r' and c.relrowsecurity
  loop
    execute format('create policy "service role" on %s to service_role using (true) with check (true)', v_table);
  end loop;
end $$;
