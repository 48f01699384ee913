"""The same backfill by each way, on this machine, in one run.

    .venv/bin/python -m benchmarks.ways [--rows 5000] [--dimensions 384] [--rounds 3] [--delay 0.05]

postgres  Backline embeds and writes over a connection
rest      Backline embeds and writes over PostgREST, behind a gateway
api       a Backline server embeds and writes
edge      the Edge Function does, under Deno, through PostgREST

Every way has the same provider, which speaks OpenAI's API and takes --delay seconds a call. Each
round makes a table anew, empties the cache of vectors, backfills with the command line's own
defaults (but for --batch-size and --workers) and verifies every row; the vectors are compared with
those of the first way. Seconds are those of the run, from its record in the database. Results go to
benchmarks/results/ways.json and to the terminal. It needs what `make tools` brings.
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
RESULTS = Path(__file__).parent / "results" / "ways.json"
WAYS = ("postgres", "rest", "api", "edge")
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
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def backfill(
    project: Project, environment: dict[str, str], way: str, options: argparse.Namespace
) -> float:
    """Rows a second of one backfill into a fresh table, all rows verified."""
    name = f"by_{way}"
    make_table(project, name, options.rows)
    over_postgres = environment | {"DATABASE_URL": project.url}
    model = f"openai/text-embedding-3-small@{options.dimensions}"
    with tempfile.TemporaryDirectory() as folder:
        run(folder, over_postgres, "add", name, "--text", "{body}", "--model", model)
        project.execute("delete from backline.jobs")
        report = run(
            folder, over_postgres if way == "postgres" else environment,
            "backfill", name, "--via", way, "--batch-size", str(options.batch_size),
            "--workers", str(options.workers),
        )  # fmt: skip
        assert (report["embedded"], report["failed"]) == (options.rows, 0), report
        assert run(folder, over_postgres, "verify", name)["passed"]
    return float(report["embedded"] / report["seconds"])


def differing(project: Project, way: str) -> int:
    """Rows whose vector is not that of the first way."""
    [(count,)] = project.execute(
        f"select count(*) from by_{WAYS[0]} a join by_{way} b using (id) "
        "where not coalesce(a.embedding operator(extensions.<->) b.embedding <= 1e-6, false)"
    )
    return int(count)


def clean(project: Project, environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            run(
                folder, environment | {"DATABASE_URL": project.url}, "drop", f"by_{way}", "--column"
            )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
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
                for way in WAYS:
                    rates[way].append(backfill(project, environment, way, options))
                    print(f"round {each + 1}  {way:9}{rates[way][-1]:9,.0f} rows/s")
                differ += sum(differing(project, way) for way in WAYS[1:])
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
    found = measure(options)
    medians = {way: round(statistics.median(rates), 1) for way, rates in found["rates"].items()}
    for way, rate in medians.items():
        print(f"{way:9}{rate:9,.0f} rows/s, median of {options.rounds}")
    print(f"{found['differing']} vectors differ")
    result = {
        "settings": vars(options), "median_rows_per_second": medians,
        "rounds_rows_per_second": {
            way: [round(rate, 1) for rate in rates] for way, rates in found["rates"].items()
        },
        "differing_vectors": found["differing"], "seconds": round(time.time() - began, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
