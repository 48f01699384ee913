"""Every command through a real PgBouncer in transaction mode, as on port 6543 of Supabase.

Three server connections serve all clients, so that two statements of a client rarely use the same
one. A prepared statement, a setting or a lock of the session would be lost or reach other clients.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backline.postgres.connector import Connector
from tests.provider import StandInProvider
from tests.supabase.inline import InlineCli as Cli
from tests.supabase.processes import require
from tests.supabase.stack import Project

pytestmark = pytest.mark.usefixtures("pgbouncer")


@pytest.fixture
def pgbouncer() -> None:
    require("pgbouncer")


@pytest.fixture
def pooled(tmp_path: Path, project: Project) -> Iterator[Cli]:
    """The command line over a transaction pooler; no session state may remain at the end."""
    yield Cli(tmp_path, {"DATABASE_URL": project.pooler_url})
    assert session_state(project) == []


@pytest.fixture
def tickets(pooled: Cli, project: Project, provider: StandInProvider) -> StandInProvider:
    """A collection of 300 rows, embedded by the stand-in provider."""
    make_tickets(pooled, project, provider)
    return provider


def make_tickets(backline: Cli, project: Project, provider: StandInProvider) -> None:
    project.execute("create table tickets (id int primary key, title text, body text)")
    project.execute(
        "insert into tickets select i, 'ticket ' || i, 'body of ' || i "
        "from generate_series(1, 300) i"
    )
    backline.environment |= {
        "OPENAI_API_KEY": provider.api_key, "OPENAI_BASE_URL": provider.base_url,
    }  # fmt: skip
    backline("add", "tickets", "--text", "{title} {body}", "--model", MODEL)


MODEL = "openai/text-embedding-3-small@8"


def session_state(project: Project) -> list[Any]:
    """Return the locks, changed settings and prepared statements of the pooler's sessions."""
    locks = project.execute(
        "select 'lock', l.locktype, l.objid::text from pg_locks l "
        "where l.locktype = 'advisory' and l.database = (select oid from pg_database "
        "where datname = current_database())"
    )
    state = []
    with ExitStack() as open_connections:
        # Each holds a transaction, so that together they occupy every server connection.
        for _ in range(3):
            pooler = psycopg.connect(project.pooler_url, prepare_threshold=None)
            open_connections.enter_context(pooler)
            state += pooler.execute(_CHANGED_SETTINGS).fetchall()
            state += pooler.execute("select name, statement from pg_prepared_statements").fetchall()
    return locks + state


# PgBouncer itself sets the excluded ones for each client.
_CHANGED_SETTINGS = (
    "select name, setting from pg_settings where source = 'session' and name not in "
    "('application_name', 'client_encoding', 'DateStyle', 'TimeZone')"
)


def wait_until(condition: Callable[[], bool], what: str, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        time.sleep(0.05)


def embedded(project: Project) -> int:
    [(count,)] = project.execute("select count(embedding) from tickets")
    return int(count)


async def keeps_sessions(url: str) -> bool:
    connector = Connector(url)
    await connector.open()
    has_sessions = connector.has_sessions
    await connector.aclose()
    return has_sessions


async def test_session_state_is_detected_independently_of_the_port(project: Project) -> None:
    assert await keeps_sessions(project.url)
    assert await keeps_sessions(project.session_pooler_url)
    assert not await keeps_sessions(project.pooler_url)


async def test_rotating_pooler_is_detected_as_keeping_no_session_state(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two connections of the probe use different servers here, as with a session pooler."""
    monkeypatch.setattr("backline.postgres.connector.NOTIFY_SECONDS", 1)
    url = project.stack.url(project.name, port=project.stack.rotating_pooler_port)
    with ExitStack() as open_connections:
        # Each begins a transaction, so that the pooler opens three server connections.
        held = [psycopg.connect(url, prepare_threshold=None) for _ in range(3)]
        for connection in held:
            open_connections.enter_context(connection)
            connection.execute("select 1")
        for connection in held:
            connection.rollback()
        assert not await keeps_sessions(url)


def test_killed_worker_behind_a_session_pooler_is_detected_by_its_lock(
    project: Project, tmp_path: Path, provider: StandInProvider
) -> None:
    """The lease is still valid for an hour, but the session of the killed worker holds no lock."""
    backline = Cli(tmp_path, {"DATABASE_URL": project.session_pooler_url})
    make_tickets(backline, project, provider)
    backline.environment["BACKLINE_LEASE_SECONDS"] = "3600"
    with provider.held():
        process = backline.start("backfill", "tickets", "--workers", "1")
        provider.wait_in_flight()
        process.kill()
        process.communicate(timeout=60)
    [(sessions,)] = project.execute("select count(*) from backline.workers where has_session")
    assert sessions == 1
    assert backline("backfill", "tickets", "--json").json["complete"]


def test_every_command_works_through_the_pooler(pooled: Cli, bare_project: Project) -> None:
    pooled.environment["DATABASE_URL"] = bare_project.pooler_url
    assert len(pooled("migrate", "--json").json["applied"]) >= 5
    assert pooled("migrate", "--json").json["applied"] == []
    with (pooled.folder / "notes.jsonl").open("w") as file:
        rows = ({"id": i, "title": f"note {i}", "body": f"text {i}"} for i in range(1, 1501))
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert pooled("load", "notes.jsonl", "--table", "notes", "--json").json["inserted"] == 1500
    pooled("add", "notes", "--text", "{title} {body}", "--model", "hash@8")
    assert pooled("backfill", "notes", "--dry-run", "--json").json["due"] == 1500
    assert pooled("backfill", "notes", "--workers", "2", "--json").json["embedded"] == 1500
    assert pooled("status", "notes", "--json").json["collections"][0]["embedded"] == 1500
    assert pooled("verify", "notes", "--json").json["passed"]
    bare_project.execute("alter table notes disable trigger all")
    bare_project.execute("update notes set body = 'changed unseen' where id <= 10")
    bare_project.execute("alter table notes enable trigger all")
    assert pooled("reconcile", "notes", "--json", code=None).json
    assert pooled("backfill", "notes", "--json").json["embedded"] == 10
    assert pooled("index", "notes", "--rebuild", "--json").json
    for mode in ("hybrid", "semantic", "keyword"):
        result = pooled("search", "note 77", "-c", "notes", "--mode", mode, "--json").json
        assert result["hits"], mode
    run, _ = pooled("runs", "list", "--json").json["runs"]
    assert run["state"] == "completed"
    pooled("runs", "cancel", str(run["id"]), code=None)
    assert pooled("failures", "list", "notes", "--json").json["failures"] == []
    assert pooled("model", "use", "notes", "hash@8", "--json").json
    assert pooled("drop", "notes", "--column", "--json").json
    assert session_state(bare_project) == []


def test_other_date_style_of_the_database_is_handled(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    project.execute(f"alter database {project.name} set datestyle to 'SQL, DMY'")
    project.execute(END_SERVER_CONNECTIONS)
    tickets.behave(reject_marker="body of 77")
    assert pooled("backfill", "tickets", "--json", code=1).json["embedded"] == 299
    assert pooled("runs", "list", "--json").json["runs"]
    assert pooled("failures", "list", "tickets", "--json").json["failures"]
    pooled("index", "tickets", "--rebuild")


def test_demo_works_through_the_pooler(pooled: Cli) -> None:
    done = pooled("demo", "--json").json
    assert done["complete"] is True
    assert done["backfill"]["embedded"] == done["verified"]["rows"] == 292
    advice = pooled("suggest", "my vocals sound muddy", "--context", "mixing", "--json").json
    assert advice["suggestions"]


def test_eval_works_through_the_pooler(pooled: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = ["the kick is boomy", "the vocal is harsh", "the mix is quiet"]
    (folder / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"d{i}", "title": "", "text": t}) + "\n" for i, t in enumerate(texts)
        )
    )
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q0", "text": "harsh vocal"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\n")
    result = pooled("eval", str(folder), "--mode", "keyword", "--model", "hash@8", "--json").json
    assert result["results"][0]["ndcg@10"] == 1.0, result


def test_two_processes_share_a_backfill_without_paying_twice(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    tickets.behave(delay_s=0.05)
    both = [
        pooled.start("backfill", "tickets", "--workers", "2", "--batch-size", "10", "--json")
        for _ in range(2)
    ]
    reports = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0], reports
    assert embedded(project) == 300
    assert all(report["complete"] for report in reports)
    assert set(tickets.texts_embedded.values()) == {1}, "a text was paid for twice"
    assert pooled("verify", "tickets", "--json").json["passed"]


def test_dead_letters_are_listed_and_retried(pooled: Cli, tickets: StandInProvider) -> None:
    tickets.behave(reject_marker="body of 77")
    assert pooled("backfill", "tickets", "--json", code=1).json["embedded"] == 299
    assert len(pooled("failures", "list", "tickets", "--json").json["failures"]) == 1
    tickets.behave(reject_marker=None)
    assert pooled("failures", "retry", "tickets", "--json").json["requeued"] == 1
    assert pooled("backfill", "tickets", "--json").json["complete"]
    assert pooled("failures", "drop", "tickets", "--json").json["dropped"] == 0


def test_cancelled_run_stops_and_the_next_run_completes(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    tickets.behave(delay_s=0.2)
    process = pooled.start("backfill", "tickets", "--batch-size", "10", "--workers", "1", "--json")
    wait_until(lambda: embedded(project) >= 20, "20 rows")
    [(run,)] = project.execute("select max(id) from backline.runs")
    with tickets.held():  # without this the run could complete before it is cancelled
        pooled("runs", "cancel", str(run))
        report = json.loads(process.communicate(timeout=60)[0])
    assert report["state"] == "cancelled"
    assert 20 <= embedded(project) < 300
    tickets.behave(delay_s=0)
    assert pooled("backfill", "tickets", "--json").json["complete"]


def test_sync_embeds_live_edits_by_polling(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    pooled("backfill", "tickets")
    process = pooled.start("sync", "tickets")
    try:
        project.execute("update tickets set body = 'edited' where id = 5")
        project.execute("insert into tickets values (301, 'new', 'row')")
        wait_until(
            lambda: tickets.texts_embedded["ticket 5 edited"] == 1, "the edit to be embedded"
        )
        wait_until(lambda: embedded(project) == 301, "the new row to be embedded")
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert pooled("verify", "tickets", "--json").json["passed"]


def test_rows_of_a_killed_worker_are_claimed_after_its_lease_expires(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    with tickets.held():
        process = pooled.start("backfill", "tickets", "--workers", "1", "--batch-size", "50")
        tickets.wait_in_flight()
        process.kill()
        process.communicate(timeout=60)
    [(held, sessions)] = project.execute(
        "select count(*), count(*) filter (where w.has_session) from backline.workers w "
        "join (select worker_id from backline.jobs "
        "union all select p.worker_id from backline.batch_leases p cross join unnest(p.keys)) j "
        "on j.worker_id = w.id"
    )
    assert held >= 50 and sessions == 0, "the killed worker must hold rows by its lease only"
    project.execute("update backline.workers set expires_at = now() + interval '2 seconds'")
    report = pooled("backfill", "tickets", "--json").json
    assert report["complete"] and embedded(project) == 300
    assert project.execute("select count(*) from backline.workers") == [(0,)]


def test_index_build_beyond_the_statement_timeout_names_the_direct_port(
    pooled: Cli, project: Project
) -> None:
    project.execute("create table big (id int primary key, body text)")
    project.execute("insert into big select i, 'row ' || i from generate_series(1, 10000) i")
    pooled("add", "big", "--text", "{body}", "--model", "hash@64")
    report = pooled("backfill", "big", "--json")
    assert report.json["complete"]
    pooled("index", "big", "--rebuild")  # within the two minutes that the role has by default
    [(valid,)] = project.execute(INDEX_IS_VALID)
    assert valid
    project.execute(
        f"alter role postgres in database {project.name} set statement_timeout = '300ms'"
    )
    project.execute(END_SERVER_CONNECTIONS)
    outcome = pooled("index", "big", "--rebuild", "--json", code=None)
    assert outcome.code != 0
    print(outcome.json)
    assert "port 5432" in outcome.json["error"]["message"], outcome.err
    assert pooled("search", "row 77", "-c", "big", "--json").json["hits"]


INDEX_IS_VALID = (
    "select bool_and(x.indisvalid) from pg_index x join pg_class i on i.oid = x.indexrelid "
    "join pg_am m on m.oid = i.relam where x.indrelid = 'big'::regclass and m.amname = 'hnsw'"
)
END_SERVER_CONNECTIONS = (
    "select pg_terminate_backend(pid) from pg_stat_activity "
    "where datname = current_database() and pid <> pg_backend_pid() "
    "and backend_type = 'client backend'"
)
