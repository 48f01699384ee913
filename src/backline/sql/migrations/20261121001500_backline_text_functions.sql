-- Built by `make docs` from schema/functions/text.sql. Edit that file instead.

-- Compiles a template to the SQL expression that produces the text of a row.

-- Returns a template as an expression over the alias r. NULL is empty, the ends are trimmed, and '{{' and
-- '}}' are literal braces.
create or replace function backline.compile_template(p_table regclass, p_template text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_rest text := p_template;
  v_parts text[] := '{}';
  v_at int;
  v_column text;
begin
  while v_rest <> '' loop
    if left(v_rest, 2) in ('{{', '}}') then
      v_parts := v_parts || quote_literal(left(v_rest, 1));
      v_rest := substr(v_rest, 3);
    elsif left(v_rest, 1) = '{' then
      v_at := strpos(v_rest, '}');
      if v_at = 0 then
        raise exception using errcode = 'BL001', message =
          format('the template %L has a { without a }. Write {column}, or {{ for a brace', p_template);
      end if;
      v_column := btrim(substr(v_rest, 2, v_at - 2));
      if not exists (select from pg_catalog.pg_attribute a where a.attrelid = p_table
                     and a.attname = v_column and a.attnum > 0 and not a.attisdropped) then
        raise exception using errcode = 'BL002', message = format(
          'the table %s has no column %L, which the template %L names. Its columns: %s', p_table,
          v_column, p_template,
          (select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute a
           where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped));
      end if;
      if exists (select from pg_catalog.pg_attribute a where a.attrelid = p_table
                 and a.attname = v_column and a.attgenerated = 'v') then
        raise exception using errcode = 'BL001', message = format(
          'the column %L of %s is generated when it is read, which triggers cannot see. Make it STORED, '
          'or name the columns that it is made of', v_column, p_table);
      end if;
      v_parts := v_parts || format('r.%I', v_column);
      v_rest := substr(v_rest, v_at + 1);
    else
      v_at := coalesce(nullif(least(
        coalesce(nullif(strpos(v_rest, '{'), 0), length(v_rest) + 1),
        coalesce(nullif(strpos(v_rest, '}'), 0), length(v_rest) + 1)), 1), 2);
      v_parts := v_parts || quote_literal(left(v_rest, v_at - 1));
      v_rest := substr(v_rest, v_at);
    end if;
  end loop;
  if p_template !~ '[{]' or not exists (select from unnest(v_parts) p where p like 'r.%') then
    raise exception using errcode = 'BL001', message =
      format('the template %L names no column. Write for example ''{title} {body}''', p_template);
  end if;
  return format('pg_catalog.btrim(pg_catalog.concat(%s), E'' \t\n\r'')', array_to_string(v_parts, ', '));
end $$;
