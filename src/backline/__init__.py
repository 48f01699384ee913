"""Backline keeps the embeddings behind your Postgres tables filled, fresh and searchable.

Everything in `__all__` is the public API; whatever else the package holds may change with any
release. Names are imported when they are first used, so that `import backline` costs next to
nothing.

    import asyncio
    import backline

    async def main() -> None:
        url = backline.embedded.start()
        async with backline.open_store(url) as store:
            await backline.migrate.apply(store.connector)
            collection = await store.collection("music_knowledge")
            embedder = await backline.open_embedder("local")
            backfill = backline.Backfill(
                store, collection, embedder, backline.Limiter(), backline.WorkerOptions()
            )
            report = await backfill.run()
            print(report.coverage.ratio)

    asyncio.run(main())
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from backline import embedded, errors, migrate, search
    from backline.backfill import Backfill, BackfillReport, check, verify
    from backline.embedders.base import Embedder
    from backline.embedders.registry import EmbedderOptions, open_embedder
    from backline.errors import BacklineError
    from backline.limiter import Limiter
    from backline.loader import Loaded, load
    from backline.preview import Preview, estimate
    from backline.reconcile import Reconciled, Reconciliation
    from backline.store import Store, open_store
    from backline.sync import Sync
    from backline.types import (
        Collection,
        Coverage,
        Failure,
        Model,
        RunRecord,
        SearchHit,
        Verification,
    )
    from backline.worker import WorkerOptions

__all__ = [
    "Backfill",
    "BackfillReport",
    "BacklineError",
    "Collection",
    "Coverage",
    "Embedder",
    "EmbedderOptions",
    "Failure",
    "Limiter",
    "Loaded",
    "Model",
    "Preview",
    "Reconciled",
    "Reconciliation",
    "RunRecord",
    "SearchHit",
    "Store",
    "Sync",
    "Verification",
    "WorkerOptions",
    "check",
    "embedded",
    "errors",
    "estimate",
    "load",
    "migrate",
    "open_embedder",
    "open_store",
    "search",
    "verify",
]

_HOMES: Final = {
    "backline.backfill": ("Backfill", "BackfillReport", "check", "verify"),
    "backline.embedders.base": ("Embedder",),
    "backline.embedders.registry": ("EmbedderOptions", "open_embedder"),
    "backline.errors": ("BacklineError",),
    "backline.limiter": ("Limiter",),
    "backline.loader": ("Loaded", "load"),
    "backline.preview": ("Preview", "estimate"),
    "backline.reconcile": ("Reconciled", "Reconciliation"),
    "backline.store": ("Store", "open_store"),
    "backline.sync": ("Sync",),
    "backline.types": (
        "Collection",
        "Coverage",
        "Failure",
        "Model",
        "RunRecord",
        "SearchHit",
        "Verification",
    ),
    "backline.worker": ("WorkerOptions",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}
_MODULES: Final = ("embedded", "errors", "migrate", "search")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"backline.{name}")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'backline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
