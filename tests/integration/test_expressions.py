"""Postgres compiles texts and conditions, and refuses what an edit of the row does not decide."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow
from tests.integration.harness import connect, execute

ITEMS = """
create schema shop;
create table shop.items (
  id int primary key, title text, status text, price numeric, at timestamptz, facts jsonb,
  tags text[], "r" text, "odd.""na{m}e%" text, "select" text, embedding extensions.vector(3),
  upper_title text generated always as (upper(title)) virtual
);
create function shop.label(i shop.items) returns text language sql immutable
  as $$ select i.title || ': ' || i.status $$;
create function shop.price_of_day(p numeric) returns text language sql stable as $$ select 'x' $$;
create table shop.secrets (id int);
"""


@pytest.fixture
async def items(database: str) -> AsyncIterator[AsyncConnection[DictRow]]:
    """A connection to a database with the table `shop.items`."""
    async with await connect(database) as connection:
        await execute(connection, ITEMS)
        yield connection


async def compile_expression(
    connection: AsyncConnection[DictRow], expression: str, kind: str, table: str = "shop.items"
) -> DictRow:
    [row] = await execute(
        connection,
        "select * from backline.compile_expression(%s::regclass, %s, %s)",
        table, expression, kind,
    )  # fmt: skip
    return row


COMPILED = [
    ("title", "r.title", ["title"]),
    ("r.title", "r.title", ["title"]),
    ("title -- the name", "r.title", ["title"]),
    ("lower(title)", "pg_catalog.lower(r.title)", ["title"]),
    ("label(r.*)", "shop.label(r.*)", [None]),
    ("shop.label(r.*) || title", "(shop.label(r.*) || r.title)", [None, "title"]),
    ("r", "r.r", ["r"]),
    ('"odd.""na{m}e%"', 'r."odd.""na{m}e%"', ['odd."na{m}e%']),
    ('r."select"', 'r."select"', ["select"]),
    ("title || 'r.title \\ it''s'", "(r.title || 'r.title \\ it''s'::text)", ["title"]),
    ("facts ->> 'brand'", "(r.facts ->> 'brand'::text)", ["facts"]),
    ("at::text", "(r.at)::text", ["at"]),
    ("\"left\"(title, 3)", 'pg_catalog."left"(r.title, 3)', ["title"]),
    ("title::varchar(20)", "(r.title)::character varying(20)", ["title"]),
    ("coalesce(title, status)", "COALESCE(r.title, r.status)", ["title", "status"]),
    ("to_char(at, 'YYYY')", "pg_catalog.to_char(r.at, 'YYYY'::text)", ["at"]),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "compiled", "names"), COMPILED)
async def test_expression_is_qualified(
    items: AsyncConnection[DictRow], expression: str, compiled: str, names: list[str | None]
) -> None:
    row = await compile_expression(items, expression, "text")
    assert row["sql"] == compiled
    assert row["names"] == names
    assert [number == 0 for number in row["numbers"]] == [name is None for name in names]
    again = await compile_expression(items, row["sql"], "text")
    assert again["sql"] == row["sql"]


REFUSED = [
    ("id = (select max(id) from shop.items)", "boolean", "has a subquery"),
    ("exists (select from shop.secrets)", "boolean", "has a subquery"),
    ("count(*) > 1", "boolean", "has an aggregate"),
    ("rank() over () > 1", "boolean", "has an aggregate or a window function"),
    ("unnest(tags) = 'a'", "boolean", "returns several rows"),
    ("random() < 0.5", "boolean", r"random\(\), which is volatile"),
    ("clock_timestamp() > at", "boolean", "volatile"),
    ("at > now()", "boolean", r"now\(\), which depends on the time"),
    ("at > current_timestamp", "boolean", "uses the present time"),
    ("at > current_date", "boolean", "uses the present time"),
    ("r.r = current_user", "boolean", "uses the present time or user"),
    ("age(at) > '1 day'", "boolean", "depends on the time"),
    ("current_setting('a.b') = title", "boolean", "depends on the time or on the session"),
    ("to_tsvector(title) @@ 'a'", "boolean", "depends on the time or on the session"),
    ("shop.price_of_day(price)", "text", "is not declared immutable"),
    ("pg_sleep(1) is null", "boolean", "volatile"),
    ("true), (select 1", "boolean", "more than one expression"),
    ("title), (title", "text", "more than one expression"),
    ("true) as a union all select (true", "boolean", "more than one expression"),
    ("true); drop table shop.secrets; select (true", "boolean", "multi-query"),
    ("title = 'x", "boolean", "unterminated quoted string"),
    ("", "boolean", "not an SQL expression over a row"),
    ("title = $1", "boolean", r"no parameter \$1"),
    ("title like", "boolean", "syntax error"),
    ("price", "text", "has the type numeric, not text. Cast it"),
    ("title", "boolean", "has the type text, not boolean"),
    ("r.*", "text", "more than one expression"),
    ("label(r)", "text", r"function label\(text\) does not exist"),
    ("'always'", "text", "reads no column"),
    ("true", "boolean", "reads no column"),
    ("items.title", "text", r"whole row as r\.\*"),
    ("ctid::text", "text", "system column"),
    ("xmin::text", "text", "system column"),
    ("upper_title", "text", "Make it STORED"),
    ("id = 'abc'", "boolean", "invalid input syntax for type integer"),
    ("no_function(title)", "text", "does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "kind", "message"), REFUSED)
async def test_other_expressions_are_refused(
    items: AsyncConnection[DictRow], expression: str, kind: str, message: str
) -> None:
    with pytest.raises(psycopg.Error, match=message) as raised:
        await compile_expression(items, expression, kind)
    assert raised.value.sqlstate == "BL001"
    assert "backline_" not in str(raised.value.diag.message_primary)
    left = await execute(items, "select relname from pg_class where relname like 'backline\\_%'")
    assert left == []
    assert await execute(items, "select to_regclass('shop.secrets') is not null as kept") == [
        {"kept": True}
    ]


async def test_missing_column_is_reported_with_the_columns(
    items: AsyncConnection[DictRow],
) -> None:
    message = r'"tittle" does not exist .* Its columns: id, title'
    with pytest.raises(psycopg.Error, match=message) as raised:
        await compile_expression(items, "tittle || status", "text")
    assert raised.value.sqlstate == "BL002"


@pytest.mark.parametrize(
    "relation",
    [
        "create view shop.live as select * from shop.items",
        "create materialized view shop.live as select * from shop.items",
        "create table shop.live (like shop.items) partition by list (status)",
        "create table shop.\"live\" (title text, status text, \"r\" int)",
    ],
)  # fmt: skip
async def test_every_kind_of_relation_can_be_read(
    items: AsyncConnection[DictRow], relation: str
) -> None:
    await execute(items, relation)
    row = await compile_expression(items, "title is null or status = 'x'", "boolean", "shop.live")
    assert row["sql"] == "((r.title IS NULL) OR (r.status = 'x'::text))"


async def test_table_with_an_unusual_name_can_be_read(items: AsyncConnection[DictRow]) -> None:
    await execute(items, 'create table shop."it\'s ""100%"" {x} as r" ("a b" text)')
    row = await compile_expression(items, '"a b"', "text", 'shop."it\'s ""100%"" {x} as r"')
    assert row["sql"] == 'r."a b"'


async def test_writers_are_not_blocked(items: AsyncConnection[DictRow], database: str) -> None:
    async with await connect(database) as writer, writer.transaction():
        await execute(writer, "lock table shop.items in exclusive mode")
        await execute(items, "set lock_timeout = '100ms'")
        await compile_expression(items, "title", "text")


NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), min_size=1, max_size=12
).filter(lambda name: len(name.encode()) <= 63)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    literal=st.text(st.sampled_from("r.title'\"\\ a:%{}()$E\n"), max_size=30),
    old=NAMES,
    new=NAMES,
    other=NAMES,
)
async def test_rename_changes_columns_and_no_literal(
    items: AsyncConnection[DictRow], literal: str, old: str, new: str, other: str
) -> None:
    """A value with the old and the new name in it stays, next to the renamed column."""
    assume(len({old, new, other}) == 3)
    before, beside, after = (sql.Identifier(name).as_string() for name in (old, other, new))
    text = f"{literal}r.{before} r.{old}"
    quoted = sql.Literal(text).as_string(items)
    await execute(items, "drop table if exists shop.renamed")
    await execute(items, f"create table shop.renamed ({before} text, {beside} text)")
    row = await compile_expression(
        items, f"concat_ws('|', r.{before}, {quoted}, r.{beside})", "text", "shop.renamed"
    )
    assert row["names"] == [old, other]
    [renamed] = await execute(
        items, "select backline.rename_columns(%s, %s, %s, %s) as sql",
        row["sql"], [old, other], [new, other], ["text", "text"],
    )  # fmt: skip
    [result] = await execute(
        items,
        f"select {renamed['sql']} as text from (select 'x' as {after}, 'y' as {beside}) r",
    )
    assert result["text"] == f"x|{text}|y"
