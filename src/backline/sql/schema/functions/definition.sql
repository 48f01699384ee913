create or replace function backline.definition(p_collection int) returns backline.collections
language sql stable set search_path = '' as $$ select c from backline.collections c where c.id = p_collection $$;
