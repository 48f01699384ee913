"""The command line by each way: the same vectors, and every obstacle named before the start."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from backline.postgres.store import open_store
from backline.verification import verify
from tests.integration.harness import overpaid
from tests.provider import StandInProvider
from tests.supabase.function import function_running, provider_variables
from tests.supabase.inline import InlineCli
from tests.supabase.server import API_KEY, server_running
from tests.supabase.stack import Project

BACKLINE: Final = Path(sys.executable).with_name("backline")
WAYS: Final = ("postgres", "rest", "api", "edge")


class Shell:
    """The command line as a user of the project has it: settings in the environment only."""

    def __init__(self, project: Project, provider: StandInProvider, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            **project.environment,
            **provider_variables(provider.base_url, provider.api_key),
        }
        self.said = ""

    def start(self, *arguments: str, **variables: str | None) -> subprocess.Popen[str]:
        environment = {**self.environment, **variables}
        return subprocess.Popen(
            [BACKLINE, *arguments], cwd=self.folder, text=True,
            env={name: value for name, value in environment.items() if value is not None},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0, **variables: str | None) -> Any:
        """The object that the command prints with --json; for an error, its message."""
        with self.start(*arguments, "--json", **variables) as process:
            output, log = process.communicate(timeout=100)
        self.said += output + log
        assert process.returncode == code, output + log
        found = json.loads(output)
        return found["error"]["message"] if "error" in found else found

    def make_table(self, name: str, texts: list[str]) -> None:
        """A table with rows, declared in the SQL editor, as the how-to says."""
        self.project.execute(f"create table {name} (id int primary key, body text)")
        self.project.execute(f"grant select, update on {name} to service_role")
        self.project.execute(
            f"insert into {name} select n, t from unnest(%s::text[]) with ordinality u(t, n)",
            [texts],
        )
        self.project.execute(
            "select backline.add_collection(%s, %s, null, '{body}', 'embedding', "
            "'openai', 'text-embedding-3-small', 'v1', 8)",
            [name, f"public.{name}"],
        )


@pytest.fixture
def shell(project: Project, provider: StandInProvider, tmp_path: Path) -> Iterator[Shell]:
    made = Shell(project, provider, tmp_path)
    yield made
    for secret in (project.keys.secret, project.keys.publishable, provider.api_key):
        assert secret not in made.said, "a key was printed"


def texts(count: int) -> list[str]:
    return [f"advice number {n % (count - 20)} for the mix" for n in range(count)]


async def passes(project: Project, name: str) -> bool:
    async with open_store(project.url) as store:
        return (await verify(store, await store.collection(name))).passed


def test_every_way_ends_with_the_same_verified_vectors(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    variables = provider_variables(provider.base_url, provider.api_key)
    with function_running(project, **variables), server_running(project, **variables) as address:
        for way in WAYS:
            shell.make_table(f"by_{way}", [*texts(500), "", 'naïve 🎛️ "quoted" \\ text'])
            provider.reset()
            project.execute("delete from backline.vectors")
            database = project.url if way == "postgres" else None
            report = shell.run(
                "backfill", f"by_{way}", "--via", way, DATABASE_URL=database,
                BACKLINE_API_URL=address, BACKLINE_API_KEY=API_KEY,
            )  # fmt: skip
            assert (report["embedded"], report["failed"], report["complete"]) == (501, 0, True)
            assert report["settings"]["via"] == way
            assert len(provider.texts_embedded) == 481
            assert not overpaid(provider)
            assert asyncio.run(passes(project, f"by_{way}"))
    for way in WAYS[1:]:
        [(differ,)] = project.execute(
            f"select count(*) from by_postgres a join by_{way} b using (id) "
            "where a.embedding is distinct from b.embedding "
            "and a.embedding operator(extensions.<->) b.embedding > 1e-6"
        )
        assert differ == 0, way


def test_status_search_failures_and_runs_over_rest(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="BAD")
    shell.make_table("notes", ["muddy vocals", "punchy drums", "BAD"])
    shell.run("backfill", "notes", "--via", "rest", code=1)
    [found] = [
        c for c in shell.run("status", "--via", "rest")["collections"] if c["collection"] == "notes"
    ]
    assert (found["rows"], found["embedded"], found["failed"]) == (3, 2, 1)
    for mode in ("hybrid", "keyword"):
        asked = ("search", "punchy drums", "-c", "notes", "--mode", mode, "--via", "rest")
        hits = shell.run(*asked, "--where", "id > 1")["hits"]
        assert [hits[0]["key"], hits[0]["row"]["body"]] == ["2", "punchy drums"]
    [failure] = shell.run("failures", "list", "notes", "--via", "rest")["failures"]
    assert (failure["key"], failure["kind"]) == ("3", "rejected")
    provider.behave(reject_marker=None)
    assert shell.run("failures", "retry", "notes", "--via", "rest")["requeued"] == 1
    assert shell.run("backfill", "notes", "--via", "rest")["complete"]
    last, first = shell.run("runs", "list", "notes", "--via", "rest")["runs"]
    assert [(run["state"], run["embedded"]) for run in (first, last)] == [
        ("completed", n) for n in (2, 1)
    ]
    ended = shell.run("runs", "cancel", str(last["id"]), "--via", "rest", code=1)
    assert ended == {"run": last["id"], "cancelling": False}


def test_a_run_is_watched_and_cancelled_over_rest(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    shell.make_table("notes", texts(200))
    once = ("backfill", "notes", "--via", "rest", "--batch-size", "10", "--workers", "1", "--json")
    with provider.held(), shell.start(*once) as process:
        provider.wait_in_flight()
        [run] = shell.run("runs", "list", "--via", "rest")["runs"]
        with shell.start("runs", "watch", str(run["id"]), "--via", "rest") as watching:
            asked = shell.run("runs", "cancel", str(run["id"]), "--via", "rest")
            assert asked["cancelling"] is True
            wait_for_heartbeats(project, heartbeats(project) + 2)  # one of them was told
            provider.behave(held=False)
            assert json.loads(process.communicate(timeout=60)[0])["state"] == "cancelled"
            assert "cancelled" in watching.communicate(timeout=60)[0]
            assert watching.returncode == 1


def heartbeats(project: Project) -> int:
    return sum(seen.path.endswith("/backline_heartbeat") for seen in project.gateway.seen)


def wait_for_heartbeats(project: Project, count: int) -> None:
    deadline = time.monotonic() + 60
    while heartbeats(project) < count:
        assert time.monotonic() < deadline, f"{heartbeats(project)} of {count} heartbeats came"
        time.sleep(0.05)


@pytest.mark.parametrize("command", [
    ("sync",), ("index", "notes"), ("reconcile", "notes"), ("add", "notes", "--text", "{body}"),
    ("migrate",), ("serve", "--port", "0"), ("suggest", "muddy"),
])  # fmt: skip
def test_what_needs_a_connection_says_so_and_touches_nothing(
    command: tuple[str, ...], project: Project, tmp_path: Path
) -> None:
    """Above all not the embedded Postgres, which would be filled in the project's place."""
    home = {"BACKLINE_DATA_DIR": str(tmp_path / "data")}
    variables = {**project.environment, **home}
    with_flag = InlineCli(tmp_path, variables)(*command, "--via", "rest", code=2).err
    by_setting = InlineCli(tmp_path, {**variables, "BACKLINE_VIA": "rest"})(*command, code=2).err
    for said, what in ((with_flag, "--via works"), (by_setting, "BACKLINE_VIA=rest works")):
        assert "needs a connection to Postgres" in said and what in said
        assert "Set DATABASE_URL" in said
    assert not (tmp_path / "data").exists()
    assert project.gateway.seen == []


def test_the_publishable_key_searches_what_anon_may_read(shell: Shell, project: Project) -> None:
    """Row level security decides, as for any visitor."""
    shell.make_table("notes", ["muddy vocals", "muddy drums"])
    shell.run("backfill", "notes", "--via", "rest")
    asked = ("search", "muddy", "-c", "notes", "--mode", "keyword", "--via", "rest")
    without: dict[str, Any] = {"SUPABASE_SECRET_KEY": None}
    assert "There is no collection 'notes'" in shell.run(*asked, code=2, **without)
    project.execute("grant select on notes to anon")
    project.execute("alter table notes enable row level security")
    assert shell.run(*asked, **without)["hits"] == []
    project.execute("create policy readable on notes for select to anon using (id = 2)")
    assert [hit["key"] for hit in shell.run(*asked, **without)["hits"]] == ["2"]
    assert len(shell.run(*asked)["hits"]) == 2


def test_a_dry_run_over_rest_writes_nothing(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    shell.make_table("notes", ["one", "two", "one", ""])
    found = shell.run("backfill", "notes", "--via", "rest", "--dry-run")
    assert (found["due"], found["unique"], found["duplicates"]) == (3, 2, 1)
    assert provider.calls == []
    assert project.execute("select count(*) from backline.jobs") == [(0,)]


UNDER_WAY: Final = (
    "select pid from pg_stat_activity where datname = current_database() "
    "and state = 'active' and pid <> pg_backend_pid()"
)


def test_killed_and_run_again(shell: Shell, project: Project, provider: StandInProvider) -> None:
    """kill -9: what is stored stays, and only what was in flight is paid for again."""
    shell.make_table("notes", [f"advice number {n}" for n in range(600)])
    provider.behave(delay_s=0.3)
    with shell.start(
        "backfill", "notes", "--via", "rest", "--workers", "2", "--batch-size", "20"
    ) as process:
        deadline = time.monotonic() + 60
        while project.execute("select count(embedding) from notes")[0][0] < 100:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate()
    while project.execute(UNDER_WAY):  # what PostgREST was asked for it does all the same
        time.sleep(0.02)
    stored = project.execute("select count(embedding) from notes")[0][0]
    assert stored < 600
    project.execute("update backline.workers set expires_at = now() + interval '2 seconds'")
    provider.behave(delay_s=0)
    paid = sum(len(call.texts) for call in provider.calls)
    report = shell.run("backfill", "notes", "--via", "rest")
    assert report["complete"]
    assert report["embedded"] == 600 - stored
    assert sum(overpaid(provider).values()) <= paid - stored + 2 * 20
    assert shell.run("verify", "notes", "--via", "rest")["passed"]
    runs = {run["id"]: run["state"] for run in _runs(shell, project)}
    assert sorted(runs.values()) == ["completed", "interrupted"]


def _runs(shell: Shell, project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shell.run("runs", "list", DATABASE_URL=project.url)["runs"]
    return found


# --- found before anything is spent ---------------------------------------------------------------

BACKFILL: Final = ("backfill", "notes", "--via", "rest")


def test_only_a_publishable_key(shell: Shell, project: Project) -> None:
    for command in (BACKFILL, (*BACKFILL[:3], "edge"), ("failures", "retry", "--via", "rest")):
        said = shell.run(*command, code=2, SUPABASE_SECRET_KEY=None)
        assert "row level security would discard every write" in said
    assert project.gateway.seen == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SUPABASE_SECRET_KEY": "sb_secret_of_another_project"}, "refuses the key: Invalid API"),
        ({"SUPABASE_SECRET_KEY": "nonsense"}, "holds no key of a Supabase project"),
        ({"SUPABASE_URL": None}, "Set SUPABASE_URL=https://"),
        ({"SUPABASE_URL": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"BACKLINE_VIA": "smoke"}, "should be 'postgres', 'rest', 'api' or 'edge'"),
    ],
)
def test_wrong_settings(shell: Shell, variables: dict[str, str | None], said: str) -> None:
    arguments = BACKFILL[:2] if "BACKLINE_VIA" in variables else BACKFILL
    assert said in shell.run(*arguments, code=2, **variables)


def test_an_expired_key(shell: Shell, project: Project) -> None:
    said = shell.run(*BACKFILL, code=2, SUPABASE_SECRET_KEY=project.keys.jwt("service_role", -60))
    assert "holds a key that expired at" in said


def test_a_url_with_a_path(shell: Shell, project: Project) -> None:
    said = shell.run(*BACKFILL, code=2, SUPABASE_URL=f"{project.api_url}/dashboard")
    assert "There is no Supabase project at" in said


def test_a_paused_project(shell: Shell, project: Project) -> None:
    project.gateway.paused = True
    assert "is paused" in shell.run(*BACKFILL, code=2)


def test_a_project_that_was_not_migrated(
    bare_project: Project, provider: StandInProvider, tmp_path: Path
) -> None:
    said = Shell(bare_project, provider, tmp_path).run(*BACKFILL, code=2)
    assert "no Backline functions" in said
    assert "supabase db push" in said


def test_a_table_that_was_not_granted(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    shell.make_table("notes", ["one"])
    shell.make_table("others", ["one"])
    project.execute("revoke update on notes from service_role")
    said = shell.run(*BACKFILL, code=2)
    assert "grant select, update on public.notes to service_role;" in said
    assert provider.calls == []
    assert shell.run("verify", "notes", "--via", "rest", code=1)["problems"] == {"no vector": 1}
    assert shell.run("backfill", "others", "--via", "rest")["complete"]
    project.execute("grant update on public.notes to service_role")
    assert shell.run(*BACKFILL)["complete"]


def test_a_project_without_pgvector(shell: Shell, project: Project) -> None:
    with psycopg.connect(project.admin_url, autocommit=True) as connection:
        connection.execute("drop extension vector cascade")
    project.wait_for_schema()
    assert "Enable the extension `vector` in the dashboard" in shell.run(*BACKFILL, code=2)


@pytest.mark.parametrize("way", ["rest", "edge"])
def test_a_column_of_other_dimensions(
    shell: Shell, project: Project, provider: StandInProvider, way: str
) -> None:
    shell.make_table("notes", ["one"])
    project.execute("alter table notes alter embedding type extensions.vector(16)")
    said = shell.run("backfill", "notes", "--via", way, code=2)
    assert "holds 16 dimensions" in said
    assert "gives 8" in said
    assert provider.calls == []


def test_a_function_or_a_server_that_is_not_there(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    shell.make_table("notes", ["one"])
    said = shell.run("backfill", "notes", "--via", "edge", code=2)
    assert "supabase functions deploy upsert-embeddings" in said
    variables = {"BACKLINE_API_URL": "http://127.0.0.1:9"}
    assert "does not answer" in shell.run("backfill", "notes", "--via", "api", code=1, **variables)
    variables = {"USE_LOCAL_API": "true", **variables}
    assert "does not answer" in shell.run("backfill", "notes", "--via", "edge", code=1, **variables)
    assert provider.calls == []


def test_a_function_that_cannot_make_the_model(shell: Shell, project: Project) -> None:
    with function_running(project):
        said = shell.run("backfill", "music_knowledge", "--via", "edge", code=2)
    assert "which an Edge Function cannot run" in said
