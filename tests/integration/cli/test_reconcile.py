"""Output of `reconcile`, and how backfill and status report long texts and the index."""

from __future__ import annotations

from tests.integration.cli.conftest import Cli, Sql
from tests.provider import StandInProvider


def test_reconcile_reports_drift_repairs_it_and_names_the_next_step(
    cli: Cli, sql: Sql, collection: str
) -> None:
    cli("backfill", collection)
    assert "no drift among 120 rows" in cli("reconcile", collection).out
    sql("set session_replication_role = replica")  # an edit without triggers
    sql("update tickets set embedding = null where id <= 3")
    dry = cli("reconcile", collection, "--dry-run", code=1)
    assert "vector that is gone  3, such as 1, 2, 3" in dry.out
    assert f"backline reconcile {collection}" in dry.out
    assert sql("select count(*) from backline.jobs") == [(0,)]
    assert cli("verify", collection, code=1).out.count(f"backline reconcile {collection}") == 1
    done = cli("reconcile", collection)
    assert "3 rows enqueued. Embed: backline backfill tickets" in done.out
    assert cli("backfill", collection, "--json").json["embedded"] == 3
    result = cli("reconcile", collection, "--json").json
    assert (result["found"], result["rows"], result["sound"]) == ({}, 120, True)


def test_reconcile_continues_after_a_key(cli: Cli, sql: Sql, collection: str) -> None:
    cli("backfill", collection)
    sql("set session_replication_role = replica")
    sql("update tickets set embedding = null")
    assert cli("reconcile", collection, "--after", "100", "--json").json["enqueued"] == 20


def test_long_texts_are_counted_and_reported_by_policy(cli: Cli, sql: Sql, tickets: None) -> None:
    sql("update tickets set body = repeat('a word ', 10000) where id in (7, 9)")
    add = ("add", "tickets", "--text", "{body}", "--model", "hash@8", "--long-text")
    assert "use truncate, average, reject" in cli(*add, "shorten", code=2).err
    assert cli(*add, "average", "--json").json["long_text"] == "average"
    assert (
        "1 text longer than the model's input: embedded as the mean of their parts"
        in cli("backfill", "--dry-run", "tickets").out
    )
    report = cli("backfill", "tickets").out
    assert "2 embedded as the mean of their parts, by key: 7, 9" in report
    assert "long texts  2 embedded as the mean of their parts" in cli("status", "tickets").out
    status = cli("status", "tickets", "--json").json["collections"][0]
    assert (status["long"], status["long_text"]) == (2, "average")


def test_a_cache_size_of_zero_keeps_no_vectors(cli: Cli, sql: Sql, paid: StandInProvider) -> None:
    cli("backfill", "tickets", BACKLINE_CACHE_MEGABYTES="0")
    assert sql("select count(*) from backline.vectors") == [(0,)]


def test_the_report_states_the_outcome_for_the_index(cli: Cli, sql: Sql, collection: str) -> None:
    assert "none: below 10,000 rows" in cli("backfill", collection).out
    sql("insert into tickets select i, 'ticket ' || i, 'x' from generate_series(1001, 11000) i")
    assert "left out: not requested" in cli("backfill", collection, "--no-index").out
    assert "HNSW built in" in cli("backfill", collection).out
    assert cli("backfill", collection, "--json").json["index"]["state"] == "in place"
