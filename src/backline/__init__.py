"""Backline keeps the embeddings behind your Postgres tables filled, fresh and searchable.

The names in `__all__` are the public API. Every other name may change with any release. A name is
imported on its first use, which keeps `import backline` fast.

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
    from backline import errors, search
    from backline.adoption import Adopted, adopt
    from backline.backfill import Backfill, BackfillReport
    from backline.collections import check
    from backline.embedders.base import Embedder
    from backline.embedders.limiter import Limiter
    from backline.embedders.providers import EmbedderOptions, open_embedder
    from backline.errors import BacklineError
    from backline.estimation import Preview, estimate
    from backline.loading import Loaded, load
    from backline.postgres import embedded, migrate
    from backline.postgres.store import Store, open_store
    from backline.reconcile import Reconciled, Reconciliation
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
    from backline.verification import verify
    from backline.worker.options import WorkerOptions

__all__ = [
    "Adopted",
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
    "adopt",
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

_NAMES_BY_MODULE: Final = {
    "backline.adoption": ("Adopted", "adopt"),
    "backline.backfill": ("Backfill", "BackfillReport"),
    "backline.collections": ("check",),
    "backline.embedders.base": ("Embedder",),
    "backline.embedders.providers": ("EmbedderOptions", "open_embedder"),
    "backline.errors": ("BacklineError",),
    "backline.embedders.limiter": ("Limiter",),
    "backline.loading": ("Loaded", "load"),
    "backline.estimation": ("Preview", "estimate"),
    "backline.reconcile": ("Reconciled", "Reconciliation"),
    "backline.postgres.store": ("Store", "open_store"),
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
    "backline.verification": ("verify",),
    "backline.worker.options": ("WorkerOptions",),
}
_MODULE_OF: Final = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}
_SUBMODULES: Final = {
    "embedded": "backline.postgres.embedded",
    "errors": "backline.errors",
    "migrate": "backline.postgres.migrate",
    "search": "backline.search",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(_SUBMODULES[name])
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'backline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
