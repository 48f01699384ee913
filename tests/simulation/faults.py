"""Faults planted in the protocol by hand, to show that the simulation finds such faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Fault:
    """A change of the text of one SQL function.

    Attributes:
        name: what the changed function does wrong.
        seed: a history that finds it.
    """

    name: str
    function: str
    before: str
    after: str
    seed: int

    def statement(self, definition: str) -> str:
        """Return the statement that plants the fault in the present definition of the function."""
        assert definition.count(self.before) == 1, f"{self.function} does not have {self.before!r}"
        return definition.replace(self.before, self.after)


FAULTS: Final = (
    Fault(
        "a vector is stored without a comparison of the text", "complete",
        "        and pg_catalog.sha256(pg_catalog.convert_to(%3$s, 'UTF8')) = f.content_hash\n", "", 0,
    ),
    Fault(
        "the job of a changed row is deleted with the late result", "resolve_unwritten",
        "where m.outcome in ('gone', 'up_to_date')", "where m.outcome <> 'lost'", 0,
    ),
    Fault(
        "living workers are released", "release_dead_workers",
        "w.expires_at < now()", "w.expires_at < now() + interval '1 day'", 0,
    ),
    Fault(
        "an edit leaves the stamp as it is", "enqueue_edits",
        "update backline.stamps s set stale = true", "update backline.stamps s set stale = stale", 0,
    ),
    Fault(
        "an edit keeps the old document", "unindex_statement",
        "d.key = s.key", "d.key = s.key and s.content = ''", 0,
    ),
    Fault(
        "a second claim does not see the first", "claim",
        "and x.worker_id is null and", "and", 0,
    ),
)  # fmt: skip
