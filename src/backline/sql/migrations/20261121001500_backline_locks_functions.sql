-- Built by `make docs` from schema/functions/locks.sql. Edit that file instead.

-- Locks of a collection. They are row locks, which last until the end of the transaction.

-- Takes a lock, and waits for it.
create or replace function backline.lock(p_collection int, p_name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform from backline.locks l where l.collection_id = p_collection and l.name = p_name for update;
  if not found then
    insert into backline.locks (collection_id, name) values (p_collection, p_name) on conflict do nothing;
    perform from backline.locks l where l.collection_id = p_collection and l.name = p_name for update;
  end if;
end $$;

-- Takes a lock and returns true, or returns false if another transaction holds it.
create or replace function backline.try_lock(p_collection int, p_name text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform from backline.locks l
  where l.collection_id = p_collection and l.name = p_name for update skip locked;
  if found then
    return true;
  end if;
  insert into backline.locks (collection_id, name) values (p_collection, p_name) on conflict do nothing;
  return found;  -- the inserted row is locked, because no other transaction sees it
end $$;
