"""A worker as a process of its own, which tests may kill at any step.

    python -m tests.integration.runner backfill URL PROVIDER [--pause NAME:WHEN] [--skew SECONDS]

NAME is a statement of queries.sql; WHEN is `before` it is sent, or `after` it was answered, which
for a statement in a transaction is before the commit. The process says "paused" and stands still
there, so that whoever kills it knows where it was. Otherwise it prints its report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.integration.harness import DIMENSIONS, QUICK, quick_limiter

from backline.backfill import Backfill
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.postgres.connector import Transaction
from backline.postgres.store import open_store
from backline.sql import query
from backline.sync import Sync


def pause_at(name: str, when: str) -> None:
    """Stand still for ever around one statement."""
    for verb in ("fetch", "fetch_tuples", "execute"):
        original = getattr(Transaction, verb)
        setattr(Transaction, verb, _pausing(original, query(name), when))


def _pausing(
    original: Callable[..., Awaitable[Any]], statement: str, when: str
) -> Callable[..., Awaitable[Any]]:
    async def pausing(self: Transaction, given: Any, *rest: Any) -> Any:
        if given == statement and when == "before":
            await _stand_still()
        answer = await original(self, given, *rest)
        if given == statement and when == "after":
            await _stand_still()
        return answer

    return pausing


async def _stand_still() -> None:
    print("paused", flush=True)
    await asyncio.Event().wait()


def skew(seconds: float) -> None:
    """The clock of this process is wrong by so much."""
    real = time.time
    time.time = lambda: real() + seconds


async def main(options: argparse.Namespace) -> None:
    embedder = OpenAIEmbedder(
        "text-embedding-3-small", DIMENSIONS, base_url=options.provider, api_key="sk-stand-in"
    )
    async with open_store(options.url) as store:
        collection = await store.collection("notes")
        arguments = (store, collection, embedder, quick_limiter(), QUICK)
        print("ready", flush=True)
        if options.mode == "sync":
            await Sync(*arguments).run()
            return
        report = await Backfill(*arguments).run()
    print(json.dumps({"state": report.state, "embedded": report.embedded}), flush=True)
    await embedder.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["backfill", "sync"])
    parser.add_argument("url")
    parser.add_argument("provider")
    parser.add_argument("--pause", default="")
    parser.add_argument("--skew", type=float, default=0.0)
    given = parser.parse_args()
    if given.pause:
        pause_at(*given.pause.split(":"))
    if given.skew:
        skew(given.skew)
    sys.exit(asyncio.run(main(given)))
