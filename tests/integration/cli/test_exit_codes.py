"""Each command ends with the exit code that its help states; empty tables are called empty."""

from __future__ import annotations

from tests.integration.cli.conftest import Cli, Sql
from tests.provider import StandInProvider


def test_a_limited_backfill_succeeds_and_is_not_complete(cli: Cli, paid: StandInProvider) -> None:
    trial = cli("backfill", "tickets", "--limit", "10", "--json").json
    assert (trial["embedded"], trial["complete"]) == (10, False)
    paid.behave(reject_marker="body of")
    assert cli("backfill", "tickets", "--limit", "10", "--json", code=1).json["failed"] == 10


def test_what_is_not_complete_ends_with_1(cli: Cli, paid: StandInProvider, sql: Sql) -> None:
    paid.behave(reject_marker="body of 77")
    assert cli("backfill", "tickets", code=1).out
    cli("verify", "tickets", code=1)
    cli("runs", "watch", "1")
    cli("runs", "cancel", "1", code=1)
    sql("set session_replication_role = replica")
    sql("update tickets set body = 'another' where id = 1")
    cli("reconcile", "tickets", "--dry-run", code=1)
    cli("reconcile", "tickets")


def test_a_run_that_does_not_exist_ends_with_1(cli: Cli, collection: str) -> None:
    for command in ("watch", "cancel"):
        outcome = cli("runs", command, "99999", code=1)
        assert "There is no run 99999" in outcome.err


def test_migrate_repairs_and_then_has_nothing_to_do(cli: Cli, collection: str, sql: Sql) -> None:
    sql("drop function backline.coverage")
    sql("drop table backline.failures")
    for command in ("status", "verify tickets", "backfill tickets", "sync tickets"):
        refused = cli(*command.split(), code=2)
        assert "Schema backline is damaged. The table backline.failures is missing." in refused.err
        assert refused.err.rstrip().endswith("Run: backline migrate.")
    repaired = cli("migrate").out
    assert "repaired: The function backline.coverage is missing." in repaired
    assert "run: backline reconcile" in repaired
    assert "Nothing to do" in cli("migrate").out
    cli("backfill", "tickets")


def test_damage_that_migrate_cannot_repair_ends_with_1(cli: Cli, collection: str, sql: Sql) -> None:
    cli("backfill", "tickets")
    sql("alter table backline.stamps drop column content_hash")
    outcome = cli("migrate", "--json", code=1).json
    assert [each["problem"] for each in outcome["problems"]] == [
        "The column content_hash of backline.stamps is missing."
    ]


def test_an_empty_table_is_called_empty(cli: Cli, sql: Sql, collection: str) -> None:
    sql("truncate tickets")
    for command in ("status", "verify", "backfill"):
        shown = cli(command, "tickets")
        assert "empty" in shown.out, command
        assert "100 %" not in shown.out, command
    status = cli("status", "tickets", "--json").json["collections"][0]
    assert (status["empty"], status["coverage"]) == (True, None)
    assert cli("verify", "tickets", "--json").json["empty"] is True
