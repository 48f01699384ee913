"""Every command through a real PgBouncer in transaction mode, as Supabase's port 6543 is one.

Three server connections serve all clients, so that two statements of one client rarely meet the
same one: a prepared statement, a session's setting or lock would be lost, or be somebody else's.
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
from tests.supabase.stack import Project, require

pytestmark = pytest.mark.usefixtures("pgbouncer")


@pytest.fixture
def pgbouncer() -> None:
    require("pgbouncer")


@pytest.fixture
def pooled(tmp_path: Path, project: Project) -> Iterator[Cli]:
    """The program over a project's transaction pooler; nothing of it may stay on a connection."""
    yield Cli(tmp_path, {"DATABASE_URL": project.pooler_url})
    assert left_behind(project) == []


@pytest.fixture
def tickets(pooled: Cli, project: Project, provider: StandInProvider) -> StandInProvider:
    """300 rows, declared for a model that costs money."""
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


def left_behind(project: Project) -> list[Any]:
    """What sessions of the pooler still have: locks, and settings that differ from a new one's."""
    locks = project.execute(
        "select 'lock', l.locktype, l.objid::text from pg_locks l "
        "where l.locktype = 'advisory' and l.database = (select oid from pg_database "
        "where datname = current_database())"
    )
    found = []
    with ExitStack() as open_connections:
        # Each is in a transaction, so that together they hold all that the pooler has.
        for _ in range(3):
            pooler = psycopg.connect(project.pooler_url, prepare_threshold=None)
            open_connections.enter_context(pooler)
            found += pooler.execute(_OTHERWISE_SET).fetchall()
            found += pooler.execute("select name, statement from pg_prepared_statements").fetchall()
    return locks + found


# But for what PgBouncer itself sets for each client.
_OTHERWISE_SET = (
    "select name, setting from pg_settings where source = 'session' and name not in "
    "('application_name', 'client_encoding', 'DateStyle', 'TimeZone')"
)


def until(condition: Callable[[], bool], what: str, within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        time.sleep(0.05)


def embedded(project: Project) -> int:
    [(count,)] = project.execute("select count(embedding) from tickets")
    return int(count)


async def has_sessions(url: str) -> bool:
    connector = Connector(url)
    await connector.open()
    found = connector.has_sessions
    await connector.aclose()
    return found


async def test_what_a_pooler_keeps_is_found_out_at_any_port(project: Project) -> None:
    assert await has_sessions(project.url)
    assert await has_sessions(project.session_pooler_url)
    assert not await has_sessions(project.pooler_url)


async def test_a_pooler_that_changes_the_server_at_every_turn_keeps_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two connections of the trial meet different servers here, as they do by session."""
    monkeypatch.setattr("backline.postgres.connector.NOTIFY_SECONDS", 1)
    url = project.stack.url(project.name, port=project.stack.rotating_pooler_port)
    with ExitStack() as open_connections:
        # Each in a transaction at first, so that there are three servers to take turns.
        held = [psycopg.connect(url, prepare_threshold=None) for _ in range(3)]
        for connection in held:
            open_connections.enter_context(connection)
            connection.execute("select 1")
        for connection in held:
            connection.rollback()
        assert not await has_sessions(url)


def test_through_a_session_pooler_a_dead_worker_is_known_by_its_lock(
    project: Project, tmp_path: Path, provider: StandInProvider
) -> None:
    """A lease that runs for ever is of no matter: the lock of a killed worker's session is gone."""
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


def test_the_whole_journey(pooled: Cli, bare_project: Project) -> None:
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
        found = pooled("search", "note 77", "-c", "notes", "--mode", mode, "--json").json
        assert found["hits"], mode
    run, _ = pooled("runs", "list", "--json").json["runs"]
    assert run["state"] == "completed"
    pooled("runs", "cancel", str(run["id"]), code=None)
    assert pooled("failures", "list", "notes", "--json").json["failures"] == []
    assert pooled("model", "use", "notes", "hash@8", "--json").json
    assert pooled("drop", "notes", "--column", "--json").json
    assert left_behind(bare_project) == []


def test_a_database_with_dates_of_another_style(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    project.execute(f"alter database {project.name} set datestyle to 'SQL, DMY'")
    project.execute(END_SERVER_CONNECTIONS)
    tickets.behave(reject_marker="body of 77")
    assert pooled("backfill", "tickets", "--json", code=1).json["embedded"] == 299
    assert pooled("runs", "list", "--json").json["runs"]
    assert pooled("failures", "list", "tickets", "--json").json["failures"]
    pooled("index", "tickets", "--rebuild")


def test_the_shipped_knowledge_base(pooled: Cli) -> None:
    done = pooled("demo", "--json").json
    assert done["complete"] is True
    assert done["backfill"]["embedded"] == done["verified"]["rows"] == 292
    advice = pooled("suggest", "my vocals sound muddy", "--context", "mixing", "--json").json
    assert advice["suggestions"]


def test_search_is_evaluated(pooled: Cli, tmp_path: Path) -> None:
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
    found = pooled("eval", str(folder), "--mode", "keyword", "--model", "hash@8", "--json").json
    assert found["results"][0]["ndcg@10"] == 1.0, found


def test_two_processes_share_the_work(
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


def test_dead_letters_are_listed_and_sent_again(pooled: Cli, tickets: StandInProvider) -> None:
    tickets.behave(reject_marker="body of 77")
    assert pooled("backfill", "tickets", "--json", code=1).json["embedded"] == 299
    assert len(pooled("failures", "list", "tickets", "--json").json["failures"]) == 1
    tickets.behave(reject_marker=None)
    assert pooled("failures", "retry", "tickets", "--json").json["requeued"] == 1
    assert pooled("backfill", "tickets", "--json").json["complete"]
    assert pooled("failures", "drop", "tickets", "--json").json["dropped"] == 0


def test_a_cancelled_run_stops_and_is_taken_up_again(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    tickets.behave(delay_s=0.2)
    process = pooled.start("backfill", "tickets", "--batch-size", "10", "--workers", "1", "--json")
    until(lambda: embedded(project) >= 20, "20 rows")
    [(run,)] = project.execute("select max(id) from backline.runs")
    with tickets.held():  # else it may be through before it is told
        pooled("runs", "cancel", str(run))
        report = json.loads(process.communicate(timeout=60)[0])
    assert report["state"] == "cancelled"
    assert 20 <= embedded(project) < 300
    tickets.behave(delay_s=0)
    assert pooled("backfill", "tickets", "--json").json["complete"]


def test_live_edits_are_followed_by_asking(
    pooled: Cli, project: Project, tickets: StandInProvider
) -> None:
    pooled("backfill", "tickets")
    process = pooled.start("sync", "tickets")
    try:
        project.execute("update tickets set body = 'edited' where id = 5")
        project.execute("insert into tickets values (301, 'new', 'row')")
        until(lambda: tickets.texts_embedded["ticket 5 edited"] == 1, "the edit to be embedded")
        until(lambda: embedded(project) == 301, "the new row to be embedded")
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert pooled("verify", "tickets", "--json").json["passed"]


def test_what_a_killed_worker_held_is_free_once_its_lease_ends(
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
    assert held >= 50 and sessions == 0, "the dead worker must hold rows, by its lease alone"
    project.execute("update backline.workers set expires_at = now() + interval '2 seconds'")
    report = pooled("backfill", "tickets", "--json").json
    assert report["complete"] and embedded(project) == 300
    assert project.execute("select count(*) from backline.workers") == [(0,)]


def test_an_index_build_that_may_not_take_so_long_says_where_it_may(
    pooled: Cli, project: Project
) -> None:
    project.execute("create table big (id int primary key, body text)")
    project.execute("insert into big select i, 'row ' || i from generate_series(1, 10000) i")
    pooled("add", "big", "--text", "{body}", "--model", "hash@64")
    report = pooled("backfill", "big", "--json")
    assert report.json["complete"]
    pooled("index", "big", "--rebuild")  # the role's own two minutes are plenty
    [(valid,)] = project.execute(INDEX_IS_VALID)
    assert valid
    project.execute(
        f"alter role postgres in database {project.name} set statement_timeout = '300ms'"
    )
    project.execute(END_SERVER_CONNECTIONS)
    ended = pooled("index", "big", "--rebuild", "--json", code=None)
    assert ended.code != 0
    print(ended.json)
    assert "port 5432" in ended.json["error"]["message"], ended.err
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
