"""Find rows that changed without their triggers, and repair them through the queue.

Reads pages in key order, in short transactions beside workers and users. Repairs are permanent: a
reconciliation that was stopped resumes after its last key, or starts again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from backline import errors
from backline.collections import check
from backline.postgres.store import Store
from backline.search.indexes import ensure_keywords, set_keywords
from backline.store import DriftPage
from backline.types import Collection
from backline.worker.retry import retry_while_unavailable

PAGE: Final = 1000
EXAMPLES: Final = 10
# Pauses in seconds between attempts to lock a row that an open transaction has locked.
AGAIN_SECONDS: Final = (0.1, 0.3, 1.0, 2.0)

ORPHANS: Final = {
    "stamps": "stamp of a row that does not exist",
    "jobs": "job of a row that does not exist",
    "failures": "dead letter of a row that does not exist",
    "vectors": "vector of a row that does not exist",
}
TRIGGER: Final = "trigger that does not fire"
REPLACED: Final = "table or column that was replaced"
UNSCANNED: Final = "change that no trigger could see"
COUNTERS: Final = "wrong counter"
KEYWORDS: Final = "keyword index that missed edits"
LONG_KEY: Final = "key that is too long"  # the row becomes a dead letter
# Signs that rows changed without a trigger. The keyword index has missed those edits as well.
UNNOTICED: Final = frozenset(
    {
        TRIGGER,
        UNSCANNED,
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
        rows: rows of the table that were checked.
        found: drift by kind. `examples` holds up to ten keys or names of each.
        unrepaired: why a kind, or a key, could not be repaired.
        last_key: the last key that was checked; None after the end of the table.
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
        """Whether all drift is repaired or enqueued."""
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
        published: bool = False,
        on_page: OnPage | None = None,
    ) -> None:
        self._store = store
        self._collection = collection
        self._published = published
        self._on_page = on_page
        self._stopping = False
        self.result = Reconciled(collection.name, dry_run)

    def stop(self, _reason: str = "stopped") -> None:
        """End after the present page. Idempotent."""
        self._stopping = True

    async def run(self, after: str | None = None) -> Reconciled:
        """Reconcile the collection, or its rows after key `after`.

        Raises:
            ConfigurationError: the table or its column is gone.

        """
        await self._definition()
        check(self._collection, self._collection.model)
        if not self.result.dry_run:
            await self._store.release_dead_workers(self._collection)
        await self._triggers()  # first: from here on, triggers record edits again
        begun = await self._store.begin_scan(self._collection)
        self.result.add(UNSCANNED, *filter(None, [begun["unscanned"]]))
        self.result.last_key = after
        for of in ORPHANS:  # before the rows: until then the records of rows that are gone count
            if not self._stopping:
                await self._orphans(of)
        await self._rows(after)
        if not self._stopping:
            await self._keywords()
            await self._counters()
        self.result.stopped = self._stopping
        if self.result.sound and after is None and not self.result.dry_run:
            await self._store.finish_scan(self._collection, begun)
        return self.result

    # --- the table ----------------------------------------------------------------------------

    async def _definition(self) -> None:
        """Follow the table that has the collection's name now, with the names of its columns."""
        problems = await self._store.problems(self._collection)
        self.result.add(REPLACED, *(p.problem for p in problems if p.kind in ("table", "column")))
        if self.result.dry_run:
            return
        async with _Reported(self.result, REPLACED):
            await self._store.repoint(self._collection, published=self._published)
            await self._store.follow(self._collection)
        self._collection = await self._store.collection(self._collection.name)

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
                self.result.unrepaired |= {f"row {key}": str(error) for _, key in page.drift}
            self._take(page)
            if page.scanned < size:
                self.result.last_key = None
                return
            after = self.result.last_key = page.last_key
            size = min(PAGE, 2 * size)

    async def _page(self, after: str | None, size: int) -> DriftPage:
        """Reconcile one page. A page of one row is tried several times."""

        async def attempt() -> DriftPage:
            return await self._store.reconcile_page(
                self._collection, after, size, repair=not self.result.dry_run
            )

        return await (_retry_locked(attempt) if size == 1 else attempt())

    def _take(self, page: DriftPage) -> None:
        self.result.rows += page.scanned
        for kind, key in page.drift:
            self.result.add(kind, key)
            repaired = not self.result.dry_run and f"row {key}" not in self.result.unrepaired
            self.result.enqueued += repaired and kind != LONG_KEY
        if self._on_page is not None:
            self._on_page(self.result.rows)

    # --- records of deleted rows --------------------------------------------------------------

    async def _orphans(self, of: str) -> None:
        after: str | None = None
        while not self._stopping:
            page = await self._orphan_page(of, after)
            self.result.add(ORPHANS[of], *(key for _, key in page.drift))
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
            page = await _retry_locked(lambda: attempt(repair=True))
        except errors.ContentionError as error:
            self.result.unrepaired[ORPHANS[of]] = str(error)
            return await attempt(repair=False)
        self.result.removed += len(page.drift)
        return page

    # --- what is derived from the rows --------------------------------------------------------

    async def _keywords(self) -> None:
        """Rebuild the keyword index if rows changed without a trigger: nothing records which."""
        if not UNNOTICED & self.result.found.keys():
            return
        self.result.add(KEYWORDS, self._collection.name)
        if self.result.dry_run:
            return
        async with _Reported(self.result, KEYWORDS):
            await set_keywords(self._store, self._collection)
            await ensure_keywords(self._store, self._collection)

    async def _counters(self) -> None:
        async with _Reported(self.result, COUNTERS):
            differences = await self._store.recount(
                self._collection.id, correct=not self.result.dry_run
            )
            self.result.add(
                COUNTERS, *(f"{measure} {by:+,}" for measure, by in differences.items())
            )


class _Reported:
    """Reports a repair that fails, and lets the reconciliation continue."""

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


async def _retry_locked(attempt: Callable[[], Awaitable[DriftPage]]) -> DriftPage:
    return await retry_while_unavailable(attempt, AGAIN_SECONDS, retried=(errors.ContentionError,))


async def reconcile_unscanned(
    store: Store, name: str, notice: Callable[[str], None] | None = None
) -> None:
    """Find the edits that a target missed while it was frozen, after a rollback to it.

    Does nothing if no change can have gone unseen. `notice` is called before every row is read.
    """
    collection = await store.collection(name)
    if (await store.begin_scan(collection))["unscanned"]:
        if notice is not None:
            notice(f"{name} was frozen. Reading every row.")
        await Reconciliation(store, collection).run()
