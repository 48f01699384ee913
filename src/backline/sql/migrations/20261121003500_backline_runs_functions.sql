-- Built by `make docs` from schema/functions/runs.sql. Edit that file instead.

-- Runs: one record for each backfill.

create or replace function backline.start_run(p_collection int, p_settings jsonb) returns bigint
language sql set search_path = pg_catalog, pg_temp as $$
  insert into backline.runs (collection_id, model_id, settings)
  select c.id, c.model_id, p_settings from backline.collections c where c.id = p_collection
  returning id;
$$;
comment on function backline.start_run is 'API: records the start of a backfill.';

-- Can be called again with the report, which is complete only after the index build. finished_at then stays.
create or replace function backline.finish_run(p_run bigint, p_state text, p_report jsonb) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  update backline.runs set state = p_state, report = p_report,
    finished_at = case when state = p_state then coalesce(finished_at, now()) else now() end
  where id = p_run;
$$;
comment on function backline.finish_run is 'API: records the end of a run.';

create or replace function backline.cancel_run(p_run bigint) returns text
language sql set search_path = pg_catalog, pg_temp as $$
  update backline.runs set state = 'cancelling' where id = p_run and state = 'running' returning state;
$$;
comment on function backline.cancel_run is
  'API: requests cancellation of a run. Its workers stop within seconds.';

create or replace function backline.run_records(p_collection int, p_run bigint, p_limit int)
returns table (id bigint, state text, scanned bigint, due bigint, settings jsonb, started_at timestamptz,
               finished_at timestamptz, collection text, embedded bigint, reused bigint, failed bigint,
               batches bigint, tokens bigint, model text, seconds float8, long bigint,
               passages bigint)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.id, r.state, r.scanned, r.due, r.settings, r.started_at, r.finished_at, c.name,
    n.embedded::bigint, n.reused::bigint, n.failed::bigint, n.batches::bigint, n.tokens::bigint,
    m.provider || '/' || m.name,
    extract(epoch from coalesce(r.finished_at, now()) - r.started_at)::float8, n.long::bigint,
    n.passages::bigint
  from backline.runs r join backline.collections c on c.id = r.collection_id
  join backline.models m on m.id = r.model_id
  cross join lateral (
    select coalesce(sum(k.embedded), 0) as embedded, coalesce(sum(k.reused), 0) as reused,
      coalesce(sum(k.failed), 0) as failed, coalesce(sum(k.batches), 0) as batches,
      coalesce(sum(k.tokens), 0) as tokens, coalesce(sum(k.truncated), 0) as long,
      coalesce(sum(k.passages), 0) as passages
    from backline.run_counts k where k.run_id = r.id
  ) n
  where (p_collection is null or r.collection_id = p_collection) and (p_run is null or r.id = p_run)
  order by r.id desc limit p_limit;
$$;
