-- Built by `make docs` from schema/functions/evaluations.sql. Edit that file instead.

-- Keeps search queries, and the evaluations that compare collections over them.

-- Keeps at most the 10,000 queries of each collection that were asked last, and none of more than 2,000
-- characters. Searches of another target than the serving one are tests of it, and are not kept.
create or replace function backline.keep_queries(p_queries jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Excludes drop_collection(), which deletes the queries of the same collections.
  perform c.id from backline.collections c
  where c.name in (select q.value ->> 'collection' from jsonb_array_elements(p_queries) q)
  order by c.id for key share;
  insert into backline.kept_queries as o (collection, digest, mode, text, times, asked_at)
  select q.collection, sha256(convert_to(q.text, 'UTF8')), q.mode, q.text, sum(q.times), now()
  from jsonb_to_recordset(p_queries) as q(collection text, mode text, text text, times bigint)
  join backline.collections c on c.name = q.collection and c.role = 'serving'
  where length(q.text) between 1 and 2000
  group by q.collection, q.mode, q.text order by 1, 2, 3  -- one order of locks, so that no deadlock can arise
  on conflict (collection, digest, mode) do update
    set times = o.times + excluded.times, asked_at = excluded.asked_at;
  delete from backline.kept_queries o using (
    select x.id from (
      select distinct q.value ->> 'collection' as collection from jsonb_array_elements(p_queries) q) n
    cross join lateral (
      select k.ctid as id from backline.kept_queries k where k.collection = n.collection
      order by k.asked_at desc offset 10000 for update skip locked) x) old
  where o.ctid = old.id;
end $$;
comment on function backline.keep_queries is
  'API: keeps search queries for evaluations, such as [{"collection": "docs", "mode": "hybrid", '
  '"text": "a query", "times": 1}]. For an application that searches by SQL.';

create or replace function backline.delete_queries(p_collection text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_deleted bigint;
begin
  delete from backline.kept_queries k where k.collection = p_collection;
  get diagnostics v_deleted = row_count;
  delete from backline.evaluations e
  where e.collection = p_collection and e.result ->> 'source' = 'kept';
  return v_deleted;
end $$;
comment on function backline.delete_queries is
  'API: deletes the kept queries of a collection, and the evaluations that quote them.';

-- Stores an evaluation and keeps the latest five of the collection.
create or replace function backline.store_evaluation(
  p_collection text, p_model int, p_candidate_model int, p_result jsonb
) returns timestamptz language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_made timestamptz;
begin
  insert into backline.evaluations (collection, model_id, candidate_model, result)
  values (p_collection, p_model, p_candidate_model, p_result)
  returning made_at into v_made;
  delete from backline.evaluations o
  where o.collection = p_collection and o.id not in (
    select e.id from backline.evaluations e where e.collection = p_collection order by e.id desc limit 5);
  return v_made;
end $$;
comment on function backline.store_evaluation is
  'API: stores the comparison of a collection with a candidate for its place.';
