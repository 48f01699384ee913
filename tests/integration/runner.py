"""A worker in a process that tests can kill at any step.

    python -m tests.integration.runner backfill URL PROVIDER [--pause NAME:WHEN] [--skew SECONDS]
        [--lease SECONDS]
    python -m tests.integration.runner cli URL PROVIDER [--pause NAME:WHEN] -- COMMAND...

NAME is a statement of queries.sql. WHEN is `before` it is sent, or `after` its result has arrived,
which for a statement in a transaction is before the commit. There the process prints "paused" and
blocks, so that the test knows which step it kills. Otherwise the process prints its report.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from tests.integration.harness import DIMENSIONS, QUICK, quick_limiter

import backline.cli
from backline.adoption import adopt
from backline.backfill import Backfill
from backline.embedders.openai.embedder import OpenAIEmbedder
from backline.postgres.connector import Transaction
from backline.postgres.store import Store, open_store
from backline.sql import queries
from backline.sync import Sync


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["backfill", "sync", "adopt", "cli"])
    parser.add_argument("url")
    parser.add_argument("provider")
    parser.add_argument("--pause", default="")
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("--lease", type=float, default=QUICK.lease)
    own = sys.argv[1:]
    command: list[str] = []
    if "--" in own:
        split = own.index("--")
        own, command = own[:split], own[split + 1 :]
    parser.set_defaults(command=command)
    return parser.parse_args(own)


async def main(options: argparse.Namespace) -> None:
    if options.skew:
        skew_clock(options.skew)
    embedder = OpenAIEmbedder(
        "text-embedding-3-small", DIMENSIONS, base_url=options.provider, api_key="sk-stand-in"
    )
    async with open_store(options.url) as store:
        if options.mode == "adopt":
            await adopt_notes(store, embedder)
            return
        collection = await store.collection("notes")
        work = replace(QUICK, lease=options.lease)
        arguments = (store, collection, embedder, quick_limiter(), work)
        print("ready", flush=True)
        if options.mode == "sync":
            await Sync(*arguments).run()
            return
        report = await Backfill(*arguments).run()
    print(json.dumps({"state": report.state, "embedded": report.embedded}), flush=True)
    await embedder.aclose()


async def adopt_notes(store: Store, embedder: OpenAIEmbedder) -> None:
    """Adopt the vectors of the table `notes`."""
    record = await store.find_table("notes")
    print("ready", flush=True)
    done = await adopt(
        store, embedder, quick_limiter(), "notes", record["oid"], give_up_after=20, key=None,
        template="{body}", column="embedding", column_type="vector", long_text="truncate",
        published=False, into=None,
    )  # fmt: skip
    print(json.dumps({"adopted": done.adopted}), flush=True)


def run_command(options: argparse.Namespace) -> None:
    """Run the command line in this process, and end it."""
    os.environ |= {
        "DATABASE_URL": options.url, "OPENAI_BASE_URL": options.provider,
        "OPENAI_API_KEY": "sk-stand-in",
    }  # fmt: skip
    sys.argv = ["backline", *options.command]
    backline.cli.main()


def pause_at(name: str, when: str) -> None:
    """Block forever before or after the statement `name`."""
    statement = {**queries("search.sql"), **queries()}[name]
    for verb in ("fetch", "fetch_tuples", "execute"):
        original = getattr(Transaction, verb)
        setattr(Transaction, verb, _pausing(original, statement, when))


def _pausing(
    original: Callable[..., Awaitable[Any]], target: str, when: str
) -> Callable[..., Awaitable[Any]]:
    async def pausing(self: Transaction, statement: Any, *rest: Any) -> Any:
        if statement == target and when == "before":
            await _block()
        result = await original(self, statement, *rest)
        if statement == target and when == "after":
            await _block()
        return result

    return pausing


async def _block() -> None:
    print("paused", flush=True)
    await asyncio.Event().wait()


def skew_clock(seconds: float) -> None:
    """Shift the clock of this process."""
    real = time.time
    time.time = lambda: real() + seconds


def start(options: argparse.Namespace) -> None:
    if options.pause:
        pause_at(*options.pause.split(":"))
    if options.mode == "cli":
        run_command(options)
    else:
        asyncio.run(main(options))


if __name__ == "__main__":
    start(parse_arguments())
