-- Built by `make docs` from schema/functions/keyword_terms.sql. Edit that file instead.

-- Divides texts into the terms of the keyword index. A change of these functions needs a new terms_version().

-- Returns the version of terms(). An index of another version is built again.
create or replace function backline.terms_version() returns int
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$ select 1 $$;

-- Returns a text in the form in which texts and queries are compared: lower case, NFKC, without accents on
-- Latin and Greek letters, Arabic and Hebrew points, soft hyphens and characters of no width. In other
-- scripts an accent makes another letter, which stemmers know.
create or replace function backline.folded(p_text text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_text text := p_text;
begin
  if octet_length(v_text) = length(v_text) then
    return lower(v_text);
  end if;
  v_text := regexp_replace(
    regexp_replace(normalize(v_text, NFKD), U&'([A-Za-z\0370-\03FF])[\0300-\036F]+', '\1', 'g'),
    U&'[\00AD\0591-\05C7\0640\064B-\065F\0670\200B-\200F\2060\FEFF]+', '', 'g');
  v_text := translate(lower(normalize(v_text, NFC)), 'ςøđðłħıё', 'σoddlhiе');
  return replace(replace(replace(replace(v_text, 'ß', 'ss'), 'œ', 'oe'), 'æ', 'ae'), 'þ', 'th');
end $$;

-- Returns a bracket expression of the scripts that are written without spaces between words, and of Korean,
-- which has spaces between phrases.
create or replace function backline.unspaced() returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select U&'[\0E00-\0EFF\1000-\109F\1780-\17FF\3005\3040-\30FF\3400-\4DBF\4E00-\9FFF\AC00-\D7AF'
         || U&'\+020000-\+03FFFF]';
$$;

-- Returns a folded text as words between spaces, and what to index besides them:
--   pairs of adjacent characters in scripts without spaces
--   the parts of a compound such as "ABC-1234/XZ" joined, so that lo-fi, lofi and lo fi match
--   the letters and the digits of a word such as "TK52717", of two characters and more
-- Abbreviations such as e.g. and U.S. become one word, because single letters would match anything.
-- Postgres's parser would keep dog/cat, node.js and mail addresses as one term, and read -2390 as a number.
create or replace function backline.words(p_folded text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_text text := p_folded;
  v_more text;
  v_pairs text := '';
begin
  if strpos(v_text, '</') > 0 then  -- HTML
    v_text := regexp_replace(v_text, '</?[a-z][^<>@]*>', ' ', 'g');
  end if;
  if octet_length(v_text) > length(v_text) and v_text ~ backline.unspaced() then
    select string_agg(substr(m[1], i, 2), ' ') into v_pairs
    from regexp_matches(v_text, backline.unspaced() || '{1,255}', 'g') m,
         generate_series(1, greatest(length(m[1]) - 1, 1)) i;
    v_text := regexp_replace(v_text, backline.unspaced() || '+', ' ', 'g');
  end if;
  v_text := regexp_replace(v_text, '\m([[:alpha:]])\.(?=[[:alpha:]]\M)', '\1', 'g');
  select string_agg(t.term, ' ') into v_more
  from regexp_matches(v_text, '\w+(?:[-./_@+]\w+)+|[[:alpha:]]+\d\w*|\d+[[:alpha:]]\w*', 'g') m
  cross join lateral (
    select regexp_replace(m[1], '[-./_@+]', '', 'g') as term where m[1] ~ '[-./_@+]' and length(m[1]) <= 64
    union all
    select p[1] from regexp_matches(m[1], '(?<=\d)[[:alpha:]]{2,}|[[:alpha:]]{2,}(?=\d)|'
                                          '(?<=[[:alpha:]])\d{2,}|\d{2,}(?=[[:alpha:]])', 'g') p) t;
  return concat_ws(' ', regexp_replace(v_text, '[-./_@+&<>~]', ' ', 'g'), v_more, v_pairs);
end $$;

-- Returns the terms of a text. Only the first 100,000 characters are indexed, or 50,000 if these have more
-- than 200,000 bytes: a tsvector holds at most 1 MB, and no text may stop the change log.
create or replace function backline.terms(p_language regconfig, p_text text) returns tsvector
language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_text text := left(backline.folded(left(p_text, 100000)), 100000);
begin
  if octet_length(v_text) > 200000 then
    v_text := left(v_text, 50000);
  end if;
  return to_tsvector(p_language, backline.words(v_text));
end $$;

