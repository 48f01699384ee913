"""The commands in the order of a first use: dry run, backfill, failures, models, drop, demo."""

from __future__ import annotations

import json
import re

import pytest
from tests.integration.cli.conftest import Cli, Sql
from tests.provider import StandInProvider


def test_a_dry_run_counts_and_spends_nothing(cli: Cli, paid: StandInProvider, sql: Sql) -> None:
    sql("update tickets set title = 'same', body = 'text' where id > 100")
    estimate = cli("backfill", "tickets", "--dry-run", "--json").json
    assert (estimate["rows"], estimate["due"]) == (120, 120)
    assert (estimate["unique"], estimate["duplicates"], estimate["cached"]) == (101, 19, 0)
    assert estimate["dollars"] == pytest.approx(0.02 * estimate["tokens"] / 1e6)
    output = cli("backfill", "tickets", "--dry-run").out
    assert "101 to embed; 19 duplicates and 0 cached vectors cost nothing" in output
    assert "nothing was spent" in output
    assert paid.calls == []
    report = cli("backfill", "tickets", "--json").json
    assert (report["embedded"], report["reused"]) == (120, 19)
    assert report["tokens"] == estimate["tokens"]
    assert cli("backfill", "tickets", "--dry-run", "--json").json["due"] == 0


def test_a_limit_embeds_that_many_rows_and_exits_with_success(cli: Cli, collection: str) -> None:
    report = cli("backfill", "tickets", "--limit", "30", "--json").json
    assert (report["embedded"], report["complete"]) == (30, False)
    assert cli("backfill", "tickets", "--json").json["embedded"] == 90


def test_a_rejected_row_is_listed_and_embedded_after_a_retry(
    cli: Cli, paid: StandInProvider, sql: Sql
) -> None:
    paid.behave(reject_marker="body of 77", reject_message="I will not read [this].")
    ended = cli("backfill", "tickets", code=1)
    assert "  failed    1\n" in ended.out
    assert re.search(r"77  rejected: .*I will not read \[this\]", ended.out)
    assert "backline failures retry tickets" in ended.out
    [letter] = cli("failures", "list", "tickets", "--json").json["failures"]
    assert (letter["key"], letter["kind"], letter["attempts"]) == ("77", "rejected", 1)
    assert "[this]" in cli("failures", "list", "tickets").out
    assert cli("failures", "retry", "tickets", "--key", "78", "--json").json["requeued"] == 0
    assert "No dead letters of 78" in cli("failures", "retry", "tickets", "--key", "78").out
    assert "77" in cli("verify", "tickets", code=1).out
    paid.behave(reject_marker=None)
    assert "1 row pending again" in cli("failures", "retry", "tickets", "--key", "77").out
    assert cli("backfill", "tickets", "--json").json["complete"]
    assert cli("verify", "tickets", "--json").json["passed"]
    assert "No dead letters" in cli("failures", "list", "tickets").out


def test_dropped_dead_letters_are_tried_again_by_the_next_backfill(
    cli: Cli, paid: StandInProvider
) -> None:
    paid.behave(reject_marker="body of 77")
    cli("backfill", "tickets", code=1)
    assert cli("failures", "drop", "tickets", "--json").json["dropped"] == 1
    paid.behave(reject_marker=None)
    assert cli("backfill", "tickets", "--json").json["embedded"] == 1


def test_another_model_makes_every_row_due(cli: Cli, collection: str, sql: Sql) -> None:
    cli("backfill", "tickets")
    sql("alter table tickets alter column embedding type extensions.vector")
    assert (
        "backline model change tickets --to hash@16"
        in cli("model", "use", "tickets", "hash@16", code=2).err
    )
    output = cli("model", "use", "tickets", "hash@16", "--in-place").out
    assert "backline backfill tickets" in output
    assert cli("status", "tickets", "--json").json["collections"][0]["embedded"] == 0
    assert cli("backfill", "tickets", "--json").json["embedded"] == 120
    assert cli("verify", "tickets", "--json").json["passed"]


def test_drop_keeps_the_vectors_without_the_option_column(
    cli: Cli, collection: str, sql: Sql
) -> None:
    cli("backfill", "tickets")
    assert "its vectors stay" in cli("drop", "tickets").out
    assert sql("select count(embedding) from tickets") == [(120,)]
    sql("update tickets set title = 'edited'")  # fails if a trigger is left
    add = ("add", "tickets", "--text", "{title}", "--model", "hash@8")
    assert "--adopt" in cli(*add, code=2).err
    cli(*add, "--overwrite")
    cli("drop", "tickets", "--column")
    assert sql("select count(*) from pg_attribute where attrelid = 'tickets'::regclass "
               "and attname = 'embedding'") == [(0,)]  # fmt: skip


def test_vectors_that_were_kept_are_adopted(cli: Cli, collection: str, sql: Sql) -> None:
    add = ("add", "tickets", "--text", "{title} {body}", "--model", "hash@8")
    cli("backfill", "tickets")
    cli("drop", "tickets")
    sql("update tickets set embedding = null where id = 7")
    wrong = cli("add", "tickets", "--text", "{title}", "--model", "hash@8", "--adopt", code=2)
    assert "of 119 texts embedded again, 0 have the vector" in wrong.err
    assert "holds 119 vectors" in cli(*add, code=2).err
    added = cli(*add, "--adopt")
    assert "Adopted 119 of 119 vectors (119 of 119 texts embedded again agree)" in added.out
    assert cli("backfill", "tickets", "--json").json["embedded"] == 1
    assert cli("verify", "tickets", "--json").json["passed"]


AWKWARD = {
    1: None,
    2: "",
    3: " \n\t ",
    4: "x " * 50_000,
    5: "a <|endoftext|> b <|fim_prefix|> [CLS] [SEP] [PAD]",
    6: "👩‍👩‍👧‍👦 🎧 é e\u0301 \u200f\u202e",
    7: "\x01\x07\x1b[31m\x7f",
    8: "\\u0000 \\x00 \\N %s {title} {{}}",
    9: "'; drop table tickets; --",
    10: "東京" * 30_000,
}


@pytest.mark.parametrize("model", ["hash@8", "local", "openai/text-embedding-3-small@8"])
def test_any_text_is_embedded_or_counted_as_blank(
    cli: Cli, sql: Sql, provider: StandInProvider, model: str
) -> None:
    cli.environment |= {"OPENAI_API_KEY": provider.api_key, "OPENAI_BASE_URL": provider.base_url}
    with (cli.folder / "awkward.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": i, "t": t}) + "\n" for i, t in AWKWARD.items())
    cli("load", "awkward.jsonl", "--table", "notes")
    cli("add", "notes", "--text", "{t}", "--model", model)
    report = cli("backfill", "notes", "--json").json
    assert (report["embedded"], report["failed"], report["coverage"]["blank"]) == (7, 0, 3)
    checked = cli("verify", "notes", "--json").json
    assert (checked["passed"], checked["embedded"], checked["blank"]) == (True, 7, 3)
    assert sql("select array_agg(id order by id) from notes where embedding is null") == [
        ([1, 2, 3],)
    ]
    if model != "hash@8":
        assert {"4", "10"} <= set(report["long_keys"])


def test_the_demo_embeds_the_knowledge_base_once(cli: Cli) -> None:
    done = cli("demo", "--json").json
    assert done["complete"] is True
    assert done["backfill"]["embedded"] == done["verified"]["rows"] == 292
    assert done["hits"][0]["title"] == "Clear muddy vocals at 200 to 400 Hz"
    again = cli("demo")
    assert "embedded  0 rows in 0 requests, 0 tokens" in again.out
    assert "Nothing to do: every row was embedded already." in again.out
