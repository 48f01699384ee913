-- The database of a new, empty Supabase project. Run by supabase_admin.
alter schema public owner to postgres;
grant usage on schema public to anon, authenticated, service_role;

create schema extensions;
grant all on schema extensions to postgres;
grant usage on schema extensions to anon, authenticated, service_role;

-- On the platform, `postgres` can create a list of extensions as if they were trusted. Here the required one
-- is created in advance.
create extension vector with schema extensions;

-- Functions that a migration creates are accessible through the API only with a grant.
alter default privileges for role postgres revoke execute on functions from public;

create schema auth;
grant usage on schema auth to postgres, anon, authenticated, service_role;
create function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim', true), ''),
                  nullif(current_setting('request.jwt.claims', true), ''))::jsonb
$$;
create function auth.uid() returns uuid language sql stable as $$
  select (auth.jwt() ->> 'sub')::uuid
$$;
create function auth.role() returns text language sql stable as $$
  select auth.jwt() ->> 'role'
$$;

-- Notifies PostgREST of every schema change.
create function extensions.pgrst_changed() returns event_trigger language plpgsql as $$
begin notify pgrst, 'reload schema'; end $$;
create event trigger pgrst_ddl on ddl_command_end execute function extensions.pgrst_changed();
create event trigger pgrst_drop on sql_drop execute function extensions.pgrst_changed();
