"""The stand-in stack answers as the platform does, and leaves nothing behind."""

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

from tests.supabase.stack import PATIENCE_S, ROOT, Function, Project

ENTRY = "/rest/v1/music_knowledge?limit=1"


@pytest.fixture
def api(reading_project: Project) -> Iterator[httpx.Client]:
    reading_project.gateway.reset()
    with httpx.Client(
        base_url=reading_project.api_url, trust_env=False, timeout=PATIENCE_S
    ) as client:
        yield client
    reading_project.gateway.reset()


def test_each_kind_of_key_is_a_role(project: Project) -> None:
    project.execute(
        "create function public.who() returns text language sql stable "
        "set search_path = '' as 'select current_user::text'"
    )
    project.execute("grant execute on function public.who to anon, authenticated, service_role")
    project.wait_for_schema()
    keys = project.keys
    callers = {
        "publishable": {"apikey": keys.publishable},
        "secret": {"apikey": keys.secret},
        "anon": {"apikey": keys.anon_jwt},
        "service": {"apikey": keys.service_jwt},
        "user": {"apikey": keys.publishable, "authorization": f"Bearer {keys.user_jwt()}"},
    }
    who = f"{project.api_url}/rest/v1/rpc/who"
    seen = {
        name: httpx.get(who, headers=headers, timeout=PATIENCE_S).json()
        for name, headers in callers.items()
    }
    assert seen == {
        "publishable": "anon",
        "secret": "service_role",
        "anon": "anon",
        "service": "service_role",
        "user": "authenticated",
    }


def test_a_page_has_a_thousand_rows_at_most(project: Project) -> None:
    project.execute("create table public.many (id int primary key)")
    project.execute("insert into many select generate_series(1, 1500)")
    project.execute("grant select on many to service_role")
    project.wait_for_schema()
    many = f"{project.api_url}/rest/v1/many?limit=1400"
    answer = httpx.get(many, headers=project.service, timeout=PATIENCE_S)
    assert len(answer.json()) == 1000


def test_faults_come_as_they_are_ordered(api: httpx.Client, reading_project: Project) -> None:
    gateway, anon = reading_project.gateway, reading_project.anon
    gateway.fail_next(429, times=2, headers={"retry-after": "7"}, body={"message": "slow down"})
    gateway.fail_next(503, path="/functions/")
    answers = [api.get(ENTRY, headers=anon) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "7"
    gateway.cut_next()
    with pytest.raises(httpx.RemoteProtocolError):
        api.get(ENTRY, headers=anon)
    gateway.paused = True
    assert api.get(ENTRY, headers=anon).status_code == 540
    assert [seen.status for seen in gateway.seen] == [429, 429, 200, None, 540]


def test_an_answer_can_be_lost_after_the_work_was_done(project: Project) -> None:
    project.gateway.cut_next(after=True)
    entry = {"topic": "t", "category": "c", "suggestion": "s"}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(
            f"{project.api_url}/rest/v1/music_knowledge", headers=project.service, json=entry,
            timeout=PATIENCE_S,
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


def test_functions_are_reached_by_name(api: httpx.Client, reading_project: Project) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    functions = reading_project.gateway.functions
    functions["open"] = Function(server.server_port)
    functions["guarded"] = Function(server.server_port, verify_jwt=True)
    try:
        answer = api.post("/functions/v1/open/sub?x=1", content=b"hello")
        assert (answer.status_code, answer.text) == (202, "/open/sub?x=1 hello")
        assert api.post("/functions/v1/guarded", content=b"x").status_code == 401
        for token, status in (
            (reading_project.keys.anon_jwt, 202),
            (reading_project.keys.secret, 401),  # an opaque key is no JWT
        ):
            headers = {"authorization": f"Bearer {token}"}
            answer = api.post("/functions/v1/guarded", headers=headers, content=b"x")
            assert answer.status_code == status
        assert api.post("/functions/v1/none", content=b"x").status_code == 404
    finally:
        functions.clear()
        server.shutdown()
        server.server_close()


HELD = """
import sys, time
from tests.supabase.stack import stack_running
with stack_running() as stack, stack.project("bare") as project:
    project.gateway
    print(stack.folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
def test_a_killed_test_run_leaves_no_server() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        folder = process.stdout.readline().strip()
        children = psutil.Process(process.pid).children(recursive=True)
        assert {"postgres", "postgrest"} <= {child.name() for child in children}
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    shutil.rmtree(folder)  # files are all that a kill can leave
    assert alive == []
