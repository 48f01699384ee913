-- Built by `make docs` from schema/functions/counters.sql. Edit that file instead.

-- Maintains the counters: triggers, compaction, recount.

create or replace function backline.count_jobs() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into backline.counter_deltas (collection_id, measure, amount)
  select t.collection_id, 'pending', case tg_op when 'INSERT' then count(*) else -count(*) end
  from changed t group by t.collection_id;
  return null;
end $$;

create or replace trigger count_inserted after insert on backline.jobs
  referencing new table as changed for each statement execute function backline.count_jobs();
create or replace trigger count_deleted after delete on backline.jobs
  referencing old table as changed for each statement execute function backline.count_jobs();

create or replace function backline.count_failures() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  insert into backline.counter_deltas (collection_id, measure, amount)
  select t.collection_id, 'failed', case tg_op when 'INSERT' then count(*) else -count(*) end
  from changed t group by t.collection_id;
  return null;
end $$;

create or replace trigger count_inserted after insert on backline.failures
  referencing new table as changed for each statement execute function backline.count_failures();
create or replace trigger count_deleted after delete on backline.failures
  referencing old table as changed for each statement execute function backline.count_failures();

create or replace function backline.count_stamps() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op <> 'INSERT' then
    with counted as (
      select o.collection_id, o.model_id, o.long, count(*) as amount,
             case when o.excluded then 'excluded' when o.blank then 'blank' else 'embedded' end as measure
      from old_rows o where not o.stale group by 1, 2, 3, 5
    )
    insert into backline.counter_deltas (collection_id, measure, model_id, amount)
    select c.collection_id, c.measure, c.model_id, -c.amount
    from counted c
    union all select c.collection_id, 'long', c.model_id, -c.amount from counted c where c.long;
  end if;
  if tg_op <> 'DELETE' then
    with counted as (
      select n.collection_id, n.model_id, n.long, count(*) as amount,
             case when n.excluded then 'excluded' when n.blank then 'blank' else 'embedded' end as measure
      from new_rows n where not n.stale group by 1, 2, 3, 5
    )
    insert into backline.counter_deltas (collection_id, measure, model_id, amount)
    select c.collection_id, c.measure, c.model_id, c.amount
    from counted c
    union all select c.collection_id, 'long', c.model_id, c.amount from counted c where c.long;
  end if;
  return null;
end $$;

create or replace trigger count_inserted after insert on backline.stamps
  referencing new table as new_rows for each statement execute function backline.count_stamps();
create or replace trigger count_updated after update on backline.stamps
  referencing old table as old_rows new table as new_rows
  for each statement execute function backline.count_stamps();
create or replace trigger count_deleted after delete on backline.stamps
  referencing old table as old_rows for each statement execute function backline.count_stamps();

-- Merges the counter deltas of a collection and compacts its keyword index. Workers call it every few
-- seconds. Deltas locked by a concurrent compaction are skipped.
create or replace function backline.compact_counters(p_collection int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  with deleted as (
    delete from backline.counter_deltas t
    where t.ctid in (select c.ctid from backline.counter_deltas c
                     where c.collection_id = p_collection for update skip locked)
    returning t.measure, t.model_id, t.amount
  )
  insert into backline.counter_deltas (collection_id, measure, model_id, amount)
  select p_collection, g.measure, g.model_id, sum(g.amount) from deleted g
  group by g.measure, g.model_id having sum(g.amount) <> 0;
  perform backline.compact_keywords(p_collection);
end $$;

-- Corrects the counters by counting, and returns the corrections. The count is one statement, hence one
-- snapshot: a concurrent transaction adds its own delta when it commits, and is counted exactly once. Lines
-- of the change log count when they are applied. The lock prevents two recounts from applying the same
-- correction twice.
create or replace function backline.recount(p_collection int, p_correct boolean default true) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c backline.collections := backline.definition(p_collection);
  v_corrected jsonb;
begin
  perform backline.lock(p_collection, 'scan') where p_correct;
  execute format($q$
    with wrong as (
      select d.measure, d.model_id, sum(d.amount) as amount from (
        select 'rows' as measure, 0 as model_id, count(*) as amount from %1$s
        union all
        select case when s.excluded then 'excluded' when s.blank then 'blank' else 'embedded' end, s.model_id,
               count(*)
        from backline.stamps s where s.collection_id = $1 and not s.stale group by 1, 2
        union all
        select 'long', s.model_id, count(*)
        from backline.stamps s where s.collection_id = $1 and s.long and not s.stale group by s.model_id
        union all
        select 'pending', 0, count(*) from backline.jobs j where j.collection_id = $1
        union all
        select 'failed', 0, count(*) from backline.failures f where f.collection_id = $1
        union all
        select 'rows', 0, -coalesce(sum(l.delta), 0) from backline.changes l where l.collection_id = $1
        union all
        select t.measure, t.model_id, -sum(t.amount) from backline.counter_deltas t
        where t.collection_id = $1 group by t.measure, t.model_id
      ) d
      -- Applying a truncation recounts the rows.
      where d.measure <> 'rows' or not exists (
        select from backline.changes l where l.collection_id = $1 and l.kind = 't')
      group by d.measure, d.model_id having sum(d.amount) <> 0
    ) %2$s
    select coalesce(jsonb_object_agg(m.measure, m.amount), '{}')
    from (select w.measure, sum(w.amount) as amount from wrong w group by w.measure) m
  $q$, backline.source(c), case when p_correct then $q$, corrected as (
      insert into backline.counter_deltas (collection_id, measure, model_id, amount)
      select $1, w.measure, w.model_id, w.amount from wrong w
    ) $q$ end) into v_corrected using p_collection;
  return v_corrected;
end $$;
comment on function backline.recount is
  'API: returns how far the counters are off, and corrects them unless p_correct is false.';
