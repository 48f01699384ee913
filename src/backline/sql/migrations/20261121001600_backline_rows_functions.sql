-- Built by `make docs` from schema/functions/rows.sql. Edit that file instead.

-- How statements read the rows of a collection. These functions return parts of SQL over the alias r.
--
-- A key is one text everywhere outside the table. That of a single column is its text. That of several is
-- the JSON array of their texts: ["7", "R-15"].

-- Returns the table or view that has the rows.
create or replace function backline.source(c backline.collections) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return format('%I.%I', c.table_schema, c.table_name);
end $$;

-- Returns the relation that has the vectors, and the condition that a row e of it belongs to r.
create or replace function backline.side_table(c backline.collections, out name text, out joined text)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  name := format('%I.%I', c.into_schema, c.into_name);
  joined := (select string_agg(format('e.%s = r.%I', backline.side_key(u.position), u.name), ' and ')
             from unnest(c.key_columns) with ordinality u(name, position));
end $$;

-- Returns the condition that a vector e of the side table has the key p_key, an expression.
create or replace function backline.side_match(c backline.collections, p_key text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (select string_agg(format('e.%s = %s', backline.side_key(u.position), u.value), ' and ')
          from unnest(backline.key_values(c, p_key)) with ordinality u(value, position));
end $$;

-- Returns the name of a column of the key in a side table. It is not that of the source, which can change.
create or replace function backline.side_key(p_position bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 'key_' || p_position $$;

-- Returns the rows r with their vectors, for FROM: of passages, the first one's. p_sample is a TABLESAMPLE
-- clause.
create or replace function backline.rows_of(c backline.collections, p_sample text default '') returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return case when c.into_name is null then concat(backline.source(c), ' r ', p_sample) else (
    select format('(%s r %s left join %s e on %s%s)', backline.source(c), p_sample, s.name, s.joined,
                  case when c.passages is not null then ' and e.ordinal = 0' else '' end)
    from backline.side_table(c) s) end;
end $$;

-- Returns the rows r with one vector that stands for all of the row, for FROM: of passages, the mean.
create or replace function backline.whole_rows_of(c backline.collections, p_sample text default '')
returns text language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return case when c.passages is null then backline.rows_of(c, p_sample) else (
    select format('(%s r %s left join lateral (select extensions.l2_normalize(extensions.avg('
                  'e.embedding::extensions.vector)) as embedding from %s e where %s) e on true)',
                  backline.source(c), p_sample, s.name, s.joined)
    from backline.side_table(c) s) end;
end $$;

-- Returns the rows r with the vectors e of all their passages, for FROM.
create or replace function backline.all_passages_of(c backline.collections) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (select format('(%s r join %s e on %s)', backline.source(c), s.name, s.joined)
          from backline.side_table(c) s);
end $$;

-- Returns the vector of r.
create or replace function backline.vector_of(c backline.collections) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return format(case when c.into_name is null then 'r.%I' else 'e.%I' end, c.embedding_column);
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

-- Returns the types of a key for casts from text. They include the collations of the columns, without which
-- their index is not used. They omit the length, because a cast to character(8) would truncate.
create or replace function backline.key_types(p_table oid, p_numbers int2[]) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_agg(pg_catalog.format_type(a.atttypid, -1) || coalesce((
    select ' collate ' || quote_ident(n.nspname) || '.' || quote_ident(o.collname)
    from pg_catalog.pg_collation o join pg_catalog.pg_namespace n on n.oid = o.collnamespace
    where o.oid = a.attcollation), '') order by u.position)
  from unnest(p_numbers) with ordinality u(number, position)
  left join pg_catalog.pg_attribute a on a.attrelid = p_table and a.attnum = u.number;
$$;

-- Returns whether columns identify a row: they are NOT NULL, and a valid unique index has exactly them.
create or replace function backline.is_key(p_table oid, p_numbers int2[]) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_catalog.pg_index i
    where i.indrelid = p_table and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
      and i.indnkeyatts = cardinality(p_numbers) and p_numbers <@ (i.indkey::int2[])[0:i.indnkeyatts - 1])
    and not exists (
      select from pg_catalog.pg_attribute a
      where a.attrelid = p_table and a.attnum = any (p_numbers) and not a.attnotnull);
$$;

-- Returns whether rows can be read and nothing else: triggers cannot see all changes of the relation.
create or replace function backline.is_read_only(p_table oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_catalog.pg_class k where k.oid = p_table and k.relkind in ('v', 'm', 'f'));
$$;
