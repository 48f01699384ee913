"""`apply` declares what a file says, changes what differs, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.cli.conftest import Cli, Sql

FILE = """
[collections.tickets]
table = "tickets"
text = "{title} {body}"
model = "hash@8"
"""


def write(cli: Cli, text: str) -> Path:
    path = cli.folder / "backline.toml"
    path.write_text(text)
    return path


def actions(cli: Cli, *args: str) -> dict[str, str]:
    plan = cli("apply", *args, "--json").json["plan"]
    return {step["name"]: step["action"] for step in plan}


def test_file_is_declared_once(cli: Cli, tickets: None) -> None:
    write(cli, FILE)
    assert actions(cli) == {"tickets": "add"}
    cli("backfill", "tickets")
    assert cli("verify", "tickets", "--json").json["passed"]
    assert actions(cli) == {"tickets": "keep"}
    assert cli("backfill", "--json").json["embedded"] == 0


def test_view_is_declared_by_a_file(cli: Cli, sql: Sql) -> None:
    sql("create table song (id int primary key, title text, at timestamptz default now())")
    sql("insert into song values (1, 'Nocturne'), (2, 'Etude')")
    sql("create view songs as select * from song")
    view = '[collections.songs]\ntable = "songs"\ntext = "{title}"\nmodel = "hash@8"\n'
    (cli.folder / "backline.toml").write_text(view)
    assert "Add --into NAME, --key COLUMN, --follow COLUMN" in cli("apply", code=2).err
    view += 'key = ["id"]\ninto = "song_vectors"\nfollow = "at"\n'
    (cli.folder / "backline.toml").write_text(view)
    cli("apply")
    assert cli("backfill", "songs", "--json").json["embedded"] == 2
    assert "= songs" in cli("apply").out
    (cli.folder / "backline.toml").write_text(view.replace('follow = "at"\n', ""))
    assert "follow is 'at', and the file says 'triggers'" in cli("apply", code=2).err


def test_plan_is_shown_and_a_dry_run_changes_nothing(cli: Cli, sql: Sql, tickets: None) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "hash@8")
    sql("create table other (id int primary key, body text)")
    cli("add", "other", "--text", "{body}", "--model", "hash@8")
    write(cli, FILE + 'where = "id > 100"\n[collections.new]\ntable = "other"\ntext = "{body}"\n'
          'column = "v"\nmodel = "hash@8"')  # fmt: skip
    shown = cli("apply", "--dry-run").out
    assert "~ tickets  public.tickets" in shown
    assert "text: '{title}' → '{title} {body}'" in shown
    assert "where: '' → 'id > 100'" in shown
    assert "+ new      public.other" in shown
    assert "? other    public.other  not in the file" in shown
    assert actions(cli, "--dry-run")["tickets"] == "change"
    assert sql(
        "select text_template, where_sql from backline.collections where name = 'tickets'"
    ) == [("{title}", None)]


def test_changed_text_and_condition_touch_only_the_rows_that_differ(
    cli: Cli, sql: Sql, tickets: None
) -> None:
    write(cli, FILE)
    cli("apply")
    cli("backfill", "tickets")
    sql("update tickets set body = null where id > 115")
    cli("backfill", "tickets")
    write(cli, FILE.replace("{title} {body}", "{title}"))
    assert cli("apply", "--json").json["due"] == 115
    assert cli("backfill", "tickets", "--json").json["embedded"] == 115
    assert cli("verify", "tickets", "--json").json["passed"]
    assert "tickets" in cli("search", "ticket 7", "--mode", "keyword", "--json").out
    assert cli("search", "body", "--mode", "keyword", "--json").json["hits"] == []
    write(cli, FILE.replace("{title} {body}", "{title}") + 'where = "id <= 100"')
    assert cli("apply", "--json").json["due"] == 20
    report = cli("backfill", "tickets", "--json").json
    assert report["embedded"] == 0
    assert cli("status", "--json").json["collections"][0]["rows"] == 100
    assert actions(cli) == {"tickets": "keep"}


def test_expressions_are_compared_as_postgres_prints_them(cli: Cli, tickets: None) -> None:
    same = "[collections.tickets]\ntable = 'tickets'\nmodel = 'hash@8'\n"
    write(cli, same + 'text-sql = "upper(title)"\nwhere = "id>7 and body is not null"')
    assert actions(cli) == {"tickets": "add"}
    write(cli, same + 'text-sql = " UPPER( r.title ) "\nwhere = "(id > 7) AND body IS NOT NULL"')
    assert actions(cli) == {"tickets": "keep"}


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ('table = "tickets"|table = "other"', "backline drop tickets"),
        ('model = "hash@8"|model = "hash@8"\nfollow = "id"', "backline drop tickets"),
    ],
)
def test_what_cannot_be_changed_is_refused_before_anything_is(
    cli: Cli, sql: Sql, tickets: None, change: str, remedy: str
) -> None:
    sql("create table other (id int primary key, title text, body text)")
    write(cli, FILE)
    cli("apply")
    before, after = change.split("|")
    write(cli, FILE.replace(before, after) + '[collections.more]\ntable = "other"\ntext = "{title}"'
          '\nmodel = "hash@8"')  # fmt: skip
    refused = cli("apply", code=2).err
    assert remedy in " ".join(refused.split())
    assert sql("select name from backline.collections") == [("tickets",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "declares no collection"),
        ("[collections.x", "is not TOML"),
        ("[collection.x]\ntable = 'x'", "Did you mean 'collections'?"),
        ("[collections.x]\ntabel = 'x'", "Did you mean 'table'?"),
        ("[collections.x]\ntext = '{a}'", "write either table or tables"),
        ("[collections.x]\ntable = 'x'\ntables = 'y*'\ntext = '{a}'", "either table or tables"),
        ("[collections.x]\ntable = 3\ntext = '{a}'", "write a text in quotes"),
        ("[collections.x]\ntable = 'x'\nkey = 3\ntext = '{a}'", "a list of columns"),
        ("[collections.x]\ntable = 'x'", "write either text or text-sql"),
        ("[collections.x]\ntable = 'x'\ntext = '{a}'\ntext-sql = 'a'", "text or text-sql"),
        (
            "[collections.x]\ntable = 'x'\ntext = '{a}'\nlong-text = 'cut'",
            "truncate, average, reject",
        ),
        ("[collections.x]\ntable = 'x'\ntext = '{a}'\npublished = 'yes'", "true or false"),
        ("[collections]\nx = 3", "write a table of fields"),
        ("[collections.x]\ntables = 'no_such_*.x'\ntext = '{a}'", "No table matches"),
        ("[collections.x]\ntable = 'no_such'\ntext = '{a}'", "There is no table 'no_such'"),
    ],
)
def test_invalid_file_is_refused_with_the_remedy(cli: Cli, text: str, message: str) -> None:
    write(cli, text)
    assert message in " ".join(cli("apply", code=None).err.split())


def test_missing_file_is_named(cli: Cli) -> None:
    assert "backline.toml cannot be read" in " ".join(cli("apply", code=2).err.split())


TENANT = """
create schema {0};
create table {0}.knowledge_items (id int primary key, title text, facts jsonb, tags text[],
  is_active int not null default 1);
create function {0}.item_text(k {0}.knowledge_items) returns text language sql immutable as $$
  select concat_ws(E'\n', k.title, k.facts ->> 'summary', array_to_string(k.tags, ', ')) $$;
insert into {0}.knowledge_items
select i, 'Item ' || i, jsonb_build_object('summary', 'What {0} does on day ' || i),
  array['t' || i %% 5], (i %% 10 > 0)::int from generate_series(1, 40) i;
"""
TENANTS = """
[collections."items of {schema}"]
tables = "tenant_*.knowledge_items"
text-sql = "{schema}.item_text(r.*)"
where = "is_active = 1"
model = "hash@8"
"""


def test_one_declaration_serves_every_tenant_and_those_that_come(cli: Cli, sql: Sql) -> None:
    for tenant in ("tenant_a", "tenant_b"):
        sql(TENANT.format(tenant))
    write(cli, TENANTS)
    assert actions(cli) == {"items of tenant_a": "add", "items of tenant_b": "add"}
    sql(TENANT.format("tenant_c"))
    assert actions(cli) == {
        "items of tenant_a": "keep", "items of tenant_b": "keep", "items of tenant_c": "add",
    }  # fmt: skip
    for tenant in ("tenant_a", "tenant_b", "tenant_c"):
        assert cli("backfill", f"items of {tenant}", "--json").json["embedded"] == 36
    found = cli(
        "search", "day 7", "--collection", "items of tenant_c", "--mode", "keyword", "--json"
    ).json["hits"]
    assert found[0]["content"].startswith("Item 7\nWhat tenant_c does")


def test_names_of_tenants_are_quoted_in_sql(cli: Cli, sql: Sql) -> None:
    sql(TENANT.format("tenant_a") + 'alter schema tenant_a rename to "Tenant-A"')
    more = "into = '\"{schema} vectors\"'\nwhere = \"'{schema}' <> title and is_active = 1\"\n"
    file = TENANTS.replace("tenant_*", "Tenant*").replace('where = "is_active = 1"\n', more)
    write(cli, file)
    assert actions(cli) == {"items of Tenant-A": "add"}
    assert cli("backfill", "--json").json["embedded"] == 36
    assert actions(cli) == {"items of Tenant-A": "keep"}


def test_a_pattern_can_match_one_table_by_its_name(cli: Cli, tickets: None) -> None:
    write(
        cli,
        FILE.replace("collections.tickets", 'collections."{table}"').replace("table =", "tables ="),
    )
    assert actions(cli) == {"tickets": "add"}


@pytest.mark.parametrize("into", ["Vectors", '"Odd Name"', "public.vectors", '"a.b".c'])
def test_the_name_of_a_side_table_is_compared_as_sql_reads_it(
    cli: Cli, tickets: None, into: str
) -> None:
    write(cli, FILE + f"into = '{into}'")
    assert actions(cli) == {"tickets": "add"}
    assert actions(cli) == {"tickets": "keep"}


def test_an_error_says_what_was_applied_before(cli: Cli, sql: Sql, tickets: None) -> None:
    sql("create table other (id int primary key, body text)")
    second = '[collections.second]\ntable = "other"\nmodel = "hash@8"\ntext = '
    write(cli, FILE + second + '"{nope}"')
    assert "Applied before the error: tickets." in cli("apply", code=2).err
    write(cli, FILE + second + '"{body}"')
    assert actions(cli) == {"tickets": "keep", "second": "add"}


def test_pattern_without_the_schema_in_the_name_is_refused(cli: Cli, sql: Sql) -> None:
    for tenant in ("tenant_a", "tenant_b"):
        sql(TENANT.format(tenant))
    write(cli, TENANTS.replace("items of {schema}", "items"))
    assert "Put {schema} into the name" in " ".join(cli("apply", code=2).err.split())


def test_passages_are_declared_and_kept(cli: Cli, tickets: None) -> None:
    write(cli, FILE + 'passages = "sentences"\npassage-tokens = 32\n')
    assert actions(cli) == {"tickets": "add"}
    assert cli("backfill", "tickets", "--json").json["complete"]
    assert actions(cli) == {"tickets": "keep"}
    write(cli, FILE + 'passages = "sentences"\npassage-tokens = 64\n')
    assert actions(cli, "--dry-run") == {"tickets": "begin"}
    write(cli, FILE + 'passages = "sentences"\npassage-tokens = "64"\n')
    assert "write a number" in " ".join(cli("apply", code=2).err.split())
