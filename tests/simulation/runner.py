"""A database for histories, the search for a failing seed, and its report."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import psycopg

from tests.simulation.history import History, generate
from tests.simulation.laboratory import Laboratory


@dataclass(frozen=True)
class Failure:
    """A history that broke an invariant."""

    history: History
    done: Sequence[str]
    violations: Sequence[str]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"Seed {self.history.seed}{', with a backfill' * self.history.backfill}",
                *(f"  {line}" for line in self.done),
                *(f"broken: {violation}" for violation in self.violations),
                f"Run it again: make simulate SEEDS=1 FIRST={self.history.seed} SHRINK=--shrink",
            ]
        )


class Runner:
    """Runs histories one after the other in one database."""

    def __init__(self, url: str, statements: Iterable[str] = ()) -> None:
        """Take over a migrated database. `statements` change the protocol, to plant a fault."""
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
        self._loop = asyncio.Runner()
        self._laboratory = self._loop.run(Laboratory.open(url))

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._laboratory.close())
        self._loop.close()

    def run(self, history: History) -> Failure | None:
        """Run a history; return it if it broke an invariant."""
        done, violations = self.observe(history)
        return Failure(history, done, violations) if violations else None

    def observe(self, history: History) -> tuple[list[str], list[str]]:
        """Run a history; return what was done, and what is wrong."""
        return self._loop.run(self._laboratory.run(history))

    def search(self, seeds: Iterable[int]) -> Failure | None:
        """Return the first failure among the histories of `seeds`."""
        return next((f for seed in seeds if (f := self.run(generate(seed)))), None)

    def shrink(self, failure: Failure) -> Failure:
        """Return a failure with fewer steps, from which no single step can be left out."""
        at = 0
        while at < len(failure.history.steps):
            steps = failure.history.steps
            smaller = self.run(replace(failure.history, steps=steps[:at] + steps[at + 1 :]))
            if smaller is None:
                at += 1
            else:
                failure = smaller
        return failure
