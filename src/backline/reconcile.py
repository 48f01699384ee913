"""Reconcile: find what happened behind the triggers' back, and send it through the queue.

Page by page, by key, in short transactions beside workers and users. What is repaired stays
repaired: one that was stopped goes on after the last key that it names, or begins again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from backline import errors
from backline.collections import check
from backline.postgres.store import Store
from backline.search.indexes import ensure_keywords, set_keywords
from backline.store import DriftPage
from backline.types import Collection

PAGE: Final = 1000
EXAMPLES: Final = 10
# A row that somebody's open transaction holds is tried again after these pauses, in seconds.
AGAIN_SECONDS: Final = (0.1, 0.3, 1.0, 2.0)

ORPHANS: Final = {
    "stamps": "stamp of a row that does not exist",
    "jobs": "job of a row that does not exist",
    "failures": "dead letter of a row that does not exist",
}
TRIGGER: Final = "trigger that does not fire"
LEDGER: Final = "count that is off"
KEYWORDS: Final = "keyword index that missed edits"
# Signs that rows changed while no trigger fired: then the keyword index missed it as well.
UNNOTICED: Final = frozenset(
    {
        TRIGGER,
        ORPHANS["stamps"],
        "row that was never enqueued",
        "vector without a stamp",
        "text that changed unnoticed",
        "dead letter of another text",
    }
)

OnPage = Callable[[int], None]


@dataclass
class Reconciled:
    """What a reconciliation found and did.

    Attributes:
        rows: rows of the table that were looked at.
        found: drift by its kind; `examples` holds up to ten keys or names of each.
        unrepaired: why a kind, or a key, could not be repaired.
        last_key: the last key that was looked at; None once the walk has come to its end.
    """

    collection: str
    dry_run: bool
    rows: int = 0
    found: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    enqueued: int = 0
    removed: int = 0
    unrepaired: dict[str, str] = field(default_factory=dict)
    last_key: str | None = None
    stopped: bool = False

    @property
    def sound(self) -> bool:
        """Whether no drift is left that nothing will repair."""
        return not self.unrepaired and not self.stopped and not (self.dry_run and self.found)

    def add(self, kind: str, *names: str) -> None:
        """Count drift of a kind, one for each name."""
        if not names:
            return
        self.found[kind] = self.found.get(kind, 0) + len(names)
        examples = self.examples.setdefault(kind, [])
        examples.extend(names[: EXAMPLES - len(examples)])


class Reconciliation:
    """One pass over one collection."""

    def __init__(
        self,
        store: Store,
        collection: Collection,
        *,
        dry_run: bool = False,
        on_page: OnPage | None = None,
    ) -> None:
        self._store = store
        self._collection = collection
        self._on_page = on_page
        self._stopping = False
        self.result = Reconciled(collection.name, dry_run)

    def stop(self, _why: str = "stopped") -> None:
        """End after the page that is under way. Idempotent."""
        self._stopping = True

    async def run(self, after: str | None = None) -> Reconciled:
        """Reconcile everything, or the rows after key `after`.

        Raises:
            ConfigurationError: the table or its column is gone.

        """
        check(self._collection, self._collection.model)
        if not self.result.dry_run:
            await self._store.release_dead_workers(self._collection)
        await self._triggers()  # first: from then on, edits are noticed again
        await self._rows(after)
        for of in ORPHANS:
            if not self._stopping:
                await self._orphans(of)
        if not self._stopping:
            await self._keywords()
            await self._ledger()
        self.result.stopped = self._stopping
        return self.result

    # --- triggers -----------------------------------------------------------------------------

    async def _triggers(self) -> None:
        problems = await self._store.trigger_problems(self._collection)
        self.result.add(TRIGGER, *(f"{name} ({problem})" for name, problem in problems))
        if not problems or self.result.dry_run:
            return
        async with _Reported(self.result, TRIGGER):
            await self._store.install_triggers(self._collection)

    # --- rows ---------------------------------------------------------------------------------

    async def _rows(self, after: str | None) -> None:
        size = PAGE
        while not self._stopping:
            try:
                page = await self._page(after, size)
            except errors.ContentionError as error:
                if size > 1:
                    size = max(1, size // 8)
                    continue
                page = await self._store.reconcile_page(self._collection, after, 1, repair=False)
                self.result.unrepaired |= {f"row {key}": str(error) for _, key in page.found}
            self._take(page)
            if page.scanned < size:
                self.result.last_key = None
                return
            after = self.result.last_key = page.last_key
            size = min(PAGE, 2 * size)

    async def _page(self, after: str | None, size: int) -> DriftPage:
        """One page; the smallest is tried several times before it is given up."""

        async def attempt() -> DriftPage:
            return await self._store.reconcile_page(
                self._collection, after, size, repair=not self.result.dry_run
            )

        return await (_patiently(attempt) if size == 1 else attempt())

    def _take(self, page: DriftPage) -> None:
        self.result.rows += page.scanned
        for kind, key in page.found:
            self.result.add(kind, key)
            waits = not self.result.dry_run and f"row {key}" not in self.result.unrepaired
            self.result.enqueued += waits
        if self._on_page is not None:
            self._on_page(self.result.rows)

    # --- what is left of rows that are gone ---------------------------------------------------

    async def _orphans(self, of: str) -> None:
        after: str | None = None
        while not self._stopping:
            page = await self._orphan_page(of, after)
            self.result.add(ORPHANS[of], *(key for _, key in page.found))
            if page.scanned < PAGE:
                return
            after = page.last_key

    async def _orphan_page(self, of: str, after: str | None) -> DriftPage:
        async def attempt(*, repair: bool) -> DriftPage:
            return await self._store.reconcile_orphans(
                self._collection, of, after, PAGE, repair=repair
            )

        if self.result.dry_run:
            return await attempt(repair=False)
        try:
            page = await _patiently(lambda: attempt(repair=True))
        except errors.ContentionError as error:
            self.result.unrepaired[ORPHANS[of]] = str(error)
            return await attempt(repair=False)
        self.result.removed += len(page.found)
        return page

    # --- what is derived from the rows --------------------------------------------------------

    async def _keywords(self) -> None:
        """Index the keywords anew where rows changed unnoticed: nothing else tells which."""
        if not UNNOTICED & self.result.found.keys():
            return
        self.result.add(KEYWORDS, self._collection.name)
        if self.result.dry_run:
            return
        async with _Reported(self.result, KEYWORDS):
            await set_keywords(self._store, self._collection)
            await ensure_keywords(self._store, self._collection)

    async def _ledger(self) -> None:
        async with _Reported(self.result, LEDGER):
            off = await self._store.recount(self._collection.id, correct=not self.result.dry_run)
            self.result.add(LEDGER, *(f"{measure} {by:+,}" for measure, by in off.items()))


class _Reported:
    """What cannot be repaired is reported, and the rest goes on."""

    def __init__(self, result: Reconciled, kind: str) -> None:
        self._result = result
        self._kind = kind

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, _type: object, error: BaseException | None, _trace: object) -> bool:
        refusals = (
            errors.ContentionError,
            errors.StatementTimeoutError,
            errors.PermissionDeniedError,
        )
        if isinstance(error, refusals):
            self._result.unrepaired[self._kind] = str(error)
            return True
        return False


async def _patiently(attempt: Callable[[], Awaitable[DriftPage]]) -> DriftPage:
    for pause in AGAIN_SECONDS:
        try:
            return await attempt()
        except errors.ContentionError:
            await asyncio.sleep(pause)
    return await attempt()


async def reconcile(
    store: Store,
    collection: Collection,
    *,
    after: str | None = None,
    dry_run: bool = False,
    on_page: OnPage | None = None,
) -> Reconciled:
    """Find drift and repair it: what needs an embedding is enqueued, what is left over removed.

    With `dry_run`, nothing is changed. `after` resumes a reconciliation that was stopped there.
    """
    return await Reconciliation(store, collection, dry_run=dry_run, on_page=on_page).run(after)
