-- Built by `make docs` from schema/functions/music_search.sql. Edit that file instead.

-- Search functions for the music studio's web client, which calls them with the public key. They run with the
-- caller's rights, so the policies of public.music_knowledge apply.

-- Returns the collection that the functions below search. The caller cannot read backline.collections.
create or replace function backline.music_collection() returns int
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select c.id from backline.collections c where c.table_schema = 'public' and c.table_name = 'music_knowledge'
    and c.role = 'serving' order by c.id limit 1;
$$;
revoke all on function backline.music_collection() from public;

-- Returns advice by keywords. For an empty term, returns the entries of a category with the highest
-- confidence.
create or replace function public.search_music_knowledge(
  p_search_term text, p_category text default null, p_limit int default 10
) returns table (id uuid, topic text, category text, title text, suggestion text, parameters jsonb,
                 confidence real, score float8)
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_limit int := least(greatest(coalesce(p_limit, 10), 1), 100);
begin
  if btrim(coalesce(p_search_term, '')) = '' then
    return query
      select k.id, k.topic, k.category, k.title, k.suggestion, k.parameters, k.confidence, 0::float8
      from public.music_knowledge k where p_category is null or k.category = p_category
      order by k.confidence desc, k.id limit v_limit;
    return;
  end if;
  return query
    select k.id, k.topic, k.category, k.title, k.suggestion, k.parameters, k.confidence, s.score
    from backline.search(backline.music_collection(), 'keyword', p_search_term, null, v_limit, 0,
           case when p_category is not null
                then jsonb_build_object('op', '=', 'path', jsonb_build_array('category'),
                                        'value', p_category) end) s
    join public.music_knowledge k on k.id = s.key::uuid
    order by s.score desc, k.id;
end $$;
comment on function public.search_music_knowledge is 'API: returns advice by keywords, for the web client.';

-- Returns suggestions for a prompt by keywords, without a model. The score is weighted by the entry's
-- confidence and by p_context, a category or a topic. At most two entries of a topic are returned.
--
-- No row is returned if the best score is below 8.5. That threshold passes 89 of 100 judged questions and 13
-- of 100 unrelated ones. `backline suggest` uses a model and separates them better.
create or replace function public.get_music_suggestions(p_prompt text, p_context text default null)
returns table (id uuid, title text, suggestion text, category text, topic text, parameters jsonb,
               confidence real, score float8, reason text)
language plpgsql stable rows 5 set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_context text := replace(lower(btrim(coalesce(p_context, ''))), ' ', '_');
begin
  if btrim(coalesce(p_prompt, '')) = '' then
    return;
  end if;
  return query
    with hits as (
      select k.*, s.score, v_context in (k.category, k.topic) as fits, max(s.score) over () as best
      from backline.search(backline.music_collection(), 'keyword', p_prompt, null, 30) s
      join public.music_knowledge k on k.id = s.key::uuid
    ), weighed as (
      select f.*, f.score * (0.7 + 0.3 * f.confidence) * case when f.fits then 1.25 else 1 end as weight
      from hits f where f.best >= 8.5 and f.score >= 0.4 * f.best
    ), spread as (
      select w.*, row_number() over (partition by w.topic order by w.weight desc, w.id) as place
      from weighed w
    )
    select p.id, p.title, p.suggestion, p.category, p.topic, p.parameters, p.confidence, p.weight,
           format('Shares distinctive words with the prompt (%s)%s; confidence %s.',
                  round(p.score::numeric, 1),
                  case when p.fits then format(', and is about %s', replace(v_context, '_', ' ')) else '' end,
                  p.confidence)
    from spread p where p.place <= 2 order by p.weight desc, p.id limit 5;
end $$;
comment on function public.get_music_suggestions is
  'API: returns suggestions for a prompt by keywords, for the web client.';

-- Search functions in Supabase's conventional form, for clients that compute the query's embedding.
create or replace function public.match_music_knowledge(
  query_embedding extensions.vector(384), match_threshold float default 0, match_count int default 10
) returns table (id uuid, topic text, category text, title text, suggestion text, parameters jsonb,
                 confidence real, similarity float8)
language sql stable rows 10 set search_path = pg_catalog, pg_temp as $$
  select k.id, k.topic, k.category, k.title, k.suggestion, k.parameters, k.confidence, s.dense
  from backline.search(backline.music_collection(), 'semantic', null, query_embedding::real[],
                       least(greatest(match_count, 1), 200)) s
  join public.music_knowledge k on k.id = s.key::uuid
  where s.dense > match_threshold order by s.dense desc, k.id;
$$;
comment on function public.match_music_knowledge is 'API: returns the advice nearest to a vector.';

create or replace function public.hybrid_search_music_knowledge(
  query_text text, query_embedding extensions.vector(384), match_count int,
  full_text_weight float default 1, semantic_weight float default 1, rrf_k int default 50
) returns table (id uuid, topic text, category text, title text, suggestion text, parameters jsonb,
                 confidence real, score float8)
language sql stable rows 10 set search_path = pg_catalog, pg_temp as $$
  with words as (
    select s.key, row_number() over (order by s.score desc, s.key) as place
    from backline.search(backline.music_collection(), 'keyword', query_text, null,
                         least(greatest(match_count, 1), 30) * 2) s
  ), meanings as (
    select s.key, row_number() over (order by s.score desc, s.key) as place
    from backline.search(backline.music_collection(), 'semantic', null, query_embedding::real[],
                         least(greatest(match_count, 1), 30) * 2) s
  )
  select k.id, k.topic, k.category, k.title, k.suggestion, k.parameters, k.confidence,
         coalesce(full_text_weight / (rrf_k + w.place), 0)
           + coalesce(semantic_weight / (rrf_k + m.place), 0) as score
  from words w full join meanings m using (key)
  join public.music_knowledge k on k.id = key::uuid
  order by score desc, k.id limit least(greatest(match_count, 1), 30);
$$;
comment on function public.hybrid_search_music_knowledge is
  'API: returns advice by keywords and by vector, fused by rank.';

revoke all on function public.search_music_knowledge, public.get_music_suggestions,
  public.match_music_knowledge, public.hybrid_search_music_knowledge from public;
do $$
declare
  v_role text;
begin
  foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
    if exists (select from pg_catalog.pg_roles where rolname = v_role) then
      perform backline.allow_search(v_role::regrole);
      execute format('grant execute on function backline.music_collection() to %I', v_role);
      execute format('grant execute on function public.search_music_knowledge, public.get_music_suggestions, '
        'public.match_music_knowledge, public.hybrid_search_music_knowledge to %I', v_role);
    end if;
  end loop;
end $$;
