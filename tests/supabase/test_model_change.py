"""The model of a collection of a Supabase project is changed by SQL, REST and the function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.provider import StandInProvider
from tests.supabase.function import function_running, provider_variables
from tests.supabase.shell import Shell
from tests.supabase.stack import Project

RPC = "/rest/v1/rpc/backline_"
SEARCH = ("search", "note 2", "-c", "notes", "--mode", "semantic", "--via", "rest")


@pytest.fixture
def shell(project: Project, provider: StandInProvider, tmp_path: Path) -> Iterator[Shell]:
    """The notes are filled; anon may read one of them."""
    made = Shell(project, provider, tmp_path)
    made.make_table("notes", [f"note {n}" for n in range(1, 31)])
    project.execute("grant select on notes to anon")
    project.execute("alter table notes enable row level security")
    project.execute("create policy readable on notes for select to anon using (id = 2)")
    project.execute("create policy writable on notes to service_role using (true)")
    made.run("backfill", "notes", "--via", "rest")
    yield made


def begin(project: Project) -> None:
    """Begin the change as the role of the connection string, with a side table."""
    project.execute(
        "select backline.begin_change('notes', 'openai', 'text-embedding-3-small', 'v1', 16, "
        "p_into => 'notes_next')"
    )


def make_ready(shell: Shell, project: Project, via: str = "rest") -> None:
    begin(project)
    report = shell.run("backfill", "notes@next", "--via", via)
    assert (report["embedded"], report["complete"]) == (30, True)
    # The first search by words builds their index, as `backline index` does over a connection.
    shell.run("search", "note", "-c", "notes@next", "--mode", "keyword", "--via", "rest")
    project.execute("select backline.finish_fill('notes')")
    project.execute("select backline.finish_indexes('notes')")


def model_of(project: Project) -> int:
    [(dimensions,)] = project.execute(
        "select m.dimensions from backline.collections c join backline.models m "
        "on m.id = c.model_id where c.name = 'notes'"
    )
    return int(dimensions)


@pytest.mark.parametrize("via", ["rest", "edge"])
def test_target_is_filled_over_the_api_and_cut_over_by_sql_and_by_rest(
    shell: Shell, project: Project, provider: StandInProvider, via: str
) -> None:
    variables = provider_variables(provider.base_url, provider.api_key)
    with function_running(project, **variables) if via == "edge" else nullcontext():
        make_ready(shell, project, via)
    assert len(shell.run(*SEARCH)["hits"]) == 5
    [change] = shell.run("model", "changes", "notes", "--via", "rest")["changes"]
    assert (change["state"], model_of(project)) == ("ready", 8)
    # A lost response is answered by the stored result, and not by a second cut-over.
    project.gateway.cut_next(path=RPC + "cutover", after=True)
    done = shell.run("model", "cutover", "notes", "--via", "rest")["change"]
    assert (done["state"], model_of(project)) == ("serving", 16)
    assert len(shell.run(*SEARCH)["hits"]) == 5
    project.gateway.cut_next(path=RPC + "rollback_change", after=True)
    assert shell.run("model", "rollback", "notes", "--via", "rest")["change"]["state"] == "ready"
    assert model_of(project) == 8
    project.execute("select backline.cutover('notes')")
    assert model_of(project) == 16
    refused = shell.run("model", "retire", "notes", code=2, BACKLINE_VIA="rest")
    assert "needs a connection to Postgres" in refused
    shell.run("model", "retire", "notes", DATABASE_URL=project.url)
    assert shell.run("verify", "notes", "--via", "rest")["passed"]


def test_edit_reaches_both_targets_over_rest(shell: Shell, project: Project) -> None:
    make_ready(shell, project)
    project.execute("update notes set body = 'edited' where id = 7")
    with pytest.raises(psycopg.Error, match="1 of 30 rows of 'notes@next' are not embedded yet"):
        project.execute("select backline.cutover('notes')")
    for name in ("notes", "notes@next"):
        assert shell.run("backfill", name, "--via", "rest")["embedded"] == 1
    shell.run("model", "cutover", "notes", "--via", "rest")
    assert shell.run("verify", "notes", "--via", "rest")["passed"]


def test_reader_neither_changes_models_nor_reads_the_new_vectors(
    shell: Shell, project: Project
) -> None:
    make_ready(shell, project)
    arguments = {"p_call": "00000000-0000-4000-8000-000000000001", "p_name": "notes"}
    for verb in ("cutover", "rollback_change", "finish_fill", "copy_page", "change_records"):
        taken = {"p_name": "notes"} if "_" in verb and verb != "rollback_change" else arguments
        response = httpx.post(
            project.api_url + RPC + verb, headers=project.anon, json=taken, timeout=60
        )
        assert response.status_code in (401, 403, 404), (verb, response.text)
    assert model_of(project) == 8
    with psycopg.connect(project.url, autocommit=True) as connection:
        connection.execute("set role anon")
        for statement in (
            "select * from backline.model_changes", "select backline.cutover('notes')",
            "select backline.change_records()",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    project.execute("grant usage on schema backline_vectors to anon")
    project.execute("grant select on backline_vectors.notes_next to anon")
    with psycopg.connect(project.url, autocommit=True) as connection:
        connection.execute("set role anon")
        rows = connection.execute("select count(*) from backline_vectors.notes_next").fetchall()
        assert rows == [(1,)]
    shell.run("model", "cutover", "notes", "--via", "rest")
    by_words = ("search", "note", "-c", "notes", "--mode", "keyword", "--via", "rest")
    hits = shell.run(*by_words, SUPABASE_SECRET_KEY=None)
    assert [hit["key"] for hit in hits["hits"]] == ["2"]


def test_one_collection_that_is_being_changed_needs_no_name(
    shell: Shell, project: Project, provider: StandInProvider
) -> None:
    project.execute("select backline.drop_collection(id, false) from backline.collections "
                    "where name = 'music_knowledge'")  # fmt: skip
    begin(project)
    variables = provider_variables(provider.base_url, provider.api_key)
    with function_running(project, **variables) as url:
        response = httpx.post(
            url, json={"rows": [{"id": 3, "text": "note 3"}]},
            headers={"Authorization": "Bearer a-function-secret"}, timeout=60,
        )  # fmt: skip
    assert response.json()["collection"] == "notes", response.text
