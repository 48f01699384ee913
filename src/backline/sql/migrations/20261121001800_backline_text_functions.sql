-- Built by `make docs` from schema/functions/text.sql. Edit that file instead.

-- Compiles the text of a row: a template or an SQL expression, and the condition on rows.
--
-- A template is literal text with placeholders {column.path|filter}. '{{' and '}}' are literal braces.

-- Returns a JSON document, or null if a text is none.
create or replace function backline.json_or_null(p_text text) returns jsonb
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  return p_text::jsonb;
exception when data_exception then
  return null;
end $$;

-- Returns the values of a JSON array in one text, without those that are empty.
create or replace function backline.joined(p_array jsonb) returns text
language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  select string_agg(e.value, ', ' order by e.n)
  from jsonb_array_elements_text(p_array) with ordinality e(value, n) where e.value <> '';
$$;

-- Returns the text of an HTML document: without tags, comments, scripts and styles, and with the characters
-- of the most frequent entities. An element that begins a line in a browser begins one here.
create or replace function backline.strip_html(p_html text) returns text
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_text text := p_html;
  v_element text;
  v_entity text[];
begin
  if strpos(v_text, '<') > 0 then
    v_text := regexp_replace(v_text, '<!--.*?-->', '', 'g');
    foreach v_element in array array['script', 'style', 'head'] loop
      v_text := regexp_replace(v_text, format('<%1$s\M.*?</%1$s\s*>', v_element), '', 'gi');
    end loop;
    v_text := regexp_replace(v_text, '\s+', ' ', 'g');
    v_text := regexp_replace(v_text,
      ' ?</?(p|div|br|hr|li|ul|ol|dl|dt|dd|tr|table|section|article|header|footer|blockquote|pre|h[1-6])'
      '(\s[^>]*)?/?> ?', E'\n', 'gi');
    v_text := regexp_replace(v_text, '</?(td|th)(\s[^>]*)?>', ' ', 'gi');
    v_text := regexp_replace(v_text, '</?[a-z!?][^>]*>', '', 'gi');
    v_text := regexp_replace(v_text, '\s*\n\s*', E'\n', 'g');
  end if;
  if strpos(v_text, '&') > 0 then
    foreach v_entity slice 1 in array array[
      ['&nbsp;', ' '], ['&lt;', '<'], ['&gt;', '>'], ['&quot;', '"'], ['&#39;', ''''], ['&apos;', ''''],
      ['&hellip;', '…'], ['&ndash;', '–'], ['&mdash;', '—'], ['&amp;', '&']] loop
      v_text := replace(v_text, v_entity[1], v_entity[2]);
    end loop;
  end if;
  return btrim(v_text, E' \t\n\r');
end $$;

-- Returns the text of a Markdown document: without the marks of headings, lists, quotes, tables and emphasis,
-- and with the text of a link or an image in its place. Code stays as it is, and so does HTML; see
-- strip_html().
create or replace function backline.strip_markdown(p_markdown text) returns text
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_marks constant text := $m$\`*_{}[]()#+-.!|~<>&"'$,/:;=?@^%$m$;
  -- The same marks as characters that no rule reads.
  v_hidden constant text := (select string_agg(chr(57344 + ascii(m.mark)), '' order by m.n)
                             from string_to_table(v_marks, null) with ordinality m(mark, n));
  v_text text := replace(p_markdown, E'\r\n', E'\n');
  v_step text[];
begin
  -- An escaped mark is text.
  v_text := (select coalesce(string_agg(case when m.part[1] ~ '^\\.' then translate(
                      substr(m.part[1], 2), v_marks, v_hidden) else m.part[1] end, '' order by m.n), '')
             from regexp_matches(v_text, '(\\[!-/:-@\[-`{-~]|[^\\]+|\\)', 'g') with ordinality m(part, n));
  v_text := (
    select string_agg(case
        when l.fence then null
        when l.fences % 2 = 1 then translate(l.line, v_marks, v_hidden)
        -- A line across, under a heading or under the head of a table, or one that says where a link leads.
        when l.line ~ '^\s*(([-*_]\s*){3,}|=+|-+|\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?|\[[^\]]+\]:.*)$'
        then null
        else regexp_replace(
          case when l.line ~ '^\s*\|' then regexp_replace(btrim(l.line, ' |'), '\s*\|\s*', ' ', 'g')
               when l.line ~ '^\s*#{1,6}\s' then regexp_replace(l.line, '\s+#+\s*$', '') else l.line end,
          '^\s*(>\s?)*\s*(#{1,6}\s+|([-*+]|[0-9]{1,9}[.)])\s+(\[[ xX]\]\s+)?)?', '') end,
      E'\n' order by l.n)
    from (select x.line, x.n, x.line ~ '^\s*(```|~~~)' as fence,
                 count(*) filter (where x.line ~ '^\s*(```|~~~)') over (order by x.n) as fences
          from string_to_table(v_text, E'\n') with ordinality x(line, n)) l);
  v_text := (select string_agg(case when m.part[1] ~ '^`.' then translate(
                      btrim(m.part[1], '`'), v_marks, v_hidden) else m.part[1] end, '' order by m.n)
             from regexp_matches(v_text, '(`+[^`\n]+`+|[^`]+|`+)', 'g') with ordinality m(part, n));
  foreach v_step slice 1 in array array[
    ['!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)', '\1'],
    ['!?\[([^\[\]]*)\]\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)', '\1'],  -- an image within a link
    ['!?\[([^\[\]]+)\]\[[^\[\]\n]*\]', '\1'],
    ['<((?:https?|mailto):[^\s>]+)>', '\1'],
    ['~~([^~\n]+)~~', '\1'],
    ['(\*{1,3})(?=\S)([^*]*[^*\s])\1', '\2'], ['(\*{1,3})(?=\S)([^*]*[^*\s])\1', '\2'],
    ['(?<!\w)(_{1,3})(?=\S)([^_]*[^_\s])\1(?!\w)', '\2'],
    ['(?<!\w)(_{1,3})(?=\S)([^_]*[^_\s])\1(?!\w)', '\2'],
    ['[ \t]+\n', E'\n'], ['\n{3,}', E'\n\n']] loop
    v_text := regexp_replace(v_text, v_step[1], v_step[2], 'g');
  end loop;
  return btrim(coalesce(translate(v_text, v_hidden, v_marks), ''), E' \t\n\r');
end $$;

-- Returns the parts of a template in order: literal text, or a placeholder with its column, the path into
-- that column, and the filters. The column is the longest of p_columns that the placeholder begins with, or
-- what stands in double quotes. It is null if there is none.
create or replace function backline.template_parts(p_template text, p_columns text[])
returns table (place bigint, part text, literal text, field text, name text, path text, filters text[])
language sql immutable rows 10 set search_path = pg_catalog, pg_temp as $$
  select u.place, u.part, case when not b.is_field then case when u.part in ('{{', '}}') then left(u.part, 1)
                                                     else u.part end end,
         case when b.is_field then b.field end, c.name,
         btrim(substring(c.rest, '^((?:[^|"]|"(?:[^"]|"")*")*)')),
         (string_to_array(substring(c.rest, '^(?:[^|"]|"(?:[^"]|"")*")*([|].*)$'), '|'))[2:]
  from (select m[1] as part, n as place from regexp_matches(p_template,
          '([{][{]|[}][}]|[{]\s*"(?:[^"]|"")*"[^}]*[}]|[{][^{}][^}]*[}]|[{][}]|[^{}]+|.)', 'g')
          with ordinality t(m, n)) u
  cross join lateral (
    select u.part like '{%' and u.part <> '{{' as is_field,
           btrim(substr(u.part, 2, greatest(length(u.part) - 2, 0))) as field) b
  left join lateral (
    select x.name, x.rest from (
      select n.name, ltrim(substr(b.field, length(n.name) + 1)) as rest, length(n.name) as length
      from unnest(p_columns) n(name)
      where starts_with(b.field, n.name) and substr(b.field, length(n.name) + 1) ~ '^\s*([.[|]|$)'
      union all
      select replace(q.m[1], '""', '"'), q.m[2], 0
      from regexp_matches(b.field, '^"((?:[^"]|"")+)"\s*(.*)$') q(m)
    ) x where b.is_field order by x.length desc limit 1) c on true;
$$;

-- Returns a name as a placeholder contains it: in double quotes if it could be read in another way.
create or replace function backline.template_name(p_name text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_name ~ '^[{"]|[].[}|]|^\s|\s$' then '"' || replace(p_name, '"', '""') || '"'
              else p_name end;
$$;

-- Returns a template with the columns p_from under their names p_to.
create or replace function backline.rename_in_template(p_template text, p_from text[], p_to text[])
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(
    case when t.literal is not null then replace(replace(t.literal, '{', '{{'), '}', '}}')
         else '{' || backline.template_name(coalesce(p_to[array_position(p_from, t.name)], t.name))
              || t.path || coalesce('|' || array_to_string(t.filters, '|'), '') || '}' end, ''
    order by t.place)
  from backline.template_parts(p_template, array_remove(p_from, null)) t;
$$;

-- Returns the steps of a path: the keys and positions in order, and '*' for each element of an array.
create or replace function backline.path_steps(p_path text) returns table (n bigint, key text, step text)
language sql immutable rows 3 set search_path = pg_catalog, pg_temp as $$
  select u.n, coalesce(replace(u.m[1], '""', '"'), btrim(u.m[2])), u.m[3]
  from regexp_matches(p_path, '[.]\s*(?:"((?:[^"]|"")*)"|([^].["]+))|\[\s*([*]|[0-9]+)\s*\]', 'g')
    with ordinality u(m, n);
$$;

-- Returns the expression of what a path leads to in a column. A path with [*] gives all matches.
create or replace function backline.path_expression(p_column text, p_type text, p_path text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when bool_or(s.step = '*') then format(
      'backline.joined(pg_catalog.jsonb_path_query_array(%s, %L, ''{}'', true))', case p_type
        when 'jsonb' then p_column when 'json' then p_column || '::pg_catalog.jsonb' else t.json end,
      '$' || string_agg(coalesce('[' || s.step || ']', '.' || to_json(s.key)), '' order by s.n))
    else format('(%s #>> %L)', case when p_type in ('json', 'jsonb') then p_column else t.json end,
                array_agg(coalesce(s.key, s.step) order by s.n)::text) end
  from backline.path_steps(p_path) s,
    (select format('backline.json_or_null(pg_catalog.concat(%s))', p_column) as json) t
  group by t.json;
$$;

-- Raises unless a placeholder of a template can be compiled. p_type and p_category are those of its column.
create or replace function backline.check_placeholder(
  p_table regclass, p_template text, p_field text, p_name text, p_path text, p_filters text[],
  p_type text, p_category "char"
) returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_filter text;
begin
  if p_type is null then
    raise exception using errcode = 'BL002', message = format(
      'the table %s has no column %L, which the template %L names. Its columns: %s', p_table,
      coalesce(p_name, substring(p_field, '^[^.[|]*')), p_template, backline.column_list(p_table));
  elsif p_path !~ '^([.]\s*("([^"]|"")*"|[^].["]+)|\[\s*([*]|[0-9]+)\s*\])*$' then
    raise exception using errcode = 'BL001', message = format(
      'the path %L in the template %L cannot be read. Write for example {attributes.brand}, {items[0].name} '
      'or {items[*].name}, and a key with other characters in double quotes', p_path, p_template);
  elsif p_path <> '' and p_category <> 'S' and p_type not in ('json', 'jsonb') then
    raise exception using errcode = 'BL001', message = format(
      'the column %L of %s has the type %s, in which the path %L leads nowhere. A path needs json, jsonb, or '
      'a text that holds JSON', p_name, p_table, p_type, p_path);
  end if;
  foreach v_filter in array coalesce(p_filters, '{}') loop
    if btrim(v_filter) !~ '^(lower|upper|strip_html|strip_markdown|truncate\s*:\s*[1-9][0-9]{0,8})$' then
      raise exception using errcode = 'BL001', message = format(
        'there is no filter %L, which the template %L uses. Use lower, upper, strip_html, strip_markdown or '
        'truncate:500', btrim(v_filter), p_template);
    end if;
  end loop;
end $$;

-- Returns the expression of a placeholder's value. A value that is no text yet becomes one as in concat().
create or replace function backline.placeholder_expression(
  p_name text, p_path text, p_filters text[], p_type text, p_category "char"
) returns text language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_column constant text := format('r.%I', p_name);
  v_filter text;
  v_sql text := case
    when p_path <> '' then backline.path_expression(v_column, p_type, p_path)
    when p_category = 'A' then format('pg_catalog.array_to_string(%s, '', '')', v_column)
    when p_type in ('text', 'character varying') then v_column
    else format('pg_catalog.concat(%s)', v_column) end;
begin
  foreach v_filter in array coalesce(p_filters, '{}') loop
    v_sql := case
      when btrim(v_filter) in ('lower', 'upper') then format('pg_catalog.%I(%s)', btrim(v_filter), v_sql)
      when btrim(v_filter) in ('strip_html', 'strip_markdown')
        then format('backline.%I(%s)', btrim(v_filter), v_sql)
      else format('pg_catalog."left"(%s, %s)', v_sql, substring(v_filter, '[0-9]+')) end;
  end loop;
  return v_sql;
end $$;

-- Returns the placeholders of a template with the literal text around each.
create or replace function backline.template_fields(p_table regclass, p_template text)
returns table (n bigint, is_last boolean, before text, after text, field text, name text, path text,
               filters text[], type text, category "char")
language sql stable rows 5 set search_path = pg_catalog, pg_temp as $$
  with parts as (
    select p.*, count(p.field) over (order by p.place) as n
    from backline.template_parts(p_template, array(
      select a.attname::text from pg_catalog.pg_attribute a
      where a.attrelid = p_table and a.attnum > 0 and not a.attisdropped)) p
  ), literals as (
    select p.n, string_agg(p.literal, '' order by p.place) as text from parts p group by p.n
  )
  select p.n, p.n = max(p.n) over (), coalesce(b.text, ''), coalesce(l.text, ''), p.field, p.name, p.path,
         p.filters, format_type(y.oid, -1), y.typcategory
  from parts p
  left join literals b on b.n = p.n - 1
  left join literals l on l.n = p.n
  left join pg_catalog.pg_attribute a on a.attrelid = p_table and a.attname = p.name and not a.attisdropped
  left join pg_catalog.pg_type x on x.oid = a.atttypid
  left join pg_catalog.pg_type y on y.oid = coalesce(nullif(x.typbasetype, 0), x.oid)
  where p.field is not null order by p.n;
$$;

-- Returns a template as an SQL expression over a row r, whose ends are trimmed. NULL is empty.
--
-- Literal text belongs to the placeholder after it, and closing brackets and the end of the template to the
-- one before. It is left out with an empty placeholder. Separators are left out before the first value. White
-- space at either end of the text is trimmed in any case, so it needs no condition.
create or replace function backline.compile_template(p_table regclass, p_template text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_space constant text := E' \t\n\r';
  v_arguments text[] := '{}';
  v_empty text;  -- the condition that all values so far are empty
  v_value text;
  v_before text; v_first text; v_after text;
  t record;
begin
  if exists (select from backline.template_parts(p_template, '{}') p where p.part = '{') then
    raise exception using errcode = 'BL001', message =
      format('the template %L has a { without a }. Write {column}, or {{ for a brace', p_template);
  end if;
  for t in select * from backline.template_fields(p_table, p_template) loop
    perform backline.check_placeholder(
      p_table, p_template, t.field, t.name, t.path, t.filters, t.type, t.category);
    v_value := backline.placeholder_expression(t.name, t.path, t.filters, t.type, t.category);
    v_before := case when t.n = 1 then ltrim(t.before, v_space)
                     else regexp_replace(t.before, '^[]\)}»”]+', '') end;
    v_first := case when t.n = 1 then v_before
                    else regexp_replace(v_before, '^[\s,;:.|/·•–—-]+', '') end;
    v_after := case when t.is_last then rtrim(t.after, v_space)
                    else coalesce(substring(t.after, '^[]\)}»”]+'), '') end;
    if v_after = '' and (v_before = '' or t.is_last and btrim(v_before, v_space) = '') then
      v_arguments := v_arguments || quote_literal(v_before) || v_value;
    else
      v_arguments := v_arguments || concat_ws(' || ', case
        when v_before = v_first or btrim(v_before, v_space) = '' then nullif(quote_literal(v_before), '''''')
        else format('case when %s then %L else %L end', v_empty, v_first, v_before) end,
        format('nullif(%s, '''')', v_value), nullif(quote_literal(v_after), ''''''));
    end if;
    v_empty := concat_ws(' and ', v_empty, format('nullif(%s, '''') is null', v_value));
  end loop;
  if v_value is null then
    raise exception using errcode = 'BL001', message =
      format('the template %L names no column. Write for example ''{title} {body}''', p_template);
  end if;
  return format('pg_catalog.btrim(pg_catalog.concat(%s), E'' \t\n\r'')',
                array_to_string(array_remove(v_arguments, ''''''), ', '));
end $$;

-- Raises if no row of a sample has what a path of a template leads to, and names the paths that there are.
create or replace function backline.check_paths(p_table regclass, p_template text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_json text;
  v_rows bigint; v_has bigint;
  v_paths text;
  t record;
begin
  for t in select * from backline.template_fields(p_table, p_template) f where f.path <> '' loop
    v_json := case when t.type in ('json', 'jsonb') then format('r.%I::pg_catalog.jsonb', t.name)
                   else format('backline.json_or_null(pg_catalog.concat(r.%I))', t.name) end;
    execute format('select count(s.document), count(s.document) filter (where s.value <> '''') from '
                   '(select %s as document, %s as value from %s r limit 1000) s',
                   v_json, backline.placeholder_expression(t.name, t.path, null, t.type, t.category), p_table)
    into v_rows, v_has;
    if v_rows > 0 and v_has = 0 then
      execute format($q$
        with recursive inside(path, value, depth) as (
          select %L, s.document, 0 from (select %s as document from %s r limit 1000) s
          where s.document is not null
          union all
          select i.path || x.step, x.value, i.depth + 1 from inside i cross join lateral (
            select '.' || backline.template_name(e.key) as step, e.value
            from jsonb_each(case when jsonb_typeof(i.value) = 'object' then i.value else '{}' end) e
            union all
            select '[*]', a from jsonb_array_elements(
              case when jsonb_typeof(i.value) = 'array' then i.value else '[]' end) a) x
          where i.depth < 4
        ), leaves as (
          select i.path, count(*) as uses from inside i
          where i.depth > 0 and jsonb_typeof(i.value) not in ('object', 'array', 'null')
          group by i.path order by count(*) desc, i.path limit 20
        )
        select string_agg('{' || l.path || '}', ', ' order by l.uses desc, l.path) from leaves l
      $q$, backline.template_name(t.name), v_json, p_table) into v_paths;
      raise exception using errcode = 'BL001', message = format(
        'no row of %s has a value at {%s}, in a sample of %s. The paths that there are: %s', p_table, t.field,
        v_rows, coalesce(v_paths, 'none'));
    end if;
  end loop;
end $$;

-- Raises if an expression fails for a row of a sample, or takes more than 20 ms a row.
create or replace function backline.check_sample(p_table regclass, p_sql text, p_shown text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1 as $$
declare
  v_start constant timestamptz := clock_timestamp();
  v_rows int := 0;
  v_text text;
begin
  for v_text in execute format('select (%s)::text from %s r limit 1000', p_sql, p_table) loop
    v_rows := v_rows + 1;
    exit when clock_timestamp() > v_start + interval '1 s';
  end loop;
  if clock_timestamp() > v_start + interval '20 ms' * greatest(v_rows, 50) then
    raise exception using errcode = 'BL001', message = format(
      'the expression %L takes more than 20 ms a row of %s, and every scan computes it. Keep its result in a '
      'column', p_shown, p_table);
  end if;
exception
  when insufficient_privilege then
    raise;
  when data_exception or syntax_error_or_access_rule_violation or raise_exception then
    raise exception using errcode = 'BL001', message = format(
      'the expression %L fails for a row of %s: %s. Write it so that it has a result for every row', p_shown,
      p_table, sqlerrm);
end $$;

-- Returns the text of a row of which the condition is true, and an empty one otherwise.
create or replace function backline.conditional_text(p_sql text, p_where text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_where is null then p_sql
              else format('case when %s then %s else '''' end', p_where, p_sql) end;
$$;

-- Returns the expression of whether a row r is outside the condition of a collection.
create or replace function backline.is_excluded(c backline.collections) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when c.where_sql is null then 'false'
              when c.guarded then format('(%s is false)', c.where_sql)
              else format('(%s is not true)', c.where_sql) end;
$$;

-- Compiles the text of a table's rows, from a template or an SQL expression, and the condition on rows.
--   expression  the SQL expression, null for a template
--   where_sql   the condition, null for every row
--   text_sql    the text of a row, trimmed, and empty for a row outside the condition
--   numbers, names, types   the columns of text and condition; number 0 is the whole row
create or replace function backline.compile_text(
  p_table regclass, p_template text, p_expression text, p_where text,
  out expression text, out where_sql text, out text_sql text,
  out numbers int2[], out names text[], out types text[]
) language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if num_nonnulls(p_template, p_expression) <> 1 then
    raise exception using errcode = 'BL001', message =
      'a text needs either a template or an SQL expression. Use one of --text and --text-sql';
  end if;
  text_sql := (backline.compile_expression(p_table, case
    when p_expression is null then backline.compile_template(p_table, p_template)
    else p_expression end, 'text')).sql;
  if p_expression is not null then
    expression := text_sql;
    text_sql := format(E'pg_catalog.btrim(pg_catalog.concat(%s), '' \t\n\r''::text)', text_sql);
    perform backline.check_sample(p_table, text_sql, p_expression);
  else
    perform backline.check_paths(p_table, p_template);
  end if;
  if p_where is not null then
    where_sql := (backline.compile_expression(p_table, p_where, 'boolean')).sql;
    perform backline.check_sample(p_table, where_sql, p_where);
  end if;
  select c.numbers, c.names, c.types into numbers, names, types
  from backline.read_columns(p_table, concat_ws(' ', text_sql, where_sql)) c;
  text_sql := backline.conditional_text(text_sql, where_sql);
end $$;
