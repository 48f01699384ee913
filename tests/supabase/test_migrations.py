"""`supabase db push` and `backline migrate` apply the same migrations in either order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from backline.sql import migrations
from tests.supabase.cli import SupabaseCli
from tests.supabase.inline import InlineCli as Cli
from tests.supabase.processes import ROOT
from tests.supabase.programs import postgres_programs, postgres_running, server_folder
from tests.supabase.stack import Project

VERSIONS = [migration.version for migration in migrations()]
CORE = [migration.version for migration in migrations() if migration.name.startswith("backline")]


@pytest.fixture
def supabase(tmp_path: Path) -> SupabaseCli:
    return SupabaseCli.in_folder(tmp_path)


@pytest.fixture
def backline(tmp_path: Path, bare_project: Project) -> Cli:
    return Cli(tmp_path, {"DATABASE_URL": bare_project.url})


def history(project: Project) -> list[str]:
    """Return the versions that the database has applied."""
    return [
        version
        for (version,) in project.execute(
            "select version from supabase_migrations.schema_migrations order by version"
        )
    ]


def schema_of(project: Project) -> str:
    """Return the dump of every object and privilege, except the history of migrations."""
    dumped = subprocess.run(
        [postgres_programs() / "pg_dump", "--schema-only", "--exclude-schema=supabase_migrations",
         project.admin_url],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    dumped = re.sub(r"^\\(un)?restrict .*\n", "", dumped, flags=re.MULTILINE)
    return re.sub(r"\battrelid = \d+", "attrelid = OID", dumped)  # in generated triggers


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "migrations.py", "--check"],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_migrate_applies_nothing_after_push(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    supabase.push(bare_project, "--include-seed")
    assert history(bare_project) == VERSIONS
    assert backline("migrate", "--json").json["applied"] == []
    [status] = backline("status", "--json").json["collections"]
    assert (status["rows"], status["pending"], status["failed"]) == (292, 292, 0)
    assert backline("backfill", "--json").json["embedded"] == 292
    assert backline("verify", "--json").json["passed"]
    assert "up to date" in supabase.push(bare_project, "--include-seed").out


def test_push_applies_nothing_after_migrate(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    backline("migrate", "--music")
    assert "up to date" in supabase.push(bare_project).out
    assert history(bare_project) == VERSIONS


def test_push_and_migrate_continue_each_others_history(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    files = sorted(supabase.migrations.iterdir())
    removed = [(file, file.read_bytes()) for file in files[2:]]
    for file, _ in removed:
        file.unlink()
    supabase.push(bare_project)
    assert history(bare_project) == VERSIONS[:2]
    applied = backline("migrate", "--music", "--json").json["applied"]
    assert [name.split("_")[0] for name in applied] == VERSIONS[2:]
    for file, content in removed:
        file.write_bytes(content)
    assert "up to date" in supabase.push(bare_project).out


def test_push_and_migrate_make_the_same_schema(
    supabase: SupabaseCli, bare_project: Project, project: Project
) -> None:
    supabase.push(bare_project)
    assert schema_of(bare_project) == schema_of(project)


def test_project_with_other_migrations_fetches_ours(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    for file in supabase.migrations.iterdir():
        file.unlink()
    other = supabase.migrations / "20260101000000_own.sql"
    other.write_text("create table public.own (id int primary key);")
    supabase.push(bare_project)
    backline("migrate")
    refused = supabase(bare_project, "db", "push", "--yes", code=None)
    assert refused.code != 0, "the CLI accepts missing files: shorten the docs"
    supabase(bare_project, "migration", "fetch", "--yes")
    later = supabase.migrations / "20270101000000_later.sql"
    later.write_text("alter table public.own add column name text;")
    supabase.push(bare_project)
    assert history(bare_project) == sorted([*CORE, "20260101000000", "20270101000000"])


def test_seed_does_not_overwrite_edited_rows(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    backline("demo")
    bare_project.execute(
        "update music_knowledge set suggestion = 'mine' "
        "where title = 'Clear muddy vocals at 200 to 400 Hz'"
    )
    supabase.push(bare_project, "--include-seed")
    [(rows, mine)] = bare_project.execute(
        "select count(*), count(*) filter (where suggestion = 'mine') from music_knowledge"
    )
    assert (rows, mine) == (292, 1)


def test_existing_music_table_keeps_its_rows_and_columns(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    bare_project.execute(EXISTING_MUSIC)
    supabase.push(bare_project)
    assert bare_project.execute("select topic, stars from public.music_knowledge") == [
        ("mixing", 5)
    ]
    assert backline("backfill", "music_knowledge", "--json").json["complete"]


def public_privileges(project: Project) -> set[str]:
    """Return the privileges that the two roles of the public key have on the table."""
    granted = project.execute(
        "select r || ' ' || p from unnest(array['anon', 'authenticated']) r, "
        "unnest(array['select', 'insert', 'update', 'delete']) p "
        "where has_table_privilege(r, 'public.music_knowledge', p)"
    )
    return {privilege for (privilege,) in granted}


def test_migrate_works_without_the_roles_of_supabase(tmp_path: Path) -> None:
    """A role that may not create roles skips the grants, and then fills and searches."""
    with server_folder() as folder, postgres_running(folder) as port:
        superuser = f"postgresql://supabase_admin:postgres@127.0.0.1:{port}/"
        with psycopg.connect(f"{superuser}postgres", autocommit=True) as connection:
            connection.execute("create role plain login password 'postgres'")
            connection.execute("create database own owner plain")
        with psycopg.connect(f"{superuser}own", autocommit=True) as connection:
            connection.execute("create extension vector")
        url = f"postgresql://plain:postgres@127.0.0.1:{port}/own"
        backline = Cli(tmp_path, {"DATABASE_URL": url})
        assert len(backline("migrate", "--music", "--json").json["applied"]) == len(VERSIONS)
        (tmp_path / "n.jsonl").write_text('{"id": 1, "body": "muddy vocals"}\n')
        backline("load", "n.jsonl", "--table", "notes")
        backline("add", "notes", "--text", "{body}", "--model", "hash@8")
        assert backline("backfill", "notes", "--json").json["complete"]
        assert backline("search", "muddy", "-c", "notes", "--json").json["hits"]


def test_table_with_policies_keeps_them(supabase: SupabaseCli, bare_project: Project) -> None:
    """Only signed-in users may read the table, and the migration must not open it to anon."""
    bare_project.execute(EXISTING_MUSIC)
    bare_project.execute("alter table public.music_knowledge enable row level security")
    bare_project.execute("grant select, insert on public.music_knowledge to authenticated")
    bare_project.execute(
        "create policy members on public.music_knowledge to authenticated using (true)"
    )
    supabase.push(bare_project)
    assert public_privileges(bare_project) == {"authenticated select", "authenticated insert"}
    policies = bare_project.execute(
        "select policyname from pg_policies where tablename = 'music_knowledge' order by 1"
    )
    assert [name for (name,) in policies] == ["members", "the service role writes"]


def test_table_open_to_the_public_becomes_read_only(
    supabase: SupabaseCli, bare_project: Project
) -> None:
    bare_project.execute(EXISTING_MUSIC)
    bare_project.execute("grant all on public.music_knowledge to anon, authenticated")
    supabase.push(bare_project)
    assert public_privileges(bare_project) == {"anon select", "authenticated select"}


def test_table_hidden_from_anon_stays_hidden(supabase: SupabaseCli, bare_project: Project) -> None:
    bare_project.execute(EXISTING_MUSIC)
    bare_project.execute("grant select on public.music_knowledge to authenticated")
    supabase.push(bare_project)
    assert public_privileges(bare_project) == {"authenticated select"}


EXISTING_MUSIC = """
create table public.music_knowledge (
  id uuid primary key default gen_random_uuid(), topic text not null, category text not null,
  suggestion text not null, confidence real not null default 0.8, stars int);
insert into public.music_knowledge (topic, category, suggestion, stars)
values ('mixing', 'eq', 'Cut the mud.', 5);
"""
