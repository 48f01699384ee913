-- Execute privileges. Applied after every other file that creates functions in the schema backline.

-- Allows a role to search with its own rights on the tables, so that row level security applies.
create or replace function backline.allow_search(p_role regrole) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_schema name := (select n.nspname from pg_catalog.pg_extension x
                    join pg_catalog.pg_namespace n on n.oid = x.extnamespace where x.extname = 'vector');
begin
  execute format('grant usage on schema backline to %s', p_role);
  if not pg_catalog.has_schema_privilege(p_role, v_schema, 'usage') then
    execute format('grant usage on schema %I to %s', v_schema, p_role);
  end if;
  execute format('grant execute on function backline.search, backline.search_statement, '
    'backline.score_statement, backline.searchable, backline.comparable, '
    'backline.comparison, backline.keyword_candidates, backline.query_parts, backline.query_text, '
    'backline.phrase_pattern, backline.matches_parts, backline.stop_words, backline.folded, '
    'backline.unspaced, '
    'backline.compile_filter, backline.compile_comparison, backline.readable_columns, backline.marks, '
    'backline.snippet, backline.similarities, backline.language_of, backline.source, backline.rows_of, '
    'backline.whole_rows_of, backline.vector_of, backline.best_passages_of, backline.passages_found, '
    'backline.all_passages_of, backline.side_table, backline.side_key, backline.key_values, '
    'backline.key_match, backline.key_order, backline.key_text(backline.collections), '
    'backline.key_text(text[]), backline.joined, backline.json_or_null, backline.strip_html, '
    'backline.strip_markdown, backline.try_text, backline.try_condition to %s', p_role);
end $$;
comment on function backline.allow_search is
  'API: allows a role to search the collections with tables that it can read.';

revoke all on all tables in schema backline from public;
revoke all on all sequences in schema backline from public;
revoke all on all functions in schema backline from public;
alter default privileges in schema backline revoke execute on functions from public;

-- The policies of side tables call these for every role that reads the table.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc p
    where p.pronamespace = 'backline'::regnamespace and p.proname ~ '^c[0-9]+_visible$'
  loop
    execute format('grant execute on function %s to public', v_function);
  end loop;
end $$;

-- The functions for PostgREST are in the schema public, where older Supabase projects grant every new
-- function to all three roles. Revoke that, then grant what each role needs.
do $$
declare
  v_function regprocedure;
  v_role text;
begin
  foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_catalog.pg_roles where rolname = v_role) then
      execute format('grant usage on schema backline to %I', v_role);
      execute format('grant execute on function backline.readable_collections to %I', v_role);
    end if;
  end loop;
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname like 'backline\_%'
  loop
    execute format('revoke all on function %s from public', v_function);
    foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
      if exists (select from pg_catalog.pg_roles where rolname = v_role) then
        execute format('revoke all on function %s from %I', v_function, v_role);
        if v_role = 'service_role' or v_function in (
          'public.backline_collections()'::regprocedure,
          'public.backline_query_text(int, text)'::regprocedure,
          'public.backline_search(int, text, text, real[], int, int, jsonb, float8, boolean, int)'
            ::regprocedure
        ) then
          execute format('grant execute on function %s to %I', v_function, v_role);
        end if;
      end if;
    end loop;
  end loop;
  if exists (select from pg_catalog.pg_roles where rolname = 'service_role') then
    grant all on all tables in schema backline to service_role;
    grant usage on all sequences in schema backline to service_role;
    grant execute on all functions in schema backline to service_role;
    perform backline.allow_search('service_role');  -- the use of pgvector's schema
  end if;
end $$;
