"""What makes coverage untrue is named by every command that speaks of completeness."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime, timedelta
from threading import Timer

import pytest
from tests.integration.cli.conftest import Cli, Sql

SWAP = (
    "create table new (like tickets including all)",
    "insert into new select * from tickets",
    "alter table tickets rename to old",
    "alter table new rename to tickets",
)


@pytest.fixture
def swapped(cli: Cli, sql: Sql, collection: str) -> str:
    """Embed the table, and put another one in its place."""
    cli("backfill", collection)
    assert "100 %" in cli("status", collection).out
    for statement in SWAP:
        sql(statement)
    return collection


def test_replaced_table_is_named_until_reconcile_follows_it(
    cli: Cli, sql: Sql, swapped: str
) -> None:
    for command in ("status", "backfill", "verify"):
        text = cli(command, swapped, code=1).out
        assert "public.tickets is another table now" in text, command
        assert "Run: backline reconcile tickets" in text, command
        assert "Complete" not in text, command
        assert "Nothing to do" not in text, command
    [status] = cli("status", swapped, "--json", code=1).json["collections"]
    assert status["complete"] is False
    assert [each["kind"] for each in status["problems"]] == ["table"]
    report = cli("backfill", swapped, "--json", code=1).json
    assert report["complete"] is False
    assert report["coverage"]["problems"] == status["problems"]
    assert cli("verify", swapped, "--json", code=1).json["table_problems"] == status["problems"]

    assert "table or column that was replaced" in cli("reconcile", swapped, "-v").out
    sql("update tickets set body = 'edited' where id = 1")
    assert cli("backfill", swapped, "--json").json["embedded"] == 1
    assert "100 %" in cli("status", swapped).out
    assert "passed" in cli("verify", swapped).out


def test_sync_names_the_replaced_table(cli: Cli, swapped: str) -> None:
    process = cli.start("sync", swapped)
    end = Timer(30, process.send_signal, [signal.SIGINT])
    end.start()
    assert process.stderr is not None
    found = next((line for line in process.stderr if "another table now" in line), "")
    end.cancel()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert "public.tickets is another table now" in found
    assert "Run: backline reconcile tickets" in found


def test_status_does_not_show_100_percent_beside_a_problem(cli: Cli, swapped: str) -> None:
    text = cli("status", swapped, code=1).out
    assert "120 of 120 rows embedded (not certain)" in text
    assert "100 %" not in text


def test_dry_run_of_reconcile_names_the_replaced_table_and_changes_nothing(
    cli: Cli, sql: Sql, swapped: str
) -> None:
    before = sql("select c::text from backline.collections c order by 1")
    assert "table or column that was replaced" in cli("reconcile", swapped, "--dry-run", code=1).out
    assert sql("select c::text from backline.collections c order by 1") == before


def test_dropped_columns_are_named_by_backfill_and_status(
    cli: Cli, sql: Sql, collection: str
) -> None:
    cli("backfill", collection)
    sql("alter table tickets drop title")
    sql("insert into tickets (id, body) values (1001, 'the host goes on')")
    for command in ("status", "backfill"):
        done = cli(command, collection, code=None)
        assert done.code != 0, command
        assert "The column title of public.tickets is gone" in done.out + done.err, command
        assert "backline drop tickets && backline add public.tickets" in done.out + done.err


def test_status_says_when_every_row_of_a_large_table_was_compared(
    cli: Cli, sql: Sql, collection: str
) -> None:
    sql("insert into tickets select i, 'ticket ' || i, '' from generate_series(201, 10200) i")
    assert "every row: not yet, see: backline reconcile tickets" in cli("status", collection).out
    cli("reconcile", collection)
    text = cli("status", collection, TZ="Asia/Kolkata").out
    found = re.search(r"every row: (.*), by: backline reconcile tickets", text)
    assert found, text
    now = datetime.now(UTC)
    assert found[1].endswith("+05:30")
    assert now - timedelta(minutes=5) < datetime.fromisoformat(found[1]) <= now


@pytest.mark.parametrize(("days", "verb"), [(-1, "ended"), (30, "ends")])
def test_announced_end_of_a_model_is_said_and_makes_no_coverage_untrue(
    cli: Cli, tickets: None, days: int, verb: str
) -> None:
    ends = datetime.now(UTC).date() + timedelta(days=days)
    registry = cli.folder / "backline.toml"
    entry = '[[models]]\nid = "voyage/voyage-3.5"\ndimensions = 1024\n'
    cli("add", "tickets", "--text", "{title}", "--model", "voyage/voyage-3.5")
    assert cli("status", "--json").json["collections"][0]["model_end"] is None
    registry.write_text(f'{entry}ends = {ends}\nsuccessor = "voyage/voyage-4"\n')
    sentence, remedy = (
        f"Voyage {verb} voyage-3.5 on {ends}.", "backline model change tickets --to voyage/voyage-4"
    )  # fmt: skip
    text = cli("status").out
    assert sentence in text
    assert remedy in text
    [status] = cli("status", "--json").json["collections"]
    assert status["model_end"] == {"kind": "model", "problem": sentence, "remedy": remedy}
    assert status["problems"] == []
    assert f"{verb} on {ends}" in cli("model", "list", "--all").out
