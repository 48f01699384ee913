"""`supabase db push` and `backline migrate`: one history, one schema, in any order."""

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
from tests.supabase.stack import ROOT, Project, postgres_programs, postgres_running, server_folder

VERSIONS = [migration.version for migration in migrations()]


@pytest.fixture
def supabase(tmp_path: Path) -> SupabaseCli:
    return SupabaseCli.in_folder(tmp_path)


@pytest.fixture
def backline(tmp_path: Path, bare_project: Project) -> Cli:
    return Cli(tmp_path, {"DATABASE_URL": bare_project.url})


def history(project: Project) -> list[str]:
    """The versions that the database has had."""
    return [
        version
        for (version,) in project.execute(
            "select version from supabase_migrations.schema_migrations order by version"
        )
    ]


def schema_of(project: Project) -> str:
    """Every object and privilege of a database as pg_dump writes them, but for the histories."""
    dumped = subprocess.run(
        [postgres_programs() / "pg_dump", "--schema-only", "--exclude-schema=supabase_migrations",
         project.admin_url],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return re.sub(r"^\\(un)?restrict .*\n", "", dumped, flags=re.MULTILINE)


def test_the_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "migrations.py", "--check"],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_push_fills_an_empty_project_and_migrate_finds_nothing_to_do(
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


def test_push_finds_nothing_to_do_after_migrate(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    backline("migrate")
    assert "up to date" in supabase.push(bare_project).out
    assert history(bare_project) == VERSIONS


def test_each_goes_on_where_the_other_stopped(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    files = sorted(supabase.migrations.iterdir())
    kept = [(file, file.read_bytes()) for file in files[2:]]
    for file, _ in kept:
        file.unlink()
    supabase.push(bare_project)
    assert history(bare_project) == VERSIONS[:2]
    applied = backline("migrate", "--json").json["applied"]
    assert [name.split("_")[0] for name in applied] == VERSIONS[2:]
    for file, content in kept:
        file.write_bytes(content)
    assert "up to date" in supabase.push(bare_project).out


def test_both_ways_make_the_same_schema(
    supabase: SupabaseCli, bare_project: Project, project: Project
) -> None:
    supabase.push(bare_project)
    assert schema_of(bare_project) == schema_of(project)


def test_a_project_with_migrations_of_its_own_fetches_ours(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    for file in supabase.migrations.iterdir():
        file.unlink()
    own = supabase.migrations / "20260101000000_own.sql"
    own.write_text("create table public.own (id int primary key);")
    supabase.push(bare_project)
    backline("migrate")
    refused = supabase(bare_project, "db", "push", "--yes", code=None)
    assert refused.code != 0, "the CLI should ask for the files; if not, the docs are too long"
    supabase(bare_project, "migration", "fetch", "--yes")
    later = supabase.migrations / "20270101000000_later.sql"
    later.write_text("alter table public.own add column name text;")
    supabase.push(bare_project)
    assert history(bare_project) == sorted([*VERSIONS, "20260101000000", "20270101000000"])


def test_the_seed_leaves_what_is_there(
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


def test_a_music_table_of_ones_own_is_kept(
    supabase: SupabaseCli, bare_project: Project, backline: Cli
) -> None:
    bare_project.execute(OWN_MUSIC)
    supabase.push(bare_project)
    assert bare_project.execute("select topic, stars from public.music_knowledge") == [
        ("mixing", 5)
    ]
    assert backline("backfill", "music_knowledge", "--json").json["complete"]


def may(project: Project) -> set[str]:
    """What the two roles of the public key may do with the table."""
    granted = project.execute(
        "select r || ' ' || p from unnest(array['anon', 'authenticated']) r, "
        "unnest(array['select', 'insert', 'update', 'delete']) p "
        "where has_table_privilege(r, 'public.music_knowledge', p)"
    )
    return {what for (what,) in granted}


def test_a_server_without_supabases_roles(tmp_path: Path) -> None:
    """A role that may not make roles migrates, fills and searches; the grants are skipped."""
    with server_folder() as folder, postgres_running(folder) as port:
        superuser = f"postgresql://supabase_admin:postgres@127.0.0.1:{port}/"
        with psycopg.connect(f"{superuser}postgres", autocommit=True) as connection:
            connection.execute("create role plain login password 'postgres'")
            connection.execute("create database own owner plain")
        with psycopg.connect(f"{superuser}own", autocommit=True) as connection:
            connection.execute("create extension vector")
        url = f"postgresql://plain:postgres@127.0.0.1:{port}/own"
        backline = Cli(tmp_path, {"DATABASE_URL": url})
        assert len(backline("migrate", "--json").json["applied"]) == len(VERSIONS)
        (tmp_path / "n.jsonl").write_text('{"id": 1, "body": "muddy vocals"}\n')
        backline("load", "n.jsonl", "--table", "notes")
        backline("add", "notes", "--text", "{body}", "--model", "hash@8")
        assert backline("backfill", "notes", "--json").json["complete"]
        assert backline("search", "muddy", "-c", "notes", "--json").json["hits"]


def test_a_table_that_has_policies_keeps_them(supabase: SupabaseCli, bare_project: Project) -> None:
    """Only signed-in users see an entry here: a migration must not show them to everybody."""
    bare_project.execute(OWN_MUSIC)
    bare_project.execute("alter table public.music_knowledge enable row level security")
    bare_project.execute("grant select, insert on public.music_knowledge to authenticated")
    bare_project.execute(
        "create policy members on public.music_knowledge to authenticated using (true)"
    )
    supabase.push(bare_project)
    assert may(bare_project) == {"authenticated select", "authenticated insert"}
    policies = bare_project.execute(
        "select policyname from pg_policies where tablename = 'music_knowledge' order by 1"
    )
    assert [name for (name,) in policies] == ["members", "the service role writes"]


def test_a_table_that_was_open_is_readable_and_closed_to_writing(
    supabase: SupabaseCli, bare_project: Project
) -> None:
    bare_project.execute(OWN_MUSIC)
    bare_project.execute("grant all on public.music_knowledge to anon, authenticated")
    supabase.push(bare_project)
    assert may(bare_project) == {"anon select", "authenticated select"}


def test_a_table_that_nobody_could_read_stays_so(
    supabase: SupabaseCli, bare_project: Project
) -> None:
    bare_project.execute(OWN_MUSIC)
    bare_project.execute("grant select on public.music_knowledge to authenticated")
    supabase.push(bare_project)
    assert may(bare_project) == {"authenticated select"}


OWN_MUSIC = """
create table public.music_knowledge (
  id uuid primary key default gen_random_uuid(), topic text not null, category text not null,
  suggestion text not null, confidence real not null default 0.8, stars int);
insert into public.music_knowledge (topic, category, suggestion, stars)
values ('mixing', 'eq', 'Cut the mud.', 5);
"""
