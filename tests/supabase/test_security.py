"""Privileges: anon and authenticated read, service_role writes, and the API hides `backline`.

The matrix sends requests through PostgREST with both kinds of key. Further tests read the catalog,
so that a new table or function fails here until its privileges are decided.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.supabase.inline import InlineCli as Cli
from tests.supabase.keys import Keys
from tests.supabase.processes import ROOT
from tests.supabase.stack import Project, Stack

# --- callers and requests -------------------------------------------------------------------------

Headers = Callable[[Keys], dict[str, str]]
READERS: dict[str, Headers] = {
    "publishable key": lambda keys: {"apikey": keys.publishable},
    "anon JWT": lambda keys: {"apikey": keys.anon_jwt},
    "anon JWT as bearer": lambda keys: {
        "apikey": keys.anon_jwt, "authorization": f"Bearer {keys.anon_jwt}",
    },
    "signed-in user": lambda keys: {
        "apikey": keys.publishable, "authorization": f"Bearer {keys.user_jwt()}",
    },
    "signed-in user, legacy key": lambda keys: {
        "apikey": keys.anon_jwt, "authorization": f"Bearer {keys.user_jwt()}",
    },
}  # fmt: skip
WRITERS: dict[str, Headers] = {
    "secret key": lambda keys: {"apikey": keys.secret},
    "service JWT": lambda keys: {"apikey": keys.service_jwt},
    "service JWT as bearer": lambda keys: {
        "apikey": keys.service_jwt, "authorization": f"Bearer {keys.service_jwt}",
    },
}  # fmt: skip
INVALID: dict[str, Headers] = {
    "no key": lambda keys: {},
    "a key of another project": lambda keys: {"apikey": Keys().publishable},
    "a secret key of another project": lambda keys: {"apikey": Keys().secret},
    "a JWT of another project": lambda keys: {"apikey": Keys().service_jwt},
    "an expired JWT": lambda keys: {"apikey": keys.jwt("service_role", -60)},
    "an expired JWT of a user": lambda keys: {
        "apikey": keys.publishable, "authorization": f"Bearer {keys.jwt('authenticated', -60)}",
    },
    "an unsigned JWT": lambda keys: {
        "apikey": keys.publishable,
        "authorization": "Bearer eyJhbGciOiJub25lIn0.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.",
    },
    "the role of the database's owner": lambda keys: {"apikey": keys.jwt("postgres", 60)},
    "the role of the superuser": lambda keys: {"apikey": keys.jwt("supabase_admin", 60)},
    "a secret key in a browser": lambda keys: {
        "apikey": keys.secret, "user-agent": "Mozilla/5.0 (X11; Linux x86_64)",
    },
}  # fmt: skip

ENTRY = {"topic": "t", "category": "c", "title": "t", "suggestion": "Planted.", "confidence": 1}
SOME = "id=not.is.null"
WRITES: dict[str, tuple[str, str, Any]] = {
    "INSERT": ("POST", "music_knowledge", ENTRY),
    "INSERT many": ("POST", "music_knowledge", [ENTRY, ENTRY]),
    "UPSERT": ("POST", "music_knowledge?on_conflict=id", ENTRY | {"id": str(UUID(int=1))}),
    "UPDATE": ("PATCH", f"music_knowledge?{SOME}", {"suggestion": "Planted."}),
    "UPDATE of a vector": ("PATCH", f"music_knowledge?{SOME}", {"embedding": None}),
    "UPDATE without a filter": ("PATCH", "music_knowledge", {"suggestion": "Planted."}),
    "DELETE": ("DELETE", f"music_knowledge?{SOME}", None),
    "DELETE without a filter": ("DELETE", "music_knowledge", None),
}  # fmt: skip

READ_FUNCTIONS = {
    "backline_collections",
    "backline_query_text",
    "backline_search",
    "get_music_suggestions",
    "hybrid_search_music_knowledge",
    "match_music_knowledge",
    "search_music_knowledge",
}
"""The functions that the public key may call; only service_role may call the others."""


@pytest.fixture(scope="module", params=["new project", "project with the old default grants"])
def target(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Project]:
    """A seeded project; until 2026 projects granted new objects to all three roles."""
    if request.param == "new project":
        with stack.project("seeded") as made:
            yield made
        return
    with stack.project("bare") as made:
        made.execute(
            "alter default privileges for role postgres grant execute on functions to public"
        )
        for kind in ("tables", "functions", "sequences"):
            made.execute(
                f"alter default privileges for role postgres in schema public "
                f"grant all on {kind} to anon, authenticated, service_role"
            )
        Cli(stack.folder, {"DATABASE_URL": made.url})("migrate", "--music")
        made.execute((ROOT / "supabase" / "seed.sql").read_bytes())
        yield made


@pytest.fixture(scope="module")
def api(target: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{target.api_url}/rest/v1/", trust_env=False, timeout=60) as client:
        yield client


def fingerprint(project: Project) -> Any:
    """Return a hash of the table, and the row counts of `backline`."""
    return project.execute(
        "select (select md5(string_agg(k::text, '' order by k.id)) from public.music_knowledge k), "
        "(select count(*) from backline.jobs), (select count(*) from backline.collections), "
        "(select count(*) from backline.runs), (select count(*) from backline.stamps)"
    )


def functions_of(project: Project) -> dict[str, list[str]]:
    """Return our functions in `public` with the names of their arguments."""
    return dict(
        project.execute(
            "select p.proname, coalesce(p.proargnames[1:p.pronargs], '{}') from pg_proc p "
            "where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' "
            f"and {OWN_FUNCTION}"
        )
    )


# --- the matrix -----------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", READERS)
def test_reader_may_select_and_search(api: httpx.Client, target: Project, caller: str) -> None:
    headers = READERS[caller](target.keys)
    response = api.get("music_knowledge?select=id,title&limit=5", headers=headers)
    assert response.status_code == 200 and len(response.json()) == 5, response.text
    search = api.post(
        "rpc/search_music_knowledge", headers=headers, json={"p_search_term": "muddy vocals"}
    )
    assert search.status_code == 200 and search.json(), search.text
    advice = api.post(
        "rpc/get_music_suggestions", headers=headers, json={"p_prompt": "my vocals sound muddy"}
    )
    assert advice.status_code == 200 and advice.json(), advice.text


@pytest.mark.parametrize("caller", READERS)
@pytest.mark.parametrize("request_name", WRITES)
def test_reader_may_not_write(
    api: httpx.Client, target: Project, caller: str, request_name: str
) -> None:
    before = fingerprint(target)
    method, path, body = WRITES[request_name]
    headers = READERS[caller](target.keys)
    if request_name == "UPSERT":
        headers = headers | {"prefer": "resolution=merge-duplicates"}
    response = api.request(method, path, headers=headers, json=body)
    code = "21000" if "without" in request_name else "42501"
    assert response.status_code in (400, 401, 403) and response.json()["code"] == code, (
        response.text
    )
    assert fingerprint(target) == before


@pytest.mark.parametrize("caller", READERS)
def test_reader_may_not_call_a_function_that_writes(
    api: httpx.Client, target: Project, caller: str
) -> None:
    before = fingerprint(target)
    guarded = {n: args for n, args in functions_of(target).items() if n not in READ_FUNCTIONS}
    for name, arguments in guarded.items():
        response = api.post(
            f"rpc/{name}", headers=READERS[caller](target.keys), json=dict.fromkeys(arguments)
        )
        # 404: PostgREST hides a function from a role that may not execute it.
        assert response.status_code in (401, 403, 404), (name, response.status_code, response.text)
        assert response.json()["code"] in ("42501", "PGRST202"), (name, response.text)
    assert fingerprint(target) == before


@pytest.mark.parametrize("caller", [*READERS, *WRITERS])
@pytest.mark.parametrize(
    "table", ["jobs", "batch_leases", "collections", "stamps", "vectors", "failures"]
)
def test_schema_backline_is_not_served_by_the_api(
    api: httpx.Client, target: Project, caller: str, table: str
) -> None:
    headers = (READERS | WRITERS)[caller](target.keys)
    for profile in ({"accept-profile": "backline"}, {"content-profile": "backline"}, {}):
        for method in ("GET", "POST", "DELETE"):
            response = api.request(
                method, f"{table}?id=eq.1", headers=headers | profile, json={"collection_id": 1}
            )
            assert response.status_code in (404, 406), (method, profile, response.text)


@pytest.mark.parametrize("caller", WRITERS)
def test_secret_key_may_write(api: httpx.Client, target: Project, caller: str) -> None:
    headers = WRITERS[caller](target.keys)
    made = api.post(
        "music_knowledge", headers=headers | {"prefer": "return=representation"}, json=ENTRY
    )
    assert made.status_code == 201, made.text
    one = f"music_knowledge?id=eq.{made.json()[0]['id']}"
    changed = api.patch(
        one, headers=headers | {"prefer": "return=representation"}, json={"title": "changed"}
    )
    assert changed.status_code == 200 and changed.json()[0]["title"] == "changed", changed.text
    assert api.delete(one, headers=headers).status_code == 204
    assert api.get(one, headers=headers).json() == []


@pytest.mark.parametrize("caller", INVALID)
def test_invalid_key_may_neither_read_nor_write(
    api: httpx.Client, target: Project, caller: str
) -> None:
    before = fingerprint(target)
    headers = INVALID[caller](target.keys)
    for method, path, body in [("GET", "music_knowledge?limit=1", None), *WRITES.values()]:
        response = api.request(method, path, headers=headers, json=body)
        assert response.status_code in (400, 401, 403), response.text
        if response.status_code == 400:
            assert response.json()["code"] == "21000", response.text
        assert "Planted" not in response.text
    assert fingerprint(target) == before


def test_search_returns_only_rows_that_the_role_may_read(
    target: Project, api: httpx.Client
) -> None:
    target.execute(LETTERS)
    try:
        Cli(target.stack.folder, {"DATABASE_URL": target.url})("backfill", "letters")
        target.execute("select backline.allow_search('anon'::regrole)")
        target.wait_for_schema()
        [(collection,)] = target.execute("select id from backline.collections where name='letters'")
        matches = {}
        for name, headers in {"anon": target.anon, "service": target.service}.items():
            arguments = {"p_collection": collection, "p_mode": "keyword", "p_text": "letter"}
            optional = dict.fromkeys(functions_of(target)["backline_search"])
            arguments |= {"p_limit": 10, "p_offset": 0, "p_snippets": False}
            response = api.post("rpc/backline_search", headers=headers, json=optional | arguments)
            assert response.status_code == 200, response.text
            matches[name] = "private" in response.text, "public" in response.text
        assert matches == {"anon": (False, True), "service": (True, True)}
    finally:
        target.execute("select backline.drop_collection(id, true) from backline.collections "
                       "where name = 'letters'")  # fmt: skip
        target.execute("drop table public.letters")


LETTERS = """
create table public.letters (id int primary key, body text, open boolean not null);
insert into public.letters values (1, 'a public letter', true), (2, 'a private letter', false);
alter table public.letters enable row level security;
create policy "open letters" on public.letters for select to anon, authenticated using (open);
grant select on public.letters to anon;
grant all on public.letters to service_role;
select backline.add_collection('letters', 'public.letters', null, '{body}', 'embedding',
                               'hash', 'hash', 'v1', 8);
"""

# --- the catalog ----------------------------------------------------------------------------------

OURS = "('public', 'backline')"
OWN_FUNCTION = "not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"


def test_every_function_has_a_safe_search_path(target: Project) -> None:
    open_paths = target.execute(
        f"select p.oid::regprocedure::text, p.proconfig from pg_proc p "
        f"where p.pronamespace::regnamespace::text in {OURS} "
        f"and {OWN_FUNCTION} "
        "and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)"
    )
    assert open_paths == []


def test_public_has_no_privilege(target: Project) -> None:
    granted = target.execute(
        f"""
        select p.oid::regprocedure::text, a.privilege_type from pg_proc p,
          aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where a.grantee = 0 and p.pronamespace::regnamespace::text in {OURS}
          and {OWN_FUNCTION}
        union all
        select c.oid::regclass::text, a.privilege_type from pg_class c,
          aclexplode(c.relacl) a
        where a.grantee = 0 and c.relnamespace::regnamespace::text in {OURS}
        union all
        select n.nspname, a.privilege_type from pg_namespace n, aclexplode(n.nspacl) a
        where a.grantee = 0 and n.nspname in {OURS}
          and not (n.nspname = 'public' and a.privilege_type = 'USAGE')
        """
    )
    assert granted == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_reader_has_exactly_these_privileges(target: Project, role: str) -> None:
    functions = target.execute(
        "select p.proname from pg_proc p where p.pronamespace = 'public'::regnamespace "
        f"and {OWN_FUNCTION} and has_function_privilege('{role}', p.oid, 'execute')"
    )
    assert {name for (name,) in functions} == READ_FUNCTIONS
    tables = target.execute(
        f"""
        select c.oid::regclass::text, p.privilege from pg_class c,
          unnest('{{select,insert,update,delete,truncate,trigger}}'::text[]) p (privilege)
        where c.relkind in ('r', 'v', 'm', 'p') and c.relnamespace::regnamespace::text in {OURS}
          and has_table_privilege('{role}', c.oid, p.privilege)
        """
    )
    assert tables == [("music_knowledge", "select")]
    assert target.execute(
        f"select bool_or(has_schema_privilege('{role}', s, 'create')) "
        "from unnest(array['public', 'backline']) s"
    ) == [(False,)]


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_readers_may_only_execute_stable_functions(target: Project, role: str) -> None:
    """Postgres refuses a write in a stable function."""
    volatile = target.execute(
        "select p.oid::regprocedure::text from pg_proc p "
        f"where p.pronamespace::regnamespace::text in {OURS} and p.provolatile = 'v' "
        f"and {OWN_FUNCTION} and has_function_privilege('{role}', p.oid, 'execute')"
    )
    assert volatile == []


def test_every_table_has_row_level_security(target: Project) -> None:
    unguarded = target.execute(
        f"select c.oid::regclass::text from pg_class c where c.relkind in ('r', 'p') "
        f"and c.relnamespace::regnamespace::text in {OURS} and not c.relrowsecurity"
    )
    assert unguarded == []


def test_every_private_table_has_a_policy_for_service_role(target: Project) -> None:
    """Members of the role, and the role outside Supabase, do not bypass row level security."""
    without_policy = target.execute(
        "select c.oid::regclass::text from pg_class c where c.relkind = 'r' "
        "and c.relnamespace = 'backline'::regnamespace and not exists (select from pg_policy p "
        "where p.polrelid = c.oid and p.polroles = array['service_role'::regrole::oid])"
    )
    assert without_policy == []


def test_no_policy_applies_to_public(target: Project) -> None:
    for_public = target.execute(
        f"select tablename, policyname from pg_policies where schemaname in {OURS} "
        "and roles = '{public}'"
    )
    assert for_public == []


def test_new_collection_grants_no_privilege(target: Project) -> None:
    """A new collection creates functions and triggers, and grants nothing to public or anon."""
    target.execute(DECLARED)
    try:
        test_public_has_no_privilege(target)
        test_every_function_has_a_safe_search_path(target)
        test_reader_has_exactly_these_privileges(target, "anon")
    finally:
        target.execute("select backline.drop_collection(id, true) from backline.collections "
                       "where name = 'own'")  # fmt: skip
        target.execute("drop table public.own")


DECLARED = """
create table public.own (id int primary key, body text);
alter table public.own enable row level security;
revoke all on public.own from anon, authenticated;
insert into public.own values (1, 'text');
select backline.add_collection('own', 'public.own', null, '{body}', 'embedding',
                               'hash', 'hash', 'v1', 8);
"""


def test_no_key_is_in_the_folder_supabase() -> None:
    key = re.compile(r"sb_secret_[\w-]{20,}|eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}")
    files = [
        file
        for file in (ROOT / "supabase").rglob("*")
        if file.is_file()
        and not {".temp", "node_modules"} & set(file.parts)
        and key.search(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert files == []
    assert key.search(Keys().secret) and key.search(Keys().service_jwt)
