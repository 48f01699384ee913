"""Run histories by their seeds, and report those that break an invariant.

python -m tests.simulation --seeds 10000 [--first 0] [--shrink]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from backline.postgres import embedded, migrate
from backline.postgres.connector import Connector
from tests.conftest import Postgres, disable_durability, enable_two_phase_commit, server_folder
from tests.simulation.history import generate
from tests.simulation.runner import Runner


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="number of histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--shrink", action="store_true", help="leave out steps of failures")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    with server_folder() as data:
        server = Postgres(embedded.start(data))
        disable_durability(server)
        enable_two_phase_commit(server, data)
        migrated = server.create()
        asyncio.run(_migrate(server.url(migrated)))
        with Runner(server.url(migrated)) as runner:
            return 1 if _run(runner, options) else 0


async def _migrate(url: str) -> None:
    connector = Connector(url)
    await connector.open()
    await migrate.apply(connector)
    await connector.aclose()


def _run(runner: Runner, options: argparse.Namespace) -> int:
    failed, began = 0, time.monotonic()
    for done, seed in enumerate(range(options.first, options.first + options.seeds), 1):
        failure = runner.run(generate(seed))
        if failure is not None:
            failed += 1
            print(runner.shrink(failure) if options.shrink else failure, flush=True)
        if done % 100 == 0 or done == options.seeds:
            seconds = time.monotonic() - began
            print(
                f"{done} histories, {failed} failed, {seconds:.0f} s", file=sys.stderr, flush=True
            )
    return failed


if __name__ == "__main__":
    sys.exit(main())
