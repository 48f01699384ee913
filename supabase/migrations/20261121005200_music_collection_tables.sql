-- Built by `make docs` from schema/tables/music_collection.sql. Edit that file instead.

-- Declares public.music_knowledge as a collection.

-- Columns that an older table lacks come last, so that its text stays topic, category, suggestion.
select backline.add_collection(
  'music_knowledge', 'public.music_knowledge', null,
  '{topic} {category} {suggestion} {title} {asked_as}', 'embedding',
  'local', 'all-MiniLM-L6-v2', 'c9745ed1d9f2', 384, p_existing => 'overwrite')
where not exists (select from backline.collections where name = 'music_knowledge');
select backline.recount(id) from backline.collections where name = 'music_knowledge';
