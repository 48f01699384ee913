"""Backfill a collection: scan the table, embed every due row, and report from the database.

A backfill uses the same worker and the same writes as live edits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from backline import errors
from backline.collections import check
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.search.indexes import (
    ROWS_WORTH_AN_INDEX,
    VectorIndex,
    complete_keywords,
    ensure_vectors,
)
from backline.store import JobStore
from backline.types import Collection, Coverage, RunRecord
from backline.worker.batch_handler import BatchHandler, EmbedBatches
from backline.worker.options import WorkerOptions
from backline.worker.retry import retry_while_unavailable
from backline.worker.scan import TableScan
from backline.worker.tasks import beside, end_tasks
from backline.worker.worker import Worker

if TYPE_CHECKING:
    from backline.postgres.store import Store

PROGRESS_SECONDS: Final = 0.5
# Pauses between attempts to read the report over a connection that breaks.
REPORT_PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
# After this time, in seconds, a failed attempt to read the report is the last one.
REPORT_SECONDS: Final = 10.0
# Time to mark a run as ended. The report marks it again.
MARK_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class IndexOutcome:
    """What a backfill did about the vectors' HNSW index.

    Attributes:
        state: built, in place, not needed or not possible, as in search; or `left out`.
        seconds: the time that building it took.
        why: the reason of `left out`.
    """

    state: str
    seconds: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What one backfill did, read from the database after the last commit."""

    run: int
    collection: str
    model: str
    state: str
    settings: dict[str, Any]
    scanned: int
    due: int
    embedded: int
    reused: int
    failed: int
    failures: list[tuple[str, str, str]]
    batches: int
    tokens: int
    long: int
    long_keys: list[str]
    long_text: str
    seconds: float
    coverage: Coverage
    index: IndexOutcome
    beside: list[int] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    passages: int = 0
    stopped_by: str | None = None

    @property
    def rows_per_second(self) -> float:
        return self.embedded / self.seconds if self.seconds > 0 else 0.0

    @property
    def complete(self) -> bool:
        """Whether every row that has text is embedded and none failed."""
        return self.coverage.complete and self.coverage.failed == 0

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "failures": [
                {"key": key, "kind": kind, "error": error} for key, kind, error in self.failures
            ],
            "rows_per_second": round(self.rows_per_second, 1),
            "coverage": {**asdict(self.coverage), "ratio": self.coverage.ratio},
            "empty": self.coverage.empty,
            "complete": self.complete,
        }


OnProgress = Callable[[RunRecord, Coverage], None]
OnNotice = Callable[[str], None]


class Backfill:
    """One run over one collection.

    `embedder` embeds the texts, or `handler`, which may send them to another process. The report
    shows `settings`. With `build_index`, a run that fills a large table builds its HNSW index.
    """

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        embedder: Embedder | None,
        limiter: Limiter,
        options: WorkerOptions,
        settings: Mapping[str, Any] | None = None,
        *,
        handler: BatchHandler | None = None,
        build_index: bool = True,
    ) -> None:
        self._store = store
        self._collection = collection
        self._handler = _handler_of(embedder, handler)
        self._limiter = limiter
        self._options = options
        self._settings = dict(settings or {})
        self._build_index = build_index
        self._on_notice: OnNotice | None = None
        self._notices: list[str] = []
        self._worker: Worker | None = None
        self._indexing: asyncio.Task[VectorIndex] | None = None
        self._stopped_by: str | None = None
        self._lost_database = False

    def stop(self, reason: str = "stopped") -> None:
        """Finish or release the rows in progress, and report what was done. Idempotent.

        A build of the index is ended; every row is embedded by then.
        """
        if self._indexing is not None:
            self._indexing.cancel()
            return
        self._stopped_by = self._stopped_by or reason
        if self._worker is not None:
            self._worker.stop()

    async def run(
        self, on_progress: OnProgress | None = None, notice: OnNotice | None = None
    ) -> BackfillReport:
        """Embed every due row. Returns the report, also if the run was interrupted.

        Args:
            on_progress: called twice a second with the run and the coverage.
            notice: called with each notice of the report as it arises.

        Raises:
            ConfigurationError: see `check`; nothing was spent.
        """
        check(self._collection, self._handler.model)
        self._on_notice = notice
        await self._store.follow(self._collection)
        await self._store.release_dead_workers(self._collection)
        beside = [r.id for r in await self._store.runs(self._collection) if r.state == "running"]
        await self._warn_of_index()
        run = await self._store.start_run(self._collection, self._settings)
        self._worker = Worker(
            self._store, self._collection, self._handler, self._limiter, self._options, run
        )
        if self._stopped_by:
            self._worker.stop()
        try:
            async with self._watching(run, on_progress):
                await self._worker.drain(TableScan())
        except (errors.EmbedderError, errors.DatabaseError) as error:
            self._stopped_by = str(error)
            self._lost_database = isinstance(error, errors.DatabaseUnavailableError)
        except BaseException:
            await self._mark(run, "interrupted")
            raise
        if self._worker.run_state == "cancelling":
            self._stopped_by = self._stopped_by or "cancelled"
        return await self._finish(run, beside, self._worker)

    # --- progress ---

    def _watching(
        self, run: int, on_progress: OnProgress | None
    ) -> AbstractAsyncContextManager[None]:
        return nullcontext() if on_progress is None else beside(self._watch(run, on_progress))

    async def _watch(self, run: int, on_progress: OnProgress) -> None:
        while True:
            with suppress(errors.DatabaseError):  # the worker retries; progress can wait
                [record] = await self._store.runs(run=run)
                on_progress(record, await self._store.coverage(self._collection))
            await asyncio.sleep(PROGRESS_SECONDS)

    def _notify(self, notice: str) -> None:
        self._notices.append(notice)
        if self._on_notice is not None:
            self._on_notice(notice)

    # --- the index ---

    async def _warn_of_index(self) -> None:
        """Warn if most vectors of a large table are about to be added to an HNSW index."""
        if (store := self._index_store()) is None:
            return
        indexes = await store.hnsw_indexes(self._collection)
        coverage = await self._store.coverage(self._collection)
        due = coverage.rows - coverage.blank - coverage.embedded
        if not indexes or due < ROWS_WORTH_AN_INDEX or due < coverage.rows / 2:
            return
        self._notify(
            f"About {due:,} of {coverage.rows:,} rows are to be embedded while the HNSW index "
            f"{indexes[0]} exists. Adding vectors to it one at a time takes many times as long as "
            f"building it at the end. Quicker: stop, drop index {indexes[0]}, and run this again; "
            "it builds the index at the end."
        )

    async def _index(self) -> IndexOutcome:
        """Build the vectors' index if the table is filled and large enough."""
        if not self._build_index:
            return IndexOutcome("left out", why="not requested")
        if self._stopped_by or self._options.max_rows is not None:
            return IndexOutcome("left out", why="the run did not fill the table")
        if (store := self._index_store()) is None:
            return await self._index_without_connection()
        try:
            return await self._build(store)
        except errors.DatabaseError as error:  # what was embedded stays embedded
            return self._left_out(f"{error} Later, run")

    async def _build(self, store: Store) -> IndexOutcome:
        """Build the index in a task, which `stop` cancels."""
        self._indexing = asyncio.create_task(ensure_vectors(store, self._collection))
        try:
            await asyncio.wait({self._indexing})
        finally:
            await end_tasks(self._indexing)
        if self._indexing.cancelled():
            return self._left_out("the build was stopped. Later, run")
        index = self._indexing.result()
        return IndexOutcome(index.state, index.seconds)

    def _left_out(self, why: str) -> IndexOutcome:
        return IndexOutcome(
            "left out", why=f"{why}: {errors.command('index', self._collection.name)}"
        )

    def _index_store(self) -> Store | None:
        """Return the store if it can build indexes."""
        return cast("Store", self._store) if self._store.capabilities.indexes else None

    async def _index_without_connection(self) -> IndexOutcome:
        if (await self._store.coverage(self._collection)).embedded < ROWS_WORTH_AN_INDEX:
            return IndexOutcome("not needed")
        return self._left_out("building it takes a connection to Postgres. With one, run")

    # --- the report ---

    async def _finish(self, run: int, beside: list[int], worker: Worker) -> BackfillReport:
        """End the run, build the index, and report. The rows are stored: an outage is retried."""
        # Before the index: building it may take long, and no worker is registered meanwhile.
        await self._mark(run, self._state)
        if not self._stopped_by:
            await complete_keywords(self._store, self._collection)
        index = await self._index()
        return await retry_while_unavailable(
            partial(self._report, run, beside, worker, index), REPORT_PAUSES,
            give_up_after=0 if self._lost_database else REPORT_SECONDS,
        )  # fmt: skip

    async def _mark(self, run: int, state: str) -> None:
        with suppress(errors.DatabaseError, TimeoutError):
            async with asyncio.timeout(MARK_SECONDS):
                await self._store.finish_run(run, state, {})

    async def _report(
        self, run: int, beside: list[int], worker: Worker, index: IndexOutcome
    ) -> BackfillReport:
        coverage = await self._store.coverage(self._collection)
        [record] = await self._store.runs(run=run)
        if not self._stopped_by and not _counters_agree(record, coverage):
            await self._recount()
        coverage = await self._store.checked_coverage(self._collection)
        report = BackfillReport(
            run=run,
            collection=record.collection,
            model=str(self._handler.model),
            state=self._state,
            settings=self._settings,
            scanned=record.scanned,
            due=record.due,
            embedded=record.embedded,
            reused=record.reused,
            failed=record.failed,
            failures=await self._store.run_failures(run),
            batches=record.batches,
            tokens=record.tokens,
            passages=record.passages,
            long=record.long,
            long_keys=worker.stats.long_keys,
            long_text=self._collection.long_text,
            seconds=record.seconds,
            coverage=coverage,
            index=index,
            beside=beside,
            notices=self._notices,
            stopped_by=self._stopped_by,
        )
        await self._store.finish_run(run, report.state, report.as_dict())
        return report

    @property
    def _state(self) -> str:
        if not self._stopped_by:
            return "completed"
        return "cancelled" if self._stopped_by == "cancelled" else "interrupted"

    async def _recount(self) -> None:
        try:
            await self._store.recount(self._collection.id)
        except errors.StatementTimeoutError:  # triggers keep the counters right in any case
            self._notify(
                "The rows could not be counted within the role's statement_timeout; the coverage "
                "is that of the counters."
            )


def _counters_agree(record: RunRecord, coverage: Coverage) -> bool:
    """Return whether the scan saw as many rows as the counters say, each with an outcome.

    Otherwise rows were added or deleted during the run, or changed without the triggers. Only then
    is the table counted, which takes longer than any other step at the end of a run.
    """
    outcomes = coverage.embedded + coverage.blank + coverage.pending + coverage.failed
    return record.scanned == coverage.rows == outcomes


def _handler_of(embedder: Embedder | None, handler: BatchHandler | None) -> BatchHandler:
    if handler is not None:
        return handler
    if embedder is None:
        raise errors.UsageError("A backfill needs an embedder or a handler for its batches.")
    return EmbedBatches(embedder)
