-- Built by `make docs` from schema/tables/schema.sql. Edit that file instead.

-- The schema backline, pgvector, and the roles that grants and policies name.
--
-- Public API: the functions whose COMMENT starts with "API:". Everything else in this schema is private
-- and may change with any release. Neither anon nor authenticated can read its tables.
--
-- Supabase installs pgvector in the schema `extensions`. `backline migrate` replaces that name where
-- another Postgres has pgvector elsewhere.

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
