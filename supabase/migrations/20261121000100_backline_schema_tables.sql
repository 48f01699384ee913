-- Built by `make docs` from schema/tables/schema.sql. Edit that file instead.

-- The schema backline, pgvector, and the roles that grants and policies refer to.
--
-- Functions with a COMMENT that starts with "API:" are the public API. Everything else in this schema is
-- private and can change in any release. The roles anon and authenticated cannot read its tables.
--
-- Supabase installs pgvector in the schema `extensions`. `backline migrate` replaces that name if pgvector is
-- installed in another schema.

create schema if not exists extensions;
create extension if not exists vector with schema extensions;

-- The three roles of a Supabase project, so that grants and policies have the same meaning on every server.
-- If the current role cannot create them, their grants are skipped.
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
  raise notice 'backline: this role cannot create the roles anon, authenticated and service_role, '
    'so their grants are skipped';
end $$;

create schema backline;
revoke all on schema backline from public;
