"""Measure the time from the commit of an edit to its vector and to its keyword hit."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psycopg
from benchmarks import shared

Connection = psycopg.Connection[Any]


def measure(url: str, table: str, rows: int, edits: int, rate: int = 100) -> dict[str, Any]:
    """Edit `rate` rows a second beside a `sync`, each row once.

    A row's last version has the vector, and its entry in the keyword index has the new words. The
    lag is the time of the commit that wrote either of them, minus that of the edit's commit.
    """
    if edits > rows:
        raise SystemExit(f"{edits} edits need as many rows, not {rows}: raise --rows")
    with psycopg.connect(url, autocommit=True) as connection:
        require_commit_times(connection)
        with shared.syncing(url, table):
            time.sleep(1)
            edited = edit(connection, table, rows, edits, rate)
            shared.catch_up(connection, table)
        require_keyword_hits(connection, table, [key for key, _ in edited])
        vector, keyword = lags(connection, table, edited)
    return {
        "edits": edits, "edits_per_second": rate, "rows": rows,
        **percentiles(vector), "keyword": percentiles(keyword),
    }  # fmt: skip


def edit(
    connection: Connection, table: str, rows: int, edits: int, rate: int
) -> list[tuple[int, str]]:
    """Edit rows at a rate. Return key and transaction of each edit."""
    edited = []
    began = time.perf_counter()
    for i in range(edits):
        time.sleep(max(0.0, began + i / rate - time.perf_counter()))
        key = 1 + (i * 7919) % rows
        row = connection.execute(
            f"update {table} set body = left(body, 80) || ' edit' || id where id = %s "
            "returning pg_current_xact_id()::text", [key],
        ).fetchone()  # fmt: skip
        if row is None:
            raise SystemExit(f"no row {key}")
        edited.append((key, row[0]))
    return edited


def lags(connection: Connection, table: str, edited: list[tuple[int, str]]) -> Any:
    """Return an array of milliseconds with a row each for vectors and keywords."""
    found = connection.execute(
        f"""
        select 1000 * extract(epoch from pg_xact_commit_timestamp(t.xmin) - e.at)::float8,
               1000 * extract(epoch from pg_xact_commit_timestamp(d.xmin) - e.at)::float8
        from (select u.key, u.xact, pg_xact_commit_timestamp(u.xact::xid) as at
              from unnest(%s::bigint[], %s::text[]) as u(key, xact)) e
        join {table} t on t.id = e.key and t.xmin <> e.xact::xid
        join backline.collections c on c.name = %s
        join backline.documents d on d.collection_id = c.id and d.key = e.key::text
        """,
        [[key for key, _ in edited], [xact for _, xact in edited], table],
    ).fetchall()
    if len(found) != len(edited):
        raise SystemExit(f"{len(edited) - len(found)} of {len(edited)} edits have no vector")
    return np.array(found, dtype=float).T


def percentiles(lag: Any) -> dict[str, float]:
    return {
        "p50_ms": round(float(np.percentile(lag, 50)), 1),
        "p99_ms": round(float(np.percentile(lag, 99)), 1), "max_ms": round(float(lag.max()), 1),
    }  # fmt: skip


def require_keyword_hits(connection: Connection, table: str, keys: list[int]) -> None:
    """Exit unless a search finds the first, the middle and the last edit by its new word."""
    for key in (keys[0], keys[len(keys) // 2], keys[-1]):
        hits = connection.execute(
            "select s.key from backline.collections c, lateral backline.search("
            "c.id, 'keyword', %s, null, 10) s where c.name = %s",
            [f"edit{key}", table],
        ).fetchall()
        if [hit[0] for hit in hits] != [str(key)]:
            raise SystemExit(f"the words of row {key} find {hits}")


def require_commit_times(connection: Connection) -> None:
    row = connection.execute("show track_commit_timestamp").fetchone()
    if row != ("on",):
        raise SystemExit("The lag needs a server with track_commit_timestamp = on.")
