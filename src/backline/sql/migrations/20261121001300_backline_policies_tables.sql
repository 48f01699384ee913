-- Built by `make docs` from schema/tables/policies.sql. Edit that file instead.

-- Row level security hides Backline's tables from all roles except their owner and roles with BYPASSRLS, such
-- as service_role on Supabase. On other servers, and for members of service_role, a table without a policy
-- looks empty. Each table therefore has a policy for service_role.
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
    execute format('drop policy if exists "service role" on %s', v_table);
    execute format('create policy "service role" on %s to service_role '
                   'using (true) with check (true)', v_table);
  end loop;
end $$;
