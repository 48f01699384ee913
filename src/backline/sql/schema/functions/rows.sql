-- How statements read the rows of a collection. These functions return parts of SQL over the alias r.
--
-- A key is one text everywhere outside the table. That of a single column is its text. That of several is
-- the JSON array of their texts: ["7", "R-15"].

-- Returns the relation that has the rows.
create or replace function backline.source(c backline.collections) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return format('%I.%I', c.table_schema, c.table_name);
end $$;

-- Returns the key of r.
create or replace function backline.key_text(p_columns text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return case when cardinality(p_columns) = 1 then format('r.%I::text', p_columns[1])
              else format('pg_catalog.jsonb_build_array(%s)::text', (
                select string_agg(format('r.%I::text', u.name), ', ' order by u.position)
                from unnest(p_columns) with ordinality u(name, position))) end;
end $$;

create or replace function backline.key_text(c backline.collections) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return backline.key_text(c.key_columns);
end $$;

-- Returns the columns of the key that the expression p_key has. A cast names the collation of the column,
-- without which its index is not used.
create or replace function backline.key_values(c backline.collections, p_key text) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return case when cardinality(c.key_types) = 1 then array[format('%s::%s', p_key, c.key_types[1])]
              else array(select format('(%s::jsonb ->> %s)::%s', p_key, u.position - 1, u.type)
                         from unnest(c.key_types) with ordinality u(type, position) order by u.position) end;
end $$;

-- Returns the condition that r has the key p_key, an expression.
create or replace function backline.key_match(c backline.collections, p_key text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (select string_agg(format('r.%I = %s', u.name, u.value), ' and ' order by u.position)
          from unnest(c.key_columns, backline.key_values(c, p_key)) with ordinality u(name, value, position));
end $$;

-- Returns the columns of the key in order.
create or replace function backline.key_order(c backline.collections) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (select string_agg(format('r.%I', u.name), ', ' order by u.position)
          from unnest(c.key_columns) with ordinality u(name, position));
end $$;

-- Returns the condition that r comes after p_after in key order. p_parameter is an expression of the same
-- value. Every row comes after null.
create or replace function backline.key_after(c backline.collections, p_after text, p_parameter text)
returns text language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return case when p_after is null then 'true'
              else format('(%s) > (%s)', backline.key_order(c),
                          array_to_string(backline.key_values(c, p_parameter), ', ')) end;
end $$;
