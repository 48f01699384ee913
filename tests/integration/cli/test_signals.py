"""Ctrl-C, SIGTERM and a second process: rows in flight are finished or released, never lost."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from tests.integration.cli.conftest import Cli, Sql
from tests.provider import StandInProvider


def wait_for_rows(sql: Sql, count: int) -> None:
    """Wait until `count` rows are embedded."""
    deadline = time.monotonic() + 20
    while sql("select count(*) from tickets where embedding is not null")[0][0] < count:
        assert time.monotonic() < deadline, "nothing was embedded"
        time.sleep(0.05)


def wait_for_runs(sql: Sql, count: int) -> None:
    """Wait until `count` runs are registered."""
    deadline = time.monotonic() + 60
    while sql("select count(*) from backline.runs")[0][0] < count:
        assert time.monotonic() < deadline, f"fewer than {count} runs"
        time.sleep(0.05)


def ended(process: subprocess.Popen[str], within: float = 60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=within)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def held(sql: Sql) -> int:
    """Return the number of rows that any worker holds, alive or dead."""
    count: int = sql(
        "select (select count(*) from backline.jobs where worker_id is not null) "
        "+ (select count(*) from backline.batch_leases p cross join unnest(p.keys))"
    )[0][0]
    return count


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_backfill_reports_and_the_next_one_embeds_the_remaining_rows(
    cli: Cli, paid: StandInProvider, sql: Sql, number: signal.Signals
) -> None:
    paid.behave(delay_s=0.2)
    process = cli.start("backfill", "tickets", "--batch-size", "5", "--workers", "1", "--json")
    wait_for_rows(sql, 10)
    process.send_signal(number)
    code, out, err = ended(process)
    report = json.loads(out)
    assert (code, report["state"]) == (1, "interrupted")
    assert report["stopped_by"] == f"stopped by {'Ctrl-C' if number == 2 else 'SIGTERM'}"
    assert 10 <= report["embedded"] < 120
    assert "Press Ctrl-C again to end at once" in err
    assert held(sql) == 0
    paid.behave(delay_s=0)
    rest = cli("backfill", "tickets", "--json").json
    assert rest["embedded"] == 120 - report["embedded"]
    assert max(paid.texts_embedded.values()) == 1  # no text was sent twice
    assert cli("verify", "tickets", "--json").json["passed"]


def test_a_second_ctrl_c_ends_the_process(cli: Cli, paid: StandInProvider, sql: Sql) -> None:
    with paid.held():
        process = cli.start("backfill", "tickets", "--batch-size", "5", "--json")
        paid.wait_in_flight(1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, out, _ = ended(process)
        assert time.monotonic() - began < 4.5  # the grace period is 5
        assert code == 130
        assert json.loads(out)["error"]["kind"] == "Stopped" if out else True
    rest = cli("backfill", "tickets", "--json").json
    assert (rest["embedded"], rest["complete"]) == (120, True)


def test_the_next_backfill_takes_over_the_rows_of_a_killed_one(
    cli: Cli, paid: StandInProvider, sql: Sql
) -> None:
    paid.behave(delay_s=0.2)
    process = cli.start("backfill", "tickets", "--batch-size", "5", "--workers", "1")
    wait_for_rows(sql, 10)
    process.kill()
    process.communicate()
    paid.behave(delay_s=0)
    assert cli("backfill", "tickets", "--json").json["complete"]
    assert cli("verify", "tickets", "--json").json["passed"]
    states = [run["state"] for run in cli("runs", "list", "--json").json["runs"]]
    assert states == ["completed", "interrupted"]


def test_two_backfills_share_the_queue(cli: Cli, paid: StandInProvider, sql: Sql) -> None:
    command = ("backfill", "tickets", "--batch-size", "5", "--workers", "1", "--json")
    with paid.held():  # the first cannot end before the second has started
        first = cli.start(*command)
        paid.wait_in_flight(1)
        second = cli.start(*command)
        wait_for_runs(sql, 2)
    reports = [json.loads(ended(process, 60)[1]) for process in (first, second)]
    assert [report["complete"] for report in reports] == [True, True]
    assert sum(report["embedded"] for report in reports) == 120
    assert reports[1]["beside"] == [reports[0]["run"]]
    assert max(paid.texts_embedded.values()) == 1


def test_another_process_watches_and_cancels_a_run(
    cli: Cli, paid: StandInProvider, sql: Sql
) -> None:
    paid.behave(delay_s=0.2)
    process = cli.start("backfill", "tickets", "--batch-size", "5", "--workers", "1", "--json")
    wait_for_rows(sql, 5)
    with paid.held():  # keeps the run from ending before the cancellation
        run = cli("runs", "list", "--json").json["runs"][0]["id"]
        watching = cli.start("runs", "watch", str(run))
        assert cli("runs", "cancel", str(run), "--json").json == {"run": run, "cancelling": True}
        code, out, _ = ended(process, 60)
    assert (code, json.loads(out)["state"]) == (1, "cancelled")
    code, out, _ = ended(watching, 60)
    assert (code, f"Run {run}: cancelled" in out) == (1, True)
    assert "is not running" in cli("runs", "cancel", str(run), code=1).out


def test_sync_embeds_edits_until_it_is_stopped(cli: Cli, collection: str, sql: Sql) -> None:
    process = cli.start("sync", "tickets")
    cli("backfill", "tickets", "--json")
    sql("update tickets set title = 'edited' where id = 7")
    sql("insert into tickets values (121, 'new', 'row')")
    wait_for_rows(sql, 121)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert "Following tickets" in err
    assert "Stopped;" in err
    assert cli("verify", "tickets", "--json").json["passed"]
