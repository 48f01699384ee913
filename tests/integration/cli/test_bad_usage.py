"""Wrong tables, columns, models and collections are reported before any text is embedded."""

from __future__ import annotations

import json
import re
import sys

import pytest
from tests.integration.cli.conftest import Cli, Sql
from tests.provider import StandInProvider

TABLES = """
create table keyless (a text);
create table composite (a int not null, b int not null, t text);
create view shown as select * from tickets;
create table narrow (id int primary key, t text, embedding extensions.vector(384), photo bytea);
"""


@pytest.mark.parametrize(
    ("arguments", "kind", "pattern"),
    [
        ("nope --text {a}", "TableNotFoundError", r"no table 'nope'.*public\.tickets"),
        ("my-table --text {a}", "TableNotFoundError", "no table 'my-table'"),
        ("tickets --text {nope}", "ColumnNotFoundError", "no column 'nope'.*id, title, body"),
        ("tickets --text words", "UsageError", "names no column"),
        ("tickets --text {title", "UsageError", "without a }"),
        ("keyless --text {a}", "KeyMissingError", "--key"),
        ("composite --text {t}", "KeyMissingError", "--key"),
        ("composite --text {t} --key a --key b", "KeyMissingError", "not unique and NOT NULL"),
        ("tickets --text {title} --key body", "KeyMissingError", "not unique and NOT NULL"),
        ("tickets --text {title} --key nope", "KeyMissingError", "no column 'nope'"),
        ("shown --text {title}", "TableNotFoundError", "not a table"),
        ("narrow --text {t} --model openai", "DimensionMismatchError", r"384.*1536.*--column emb"),
        ("narrow --text {t} --column photo", "DimensionMismatchError", r"bytea.*--column"),
        ("tickets --text {title} --model bert", "ModelNotFoundError", "all-MiniLM-L6-v2"),
        ("tickets --text {title} --model openai@9999", "ConfigurationError", "1,?536"),
        ("tickets --text {title} --model hash@0", "ConfigurationError", "dimensions"),
        ("tickets --text {title} --column-type text", "UsageError", "vector or halfvec"),
    ],
)
def test_add_refuses_what_cannot_work(
    cli: Cli, sql: Sql, tickets: None, arguments: str, kind: str, pattern: str
) -> None:
    sql(TABLES)
    error = cli("add", *arguments.split(), "--json", code=2).json["error"]
    assert error["kind"] == kind, error
    assert re.search(pattern, error["message"]), error
    names = [row[0] for row in sql("select name from backline.collections")]
    assert names == []


def test_a_second_add_names_the_ways_out(cli: Cli, collection: str) -> None:
    error = cli("add", "tickets", "--text", "{title}", "--json", code=2).json["error"]
    assert error["kind"] == "CollectionExistsError"
    assert "backline drop tickets" in error["message"]
    assert "--name" in error["message"]


def test_a_table_may_be_embedded_twice_under_two_names(cli: Cli, collection: str) -> None:
    cli(
        "add", "tickets", "--text", "{title}", "--model", "hash@16",
        "--name", "titles", "--column", "title_embedding",
    )  # fmt: skip
    for name in ("tickets", "titles"):
        assert cli("backfill", name, "--json").json["embedded"] == 120
    assert cli("verify", "titles", "--json").json["passed"]


@pytest.mark.parametrize("command", ["backfill", "sync", "verify", "status", "failures list"])
def test_an_unknown_collection_lists_the_declared_ones(
    cli: Cli, collection: str, command: str
) -> None:
    ended = cli(*command.split(), "nope", code=2)
    assert "There is no collection 'nope'; declared: tickets." in ended.err
    assert "backline add TABLE" in ended.err


def test_a_missing_openai_key_is_named(cli: Cli, paid: StandInProvider) -> None:
    del cli.environment["OPENAI_API_KEY"], cli.environment["OPENAI_BASE_URL"]
    error = cli("backfill", "tickets", "--json", code=2).json["error"]
    assert error["kind"] == "ConfigurationError"
    assert "set OPENAI_API_KEY" in error["message"]


def test_a_wrong_key_spends_nothing_and_loses_nothing(cli: Cli, paid: StandInProvider) -> None:
    report = cli("backfill", "tickets", "--json", code=1, OPENAI_API_KEY="sk-wr0ng").json
    assert report["state"] == "interrupted"
    assert report["embedded"] == report["failed"] == 0
    assert "key" in report["stopped_by"]
    assert "wr0ng" not in json.dumps(report)
    assert cli("backfill", "tickets", "--json").json["embedded"] == 120


def test_an_unreachable_base_url_stops_the_backfill_without_losing_rows(
    cli: Cli, paid: StandInProvider
) -> None:
    unreachable = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "BACKLINE_GIVE_UP_AFTER": "0.5"}
    ended = cli("backfill", "tickets", code=1, **unreachable)
    assert re.search(r"127\.0\.0\.1:9.*cannot be reached", ended.out)
    assert "run the same command again" in ended.out
    assert cli("backfill", "tickets", "--json").json["complete"]


def test_a_malformed_base_url_is_refused(cli: Cli, paid: StandInProvider) -> None:
    error = cli("backfill", "--json", code=2, OPENAI_BASE_URL="localhost:11434").json["error"]
    assert "OPENAI_BASE_URL in the environment must begin with http" in error["message"]


def test_a_column_of_other_dimensions_is_reported_before_any_request(
    cli: Cli, paid: StandInProvider, sql: Sql
) -> None:
    sql("alter table tickets alter column embedding type extensions.vector(1536)")
    error = cli("backfill", "tickets", "--json", code=2).json["error"]
    assert error["kind"] == "DimensionMismatchError"
    for part in ("1536", "8", "backline model use tickets openai/text-embedding-3-small@1536"):
        assert part in error["message"]
    assert paid.calls == []


def test_the_remedy_for_other_dimensions_works(cli: Cli, paid: StandInProvider, sql: Sql) -> None:
    sql("alter table tickets alter column embedding type extensions.vector(1536)")
    cli("model", "use", "tickets", "openai/text-embedding-3-small@1536")
    assert cli("backfill", "tickets", "--json").json["complete"]


def test_an_unknown_engine_lists_the_available_ones(cli: Cli, tickets: None) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "local")
    error = cli("search", "muddy", "--json", code=2, BACKLINE_LOCAL_ENGINE="abacus").json["error"]
    assert "abacus" in error["message"]
    assert "numpy" in error["message"]


@pytest.mark.parametrize(
    ("change", "kind", "remedy"),
    [
        (
            "alter table tickets drop column embedding",
            "ColumnNotFoundError",
            "backline reconcile tickets",
        ),
        ("drop table tickets", "TableNotFoundError", "backline drop tickets"),
    ],
)
def test_a_dropped_table_or_column_is_named(
    cli: Cli, collection: str, sql: Sql, change: str, kind: str, remedy: str
) -> None:
    sql(change)
    error = cli("backfill", "tickets", "--json", code=2).json["error"]
    assert error["kind"] == kind
    assert remedy in error["message"]
    assert cli("drop", "tickets", "--json").json["dropped"] == "tickets"


@pytest.mark.parametrize(
    "arguments",
    [
        "bogus",
        "drop",
        "backfill --batch-size 0",
        "backfill --batch-size fifty",
        "backfill --workers 1000",
        "backfill --limit 0",
        "add t",
        "load f.jsonl",
        "runs watch one",
        "model use",
        "status --bogus",
    ],
)
def test_a_wrong_call_prints_one_object_that_names_the_help(bare: Cli, arguments: str) -> None:
    outcome = bare(*arguments.split(), "--json", code=2)
    error = outcome.json["error"]
    assert error["kind"] == "UsageError"
    assert re.search(r"\. See: backline[a-z ]* --help$", error["message"]), error
    assert error["message"] in outcome.err


def test_a_call_without_arguments_shows_the_help(bare: Cli) -> None:
    assert "backfill" in bare(code=2).out


BROKEN = """
import backline.cli, backline.cli.status
backline.cli.status.coverage_line = None  # inject a bug
backline.cli.main()
"""


def test_a_bug_is_reported_in_one_line_and_verbose_adds_the_traceback(
    cli: Cli, collection: str
) -> None:
    plain = cli("-c", BROKEN, "status", code=1, program=sys.executable)
    assert re.search(r"TypeError: .*\(status\.py:\d+\)\. This is a bug in Backline", plain.err)
    assert "Traceback" not in plain.err
    assert "Traceback" in cli("-c", BROKEN, "status", "-v", code=1, program=sys.executable).err
