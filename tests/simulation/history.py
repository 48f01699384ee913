"""Generate a history from a seed: which actor does what, in which order.

A history is pure data, made before it runs. A step that is not possible when its turn comes does
nothing. A history from which steps are removed is therefore still a history.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, NamedTuple

HOSTS: Final = ("host 1", "host 2")
WORKERS: Final = ("worker 1", "worker 2", "worker 3")
ADMINISTRATOR: Final = "administrator"

# Actions by kind of actor, with their weights. The first of each kind is in every history.
HOST_ACTIONS: Final = {
    "write": 14, "begin": 3, "commit": 5, "rollback": 1, "savepoint": 1, "rollback to": 1,
    "prepare": 1, "change schema": 1,
}  # fmt: skip
WORKER_ACTIONS: Final = {
    "go on": 24, "claim": 3, "claim a page": 3, "complete": 4, "fail": 2, "confirm": 2,
    "upsert": 2, "heartbeat": 2, "release": 1, "unregister": 1, "end pages": 1, "expire": 2,
    "crash": 2, "vanish": 1,
}  # fmt: skip
ADMINISTRATION: Final = {
    "release dead workers": 4, "recount": 2, "compact": 2, "enqueue a page": 1, "reconcile": 1,
    "retry failures": 1, "clear cache": 1, "change model": 1, "apply changes": 4,
}  # fmt: skip


class Step(NamedTuple):
    """One step. `a` and `b` are random numbers below 1,000, which the action interprets."""

    actor: str
    action: str
    a: int
    b: int

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} ({self.a}, {self.b})"


@dataclass(frozen=True)
class History:
    """The steps of one seed.

    Attributes:
        backfill: the table has rows from before the collection, and the end scans the table.
    """

    seed: int
    backfill: bool
    steps: tuple[Step, ...]


def generate(seed: int) -> History:
    """Return the history of a seed.

    Each history has only some of the possible actions, so that the others follow each other more
    closely. A change of the model makes rows due that only a scan finds.
    """
    rng = random.Random(seed)
    backfill = rng.random() < 0.4
    kinds = [(HOSTS, _some(rng, HOST_ACTIONS), 11), (WORKERS, _some(rng, WORKER_ACTIONS), 16)]
    administration = _some(rng, ADMINISTRATION)
    if not backfill:
        administration.pop("change model", None)
    kinds.append(((ADMINISTRATOR,), administration, 4))
    steps = []
    for _ in range(rng.randint(25, 45)):
        [(actors, actions, _weight)] = rng.choices(kinds, [weight for *_, weight in kinds])
        [action] = rng.choices(list(actions), list(actions.values()))
        steps.append(Step(rng.choice(actors), action, rng.randrange(1000), rng.randrange(1000)))
    return History(seed, backfill, tuple(steps))


def _some(rng: random.Random, actions: dict[str, int]) -> dict[str, int]:
    first = next(iter(actions))
    return {name: n for name, n in actions.items() if name == first or rng.random() < 0.65}
