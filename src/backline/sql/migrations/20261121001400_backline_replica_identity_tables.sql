-- Built by `make docs` from schema/tables/replica_identity.sql. Edit that file instead.

-- Replica identities of the tables without a primary key.

-- A publication FOR ALL TABLES sends these tables too, and Postgres then refuses their updates and deletes
-- without a replica identity. The identity costs nothing unless wal_level is logical.
do $$
declare
  v_table regclass;
begin
  for v_table in
    select k.oid from pg_catalog.pg_class k
    where k.relnamespace = 'backline'::regnamespace and k.relkind = 'r' and not exists (
      select from pg_catalog.pg_index i where i.indrelid = k.oid and i.indisprimary)
  loop
    execute format('alter table %s replica identity full', v_table);
  end loop;
end $$;
