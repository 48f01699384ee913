"""Run the same backfill over each transport, on this machine, in one run.

    .venv/bin/python -m benchmarks.transports [--rows 5000] [--rounds 3] [--delay 0.05]

postgres  Backline embeds and writes over a connection
rest      Backline embeds and writes over PostgREST, behind a gateway
api       a Backline server embeds and writes
edge      the Edge Function embeds and writes, under Deno, through PostgREST

All transports use the same provider, which offers OpenAI's API and takes --delay seconds per call.
Each round creates a table, empties the cache of vectors, backfills and verifies every row. Settings
are the command line's defaults, except --batch-size and --workers. The vectors are compared with
those of the first transport. The seconds come from the run's record in the database. Results go to
benchmarks/results/transports.json and to the terminal. The benchmark needs the tools of
`make tools`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.provider import StandInProvider
from tests.supabase.function import function_running, provider_variables
from tests.supabase.server import API_KEY, server_running
from tests.supabase.stack import Project, stack_running

BACKLINE = Path(sys.executable).with_name("backline")
RESULTS = Path(__file__).parent / "results" / "transports.json"
TRANSPORTS = ("postgres", "rest", "api", "edge")
BODY = "'Row '||i||': a short piece of advice about the mix, the vocal and the room it stands in.'"


def make_table(project: Project, name: str, rows: int) -> None:
    project.execute(f"drop table if exists {name} cascade")
    project.execute(f"create table {name} (id bigint primary key, body text not null)")
    project.execute(f"insert into {name} select i, {BODY} from generate_series(1, {rows}) i")
    project.execute(f"grant select, update on {name} to service_role")
    project.execute("delete from backline.vectors")


def run(folder: str, environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [BACKLINE, *arguments, "--json"], cwd=folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    output: dict[str, Any] = json.loads(done.stdout)
    return output


def backfill(
    project: Project, environment: dict[str, str], transport: str, options: argparse.Namespace
) -> float:
    """Return the rows a second of one backfill into a new table, with all rows verified."""
    name = f"by_{transport}"
    make_table(project, name, options.rows)
    over_postgres = environment | {"DATABASE_URL": project.url}
    model = f"openai/text-embedding-3-small@{options.dimensions}"
    with tempfile.TemporaryDirectory() as folder:
        run(folder, over_postgres, "add", name, "--text", "{body}", "--model", model)
        project.execute("delete from backline.jobs")
        report = run(
            folder, over_postgres if transport == "postgres" else environment,
            "backfill", name, "--via", transport, "--batch-size", str(options.batch_size),
            "--workers", str(options.workers),
        )  # fmt: skip
        assert (report["embedded"], report["failed"]) == (options.rows, 0), report
        assert run(folder, over_postgres, "verify", name)["passed"]
    return float(report["embedded"] / report["seconds"])


def differing(project: Project, transport: str) -> int:
    """Return how many vectors differ from those of the first transport."""
    [(count,)] = project.execute(
        f"select count(*) from by_{TRANSPORTS[0]} a join by_{transport} b using (id) "
        "where not coalesce(a.embedding operator(extensions.<->) b.embedding <= 1e-6, false)"
    )
    return int(count)


def clean(project: Project, environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for transport in TRANSPORTS:
            run(
                folder,
                environment | {"DATABASE_URL": project.url},
                "drop",
                f"by_{transport}",
                "--column",
            )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rates: dict[str, list[float]] = {transport: [] for transport in TRANSPORTS}
    differ = 0
    with stack_running() as stack, stack.project() as project, StandInProvider() as provider:
        provider.behave(delay_s=options.delay)
        variables = provider_variables(provider.base_url, provider.api_key)
        with (
            function_running(project, **variables),
            server_running(project, **variables) as address,
        ):
            environment = {
                "PATH": os.environ["PATH"], "HOME": os.environ["HOME"],
                **project.environment, **variables,
                "BACKLINE_API_URL": address, "BACKLINE_API_KEY": API_KEY,
            }  # fmt: skip
            for each in range(options.rounds):
                for transport in TRANSPORTS:
                    rate = backfill(project, environment, transport, options)
                    rates[transport].append(rate)
                    print(f"round {each + 1}  {transport:9}{rate:9,.0f} rows/s")
                differ += sum(differing(project, transport) for transport in TRANSPORTS[1:])
                clean(project, environment)
    return {"rates": rates, "differing": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    began = time.time()
    result = measure(options)
    medians = {name: round(statistics.median(rates), 1) for name, rates in result["rates"].items()}
    for name, rate in medians.items():
        print(f"{name:9}{rate:9,.0f} rows/s, median of {options.rounds}")
    print(f"{result['differing']} vectors differ")
    record = {
        "settings": vars(options), "median_rows_per_second": medians,
        "rounds_rows_per_second": {
            name: [round(rate, 1) for rate in rates] for name, rates in result["rates"].items()
        },
        "differing_vectors": result["differing"], "seconds": round(time.time() - began, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
    }  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
