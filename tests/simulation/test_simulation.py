"""Histories of the protocol from 200 seeds, and faults that they find.

`make simulate SEEDS=10000` runs more of them. A failure prints the command that repeats it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Postgres
from tests.simulation.faults import FAULTS, Fault
from tests.simulation.history import generate
from tests.simulation.runner import Runner

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))
AT_ONCE = 25

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def runner(postgres: Postgres, template_database: str) -> Iterator[Runner]:
    """A runner over the protocol as it is."""
    name = postgres.create(template_database)
    with Runner(postgres.url(name)) as runner:
        yield runner
    postgres.drop(name)


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_histories_keep_the_invariants(runner: Runner, first: int) -> None:
    failure = runner.search(range(first, min(first + AT_ONCE, SEEDS)))
    assert failure is None, f"\n{failure}"


@pytest.mark.parametrize("seed", [1, 14, 36])
def test_a_seed_replays(runner: Runner, seed: int) -> None:
    done, violations = runner.observe(generate(seed))
    assert (done, violations) == runner.observe(generate(seed))
    assert len(done) > 20


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(database: str, fault: Fault) -> None:
    """The recorded seed is tried first, which keeps the search short."""
    with psycopg.connect(database) as connection:
        cursor = connection.execute(
            "select pg_get_functiondef(p.oid) from pg_proc p "
            "where p.pronamespace = 'backline'::regnamespace and p.proname = %s", [fault.function]
        )  # fmt: skip
        [(definition,)] = cursor.fetchall()
    with Runner(database, [fault.statement(definition)]) as runner:
        assert runner.search(itertools.chain([fault.seed], range(200))) is not None
