"""The stand-in stack behaves as the platform does, and its processes end with the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import psutil
import pytest

from tests.supabase.gateway import Function
from tests.supabase.processes import RESPONSE_TIMEOUT_S, ROOT
from tests.supabase.stack import Project

ENTRY = "/rest/v1/music_knowledge?limit=1"


@pytest.fixture
def api(reading_project: Project) -> Iterator[httpx.Client]:
    reading_project.gateway.reset()
    with httpx.Client(
        base_url=reading_project.api_url, trust_env=False, timeout=RESPONSE_TIMEOUT_S
    ) as client:
        yield client
    reading_project.gateway.reset()


def test_each_kind_of_key_has_its_role(project: Project) -> None:
    project.execute(
        "create function public.role() returns text language sql stable "
        "set search_path = '' as 'select current_user::text'"
    )
    project.execute("grant execute on function public.role to anon, authenticated, service_role")
    project.wait_for_schema()
    keys = project.keys
    callers = {
        "publishable": {"apikey": keys.publishable},
        "secret": {"apikey": keys.secret},
        "anon": {"apikey": keys.anon_jwt},
        "service": {"apikey": keys.service_jwt},
        "user": {"apikey": keys.publishable, "authorization": f"Bearer {keys.user_jwt()}"},
    }
    url = f"{project.api_url}/rest/v1/rpc/role"
    roles = {
        name: httpx.get(url, headers=headers, timeout=RESPONSE_TIMEOUT_S).json()
        for name, headers in callers.items()
    }
    assert roles == {
        "publishable": "anon",
        "secret": "service_role",
        "anon": "anon",
        "service": "service_role",
        "user": "authenticated",
    }


def test_response_has_at_most_a_thousand_rows(project: Project) -> None:
    project.execute("create table public.many (id int primary key)")
    project.execute("insert into many select generate_series(1, 1500)")
    project.execute("grant select on many to service_role")
    project.wait_for_schema()
    many = f"{project.api_url}/rest/v1/many?limit=1400"
    response = httpx.get(many, headers=project.service, timeout=RESPONSE_TIMEOUT_S)
    assert len(response.json()) == 1000


def test_scripted_faults_occur_in_order(api: httpx.Client, reading_project: Project) -> None:
    gateway, anon = reading_project.gateway, reading_project.anon
    gateway.fail_next(429, times=2, headers={"retry-after": "7"}, body={"message": "slow down"})
    gateway.fail_next(503, path="/functions/")
    responses = [api.get(ENTRY, headers=anon) for _ in range(3)]
    assert [response.status_code for response in responses] == [429, 429, 200]
    assert responses[0].headers["retry-after"] == "7"
    gateway.cut_next()
    with pytest.raises(httpx.RemoteProtocolError):
        api.get(ENTRY, headers=anon)
    gateway.paused = True
    assert api.get(ENTRY, headers=anon).status_code == 540
    assert [seen.status for seen in gateway.seen] == [429, 429, 200, None, 540]


def test_response_can_be_lost_after_the_request_was_handled(project: Project) -> None:
    project.gateway.cut_next(after=True)
    entry = {"topic": "t", "category": "c", "suggestion": "s"}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(
            f"{project.api_url}/rest/v1/music_knowledge", headers=project.service, json=entry,
            timeout=RESPONSE_TIMEOUT_S,
        )  # fmt: skip
    assert project.execute("select count(*) from music_knowledge") == [(1,)]


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.path.encode() + b" " + self.rfile.read(int(self.headers["content-length"]))
        self.send_response(202)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_functions_are_called_by_name(api: httpx.Client, reading_project: Project) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    functions = reading_project.gateway.functions
    functions["open"] = Function(server.server_port)
    functions["guarded"] = Function(server.server_port, verify_jwt=True)
    try:
        response = api.post("/functions/v1/open/sub?x=1", content=b"hello")
        assert (response.status_code, response.text) == (202, "/open/sub?x=1 hello")
        assert api.post("/functions/v1/guarded", content=b"x").status_code == 401
        for token, status in (
            (reading_project.keys.anon_jwt, 202),
            (reading_project.keys.secret, 401),  # an opaque key is not a JWT
        ):
            headers = {"authorization": f"Bearer {token}"}
            response = api.post("/functions/v1/guarded", headers=headers, content=b"x")
            assert response.status_code == status
        assert api.post("/functions/v1/none", content=b"x").status_code == 404
    finally:
        functions.clear()
        server.shutdown()
        server.server_close()


STACK_PROCESS = """
import sys, time
from tests.supabase.stack import stack_running
with stack_running() as stack, stack.project("bare") as project:
    project.gateway
    print(stack.folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux signals a child when its parent exits"
)
def test_killed_test_process_leaves_no_server() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STACK_PROCESS], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        folder = process.stdout.readline().strip()
        children = psutil.Process(process.pid).children(recursive=True)
        assert {"postgres", "postgrest"} <= {child.name() for child in children}
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=RESPONSE_TIMEOUT_S)
    shutil.rmtree(folder)  # a killed process cannot remove its files
    assert alive == []
