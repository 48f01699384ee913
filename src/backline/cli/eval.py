"""The command `eval`: measure search on judged queries."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backline import config, errors, search, wiring
from backline.cli.backfill import backfill_collection
from backline.cli.collections import Passages, PassageTokens
from backline.cli.options import NO_FLAGS, AsJson, Flags, SearchMode, database_options
from backline.cli.output import emit, out, say, table
from backline.cli.search import mode_of
from backline.collections import declared_splitting
from backline.config import Settings
from backline.postgres.store import Store
from backline.search import Mode
from backline.search import evaluate as library
from backline.types import Collection

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="Folder in BEIR format: corpus.jsonl, queries.jsonl, qrels/*.tsv."
    ),
]
Compare = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare",
        help="Run two modes and test whether their difference is significant.",
        metavar="A B",
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Judgments to use. Default: the first of test, dev and train."),
]
ExistingCollection = Annotated[
    str | None,
    typer.Option(
        "--collection",
        "-c",
        help="Search this collection, which already holds the rows. Default: load DIR.",
    ),
]
ModelSpec = Annotated[
    str, typer.Option("--model", help="Model that embeds the corpus, as add takes it.")
]
Keep = Annotated[
    bool, typer.Option("--keep", help="Keep the loaded corpus as the collection eval_DIR.")
]


@database_options()
def evaluate(
    folder: Folder,
    mode: SearchMode = "hybrid",
    compare: Compare = None,
    split: Split = None,
    collection: ExistingCollection = None,
    model: ModelSpec = "local",
    passages: Passages = "none",
    passage_tokens: PassageTokens = None,
    keep: Keep = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Measure search on judged queries: nDCG@10, recall@100, MRR@10, latency."""
    modes = [mode_of(each) for each in (compare or (mode,))]
    settings = config.load(**flags)
    dataset = library.read_dataset(folder, split)
    results = asyncio.run(
        _evaluate(
            settings,
            dataset,
            modes,
            collection,
            model,
            (passages, passage_tokens),
            keep=keep,
            quiet=as_json,
        )
    )
    comparison = library.compare(results[0].ndcg_10, results[1].ndcg_10) if compare else None
    if as_json:
        emit(
            {
                "dataset": dataset.name, "split": dataset.split,
                "results": [result.as_dict() for result in results],
                "comparison": None if comparison is None else asdict(comparison),
            }
        )  # fmt: skip
        return
    _show(dataset, results, comparison)


async def _evaluate(
    settings: Settings, dataset: library.Dataset, modes: list[Mode], name: str | None, spec: str,
    passages: tuple[str, int | None], *, keep: bool, quiet: bool,
) -> list[library.Evaluation]:  # fmt: skip
    async with wiring.open_database(settings) as store:
        if name is not None:
            return await _measure(settings, store, await store.collection(name), dataset, modes)
        model = await wiring.resolve_model(settings, spec)
        splitting = declared_splitting(model, *passages)
        collection = await library.load_corpus(store, dataset, model, splitting)
        try:
            await _embed_corpus(settings, store, collection, quiet=quiet)
            return await _measure(settings, store, collection, dataset, modes)
        finally:
            if not keep:
                await library.unload(store, collection)


async def _embed_corpus(
    settings: Settings, store: Store, collection: Collection, *, quiet: bool
) -> None:
    report = await backfill_collection(store, settings, collection, None, quiet=quiet)
    if not report.complete:
        raise errors.EmbedderError(
            f"Only {report.coverage.embedded:,} of {report.coverage.rows:,} rows of the corpus "
            "could be embedded, so nothing was measured. See: "
            f"{errors.command('failures', 'list', collection.name)}."
        )
    await search.ensure_index(store, collection)


async def _measure(
    settings: Settings, store: Store, collection: Collection, dataset: library.Dataset,
    modes: list[Mode],
) -> list[library.Evaluation]:  # fmt: skip
    say(f"Running {len(dataset.queries):,} queries on {collection.name}.")
    if modes == ["keyword"]:
        return [await library.evaluate(store, collection, None, dataset, "keyword")]
    async with wiring.embedder_for(settings, collection.model, say) as (embedder, _):
        return [
            await library.evaluate(store, collection, embedder, dataset, mode) for mode in modes
        ]


def _show(
    dataset: library.Dataset,
    results: list[library.Evaluation],
    comparison: library.Comparison | None,
) -> None:
    out.print(f"[bold]{dataset.name}[/bold], {dataset.split}: {len(dataset.queries):,} queries")
    rows = [result.as_dict() for result in results]
    table(
        ("mode", "nDCG@10", "recall@100", "MRR@10", "first relevant", "p50", "p99"),
        (
            (
                row["mode"], f"{row['ndcg@10']:.4f}", f"{row['recall@100']:.4f}",
                f"{row['mrr@10']:.4f}", f"{row['first_relevant']:.4f}",
                f"{row['p50_ms']:.1f} ms", f"{row['p99_ms']:.1f} ms",
            )
            for row in rows
        ),
    )  # fmt: skip
    if comparison is not None:
        conclusion = "significant" if comparison.p_value < 0.05 else "not significant"
        out.print(
            f"{results[0].mode} minus {results[1].mode}: {comparison.difference:+.4f} nDCG@10, "
            f"95 % confidence interval {comparison.low:+.4f} to {comparison.high:+.4f}, "
            f"p = {comparison.p_value:.4f}: {conclusion}"
        )
