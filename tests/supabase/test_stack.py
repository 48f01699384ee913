"""The stand-in stack itself answers as the platform does."""

from __future__ import annotations

import httpx

from tests.supabase.stack import Project


def test_each_kind_of_key_is_a_role(project: Project) -> None:
    keys = project.keys
    seen = {}
    project.execute(
        "create function public.who() returns text language sql stable "
        "set search_path = '' as 'select current_user::text'"
    )
    project.execute("grant execute on function public.who to anon, authenticated, service_role")
    project.wait_for_schema()
    for name, headers in {
        "publishable": {"apikey": keys.publishable},
        "secret": {"apikey": keys.secret},
        "anon jwt": {"apikey": keys.anon_jwt},
        "service jwt": {"apikey": keys.service_jwt},
        "user": {"apikey": keys.publishable, "authorization": f"Bearer {keys.user_jwt()}"},
    }.items():
        answer = httpx.get(f"{project.api_url}/rest/v1/rpc/who", headers=headers)
        seen[name] = answer.json()
    assert seen == {
        "publishable": "anon",
        "secret": "service_role",
        "anon jwt": "anon",
        "service jwt": "service_role",
        "user": "authenticated",
    }
