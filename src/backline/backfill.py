"""Backfill: walk the table, enqueue what is due, drain the queue, and prove what was done.

There is no second write path: the workers that follow live edits drain a backfill too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from backline import errors
from backline.collections import check
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter
from backline.postgres.store import Store
from backline.search.indexes import ROWS_WORTH_AN_INDEX, ensure_vectors
from backline.store import JobStore
from backline.types import Collection, Coverage, RunRecord
from backline.worker.options import WorkerOptions
from backline.worker.scan import TableScan
from backline.worker.tasks import beside
from backline.worker.worker import Worker

PROGRESS_SECONDS: Final = 0.5
REPORT_AGAIN_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class IndexOutcome:
    """What became of the vectors' HNSW index after the fill, and why where that asks for a reason.

    `state` is one of search's (built, in place, not needed, not possible), or `left out`: it was
    not wanted, or not the time for it, or could not be built. `seconds` is what building it took.
    """

    state: str
    seconds: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What one backfill did, as the database has it after the last commit."""

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
    stopped_by: str | None = None

    @property
    def rows_per_second(self) -> float:
        return self.embedded / self.seconds if self.seconds > 0 else 0.0

    @property
    def complete(self) -> bool:
        """Whether every row that has text is embedded, and none failed."""
        return self.coverage.complete and self.coverage.failed == 0

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "failures": [
                {"key": key, "kind": kind, "error": error} for key, kind, error in self.failures
            ],
            "rows_per_second": round(self.rows_per_second, 1),
            "coverage": {**asdict(self.coverage), "ratio": self.coverage.ratio},
            "complete": self.complete,
        }


Progress = Callable[[RunRecord, Coverage], None]
Notice = Callable[[str], None]


class Backfill:
    """One run over one collection."""

    def __init__(
        self,
        store: JobStore,
        collection: Collection,
        embedder: Embedder,
        limiter: Limiter,
        options: WorkerOptions,
        settings: Mapping[str, Any] | None = None,
        *,
        make_worker: type[Worker] = Worker,
        build_index: bool = True,
    ) -> None:
        self._store = store
        self._collection = collection
        self._embedder = embedder
        self._limiter = limiter
        self._options = options
        self._settings = dict(settings or {})
        self._make_worker = make_worker
        self._build_index = build_index
        self._notice: Notice | None = None
        self._notices: list[str] = []
        self._worker: Worker | None = None
        self._stopped_by: str | None = None

    def stop(self, why: str = "stopped") -> None:
        """Finish or give back what is in hand, and report what was done so far. Idempotent."""
        self._stopped_by = self._stopped_by or why
        if self._worker is not None:
            self._worker.stop()

    async def run(
        self, on_progress: Progress | None = None, notice: Notice | None = None
    ) -> BackfillReport:
        """Embed everything that is due; returns the report, also of a run that fell short.

        `notice` is told, as it comes, what the report has among its notices.

        Raises:
            ConfigurationError: see `check`; nothing was spent.

        """
        check(self._collection, self._embedder.model)
        self._notice = notice
        await self._store.release_dead_workers(self._collection)
        beside = [r.id for r in await self._store.runs(self._collection) if r.state == "running"]
        await self._warn_of_index()
        run = await self._store.start_run(self._collection, self._settings)
        self._worker = self._make_worker(
            self._store, self._collection, self._embedder, self._limiter, self._options, run
        )
        if self._stopped_by:
            self._worker.stop()
        try:
            async with self._reporting(run, on_progress):
                await self._worker.drain(TableScan())
        except (errors.EmbedderError, errors.DatabaseError) as error:
            self._stopped_by = str(error)
        except BaseException:
            with suppress(errors.DatabaseError):
                await self._store.finish_run(run, "interrupted", {})
            raise
        if self._worker.run_state == "cancelling":
            self._stopped_by = self._stopped_by or "cancelled"
        return await self._report_patiently(run, beside, self._worker)

    # --- the index ---

    async def _warn_of_index(self) -> None:
        """Say so where most of a big table is about to be added to the graph of an HNSW index."""
        if not isinstance(self._store, Store):
            return
        there = await self._store.hnsw_indexes(self._collection)
        coverage = await self._store.coverage(self._collection)
        due = coverage.rows - coverage.blank - coverage.embedded
        if not there or due < ROWS_WORTH_AN_INDEX or due < coverage.rows / 2:
            return
        self._say(
            f"About {due:,} of {coverage.rows:,} rows are to be embedded while the HNSW index "
            f"{there[0]} is there: each vector is added to its graph, which takes many times as "
            f"long as building it anew. Quicker: stop, drop index {there[0]}, and run this again; "
            "it builds the index at the end."
        )

    def _say(self, notice: str) -> None:
        self._notices.append(notice)
        if self._notice is not None:
            self._notice(notice)

    async def _index(self) -> IndexOutcome:
        """Build the vectors' index, where the table is filled and big enough for one."""
        if not self._build_index:
            return IndexOutcome("left out", why="not wanted")
        if self._stopped_by or self._options.max_rows is not None:
            return IndexOutcome("left out", why="the run did not fill the table")
        if not isinstance(self._store, Store):
            if (await self._store.coverage(self._collection)).embedded < ROWS_WORTH_AN_INDEX:
                return IndexOutcome("not needed")
            return IndexOutcome(
                "left out",
                why="building it takes a connection to Postgres. With one, run: "
                f"backline index {self._collection.name}",
            )
        try:
            made = await ensure_vectors(self._store, self._collection)
        except errors.DatabaseError as error:  # what was embedded stays embedded
            return IndexOutcome(
                "left out", why=f"{error} Later, run: backline index {self._collection.name}"
            )
        return IndexOutcome(made.state, made.seconds)

    def _reporting(
        self, run: int, on_progress: Progress | None
    ) -> AbstractAsyncContextManager[None]:
        return nullcontext() if on_progress is None else beside(self._watch(run, on_progress))

    async def _watch(self, run: int, on_progress: Progress) -> None:
        while True:
            with suppress(errors.DatabaseError):  # the worker waits for the database; so do we
                [record] = await self._store.runs(run=run)
                on_progress(record, await self._store.coverage(self._collection))
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _report_patiently(
        self, run: int, beside: list[int], worker: Worker
    ) -> BackfillReport:
        """The report, also where a connection breaks while it is read: the work is done."""
        with suppress(
            errors.DatabaseError
        ):  # an index may take long, and no worker lives meanwhile
            await self._store.finish_run(run, self._state, {})
        index = await self._index()
        for pause in REPORT_AGAIN_SECONDS:
            try:
                return await self._report(run, beside, worker, index)
            except (errors.DatabaseUnavailableError, errors.ContentionError):
                await asyncio.sleep(pause)
        return await self._report(run, beside, worker, index)

    async def _report(
        self, run: int, beside: list[int], worker: Worker, index: IndexOutcome
    ) -> BackfillReport:
        coverage = await self._store.coverage(self._collection)
        [record] = await self._store.runs(run=run)
        if not _borne_out(record, coverage):
            await self._recount()
            coverage = await self._store.coverage(self._collection)
        report = BackfillReport(
            run=run,
            collection=record.collection,
            model=str(self._embedder.model),
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
            long=record.long,
            long_keys=worker.stats.long,
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
        except errors.StatementTimeoutError:  # the ledger is kept true by triggers all the same
            self._say(
                "The rows could not be counted within the role's statement_timeout; the coverage "
                "is that of the ledger."
            )


def _borne_out(record: RunRecord, coverage: Coverage) -> bool:
    """Whether the walk met as many rows as the ledger has, and every one has its outcome.

    Else rows came or went meanwhile, or something was done behind the triggers' back. Counting a
    big table takes longer than anything else at the end of a run.
    """
    outcomes = coverage.embedded + coverage.blank + coverage.pending + coverage.failed
    return record.scanned == coverage.rows == outcomes
