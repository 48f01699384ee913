"""The text of a row: paths into JSON, arrays, filters, separators, and SQL expressions."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from tests.integration.harness import World, make_world
from tests.provider import StandInProvider

from backline import errors
from backline.embedders.hash import hash_model
from backline.postgres.store import Store
from backline.verification import verify

PRODUCT = """
create table product (sku text primary key, name text, attributes jsonb not null default '{}',
                      sections jsonb);
insert into product
select 'SKU-' || i, 'Microphone ' || i,
       case when i % 4 = 0 then '{}'::jsonb else jsonb_build_object(
         'brand', 'Brand ' || i % 12, 'pattern', (array['cardioid', 'omni'])[1 + i % 2]) end,
       case when i % 3 = 0 then null else jsonb_build_array(
         jsonb_build_object('heading', 'Use on drums'), jsonb_build_object('heading', 'Care')) end
from generate_series(1, 40) i
"""
NOTES = """
create table notes (id int primary key, title text, author varchar(40), year int, body text,
                    tags text[], facts jsonb, plain json, stored text, flag boolean,
                    "a.b" text, "x|lower" text)
"""
MARKDOWN = r"""# Title #

Some **bold *and nested* text**, `code __init__ *x*`, [a link](https://e.org/a_(b) "T"), ![alt text](x.png).
[![badge](i.svg)](https://ci) \*not emphasis\* 2 * 3 snake_case and _emphasis_ ~~gone~~

> quoted
> - in a quote

* one
- [x] two
10. ten

| Head | B |
|------|:-:|
| c1   | **c2** |

```python
# comment
def __init__(self, *a): pass
```

---
See [text][ref] and <https://x.org/a_b_c>.

[ref]: https://x.org
"""  # noqa: E501
HTML = """<html><head><title>no</title></head><body><!-- no --><h1>Mix &amp; match</h1>
<p class="x">Some <b>b</b>old &lt;text&gt;<br>again</p><script>no()</script><!-- no -->
<ul><li>one</li><li>two</li></ul><script>no</script>1 < 2</body></html>"""

RENDERED: list[tuple[str, dict[str, Any], str]] = [
    # Separators are left out with an empty value, and before the first value.
    ("{title}, by {author} ({year})", {"title": "T", "author": "A", "year": 7}, "T, by A (7)"),
    ("{title}, by {author} ({year})", {"author": "A", "year": 7}, "by A (7)"),
    ("{title}, by {author} ({year})", {"title": "T", "year": 7}, "T (7)"),
    ("{title}, by {author} ({year})", {"title": "T", "author": ""}, "T"),
    ("{title}, by {author} ({year})", {"year": 7}, "(7)"),
    ("{title} ({year}) {body}", {"title": "T", "body": "B"}, "T B"),
    ("{title} - {author} - {body}", {"title": "T", "body": "B"}, "T - B"),
    ("{title} {author} {body}", {"title": "T", "body": "B"}, "T B"),
    ("Title: {title}; body: {body}.", {"body": "B"}, "body: B."),
    ("Title: {title}; body: {body}.", {"title": "T"}, "Title: T"),
    ("Title: {title}; body: {body}.", {}, ""),
    ("{{{title}}}", {"title": "T"}, "{T}"),
    ("{title}: {body}", {"body": "...and so on"}, "...and so on"),
    # Arrays and paths.
    ("{title}: {tags}", {"title": "T", "tags": ["a", None, "b"]}, "T: a, b"),
    ("{title}: {tags}", {"title": "T", "tags": []}, "T"),
    ("{facts.brand}", {"facts": '{"brand": "B"}'}, "B"),
    ("{facts.brand.name}", {"facts": '{"brand": {"name": "N"}}'}, "N"),
    ('{facts."b.c"}', {"facts": '{"b.c": "N"}'}, "N"),
    ("{facts.list[1]}", {"facts": '{"list": ["a", "b"]}'}, "b"),
    ("{facts.list[*]}", {"facts": '{"list": ["a", "", null, "b"]}'}, "a, b"),
    ("{facts.a[*].b}", {"facts": '{"a": [{"b": "1"}, {}, {"b": 2}]}'}, "1, 2"),
    ("{facts[*].b}", {"facts": '[{"b": "it\'s"}]'}, "it's"),
    ("{plain.brand}", {"plain": '{"brand": "B"}'}, "B"),
    ("{plain.a[*]}", {"plain": '{"a": ["x", "y"]}'}, "x, y"),
    ("{stored.brand}", {"stored": '{"brand": "B"}'}, "B"),
    ("{title} {stored.brand}", {"title": "T", "stored": "no JSON"}, "T"),
    # Names that look like paths or filters.
    ("{a.b}", {"a.b": "N"}, "N"),
    ('{"a.b"}', {"a.b": "N"}, "N"),
    ("{x|lower}", {"x|lower": "N"}, "N"),
    ("{x|lower|lower}", {"x|lower": "N"}, "n"),
    # Filters.
    ("{title|lower}", {"title": "TITLE"}, "title"),
    ("{title|upper}", {"title": "ä"}, "Ä"),
    ("{title|truncate:3}", {"title": "abcdef"}, "abc"),
    ("{ title | lower | truncate: 3 }", {"title": "ABCDEF"}, "abc"),
    ("{facts.brand|upper}", {"facts": '{"brand": "b"}'}, "B"),
    ("{year|truncate:2}", {"year": 1999}, "19"),
    ("{body|strip_html}", {"body": HTML},
     "Mix & match\nSome bold <text>\nagain\none\ntwo\n1 < 2"),
    ("{body|strip_html}", {"body": "no markup"}, "no markup"),
    ("{body|strip_html|upper|truncate:4}", {"body": "<p>one</p><p>two</p>"}, "ONE\n"[:3]),
    ("{body|strip_markdown}", {"body": MARKDOWN},
     "Title\n\nSome bold and nested text, code __init__ *x*, a link, alt text.\n"
     "badge *not emphasis* 2 * 3 snake_case and emphasis gone\n\nquoted\nin a quote\n\n"
     "one\ntwo\nten\n\nHead B\nc1 c2\n\n# comment\ndef __init__(self, *a): pass\n\n"
     "See text and https://x.org/a_b_c."),
    ("{body|strip_markdown}", {"body": "a | b, 2 < 3 & [x"}, "a | b, 2 < 3 & [x"),
    ("{body|strip_markdown}", {"body": "***"}, ""),
    ("{body|strip_markdown|strip_html|upper}", {"body": "**<b>x</b>**"}, "X"),
    ("{flag} {year}", {"flag": True, "year": 7}, "t 7"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "row", "text"), RENDERED)
async def test_template_renders_a_row(
    store: Store, provider: StandInProvider, template: str, row: dict[str, Any], text: str
) -> None:
    async with make_world(store, provider, ddl=NOTES, template=template) as world:
        await insert(world, row)
        await world.fill()
        assert provider.texts_embedded == (Counter([text]) if text else Counter())
        assert (await verify(store, world.collection)).passed


async def insert(world: World, row: dict[str, Any]) -> None:
    names = "".join(f', "{name}"' for name in row)
    placeholders = ", %s" * len(row)
    await world.sql(f"insert into notes (id{names}) values (1{placeholders})", *row.values())


BAD_TEMPLATES: list[tuple[str, type[errors.BacklineError], str]] = [
    ("{titel}", errors.ColumnNotFoundError, "no column 'titel'.* Its columns: id, title"),
    ("{titel.x|lower}", errors.ColumnNotFoundError, "no column 'titel'"),
    ('{"no such"}', errors.ColumnNotFoundError, "no column 'no such'"),
    ("{title|trim}", errors.UsageError, "no filter 'trim'.* Use lower, .*, strip_markdown or trun"),
    ("{title|truncate}", errors.UsageError, "no filter 'truncate'"),
    ("{title|truncate:0}", errors.UsageError, "no filter 'truncate:0'"),
    ("{title|}", errors.UsageError, "no filter ''"),
    ("{year.x}", errors.UsageError, "has the type integer, in which the path '.x' leads nowhere"),
    ("{facts.a[x]}", errors.UsageError, r"the path '.a\[x\]' .* cannot be read"),
    ("{facts..a}", errors.UsageError, "cannot be read"),
    ("{facts.a[*}", errors.UsageError, "cannot be read"),
    ("{title", errors.UsageError, "without a }"),
]


@pytest.mark.parametrize(("template", "error", "message"), BAD_TEMPLATES)
async def test_bad_template_is_rejected(
    store: Store, template: str, error: type[errors.BacklineError], message: str
) -> None:
    with pytest.raises(error, match=message):
        async with make_world(store, ddl=NOTES, template=template):
            pass
    columns = await store.connector.fetch(
        "select 1 from pg_attribute where attrelid = 'notes'::regclass and attname = 'embedding'"
    )
    assert columns == []


async def test_path_that_no_row_has_is_rejected_with_the_paths(store: Store) -> None:
    message = (
        r"no row of public.product has a value at \{attributes.brant\}, in a sample of 40. The "
        r"paths that there are: \{attributes.brand\}, \{attributes.pattern\}"
    )
    with pytest.raises(errors.UsageError, match=message):
        async with make_world(store, ddl=PRODUCT, table="product", template="{attributes.brant}"):
            pass
    with pytest.raises(errors.UsageError, match=r"there are: \{sections\[\*\].heading\}"):
        table = await store.find_table("product")
        await store.add_collection(
            "product", table["oid"], key=None, template="{sections[*].title}", column="embedding",
            model=hash_model(8),
        )  # fmt: skip


async def test_at_most_twenty_paths_are_listed(store: Store) -> None:
    ddl = """
    create table product (id int primary key, facts jsonb);
    insert into product select i, jsonb_build_object('key ' || i, 1) from generate_series(1, 30) i
    """
    with pytest.raises(errors.UsageError) as raised:
        async with make_world(store, ddl=ddl, table="product", template="{facts.none}"):
            pass
    assert str(raised.value).count("{facts.key ") == 20


async def test_path_into_an_empty_table_is_accepted(store: Store) -> None:
    async with make_world(store, ddl=NOTES, template="{facts.brand}"):
        pass


async def test_products_are_embedded_from_json(store: Store, provider: StandInProvider) -> None:
    async with make_world(
        store, provider, ddl=PRODUCT, table="product",
        template="{name}, {attributes.brand}: {sections[*].heading}",
    ) as world:  # fmt: skip
        await world.fill()
        texts = provider.texts_embedded
        assert texts["Microphone 1, Brand 1: Use on drums, Care"] == 1
        assert texts["Microphone 3, Brand 3"] == 1
        assert texts["Microphone 4: Use on drums, Care"] == 1
        assert texts["Microphone 12"] == 1
        coverage = await store.checked_coverage(world.collection)
        assert coverage.complete, coverage.problems
        await world.sql('update product set attributes = attributes || \'{"pattern": "wide"}\'')
        await world.fill()
        assert provider.texts_embedded.total() == 40, "no text has changed"
        await world.sql(
            "update product set attributes = '{\"brand\": \"New\"}' where sku = 'SKU-4'"
        )
        await world.fill()
        assert provider.texts_embedded["Microphone 4, New: Use on drums, Care"] == 1
        assert (await verify(store, world.collection)).passed


async def test_path_and_filters_follow_a_rename(store: Store) -> None:
    async with make_world(
        store, ddl=PRODUCT, table="product",
        template="{name|lower}: {attributes.brand|upper} {{attributes.brand}}",
    ) as world:  # fmt: skip
        await world.fill()
        await world.sql('alter table product rename attributes to "odd.na}me"')
        await world.sql("alter table product rename name to called")
        await world.sql("update product set called = 'New' where sku = 'SKU-1'")
        await world.fill()
        await store.follow(world.collection)
        collection = await store.collection("product")
        assert collection.text_template == (
            '{called|lower}: {"odd.na}me".brand|upper} {{attributes.brand}}'
        )
        assert (await verify(store, collection)).passed
        assert await store.checked_coverage(collection) == await complete(store, world)


async def complete(store: Store, world: World) -> Any:
    coverage = await store.checked_coverage(world.collection)
    assert coverage.complete, coverage.problems
    return coverage


TENANT = """
create schema tenant_a;
create table tenant_a.knowledge_items (
  id int primary key, title text, facts jsonb, tags text[], is_active int not null default 1);
create function tenant_a.item_text(k tenant_a.knowledge_items) returns text language sql immutable
  as $b$ select concat_ws(E'\\n', k.title, k.facts ->> 'summary',
                          array_to_string(k.tags, ', ')) $b$;
insert into tenant_a.knowledge_items
select i, 'Item ' || i, jsonb_build_object('summary', 'Day ' || i), array['t' || i % 5],
       (i % 10 > 0)::int from generate_series(1, 30) i
"""


@pytest.mark.parametrize("into", [None, "tenant_a.item_vectors"])
async def test_function_of_the_row_is_its_text(
    store: Store, provider: StandInProvider, into: str | None
) -> None:
    async with make_world(
        store, provider, ddl=TENANT, table="tenant_a.knowledge_items", name="items", template=None,
        text_sql="item_text(r)", where="is_active = 1", into=into,
    ) as world:  # fmt: skip
        await world.fill()
        assert provider.texts_embedded.total() == 27
        assert provider.texts_embedded["Item 7\nDay 7\nt2"] == 1
        await world.sql("update tenant_a.knowledge_items set tags = '{new}' where id = 7")
        await world.sql("update tenant_a.knowledge_items set is_active = 0 where id = 8")
        assert sorted(await world.jobs()) == ["7", "8"]
        await world.fill()
        assert provider.texts_embedded["Item 7\nDay 7\nnew"] == 1
        assert provider.texts_embedded.total() == 28
        coverage = await complete(store, world)
        assert (coverage.rows, coverage.excluded) == (26, 4)
        assert (await verify(store, world.collection)).passed
        [found] = await world.sql(
            "select key, content from backline.search(%s, 'keyword', 'new', null, 5)",
            world.collection.id,
        )  # fmt: skip
        assert found == {"key": "7", "content": "Item 7\nDay 7\nnew"}


async def test_function_of_the_row_survives_changes_of_the_table(store: Store) -> None:
    async with make_world(
        store, ddl=TENANT, table="tenant_a.knowledge_items", name="items", template=None,
        text_sql="tenant_a.item_text(r)",
    ) as world:  # fmt: skip
        await world.fill()
        await world.sql("alter table tenant_a.knowledge_items drop column is_active")
        await world.sql("alter table tenant_a.knowledge_items add column note text default 'x'")
        await world.sql("update tenant_a.knowledge_items set title = 'edited' where id = 1")
        await world.fill()
        await complete(store, world)
        assert (await verify(store, world.collection)).passed


async def test_sql_text_is_trimmed_and_follows_a_rename(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(
        store, provider, ddl=NOTES, template=None, text_sql="title || E' \\n' || 'title'",
    ) as world:  # fmt: skip
        await world.sql(
            "insert into notes (id, title, body) values (1, ' one ', 'x'), (2, null, 'y')"
        )
        await world.fill()
        assert provider.texts_embedded == Counter({"one  \ntitle": 1})
        await world.sql("alter table notes rename title to body2")
        await world.sql("update notes set body2 = 'two' where id = 2")
        await world.fill()
        assert provider.texts_embedded["two \ntitle"] == 1
        await store.follow(world.collection)
        assert (await store.collection("notes")).text_expression == (
            "((r.body2 || ' \n'::text) || 'title'::text)"
        )
        coverage = await complete(store, world)
        assert (coverage.embedded, coverage.blank) == (2, 0)


async def test_keywords_can_have_another_template_than_an_sql_text(store: Store) -> None:
    async with make_world(
        store, ddl=NOTES, template=None, text_sql="upper(title)", where="year > 2000"
    ) as world:
        await world.sql(
            "insert into notes (id, title, body, year) values (1, 'one', 'first', 2001), "
            "(2, 'two', 'second', 1999)"
        )
        await world.fill()
        await world.sql("select backline.set_keywords(%s, '{body}')", world.collection.id)
        statement = "select key from backline.search(%s, 'keyword', %s, null, 5)"
        assert await world.sql(statement, world.collection.id, "first") == [{"key": "1"}]
        assert await world.sql(statement, world.collection.id, "one") == []
        assert await world.sql(statement, world.collection.id, "second") == []


@pytest.mark.parametrize(
    ("declaration", "error", "message"),
    [
        ({"text_sql": "title"}, errors.UsageError, "Use one of --text and --text-sql"),
        ({"template": None}, errors.UsageError, "Use one of --text and --text-sql"),
        ({"template": None, "text_sql": "titel"}, errors.ColumnNotFoundError, "Its columns: id"),
        ({"template": None, "text_sql": "title || now()"}, errors.UsageError, "depends on the"),
        ({"template": None, "text_sql": "(100 / year)::text"}, errors.UsageError,
         "fails for a row of public.notes: division by zero"),
        ({"where": "year"}, errors.UsageError, "has the type integer, not boolean"),
        ({"where": "100 / year > 1"}, errors.UsageError, "division by zero"),
        ({"where": "slow(year)"}, errors.UsageError, "takes more than 20 ms a row"),
        ({"where": "exists (select from notes)"}, errors.UsageError, "has a subquery"),
        ({"template": None, "text_sql": "v::text"}, errors.UsageError, "which is a vector"),
    ],
)  # fmt: skip
async def test_bad_declaration_changes_nothing(
    store: Store, declaration: dict[str, Any], error: type[errors.BacklineError], message: str
) -> None:
    ddl = f"""{NOTES};
    alter table notes add v extensions.vector(3);
    insert into notes (id, title, year) select i, 'x', 0 from generate_series(1, 60) i;
    create function slow(int) returns boolean language plpgsql immutable as
      $$ begin perform pg_sleep(0.03); return true; end $$
    """
    with pytest.raises(error, match=message):
        async with make_world(store, ddl=ddl, **{"template": "{title}", **declaration}):
            pass
    assert await store.collections() == []
    left = await store.connector.fetch(
        "select attname from pg_attribute where attrelid = 'notes'::regclass "
        "and attname = 'embedding'"
    )
    assert left == []


async def test_templates_of_two_columns_cost_as_much_as_a_concatenation(store: Store) -> None:
    """The compiled expression is the one that a person would write."""
    async with make_world(store, ddl=NOTES, template="{title} {body}"):
        [row] = await store.connector.fetch("select text_sql from backline.collections")
    assert row["text_sql"] == (
        "pg_catalog.btrim(pg_catalog.concat(r.title, ' ', r.body), ' \t\n\r'::text)"
    )


async def test_condition_added_to_a_function_of_the_row(store: Store) -> None:
    async with make_world(
        store, ddl=TENANT, table="tenant_a.knowledge_items", name="items", template=None,
        text_sql="item_text(r)",
    ) as world:  # fmt: skip
        await world.fill()
        assert await store.set_where(world.collection, "is_active = 1") == 3
        await world.fill()
        coverage = await complete(store, world)
        assert (coverage.rows, coverage.excluded) == (27, 3)


async def test_swapped_names_of_two_columns_are_followed(store: Store) -> None:
    """Two columns that swap their names keep their places in text and condition."""
    async with make_world(
        store, ddl=NOTES, template="{title}: {body}", where="title <> 'body' and body is not null"
    ) as world:
        await world.sql("insert into notes (id, title, body) values (1, 'one', 'two')")
        await world.fill()
        await world.sql(
            "alter table notes rename title to swapped; "
            "alter table notes rename body to title; alter table notes rename swapped to body"
        )
        await store.follow(world.collection)
        collection = await store.collection("notes")
        assert collection.text_template == "{body}: {title}"
        assert collection.where_sql == ("((r.body <> 'body'::text) AND (r.title IS NOT NULL))")
        result = await verify(store, collection)
        assert (result.problems, result.embedded) == ({}, 1)


async def test_role_that_may_search_reads_every_kind_of_text(store: Store) -> None:
    """The text and the condition are computed with the rights of the caller."""
    template = "{body|strip_html} {facts.a[*]} {stored.b}"
    async with make_world(store, ddl=NOTES, template=template, where="title <> ''") as world:
        await world.sql(
            "insert into notes (id, title, body, facts, stored) "
            'values (1, \'x\', \'<b>bold</b>\', \'{"a": ["c", "d"]}\', \'{"b": "e"}\')'
        )
        await world.fill()
        role = f"text_reader_{time.monotonic_ns()}"
        await world.sql(f"create role {role}; grant select on notes to {role}")
        try:
            await world.sql(f"select backline.allow_search('{role}'::regrole)")
            await world.sql(f"set role {role}")
            [hit] = await world.sql(
                "select content from backline.search(%s, 'keyword', 'bold', null, 5)",
                world.collection.id,
            )
            assert hit == {"content": "bold c, d e"}
        finally:
            await world.sql("reset role")
            await world.sql(f"drop owned by {role}; drop role {role}")
