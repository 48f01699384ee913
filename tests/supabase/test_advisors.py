"""The linter of Supabase warns of nothing, in a new project and with collections."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.supabase.cli import SupabaseCli
from tests.supabase.inline import InlineCli as Cli
from tests.supabase.stack import Project


@pytest.fixture
def supabase(tmp_path: Path) -> SupabaseCli:
    return SupabaseCli.in_folder(tmp_path)


def warnings(supabase: SupabaseCli, project: Project) -> list[str]:
    """Return the findings of level warn and above, and check that the exit code agrees."""
    done = supabase(
        project, "db", "advisors", "--level", "warn", "--fail-on", "warn",
        "--output-format", "json", code=None,
    )  # fmt: skip
    findings = [f"{each['name']}: {each['detail']}" for each in done.json["results"]]
    assert (done.code != 0) == bool(findings), done.err
    return findings


def test_seeded_project_has_no_warning(supabase: SupabaseCli, seeded_project: Project) -> None:
    assert warnings(supabase, seeded_project) == []


def test_collection_with_an_index_has_no_warning(
    supabase: SupabaseCli, project: Project, tmp_path: Path
) -> None:
    backline = Cli(tmp_path, {"DATABASE_URL": project.url})
    project.execute(
        "create table public.notes (id bigint generated always as identity primary key, body text)"
    )
    project.execute("alter table public.notes enable row level security")
    project.execute("create policy reads on public.notes for select to anon using (true)")
    project.execute("insert into notes (body) select 'note ' || i from generate_series(1, 50) i")
    backline("add", "notes", "--text", "{body}", "--model", "hash@8")
    backline("backfill", "notes")
    backline("index", "notes", "--rebuild")
    assert warnings(supabase, project) == []


def test_linter_finds_an_unprotected_table_and_function(
    supabase: SupabaseCli, project: Project
) -> None:
    project.execute("create table public.bare (id int); grant select on public.bare to anon")
    project.execute("create function public.loose() returns int language sql as 'select 1'")
    findings = warnings(supabase, project)
    assert len(findings) == 2, findings
    assert "bare" in " ".join(findings) and "loose" in " ".join(findings)
