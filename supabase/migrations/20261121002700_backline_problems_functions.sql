-- Built by `make docs` from schema/functions/problems.sql. Edit that file instead.

-- What makes the coverage of a collection untrue and cannot be followed.

-- Returns what is wrong with a collection, and the remedy of each problem.
create or replace function backline.problems(p_collection int)
returns table (kind text, problem text, remedy text)
language plpgsql stable rows 5 set search_path = '' as $$
declare
  c backline.collections;
  r record;
begin
  select * into strict c from backline.collections where id = p_collection;
  select * into r from backline.resolve(c);
  return query
    select case r.code when 'BL002' then 'column' when 'BL004' then 'column' else 'table' end,
           r.problem, r.remedy
    where r.problem is not null
    union all
    select 'unscanned', n.why || ' Rows may have changed unseen.',
           'Run: backline reconcile ' || backline.shell_word(c.name)
    from (select concat_ws(' ', c.unscanned, r.changed) as why) n where n.why <> '';
end $$;
comment on function backline.problems is
  'API: returns what makes the coverage of a collection untrue, with the remedies.';
