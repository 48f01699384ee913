"""The database of the histories: its sessions, and the same state before each of them."""

from __future__ import annotations

from typing import Final

from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow

from backline.embedders.hash import HashEmbedder
from backline.postgres.store import Store
from tests.integration.harness import DIMENSIONS
from tests.simulation.administrator import Administrator
from tests.simulation.history import ADMINISTRATOR, HOSTS, WORKERS, History
from tests.simulation.host import Host, Names
from tests.simulation.lease import Shared
from tests.simulation.scheduler import OneConnection, Scheduler, connect
from tests.simulation.simulation import Simulation
from tests.simulation.worker import Worker

# Tables that a new collection fills. Truncating restores the order in which Postgres reads rows.
_EMPTY: Final = """
do $$ declare t record; begin
  perform backline.drop_collection(c.id, false) from backline.collections c;
  drop schema if exists app, other cascade;
  for t in select c.oid::regclass as name from pg_class c
           where c.relnamespace = 'backline'::regnamespace and c.relkind = 'r'
             and c.relname not in ('models', 'migrations') and pg_relation_size(c.oid) > 0
  loop execute format('truncate %s restart identity', t.name); end loop;
  for t in select c.oid::regclass as name from pg_class c
           where c.relnamespace = 'backline'::regnamespace and c.relkind = 'S'
             and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i')
  loop execute format('alter sequence %s restart', t.name); end loop;
  create schema app;
  create schema other;
  create table app.notes (id bigint primary key, body text, views int not null default 0);
end $$;
"""
_OLD_ROWS: Final = "insert into app.notes values (1, 'A'), (2, 'B'), (3, ''), (4, 'warm vocal')"
_SHORT_WAITS: Final = "set lock_timeout = '20ms'"
# Shorter waits, so that a history takes less time. A worker gives up either way.
_SHORTEN: Final = """
do $$ declare f regprocedure; begin
  for f in select p.oid from pg_proc p where p.pronamespace = 'backline'::regnamespace
             and 'lock_timeout=200ms' = any (p.proconfig)
  loop execute format('alter function %s set lock_timeout = ''20ms''', f); end loop;
end $$;
"""


class Laboratory:
    """Runs histories over sessions that it keeps."""

    def __init__(self, url: str, monitor: AsyncConnection[DictRow]) -> None:
        self._url = url
        self._monitor = monitor
        self._store = Store(OneConnection(url, monitor))
        self._sessions: dict[str, AsyncConnection[DictRow]] = {}

    @classmethod
    async def open(cls, url: str) -> Laboratory:
        """Connect to a migrated database."""
        monitor = await connect(url, "monitor")
        await monitor.execute("set client_min_messages = warning")
        await monitor.execute(_SHORT_WAITS)
        await monitor.execute(_SHORTEN)
        return cls(url, monitor)

    async def close(self) -> None:
        """End every session."""
        for session in (*self._sessions.values(), self._monitor):
            await session.close()

    async def run(self, history: History) -> tuple[list[str], list[str]]:
        """Run a history; return what was done, and what is wrong."""
        await self._reset(backfill=history.backfill)
        simulation = await self._simulation(history)
        violations = await simulation.run()
        await simulation.close()
        for actor in simulation.scheduler.actors:
            self._sessions[actor.name] = actor.connection
        return simulation.done, violations

    async def _reset(self, *, backfill: bool) -> None:
        prepared = await self._monitor.execute("select gid from pg_prepared_xacts")
        for row in await prepared.fetchall():  # of a history that broke an invariant
            await self._monitor.execute(sql.SQL("rollback prepared {}").format(row["gid"]))
        await self._monitor.execute("set lock_timeout = '10s'")  # autovacuum may hold a lock
        await self._monitor.execute(_EMPTY)
        await self._monitor.execute(_SHORT_WAITS)
        if backfill:
            await self._monitor.execute(_OLD_ROWS)
        row = await self._store.find_table("app.notes")
        await self._store.add_collection(
            "notes", row["oid"], key=None, template="{body}", column="embedding",
            model=HashEmbedder(DIMENSIONS).model,
        )  # fmt: skip

    async def _simulation(self, history: History) -> Simulation:
        url, names = self._url, Names()
        shared = Shared(await self._store.collection("notes"), Scheduler(self._monitor))
        hosts = {
            name: Host(
                name, url, await self._session(name), names=names, on_edit=shared.payments.excuse
            )
            for name in HOSTS
        }
        workers = {
            name: Worker(name, url, await self._session(name), shared=shared) for name in WORKERS
        }
        administrator = Administrator(
            ADMINISTRATOR, url, await self._session(ADMINISTRATOR), shared=shared,
            honest=not history.backfill,
        )  # fmt: skip
        shared.scheduler.actors += [*hosts.values(), *workers.values(), administrator]
        return Simulation(
            history, self._monitor, hosts, workers, administrator, shared, names
        )  # fmt: skip

    async def _session(self, name: str) -> AsyncConnection[DictRow]:
        """Return the session of an actor; one that a crash has ended is replaced."""
        session = self._sessions.get(name)
        if session is None or session.closed:
            session = await connect(self._url, name)
            await session.execute("set deadlock_timeout = '10ms'")
        return session
