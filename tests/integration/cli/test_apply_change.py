"""`apply` begins a change of the model where what every vector depends on differs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.cli.conftest import Cli, Sql
from tests.integration.cli.test_apply import FILE, write
from tests.provider import StandInProvider


@pytest.fixture
def filled(cli: Cli, tickets: None) -> Cli:
    """The file is applied, and every row has a vector."""
    write(cli, FILE)
    cli("apply")
    cli("backfill", "tickets")
    return cli


def step(cli: Cli, *args: str) -> dict[str, Any]:
    plan = cli("apply", *args, "--json").json["plan"]
    assert len(plan) == 1
    return dict(plan[0])


def state(sql: Sql) -> list[Any]:
    return [name for (name,) in sql("select state from backline.model_changes order by id")]


def test_another_model_is_a_second_target_until_it_is_retired(filled: Cli, sql: Sql) -> None:
    write(filled, FILE.replace("hash@8", "hash@16"))
    shown = filled("apply", "--dry-run").out
    assert "~ tickets  public.tickets" in shown
    assert "model: 'hash/hash@8' → 'hash/hash@16'" in shown
    assert "cut over with backline model cutover tickets" in shown
    assert state(sql) == []
    assert "Next: backline model change tickets" in filled("apply").out
    assert filled("search", "ticket 7", "--json").json["hits"]
    # Again while it is open: nothing twice.
    again = filled("apply").out
    assert "its change is filling; next: backline model change tickets" in again
    assert "Nothing was changed. Next: backline model change tickets" in again
    filled("model", "change", "tickets")
    assert step(filled)["next"] == "backline model cutover tickets"
    filled("model", "cutover", "tickets")
    assert "Every collection is as declared." in filled("apply").out
    assert step(filled)["state"] == "serving"
    filled("model", "retire", "tickets")
    assert step(filled) == {
        "action": "keep", "name": "tickets", "table": "public.tickets", "differences": [],
        "updates": [], "state": None, "next": None,
    }  # fmt: skip
    assert state(sql) == ["retired"]
    assert filled("verify", "tickets", "--json").json["passed"]


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ('column-type = "halfvec"', ("public.tickets", "embedding_2", "halfvec")),
        ('into = "side"', ("backline_vectors.side", "embedding", "vector")),
        ('column = "v"', ("public.tickets", "v", "vector")),
        ('passages = "auto"', ("backline_vectors.tickets_passages_2", "embedding", "vector")),
        ('long-text = "reject"', ("public.tickets", "embedding_2", "vector")),
    ],
)
def test_whatever_the_vectors_depend_on_is_changed_by_that_road(
    filled: Cli, sql: Sql, more: str, place: tuple[str, str, str]
) -> None:
    write(filled, FILE + more)
    assert step(filled)["action"] == "begin"
    filled("model", "change", "tickets", "--cutover")
    filled("model", "retire", "tickets")
    assert step(filled)["action"] == "keep"
    [found] = sql(
        "select coalesce(into_schema, table_schema) || '.' || coalesce(into_name, table_name), "
        "embedding_column, column_type from backline.collection_records()"
    )
    assert found == place


def test_a_named_place_is_kept_with_a_number(cli: Cli, tickets: None) -> None:
    """The file that names its side table is not edited for another model."""
    named = FILE + 'into = "side"'
    write(cli, named)
    cli("apply")
    cli("backfill", "tickets")
    write(cli, named.replace("hash@8", "hash@16"))
    assert [each["field"] for each in step(cli)["differences"]] == ["model"]
    cli("model", "change", "tickets", "--cutover")
    cli("model", "retire", "tickets")
    assert step(cli)["action"] == "keep"
    write(cli, named.replace("hash@8", "hash@16").replace("side", "other"))
    assert step(cli)["action"] == "begin"


def test_price_is_named_before_anything_is_changed(
    cli: Cli, sql: Sql, tickets: None, provider: StandInProvider
) -> None:
    cli.environment |= {"OPENAI_API_KEY": provider.api_key, "OPENAI_BASE_URL": provider.base_url}
    sql("create table other (id int primary key, body text)")
    paid = FILE.replace("hash@8", "openai/text-embedding-3-small@8")
    write(cli, FILE)
    cli("apply")
    more = '[collections.more]\ntable = "other"\ntext = "{body}"\nmodel = "hash@8"\n'
    write(cli, more + paid)
    refused = " ".join(cli("apply", code=2).err.split())
    assert "The vectors of 'tickets' will cost about $0.00. Nothing was changed." in refused
    assert "--yes" in refused
    assert sql("select name from backline.collections") == [("tickets",)]
    plan = cli("apply", "--yes", "--json").json
    [change] = plan["changes"]
    assert change["preview"]["unique"] == 120
    assert change["preview"]["dollars"] > 0
    assert {each["name"]: each["action"] for each in plan["plan"]} == {
        "more": "add", "tickets": "begin",
    }  # fmt: skip


def test_wrong_key_is_found_before_anything_is_changed(
    filled: Cli, sql: Sql, provider: StandInProvider
) -> None:
    filled.environment |= {"OPENAI_API_KEY": "wrong", "OPENAI_BASE_URL": provider.base_url}
    write(filled, FILE.replace("hash@8", "openai/text-embedding-3-small@8"))
    filled("apply", "--yes", code=2)
    assert sql("select name from backline.collections") == [("tickets",)]


def test_text_of_a_new_model_is_changed_with_it(filled: Cli, sql: Sql) -> None:
    write(filled, FILE.replace("hash@8", "hash@16").replace("{title} {body}", "{title}"))
    done = filled("apply", "--json").json
    assert done["due"] == 0
    assert sql("select name, text_template from backline.collections order by name") == [
        ("tickets", "{title} {body}"), ("tickets@next", "{title}"),
    ]  # fmt: skip
    assert step(filled)["action"] == "keep"
    filled("model", "change", "tickets", "--cutover")
    assert filled("apply", "--json").json["plan"][0]["differences"] == []


def test_condition_reaches_both_targets_of_an_open_change(filled: Cli, sql: Sql) -> None:
    changed = FILE.replace("hash@8", "hash@16")
    write(filled, changed + 'where = "id <= 100"')
    filled("apply")
    filled("model", "change", "tickets")
    write(filled, changed + 'where = "id <= 60"')
    assert step(filled)["updates"] == [["tickets", ["where"]], ["tickets@next", ["where"]]]
    assert step(filled)["updates"] == []
    filled("model", "change", "tickets", "--cutover")
    filled("backfill", "tickets@old")
    coverage = filled("status", "--json").json["collections"]
    assert {each["collection"]: each["rows"] for each in coverage} == {
        "tickets": 60, "tickets@old": 60,
    }  # fmt: skip


def test_third_model_is_refused_while_a_change_is_open(filled: Cli, sql: Sql) -> None:
    write(filled, FILE.replace("hash@8", "hash@16"))
    filled("apply")
    write(filled, FILE.replace("hash@8", "hash@24"))
    assert "backline model cancel tickets" in filled("apply", code=2).err
    filled("model", "change", "tickets", "--cutover")
    assert "backline model retire tickets" in filled("apply", code=2).err
    # The file of the former model does not undo the cut-over.
    write(filled, FILE)
    assert "backline model retire tickets" in filled("apply", code=2).err
    assert state(sql) == ["serving"]
