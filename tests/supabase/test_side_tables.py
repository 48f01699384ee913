"""A side table over HTTP: a signed-in user sees the vectors and finds the hits of its own rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.supabase.inline import InlineCli as Cli
from tests.supabase.stack import Project, Stack

ADA, BOB = str(UUID(int=1)), str(UUID(int=2))
LETTERS = f"""
create table public.letters (id int primary key, owner uuid not null, body text);
insert into public.letters select i, (case when i & 1 = 1 then '{ADA}' else '{BOB}' end)::uuid,
  'a letter about topic ' || i from generate_series(1, 12) i;
alter table public.letters enable row level security;
create policy "own letters" on public.letters for select to authenticated
  using (owner = (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid);
grant select on public.letters to authenticated;
grant all on public.letters to service_role;
"""
SHAPES = {
    "one table": [],
    "partitions": ["--partitions", "3"],
    "passages": ["--passages", "sentences", "--passage-tokens", "16"],
}


@pytest.fixture(scope="module", params=SHAPES)
def letters(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Project]:
    """Letters of two users, in a project in which every role gets every right to a new table."""
    with stack.project("migrated") as project:
        project.execute(
            "alter default privileges in schema public grant all on tables to anon, authenticated"
        )
        project.execute(LETTERS)
        backline = Cli(stack.folder, {"DATABASE_URL": project.url})
        backline("add", "letters", "--text", "{body}", "--model", "hash@8",
                 "--into", "public.letter_vectors", *SHAPES[request.param])  # fmt: skip
        backline("backfill", "letters")
        project.execute("select backline.allow_search('authenticated'::regrole)")
        project.wait_for_schema()
        yield project


def call(project: Project, user: str | None, method: str, path: str, body: Any = None) -> Any:
    """Send a request as a user, or without one as the publishable key."""
    headers = {"apikey": project.keys.publishable}
    if user is not None:
        headers["authorization"] = f"Bearer {project.keys.jwt('authenticated', sub=user)}"
    return httpx.request(
        method, f"{project.api_url}/rest/v1/{path}", headers=headers, json=body, timeout=30
    )


def tables(project: Project) -> list[str]:
    """Return the names of the side table and its partitions."""
    rows = project.execute(
        "select relname from pg_class where relname ~ '^letter_vectors(_[0-9]+)?$'"
        " and relkind in ('r', 'p') order by 1"
    )
    return [name for (name,) in rows]


@pytest.mark.parametrize(
    ("user", "keys"), [(ADA, {1, 3, 5, 7, 9, 11}), (BOB, {2, 4, 6, 8, 10, 12})]
)
def test_user_reads_the_vectors_of_own_rows(letters: Project, user: str, keys: set[int]) -> None:
    read = call(letters, user, "GET", "letter_vectors?select=key_1,embedding")
    assert read.status_code == 200, read.text
    assert {row["key_1"] for row in read.json()} == keys
    assert len(json.loads(read.json()[0]["embedding"])) == 8


@pytest.mark.parametrize("mode", ["semantic", "keyword", "hybrid"])
@pytest.mark.parametrize(("user", "rest"), [(ADA, 1), (BOB, 0)])
def test_user_finds_own_rows(letters: Project, user: str, rest: int, mode: str) -> None:
    [(collection,)] = letters.execute("select id from backline.collections where name = 'letters'")
    body = {
        "p_collection": collection, "p_mode": mode, "p_text": "letter topic",
        "p_vector": [0.35] * 8, "p_limit": 50, "p_offset": 0, "p_filter": None, "p_weight": 0.5,
        "p_snippets": True, "p_passages": 3,
    }  # fmt: skip
    found = call(letters, user, "POST", "rpc/backline_search", body)
    assert found.status_code == 200, found.text
    keys = [int(hit["key"]) for hit in found.json()]
    assert len(keys) == 6 and {key % 2 for key in keys} == {rest}, found.text


def test_nobody_else_sees_a_vector_or_writes_one(letters: Project) -> None:
    before = letters.execute("select count(*), min(embedding::text) from letter_vectors")
    for table in tables(letters):
        for user in (None, str(UUID(int=3))):
            read = call(letters, user, "GET", f"{table}?select=key_1")
            assert read.status_code in (401, 403) or read.json() == [], (table, read.text)
        for user in (None, ADA):
            changed = call(letters, user, "PATCH", f"{table}?key_1=gt.0", {"key_1": 99})
            assert changed.status_code in (204, 401, 403, 404), changed.text  # 404: no such row
            assert call(letters, user, "DELETE", f"{table}?key_1=gt.0").status_code in (
                204, 401, 403,
            )  # fmt: skip
    assert letters.execute("select count(*), min(embedding::text) from letter_vectors") == before


def test_partitions_show_no_rows_of_others(letters: Project) -> None:
    for table in tables(letters)[1:]:
        read = call(letters, ADA, "GET", f"{table}?select=key_1")
        assert read.status_code in (401, 403) or read.json() == [], (table, read.text)
