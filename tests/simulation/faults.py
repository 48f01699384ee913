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
        "pg_catalog.sha256(pg_catalog.convert_to(%2$s, 'UTF8')) = f.content_hash", "true", 5,
    ),
    Fault(
        "only the first key of a line is enqueued", "apply_keys",
        "as k(key, priority, at) order by k.key",
        "as k(key, priority, at) order by k.key limit 1", 0,
    ),
    Fault(
        "an edit does not mark the stamp as stale", "apply_keys",
        "where s.ctid = any (v_stale) and not s.stale", "where false", 36,
    ),
    Fault(
        "a deleted row keeps its document", "apply_keys",
        "perform backline.follow_keywords(p_collection, p_keys)",
        "perform backline.follow_keywords(p_collection, v_due)", 0,
    ),
    Fault(
        "the counter of rows never falls", "apply_changes",
        "if v_delta <> 0 then", "if v_delta > 0 then", 0,
    ),
    Fault(
        "living workers are released", "release_dead_workers",
        "w.expires_at < now()", "w.expires_at < now() + interval '1 day'", 16,
    ),
    Fault(
        "two workers claim one job", "claim",
        "where x.collection_id = $1 and x.worker_id is null and x.not_before <= now()",
        "where x.collection_id = $1 and x.not_before <= now()", 0,
    ),
    Fault(
        "a session forgets lines of transactions that are still open", "has_changes",
        "pg_snapshot_xmin", "pg_snapshot_xmax", 15,
    ),
)  # fmt: skip
