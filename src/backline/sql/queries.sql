-- Statements of the store. The rules they apply are in schema/functions.

-- name: is_migrated
-- Whether the schema is installed, and pgvector with it.
select to_regclass('backline.collections') is not null as migrated,
  exists (select from pg_catalog.pg_extension where extname = 'vector') as has_vector

-- name: applied_migrations
-- What the history lists. It counts for nothing in a database without the schema: a dump may hold one alone.
select h.version, h.name from supabase_migrations.schema_migrations h
where to_regnamespace('backline') is not null

-- name: forget_migrations
-- Deletes the history of a schema that is gone.
delete from supabase_migrations.schema_migrations h
where h.version = any(%(versions)s) and to_regnamespace('backline') is null

-- name: schema_objects
-- The objects of the schema backline and its functions in public, in the form of backline.sql.objects.
select 'table' as kind, k.relname::text as name, '' as detail
from pg_catalog.pg_class k
where k.relnamespace = to_regnamespace('backline') and k.relkind in ('r', 'p')
union all
select case k.relkind when 'S' then 'sequence' else 'index' end, k.relname, '' from pg_catalog.pg_class k
left join pg_catalog.pg_index i on i.indexrelid = k.oid
where k.relnamespace = to_regnamespace('backline') and k.relkind in ('i', 'S') and i.indisvalid is not false
union all
select 'column', k.relname, a.attname from pg_catalog.pg_class k
join pg_catalog.pg_attribute a on a.attrelid = k.oid and a.attnum > 0 and not a.attisdropped
where k.relnamespace = to_regnamespace('backline') and k.relkind in ('r', 'p')
union all
select 'key', k.relname, (select string_agg(a.attname, ',' order by a.attname)
                          from pg_catalog.pg_attribute a
                          where a.attrelid = k.oid and a.attnum = any (x.conkey))
from pg_catalog.pg_class k join pg_catalog.pg_constraint x on x.conrelid = k.oid and x.contype in ('p', 'u')
where k.relnamespace = to_regnamespace('backline')
union all
select 'trigger', k.relname, t.tgname from pg_catalog.pg_class k
join pg_catalog.pg_trigger t on t.tgrelid = k.oid and not t.tgisinternal and t.tgenabled in ('O', 'A')
where k.relnamespace = to_regnamespace('backline')
union all
select 'function', n.nspname || '.' || p.proname, md5(replace(p.prosrc, e'\r', ''))
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname = 'backline' or n.nspname = 'public' and p.proname like 'backline\_%'
union all
select 'vector', n.nspname, '' from pg_catalog.pg_extension x
join pg_catalog.pg_namespace n on n.oid = x.extnamespace where x.extname = 'vector'
union all  -- what a role of the service lacks
select 'unusable', 'backline.' || k.relname, '' from pg_catalog.pg_class k, pg_catalog.pg_roles r
where k.relnamespace = to_regnamespace('backline') and k.relkind in ('r', 'p') and r.rolname = 'service_role'
  and not (has_table_privilege(r.oid, k.oid, 'select') and has_table_privilege(r.oid, k.oid, 'insert')
           and has_table_privilege(r.oid, k.oid, 'update') and has_table_privilege(r.oid, k.oid, 'delete')
           and exists (select from pg_catalog.pg_policy y where y.polrelid = k.oid))
union all
select 'unusable', n.nspname || '.' || p.proname, '' from pg_catalog.pg_roles r, pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where (n.nspname = 'backline' or n.nspname = 'public' and p.proname like 'backline\_%')
  and r.rolname = 'service_role' and not has_function_privilege(r.oid, p.oid, 'execute')
union all  -- what a role may use and should not
select 'exposed', 'backline.' || k.relname, '' from pg_catalog.pg_class k
where k.relnamespace = to_regnamespace('backline') and k.relkind in ('r', 'p')
  and (not k.relrowsecurity or has_table_privilege('public', k.oid, 'select, insert, update, delete'))
union all
select 'exposed', n.nspname || '.' || p.proname, '' from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where (n.nspname = 'backline' or n.nspname = 'public' and p.proname like 'backline\_%')
  and (has_function_privilege('public', p.oid, 'execute')
       or n.nspname = 'public' and p.proname not in
         ('backline_collections', 'backline_search', 'backline_query_text')
          and exists (select from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated')
                      and has_function_privilege(r.oid, p.oid, 'execute')))

-- name: leftover_triggers
-- Triggers of collections that do not exist, such as those of a restored table.
select format('%I.%I', n.nspname, k.relname) as relation, t.tgname::text as name
from pg_catalog.pg_trigger t join pg_catalog.pg_class k on k.oid = t.tgrelid
join pg_catalog.pg_namespace n on n.oid = k.relnamespace and n.nspname <> 'backline'
join pg_catalog.pg_proc p on p.oid = t.tgfoid and p.pronamespace = to_regnamespace('backline')
where t.tgname ~ '^backline_[a-z]*[0-9]+_' and not t.tgisinternal
  and not exists (select from backline.collections c
                  where c.id = substring(t.tgname from '^backline_[a-z]*([0-9]+)_')::bigint)
order by 1, 2

-- name: drop_unusable
-- Drops invalid indexes, which are created again, and triggers of collections that do not exist.
do $$
declare
  v_index regclass;
  v_trigger record;
begin
  for v_index in
    select k.oid from pg_catalog.pg_class k join pg_catalog.pg_index i on i.indexrelid = k.oid
    where k.relnamespace = 'backline'::regnamespace and not i.indisvalid
  loop
    execute format('drop index %s', v_index);
  end loop;
  if to_regclass('backline.collections') is null then
    return;
  end if;
  for v_trigger in
    select t.tgname, t.tgrelid::regclass as relation from pg_catalog.pg_trigger t
    join pg_catalog.pg_class k on k.oid = t.tgrelid and k.relnamespace <> 'backline'::regnamespace
    join pg_catalog.pg_proc p on p.oid = t.tgfoid and p.pronamespace = 'backline'::regnamespace
    where t.tgname ~ '^backline_[a-z]*[0-9]+_' and not t.tgisinternal
      and not exists (select from backline.collections c
                      where c.id = substring(t.tgname from '^backline_[a-z]*([0-9]+)_')::bigint)
  loop
    execute format('drop trigger %I on %s', v_trigger.tgname, v_trigger.relation);
  end loop;
end $$

-- name: continue_ids
-- Sets every sequence past the ids in use, after a table was created again.
do $$
declare
  v_sequence record;
  v_largest text;
  v_last bigint;
begin
  for v_sequence in
    select * from (values ('collections', 'collection_id'), ('models', 'model_id'), ('workers', 'worker_id'),
                          ('runs', 'run_id')) v(relation, reference)
  loop
    select string_agg(format('select max(%I)::bigint from %s', a.attname, a.attrelid::regclass),
                      ' union all ') into v_largest
    from pg_catalog.pg_attribute a join pg_catalog.pg_class k on k.oid = a.attrelid
    where k.relnamespace = 'backline'::regnamespace and k.relkind = 'r' and a.attname = v_sequence.reference;
    execute format('select max(m) from (%s) as x(m)', v_largest) into v_last;
    perform setval(s.name, greatest(v_last, nextval(s.name)))
    from pg_get_serial_sequence('backline.' || v_sequence.relation, 'id') s(name);
  end loop;
  -- More than one a millisecond since 1970, and so past every document.
  perform setval('backline.document_ids', greatest(nextval('backline.document_ids'),
                                                   (1000 * extract(epoch from clock_timestamp()))::bigint));
end $$

-- name: owners
-- The present role, and the other owners of Backline's objects.
select current_user::text as role, array(
  select distinct pg_get_userbyid(o.owner) from (
    select n.nspowner as owner from pg_catalog.pg_namespace n where n.nspname = 'backline'
    union all
    select k.relowner from pg_catalog.pg_class k where k.relnamespace = to_regnamespace('backline')
    union all
    select p.proowner from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'backline' or n.nspname = 'public' and p.proname = any(%(functions)s)) o
  where not pg_has_role(o.owner, 'usage') order by 1) as others

-- name: replaced_functions
-- Functions with the name of one of Backline's in public and another body, which may have another signature.
select p.oid::regprocedure::text as signature, md5(replace(p.prosrc, e'\r', '')) as body,
  n.nspname || '.' || p.proname as name
from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where n.nspname || '.' || p.proname = any(%(functions)s)

-- name: vector_schema
-- The schema and version of pgvector. No row if it is not installed in this database.
select n.nspname as schema, x.extversion as version from pg_catalog.pg_extension x
join pg_catalog.pg_namespace n on n.oid = x.extnamespace where x.extname = 'vector'

-- name: vector_available
-- Whether pgvector can be installed on this server.
select exists (select from pg_catalog.pg_available_extensions where name = 'vector') as available

-- name: publications_of_schemas
-- The publications that send every new table of one of these schemas.
select p.pubname as name from pg_catalog.pg_publication p
where p.puballtables or exists (
  select from pg_catalog.pg_publication_namespace s
  join pg_catalog.pg_namespace n on n.oid = s.pnnspid
  where s.pnpubid = p.oid and n.nspname = any (%(schemas)s))
order by 1

-- name: collections
-- The collections with the present state of their tables in the catalog.
select * from backline.collection_records()

-- name: find_table
-- A table by name, qualified or from the search path: the one of exactly that name, or else as SQL reads it.
-- Before Postgres 16, to_regclass raises an error for what is not spelled like a name.
with exact as (
  select k.oid from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
  where k.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and (n.nspname || '.' || k.relname = %(table)s
    or k.relname = %(table)s and pg_catalog.pg_table_is_visible(k.oid))
), pattern as (
  select '("([^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)' as name
)
select k.oid, n.nspname as schema, k.relname as name, k.relkind::text as kind,
  format('%%I.%%I', n.nspname, k.relname) as quoted
from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace
where k.oid in (select oid from exact) or not exists (select from exact) and k.oid = (
  select case when %(table)s ~ format('^%%1$s([.]%%1$s)?$', p.name) then to_regclass(%(table)s) end
  from pattern p)
order by 2, 3

-- name: tables_like
-- Suggestions if a table does not exist.
select n.nspname || '.' || k.relname as name from pg_catalog.pg_class k
join pg_catalog.pg_namespace n on n.oid = k.relnamespace
where k.relkind in ('r', 'p')
  and n.nspname not in ('pg_catalog', 'information_schema', 'backline', 'backline_vectors',
    'supabase_migrations')
order by 1 limit 20

-- name: add_collection
select backline.add_collection(%(name)s, %(table)s::oid::regclass, %(key)s::text[], %(template)s, %(column)s,
  %(provider)s, %(model)s, %(revision)s, %(dimensions)s, %(column_type)s, %(long_text)s,
  %(published)s, %(into)s, %(text_sql)s, %(where)s, %(language)s,
  %(language_column)s, p_passages => %(passages)s, p_follow => %(follow)s, p_existing => %(existing)s,
  p_partitions => %(partitions)s) as id

-- name: poll_source
select logged, wait, sweep from backline.poll_source(%(collection)s, %(sweep_every)s)

-- name: sweep_page
select scanned, logged, last_key from backline.sweep_page(%(collection)s, %(of)s, %(after)s, %(limit)s)

-- name: count_source
select backline.count_source(%(collection)s, true)

-- name: check_unique
select backline.check_unique(%(table)s::oid::regclass, %(key)s::text[])

-- name: vectors_in
select backline.vectors_in(%(table)s::oid::regclass, %(column)s) as count

-- name: definition_of
select c::text as definition from backline.collections c where c.id = %(collection)s

-- name: adoption_sample
select key, content, embedding
from backline.adoption_sample(%(definition)s::text::backline.collections, %(limit)s)

-- name: embed_again
-- Makes rows due that a sample found to have vectors of another model or text.
insert into backline.jobs (collection_id, key, priority)
select %(collection)s, k.key, 1 from unnest(%(keys)s::text[]) as k(key)

-- name: adopt_page
select scanned, adopted, last_key from backline.adopt_page(%(collection)s, %(after)s, %(limit)s)

-- name: finish_adoption
select backline.finish_adoption(%(collection)s)

-- name: guard_expressions
select backline.guard_expressions(%(collection)s) as guarded

-- name: exclude_page
select * from backline.exclude_page(%(collection)s, %(after)s, %(limit)s)

-- name: drop_collection
select backline.drop_collection(%(collection)s, %(drop_column)s)

-- name: drop_place
select backline.drop_place(%(collection)s, %(drop_column)s)

-- name: begin_change
select backline.begin_change(
  %(name)s, %(provider)s, %(model)s, %(revision)s, %(dimensions)s, %(column_type)s, %(into)s, %(column)s,
  %(template)s, %(text_sql)s, %(passages)s, %(long_text)s, %(published)s, %(shortens)s) as id

-- name: targets_of
select c.id, c.name, c.model_id, c.frozen from backline.collections c
where c.name in (%(name)s, %(name)s || '@next', %(name)s || '@old') order by c.id

-- name: change_records
select * from backline.change_records(%(name)s)

-- name: copy_page
select backline.copy_page(%(name)s)

-- name: finish_fill
select backline.finish_fill(%(name)s, %(despite_failures)s, make_interval(secs => %(lag)s))

-- name: finish_indexes
select backline.finish_indexes(%(name)s)

-- name: cutover
select backline.cutover(%(name)s, %(despite_failures)s, make_interval(secs => %(lag)s))

-- name: rollback_change
select backline.rollback_change(%(name)s)

-- name: thaw_target
select backline.thaw_target(%(name)s)

-- name: freeze_target
select backline.freeze_target(%(name)s)

-- name: begin_discard
select backline.begin_discard(%(name)s, %(retire)s)

-- name: finish_discard
select backline.finish_discard(%(name)s)

-- name: set_model
select backline.set_model(%(collection)s, %(provider)s, %(model)s, %(revision)s, %(dimensions)s)

-- name: set_text
select backline.set_text(%(collection)s, %(template)s, %(text_sql)s)

-- name: log_text_change
select * from backline.log_text_change(%(collection)s, %(after)s, %(limit)s)

-- name: same_expression
-- Whether Postgres prints an expression over a row of the table as it prints a compiled one.
select (backline.compile_expression(%(table)s::oid::regclass, %(expression)s, %(type)s)).sql
       = %(compiled)s as same

-- name: side_name
-- Schema and name of the side table that --into names.
select backline.side_name(%(into)s) as name

-- name: tables_matching
-- The tables, views and foreign tables whose schema and name match patterns of LIKE.
select n.nspname as schema, k.relname as name from pg_catalog.pg_class k
join pg_catalog.pg_namespace n on n.oid = k.relnamespace
where k.relkind in ('r', 'p', 'v', 'm', 'f') and not k.relispartition
  and n.nspname like %(schema)s and k.relname like %(name)s
  and n.nspname not in ('pg_catalog', 'information_schema', 'backline', 'supabase_migrations')
order by 1, 2

-- name: set_where
select backline.set_where(%(collection)s, %(where)s) as former

-- name: log_condition_change
select * from backline.log_condition_change(%(collection)s, %(former)s, %(after)s, %(limit)s)

-- name: recount
select backline.recount(%(collection)s, %(correct)s) as corrected

-- name: compact
select backline.compact_counters(%(collection)s)

-- name: coverage
select backline.coverage(%(collection)s) as coverage

-- name: problems
select kind, problem, remedy from backline.problems(%(collection)s)

-- name: follow
select backline.follow(%(collection)s) as followed

-- name: repoint
select backline.repoint(%(collection)s, %(published)s) as repointed

-- name: begin_scan
select backline.begin_scan(%(collection)s) as begun

-- name: finish_scan
select backline.finish_scan(%(collection)s, %(begun)s)

-- name: release_unacknowledged
select backline.release_unacknowledged(%(worker)s, %(received)s)

-- name: claim
select key, action, coalesce(content, ''), content_hash, attempts, lease
from backline.claim(%(collection)s, %(worker)s, %(limit)s, %(model)s, %(edits_only)s)

-- name: work_due
-- The snapshot, and the seconds until workers of some collections find work.
select pg_current_snapshot()::text as snapshot,
  array(select backline.work_due_in(c.id)
        from unnest(%(collections)s::int[]) with ordinality as c(id, position)
        order by c.position) as seconds

-- name: snapshot
select pg_current_snapshot()::text as snapshot

-- name: claim_batch
select scanned, last_key, lease, keys, actions, contents, hashes
from backline.claim_batch(
  %(collection)s, %(worker)s, %(run)s, %(after)s, %(limit)s, %(model)s, %(unfinished)s)

-- name: end_finished_batches
select backline.end_finished_batches(%(worker)s, %(leases)s)

-- name: vector_oid
-- The OID of the vector type, for arrays in binary format.
select t.oid::bigint as oid from pg_catalog.pg_extension x
join pg_catalog.pg_depend d on d.refobjid = x.oid and d.refclassid = 'pg_extension'::regclass
  and d.classid = 'pg_type'::regclass
join pg_catalog.pg_type t on t.oid = d.objid and t.typname = 'vector'
where x.extname = 'vector'

-- name: complete
select * from backline.complete(%(collection)s, %(worker)s, %(run)s, %(cache)s,
  %(keys)b, %(actions)b, %(hashes)b, %(vectors)b, %(batches)s, %(tokens)s, %(truncated)s,
  %(model)s, %(leases)b, p_long => %(long)s, p_sent => %(sent)s, p_of => %(of)b, p_starts => %(starts)b,
  p_ends => %(ends)b, p_headings => %(headings)b, p_passages => %(passages)b,
  p_passage_vectors => %(passage_vectors)b)

-- name: known_passages
select backline.known_passages(%(collection)s, %(keys)s, %(hashes)s) as known

-- name: trim_vectors
select backline.trim_vectors(%(bytes)s) as dropped

-- name: confirm
select backline.confirm(%(call)s, %(collection)s, %(worker)s, %(run)s, %(keys)s, %(hashes)s,
  %(leases)s, %(batches)s, %(model)s) as outcomes

-- name: fail
select backline.fail(%(collection)s, %(worker)s, %(run)s, %(rows)s) as busy

-- name: register_worker
select backline.register_worker(%(collection)s, %(host)s, %(pid)s, %(has_session)s,
  make_interval(secs => %(lease)s), %(run)s, %(replaces)s) as id

-- name: heartbeat
select backline.heartbeat(%(worker)s, make_interval(secs => %(lease)s), %(rate)s::real) as alive,
  (select r.state from backline.runs r where r.id = %(run)s) as run_state

-- name: held
select backline.held(%(collection)s, %(worker)s, %(keys)s, %(leases)s) as held

-- name: unregister_worker
select backline.unregister_worker(%(worker)s)

-- name: release_dead_workers
select backline.release_dead_workers(%(collection)s, %(worker)s) as dead

-- name: outstanding
select * from backline.outstanding(%(collection)s, %(before)s)

-- name: start_run
select backline.start_run(%(collection)s, %(settings)s) as id

-- name: finish_run
select backline.finish_run(%(run)s, %(state)s, %(report)s)

-- name: cancel_run
select backline.cancel_run(%(run)s) as state

-- name: runs
select * from backline.run_records(%(collection)s, %(run)s, %(limit)s)

-- name: failures
select f.key, f.kind, f.error, f.attempts, f.failed_at, f.run_id
from backline.failures f
where f.collection_id = %(collection)s and f.key > %(after)s
order by f.key limit %(limit)s

-- name: run_failures
select f.key, f.kind, f.error from backline.failures f
where f.run_id = %(run)s order by f.key limit %(limit)s

-- name: retry_failures
select backline.retry_failures(%(collection)s, %(keys)s) as count

-- name: drop_failures
select backline.drop_failures(%(collection)s, %(keys)s) as count

-- name: verify_page
select * from backline.verify_page(%(collection)s, %(after)s, %(limit)s)

-- name: trigger_problems
select name, problem from backline.trigger_problems(%(collection)s)

-- name: install_triggers
select backline.install_triggers(%(collection)s)

-- name: reconcile_page
select * from backline.reconcile_page(%(collection)s, %(after)s, %(limit)s, %(repair)s)

-- name: reconcile_orphans
select * from backline.reconcile_orphans(%(collection)s, %(of)s, %(after)s, %(limit)s, %(repair)s)

-- name: hnsw_indexes
-- The HNSW indexes on the vector column. Each write updates their graphs.
select distinct format('%%I.%%I', n.nspname, k.relname) as name
from backline.definition(%(collection)s) c
join pg_catalog.pg_attribute t on t.attrelid = coalesce(c.into_id, c.table_id)
  and t.attname = c.embedding_column and not t.attisdropped
join pg_catalog.pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = t.attrelid
  and d.refobjsubid = t.attnum and d.classid = 'pg_class'::regclass
join pg_catalog.pg_class k on k.oid = d.objid and k.relkind in ('i', 'I')
join pg_catalog.pg_am a on a.oid = k.relam and a.amname = 'hnsw'
join pg_catalog.pg_namespace n on n.oid = k.relnamespace
order by 1

-- name: now
select clock_timestamp() as now

-- name: scan_page
select key, due, content, content_hash, cached
from backline.scan_page(%(collection)s, %(after)s, %(limit)s, true)
