-- Built by `make docs` from schema/functions/music_search.sql. Edit that file instead.

-- Search for the music studio's advice base: what its keyword index reads, what its users say, and the
-- functions that its web client calls with the public key. They run with the caller's rights, so that
-- the policies of public.music_knowledge decide what anybody sees.

-- The collection behind the functions below; they cannot read it themselves.
create or replace function backline.music_collection() returns int
language sql stable security definer set search_path = '' as $$
  select c.id from backline.collections c where c.table_schema = 'public' and c.table_name = 'music_knowledge'
  order by c.id limit 1;
$$;
revoke all on function backline.music_collection() from public;

-- Advice by keywords; with an empty term, the surest advice of a category.
create or replace function public.search_music_knowledge(
  p_search_term text, p_category text default null, p_limit int default 10
) returns table (id uuid, topic text, category text, title text, suggestion text, parameters jsonb,
                 confidence real, score float8)
language plpgsql stable rows 10 set search_path = '' as $$
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
                then jsonb_build_object('op', '=', 'path', jsonb_build_array('category'), 'value', p_category) end) s
    join public.music_knowledge k on k.id = s.key::uuid
    order by s.score desc, k.id;
end $$;
comment on function public.search_music_knowledge is 'API: advice by keywords, for the web client.';

-- Advice for a prompt, without a model: what shares telling words with it, weighed by how sure the
-- entry is and by the context (a category or a topic), at most two entries of a topic. No row at all
-- where nothing relevant is known: a best score of 8.5 lets 89 in 100 of the judged questions through,
-- and 13 in 100 of those off topic. With a model, `backline suggest` tells them apart better.
create or replace function public.get_music_suggestions(p_prompt text, p_context text default null)
returns table (id uuid, title text, suggestion text, category text, topic text, parameters jsonb,
               confidence real, score float8, reason text)
language plpgsql stable rows 5 set search_path = '' as $$
#variable_conflict use_column
declare
  v_context text := replace(lower(btrim(coalesce(p_context, ''))), ' ', '_');
begin
  if btrim(coalesce(p_prompt, '')) = '' then
    return;
  end if;
  return query
    with found as (
      select k.*, s.score, v_context in (k.category, k.topic) as fits, max(s.score) over () as best
      from backline.search(backline.music_collection(), 'keyword', p_prompt, null, 30) s
      join public.music_knowledge k on k.id = s.key::uuid
    ), weighed as (
      select f.*, f.score * (0.7 + 0.3 * f.confidence) * case when f.fits then 1.25 else 1 end as weight
      from found f where f.best >= 8.5 and f.score >= 0.4 * f.best
    ), spread as (
      select w.*, row_number() over (partition by w.topic order by w.weight desc, w.id) as place from weighed w
    )
    select p.id, p.title, p.suggestion, p.category, p.topic, p.parameters, p.confidence, p.weight,
           format('Shares telling words with the prompt (%s)%s; confidence %s.', round(p.score::numeric, 1),
                  case when p.fits then format(', and is about %s', replace(v_context, '_', ' ')) else '' end,
                  p.confidence)
    from spread p where p.place <= 2 order by p.weight desc, p.id limit 5;
end $$;
comment on function public.get_music_suggestions is 'API: suggestions for a prompt by keywords, for the web client.';

-- Supabase's conventional forms, for clients that embed by themselves.
create or replace function public.match_music_knowledge(
  query_embedding extensions.vector(384), match_threshold float default 0, match_count int default 10
) returns table (id uuid, topic text, category text, title text, suggestion text, parameters jsonb,
                 confidence real, similarity float8)
language sql stable rows 10 set search_path = '' as $$
  select k.id, k.topic, k.category, k.title, k.suggestion, k.parameters, k.confidence, s.dense
  from backline.search(backline.music_collection(), 'semantic', null, query_embedding::real[],
                       least(greatest(match_count, 1), 200)) s
  join public.music_knowledge k on k.id = s.key::uuid
  where s.dense > match_threshold order by s.dense desc, k.id;
$$;
comment on function public.match_music_knowledge is 'API: advice nearest to a vector.';

create or replace function public.hybrid_search_music_knowledge(
  query_text text, query_embedding extensions.vector(384), match_count int,
  full_text_weight float default 1, semantic_weight float default 1, rrf_k int default 50
) returns table (id uuid, topic text, category text, title text, suggestion text, parameters jsonb,
                 confidence real, score float8)
language sql stable rows 10 set search_path = '' as $$
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
         coalesce(full_text_weight / (rrf_k + w.place), 0) + coalesce(semantic_weight / (rrf_k + m.place), 0) as score
  from words w full join meanings m using (key)
  join public.music_knowledge k on k.id = key::uuid
  order by score desc, k.id limit least(greatest(match_count, 1), 30);
$$;
comment on function public.hybrid_search_music_knowledge is 'API: advice by words and by meaning, fused by rank.';

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
