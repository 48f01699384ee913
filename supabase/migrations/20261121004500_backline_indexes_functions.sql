-- Built by `make docs` from schema/functions/indexes.sql. Edit that file instead.

-- The HNSW index of a collection, and functions to measure it.

-- Returns the name of a collection's HNSW index, the statements that create and drop it, and whether a valid
-- one exists under any name.
--
-- An index of a partitioned table cannot be built concurrently. Those of its partitions are, and the index of
-- the whole table then takes them over.
create or replace function backline.vector_index(p_collection int,
  out name text, out present boolean, out possible boolean, out rows bigint, out bytes bigint,
  out make text[], out unmake text[]
) language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  s record;
  i record;
  v_schema text;
  v_whole text;
  v_using text;
  v_leaf record;
begin
  select * into s from backline.searchable(p_collection);
  -- Half precision halves the size of the graph and the time of a search. Recall does not change, because the
  -- nearest rows are compared again in full precision.
  select * into i from backline.comparison(
    'halfvec', s.column_type, s.column_dimensions, s.dimensions, quote_ident((s.c).embedding_column));
  -- With 100,000 near-duplicates, recall@10 is 0.965 at an ef_construction of 64 and 0.988 at 128.
  v_using := format('using hnsw (%s %s) with (ef_construction = 128)%s', i.expression, i.operators,
                    case i.guard when 'true' then '' else ' where ' || i.guard end);
  -- Two columns or two side tables have two names, of at most 63 bytes each.
  select x.name, n.nspname, case when k.relkind = 'p' then format('%I.%I', n.nspname, k.relname) end
  into name, v_schema, v_whole
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
  cross join lateral (select case
    when octet_length(k.relname) <= 40 and octet_length((s.c).embedding_column) <= 17
      then k.relname || '_' || (s.c).embedding_column || '_hnsw'
    else left(k.relname, 10) || '_' || left(md5(k.relname || '.' || (s.c).embedding_column), 12) || '_hnsw'
    end as name) x
  where k.oid = coalesce((s.c).into_id, (s.c).table_id);
  make := '{}';
  if v_whole is null then
    unmake := array[format('drop index concurrently if exists %I.%I', v_schema, name)];
    make := array[format('create index concurrently %I on %s %s', name,
                         case when (s.c).into_name is null then backline.source(s.c)
                              else (backline.side_table(s.c)).name end, v_using)];
  else
    unmake := array[format('drop index if exists %I.%I', v_schema, name)];
    for v_leaf in
      select n.nspname, k.relname, left(k.relname, 36) || '_' || k.oid || '_hnsw' as name
      from pg_catalog.pg_partition_tree(v_whole::regclass) t
      join pg_catalog.pg_class k on k.oid = t.relid and k.relkind = 'r'
      join pg_catalog.pg_namespace n on n.oid = k.relnamespace
    loop
      unmake := unmake || format('drop index concurrently if exists %I.%I', v_leaf.nspname, v_leaf.name);
      make := make || format('create index concurrently %I on %I.%I %s', v_leaf.name, v_leaf.nspname,
                             v_leaf.relname, v_using);
    end loop;
    make := make || format('create index %I on %s %s', name, v_whole, v_using);
  end if;
  possible := s.dimensions <= 4000;
  present := s.index_type is not null;
  select coalesce(sum(t.amount), 0) into rows from backline.counter_deltas t
  where t.collection_id = p_collection and t.measure = 'embedded';
  -- Memory of the graph during the build: the vectors in half precision, and 2 m = 32 neighbours each.
  bytes := rows * (s.dimensions * 2 + 600);
end $$;
comment on function backline.vector_index is
  'API: describes the HNSW index of a collection, with the statements that create and drop it.';

-- Returns stored vectors for measuring the index. The selection is the same on every call.
create or replace function backline.sample_vectors(p_collection int, p_count int) returns setof real[]
language plpgsql stable rows 100 set search_path = pg_catalog, pg_temp as $$
declare
  s record;
begin
  select * into s from backline.searchable(p_collection);
  return query execute format(
    'select %1$s::extensions.vector::real[] from %2$s where %1$s is not null '
    'order by md5(%3$s) limit $1',
    backline.vector_of(s.c), backline.rows_of(s.c), backline.key_text(s.c)) using p_count;
end $$;

-- Returns the rows nearest to a vector as a search for p_limit rows reads them or, with p_exact, by comparing
-- every row. A row with passages is as near as its nearest one, and is found among four times as many.
create or replace function backline.nearest(p_collection int, p_query real[], p_limit int, p_exact boolean)
returns table (key text, distance float8)
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp as $$
declare
  s record;
  i record;
begin
  select * into s from backline.searchable(p_collection);
  select * into i from backline.comparison(
    case when p_exact then s.column_type else coalesce(s.index_type, s.column_type) end,
    s.column_type, s.column_dimensions, s.dimensions, backline.vector_of(s.c));
  perform pg_catalog.set_config('jit', 'off', true),
          pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true),
          pg_catalog.set_config('hnsw.ef_search', least(greatest(200, 4 * p_limit), 1000)::text, true),
          pg_catalog.set_config('enable_indexscan', case when p_exact then 'off' else 'on' end, true);
  return query execute format($q$
    select n.key, min(n.v operator(extensions.<=>) $1::extensions.vector) as distance from (
      select %1$s as key, %5$s::extensions.vector as v
      from %2$s where %5$s is not null and %6$s
      order by %3$s operator(extensions.<=>) $1::%4$s limit $2 * %7$s) n
    group by 1 order by 2, 1 limit $2
  $q$, backline.key_text(s.c),
       case when (s.c).passages is null then backline.rows_of(s.c) else backline.all_passages_of(s.c) end,
       i.expression, i.query_type, backline.vector_of(s.c), i.guard,
       case when (s.c).passages is null then 1 else 4 end)
  using p_query, p_limit;
  perform pg_catalog.set_config('enable_indexscan', 'on', true);
end $$;
