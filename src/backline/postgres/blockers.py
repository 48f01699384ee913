"""Name the sessions that hold a lock which a statement waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from backline import errors
from backline.postgres.connector import Connector

LOOK_SECONDS: Final = 0.5

# A prepared transaction has the process id 0 and no session.
_BLOCKERS: Final = """
select p.pid, a.usename as role, a.application_name as application, a.state
from (select distinct unnest(pg_blocking_pids(%s)) as pid) p
left join pg_stat_activity a on a.pid = p.pid order by p.pid
"""


@dataclass
class Waiting:
    """The process id of the session that may wait, once it is known, and what it waited for."""

    backend: int | None = None
    blockers: list[str] = field(default_factory=list)


@asynccontextmanager
async def naming_blockers(connector: Connector) -> AsyncIterator[Waiting]:
    """Add to a ContentionError of the block which sessions held the lock.

    They are looked for while the block runs, because the statement no longer waits when it has
    failed. Behind a transaction pooler, which hides the session, nothing is added.
    """
    waiting = Waiting()
    look = asyncio.ensure_future(_look(connector, waiting))
    try:
        yield waiting
    except errors.ContentionError as error:
        if not waiting.blockers:
            raise
        names = ", ".join(waiting.blockers)
        raise errors.ContentionError(f"{error} The lock was held by {names}.") from error
    finally:
        look.cancel()
        await asyncio.wait({look})


async def _look(connector: Connector, waiting: Waiting) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if waiting.backend is None:
            continue
        with suppress(errors.DatabaseError):
            rows = await connector.fetch(_BLOCKERS, [waiting.backend])
            waiting.blockers = [_described(row) for row in rows] or waiting.blockers


def _described(row: dict[str, Any]) -> str:
    if row["pid"] == 0:
        return "a prepared transaction (see pg_prepared_xacts)"
    facts = [f"role {row['role']}", row["application"], row["state"]]
    return f"process {row['pid']} ({', '.join(fact for fact in facts if fact)})"
