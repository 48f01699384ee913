"""The command line has the same outcome, and finds the same faults, over every transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from backline.postgres.store import open_store
from backline.verification import verify
from tests.integration.harness import overpaid
from tests.provider import StandInProvider
from tests.supabase.processes import RESPONSE_TIMEOUT_S
from tests.supabase.shell import Shell
from tests.supabase.stack import Project
from tests.transports.transport import STORES, TRANSPORTS, Transport, Variables


def texts_with_duplicates(count: int) -> list[str]:
    """Return `count` texts, of which the last 20 repeat the first."""
    return [f"advice number {n % (count - 20)} for the mix" for n in range(count)]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + RESPONSE_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {RESPONSE_TIMEOUT_S} s for {what}"
        time.sleep(0.02)


async def passes(project: Project, name: str) -> bool:
    async with open_store(project.url) as store:
        return (await verify(store, await store.collection(name))).passed


# --- a backfill -----------------------------------------------------------------------------------


def test_every_transport_stores_the_same_verified_vectors(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    with ExitStack() as services:
        for name, transport in TRANSPORTS.items():
            settings = services.enter_context(transport.start(project, provider))
            shell.make_table(
                f"by_{name}", [*texts_with_duplicates(500), "", 'naïve 🎛️ "quoted" \\ text']
            )
            provider.reset()
            project.execute("delete from backline.vectors")
            report = shell.run("backfill", f"by_{name}", "--via", name, code=0, **settings)
            assert (report["embedded"], report["failed"], report["complete"]) == (501, 0, True)
            assert report["settings"]["via"] == name
            assert len(provider.texts_embedded) == 481
            assert not overpaid(provider)
            assert asyncio.run(passes(project, f"by_{name}"))
    for name in [name for name in TRANSPORTS if name != "postgres"]:
        [(different,)] = project.execute(
            f"select count(*) from by_postgres a join by_{name} b using (id) "
            "where a.embedding is distinct from b.embedding "
            "and a.embedding operator(extensions.<->) b.embedding > 1e-6"
        )
        assert different == 0, name


STATEMENTS_UNDER_WAY = (
    "select pid from pg_stat_activity where datname = current_database() "
    "and state = 'active' and pid <> pg_backend_pid()"
)


def stored(project: Project) -> int:
    [(count,)] = project.execute("select count(embedding) from notes")
    return int(count)


def wait_for_abandoned_work(project: Project, provider: StandInProvider) -> None:
    """Wait until the other side has finished what a killed command sent to it."""

    def unchanged() -> bool:
        before = stored(project)
        time.sleep(0.5)
        return provider.in_flight == 0 and stored(project) == before

    wait_until(unchanged, "the abandoned requests to end")
    wait_until(lambda: not project.execute(STATEMENTS_UNDER_WAY), "the statements to end")


def test_killed_backfill_keeps_its_rows_and_a_second_one_completes(
    shell: Shell, project: Project, provider: StandInProvider, transport: Transport,
    settings: Variables,
) -> None:  # fmt: skip
    """After SIGKILL only the texts of requests in flight are paid for again."""
    shell.make_table("notes", [f"advice number {n}" for n in range(600)])
    provider.behave(delay_s=0.3)
    backfill = ("backfill", "notes", "--via", transport.name)
    with shell.start(*backfill, "--workers", "2", "--batch-size", "20", **settings) as process:
        wait_until(lambda: stored(project) >= 100, "100 rows")
        process.kill()
        process.communicate()
    wait_for_abandoned_work(project, provider)
    kept = stored(project)
    assert kept < 600
    project.execute("update backline.workers set expires_at = now() + interval '2 seconds'")
    provider.behave(delay_s=0)
    paid = sum(len(call.texts) for call in provider.calls)
    report = shell.run(*backfill, code=0, **settings)
    assert report["complete"]
    assert report["embedded"] == 600 - kept
    assert sum(overpaid(provider).values()) <= paid - kept + 2 * 20
    assert shell.run("verify", "notes", "--via", transport.name, code=0, **settings)["passed"]
    runs = shell.run("runs", "list", DATABASE_URL=project.url)["runs"]
    assert sorted(run["state"] for run in runs) == ["completed", "interrupted"]


# --- faults that are found before anything is embedded --------------------------------------------


def test_wrong_key_is_found_before_anything_is_embedded(
    shell: Shell, project: Project, provider: StandInProvider, transport: Transport,
    settings: Variables,
) -> None:  # fmt: skip
    shell.make_table("notes", ["one"])
    variables = {**settings, **transport.wrong_key.variables(project)}
    command = ("backfill", "notes", "--via", transport.name)
    result = shell.run(*command, code=transport.wrong_key.code, **variables)
    message = result if isinstance(result, str) else result["stopped_by"]
    assert transport.wrong_key.message in message
    assert stored(project) == 0
    assert provider.calls == []


def test_unreachable_address_is_found_before_anything_is_embedded(
    shell: Shell, project: Project, provider: StandInProvider, transport: Transport
) -> None:
    shell.make_table("notes", ["one"])
    fault = transport.unreachable
    command = ("backfill", "notes", "--via", transport.name)
    assert fault.message in shell.run(*command, code=fault.code, **fault.variables(project))
    assert provider.calls == []


def test_column_of_other_dimensions_is_found_before_anything_is_embedded(
    shell: Shell, project: Project, provider: StandInProvider, transport: Transport
) -> None:
    shell.make_table("notes", ["one"])
    project.execute("alter table notes alter embedding type extensions.vector(16)")
    variables = {"DATABASE_URL": project.url} if transport.name == "postgres" else {}
    message = shell.run("backfill", "notes", "--via", transport.name, code=2, **variables)
    assert "holds 16 dimensions" in message
    assert "gives 8" in message
    assert provider.calls == []


# --- commands that read rows ----------------------------------------------------------------------


@pytest.mark.parametrize("transport", STORES, indirect=True)
def test_status_search_failures_and_runs_describe_a_backfill(
    shell: Shell, provider: StandInProvider, transport: Transport, settings: Variables
) -> None:
    def run(*arguments: str, code: int = 0) -> Any:
        return shell.run(*arguments, "--via", transport.name, code=code, **settings)

    provider.behave(reject_marker="BAD")
    shell.make_table("notes", ["muddy vocals", "punchy drums", "BAD"])
    run("backfill", "notes", code=1)
    [status] = [c for c in run("status")["collections"] if c["collection"] == "notes"]
    assert (status["rows"], status["embedded"], status["failed"]) == (3, 2, 1)
    for mode in ("hybrid", "keyword"):
        query = ("search", "punchy drums", "-c", "notes", "--mode", mode)
        hits = run(*query, "--where", "id > 1")["hits"]
        assert [hits[0]["key"], hits[0]["row"]["body"]] == ["2", "punchy drums"]
    [failure] = run("failures", "list", "notes")["failures"]
    assert (failure["key"], failure["kind"]) == ("3", "rejected")
    provider.behave(reject_marker=None)
    assert run("failures", "retry", "notes")["requeued"] == 1
    assert run("backfill", "notes")["complete"]
    last, first = run("runs", "list", "notes")["runs"]
    assert [(each["state"], each["embedded"]) for each in (first, last)] == [
        ("completed", n) for n in (2, 1)
    ]
    cancellation = run("runs", "cancel", str(last["id"]), code=1)
    assert cancellation == {"run": last["id"], "cancelling": False}


@pytest.mark.parametrize("transport", STORES, indirect=True)
def test_renamed_column_is_followed_and_replaced_table_is_named(
    shell: Shell, project: Project, transport: Transport, settings: Variables
) -> None:
    def run(command: str, code: int) -> Any:
        return shell.run(command, "notes", "--via", transport.name, code=code, **settings)

    shell.make_table("notes", ["one", "two"])
    project.execute("alter table notes rename body to content")
    project.execute("update notes set content = 'three' where id = 1")
    assert run("backfill", 0)["complete"]
    assert run("verify", 0)["passed"]
    project.execute("create table new (like notes including all)")
    project.execute("alter table notes rename to old")
    project.execute("alter table new rename to notes")
    [status] = run("status", 1)["collections"]
    assert [each["kind"] for each in status["problems"]] == ["table"]
    assert not run("backfill", 1)["complete"]
    assert not run("verify", 1)["passed"]


@pytest.mark.parametrize("transport", STORES, indirect=True)
def test_dry_run_counts_texts_and_writes_nothing(
    shell: Shell, project: Project, provider: StandInProvider, transport: Transport,
    settings: Variables,
) -> None:  # fmt: skip
    shell.make_table("notes", ["one", "two", "one", ""])
    counts = shell.run(
        "backfill", "notes", "--via", transport.name, "--dry-run", code=0, **settings
    )
    assert (counts["due"], counts["unique"], counts["duplicates"]) == (3, 2, 1)
    assert provider.calls == []
    assert project.execute("select count(*) from backline.jobs") == [(0,)]
