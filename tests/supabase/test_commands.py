"""The command line over PostgREST and the Edge Function: keys, grants and a project's faults."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.provider import StandInProvider
from tests.supabase.function import function_running
from tests.supabase.inline import InlineCli
from tests.supabase.processes import RESPONSE_TIMEOUT_S
from tests.supabase.shell import Shell
from tests.supabase.stack import Project

BACKFILL: Final = ("backfill", "notes", "--via", "rest")


def heartbeats(project: Project) -> int:
    """Return how many heartbeats the gateway has received."""
    return sum(seen.path.endswith("/backline_heartbeat") for seen in project.gateway.seen)


def wait_for_heartbeats(project: Project, count: int) -> None:
    deadline = time.monotonic() + RESPONSE_TIMEOUT_S
    while heartbeats(project) < count:
        assert time.monotonic() < deadline, f"{heartbeats(project)} of {count} heartbeats came"
        time.sleep(0.05)


def test_run_is_watched_and_cancelled_over_rest(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    shell.make_table("notes", [f"advice number {n % 180} for the mix" for n in range(200)])
    backfill = (*BACKFILL, "--batch-size", "10", "--workers", "1", "--json")
    with provider.held(), shell.start(*backfill) as process:
        provider.wait_in_flight()
        [run] = shell.run("runs", "list", "--via", "rest")["runs"]
        with shell.start("runs", "watch", str(run["id"]), "--via", "rest") as watching:
            cancellation = shell.run("runs", "cancel", str(run["id"]), "--via", "rest")
            assert cancellation["cancelling"] is True
            # The response to a heartbeat carries the cancellation to the worker.
            wait_for_heartbeats(project, heartbeats(project) + 2)
            provider.behave(held=False)
            assert json.loads(process.communicate(timeout=60)[0])["state"] == "cancelled"
            assert "cancelled" in watching.communicate(timeout=60)[0]
            assert watching.returncode == 1


@pytest.mark.parametrize("command", [
    ("sync",), ("index", "notes"), ("reconcile", "notes"), ("add", "notes", "--text", "{body}"),
    ("migrate",), ("serve", "--port", "0"), ("suggest", "muddy"),
])  # fmt: skip
def test_command_that_needs_a_connection_is_refused_over_rest(
    command: tuple[str, ...], project: Project, tmp_path: Path
) -> None:
    """The command must not fall back to the embedded Postgres, nor call the project."""
    home = {"BACKLINE_DATA_DIR": str(tmp_path / "data")}
    variables = {**project.environment, **home}
    by_option = InlineCli(tmp_path, variables)(*command, "--via", "rest", code=2).err
    by_setting = InlineCli(tmp_path, {**variables, "BACKLINE_VIA": "rest"})(*command, code=2).err
    for message, cause in (
        (by_option, "--via does not"),
        (by_setting, "BACKLINE_VIA=rest does not"),
    ):
        assert "needs a connection to Postgres" in message and cause in message
        assert "Set DATABASE_URL" in message
    assert not (tmp_path / "data").exists()
    assert project.gateway.seen == []


def test_publishable_key_searches_only_rows_that_anon_may_read(
    shell: Shell, project: Project
) -> None:
    shell.make_table("notes", ["muddy vocals", "muddy drums"])
    shell.run(*BACKFILL)
    query = ("search", "muddy", "-c", "notes", "--mode", "keyword", "--via", "rest")
    publishable_only: dict[str, Any] = {"SUPABASE_SECRET_KEY": None}
    message = shell.run(*query, code=2, **publishable_only)
    assert "There is no collection 'notes'" in message
    project.execute("grant select on notes to anon")
    project.execute("alter table notes enable row level security")
    assert shell.run(*query, **publishable_only)["hits"] == []
    project.execute("create policy readable on notes for select to anon using (id = 2)")
    assert [hit["key"] for hit in shell.run(*query, **publishable_only)["hits"]] == ["2"]
    assert len(shell.run(*query)["hits"]) == 2


# --- faults that are found before anything is embedded --------------------------------------------


def test_publishable_key_alone_may_not_write(shell: Shell, project: Project) -> None:
    for command in (BACKFILL, (*BACKFILL[:3], "edge"), ("failures", "retry", "--via", "rest")):
        message = shell.run(*command, code=2, SUPABASE_SECRET_KEY=None)
        assert "row level security would discard every write" in message
    assert project.gateway.seen == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SUPABASE_SECRET_KEY": "nonsense"}, "holds no key of a Supabase project"),
        ({"SUPABASE_URL": None}, "Set SUPABASE_URL=https://"),
        ({"BACKLINE_VIA": "smoke"}, "should be 'postgres', 'rest', 'api' or 'edge'"),
    ],
    ids=["no key", "no URL", "no such transport"],
)
def test_wrong_setting_is_named(
    shell: Shell, variables: dict[str, str | None], message: str
) -> None:
    arguments = BACKFILL[:2] if "BACKLINE_VIA" in variables else BACKFILL
    assert message in shell.run(*arguments, code=2, **variables)


def test_expired_key_is_named(shell: Shell, project: Project) -> None:
    expired = project.keys.jwt("service_role", -60)
    message = shell.run(*BACKFILL, code=2, SUPABASE_SECRET_KEY=expired)
    assert "holds a key that expired at" in message


def test_url_with_a_path_is_not_a_project(shell: Shell, project: Project) -> None:
    message = shell.run(*BACKFILL, code=2, SUPABASE_URL=f"{project.api_url}/dashboard")
    assert "There is no Supabase project at" in message


def test_paused_project_is_named(shell: Shell, project: Project) -> None:
    project.gateway.paused = True
    assert "is paused" in shell.run(*BACKFILL, code=2)


def test_project_without_migrations_is_named(
    bare_project: Project, provider: StandInProvider, tmp_path: Path
) -> None:
    message = Shell(bare_project, provider, tmp_path).run(*BACKFILL, code=2)
    assert "lacks the Backline functions" in message
    assert "supabase db push" in message


def test_table_without_grants_names_the_statement_and_harms_no_other_table(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    shell.make_table("notes", ["one"])
    shell.make_table("others", ["one"])
    project.execute("revoke update on notes from service_role")
    message = shell.run(*BACKFILL, code=2)
    assert "grant select, update on public.notes to service_role;" in message
    assert provider.calls == []
    assert shell.run("verify", "notes", "--via", "rest", code=1)["problems"] == {"no vector": 1}
    assert shell.run("backfill", "others", "--via", "rest")["complete"]
    project.execute("grant update on public.notes to service_role")
    assert shell.run(*BACKFILL)["complete"]


def test_project_without_pgvector_is_named(shell: Shell, project: Project) -> None:
    with psycopg.connect(project.admin_url, autocommit=True) as connection:
        connection.execute("drop extension vector cascade")
    project.wait_for_schema()
    assert "Enable the extension `vector` in the dashboard" in shell.run(*BACKFILL, code=2)


def test_function_that_is_not_deployed_names_the_command(
    shell: Shell, provider: StandInProvider
) -> None:
    shell.make_table("notes", ["one"])
    message = shell.run("backfill", "notes", "--via", "edge", code=2)
    assert "supabase functions deploy upsert-embeddings" in message
    assert provider.calls == []


def test_collection_whose_model_no_function_can_run_is_refused(
    shell: Shell, project: Project
) -> None:
    with function_running(project):
        message = shell.run("backfill", "music_knowledge", "--via", "edge", code=2)
    assert "which an Edge Function cannot run" in message
