"""Commands that read: search, suggest and eval; and index, which makes reading quick."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from backline import errors, search
from backline.cli import work
from backline.cli.context import (
    AsJson,
    CollectionName,
    DatabaseUrl,
    DataDir,
    database,
    embedder_for,
    run,
    settings_of,
)
from backline.cli.data import model_of
from backline.cli.output import duration, emit, facts, out, say, table
from backline.cli.via import Via, job_store
from backline.config import Settings
from backline.postgres.store import Store
from backline.search import Context, Mode, Query, Suggestions, evaluate
from backline.search.indexes import index_for_search
from backline.types import Collection, SearchHit

InCollection = Annotated[
    str | None,
    typer.Option("--collection", "-c", help="Default: the only one, or music_knowledge."),
]
InMode = Annotated[
    str,
    typer.Option(
        "--mode",
        help="hybrid: by meaning and by words, which finds most; semantic: by meaning only; "
        "keyword: by words only, which needs no model.",
    ),
]


def search_command(
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    collection: InCollection = None,
    mode: InMode = "hybrid",
    limit: Annotated[
        int, typer.Option("--limit", help="How many hits.", min=1, max=search.LARGEST_PAGE)
    ] = 5,
    offset: Annotated[
        int,
        typer.Option("--offset", help="Leave out this many, for the pages after the first.", min=0),
    ] = 0,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            help="Only rows for which this holds: \"category = 'mixing' and confidence >= 0.8 "
            'and parameters.ratio > 3". Knows = != < <= > >= in like ilike is null and or not.',
        ),
    ] = None,
    weight: Annotated[
        float,
        typer.Option(
            "--weight",
            help="How much words count beside meaning in a hybrid search, 0 to 1. Raise it for "
            "part numbers and names, lower it for vague questions.",
            min=0,
            max=1,
        ),
    ] = search.DEFAULT_WEIGHT,
    via: Via = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows that answer a question, best first."""
    asked = Query(query, mode_of(mode), limit, offset, where, weight, snippets=True)
    settings = settings_of(database_url=database_url, data_dir=data_dir, via=via)
    hits = run(_search(settings, collection, asked))
    if as_json:
        emit({"query": query, "mode": mode, "hits": [_hit(hit) for hit in hits]})
        return
    show_hits(hits)


def mode_of(text: str) -> Mode:
    """A mode by its name.

    Raises:
        UsageError: there is no such mode.
    """
    for mode in search.MODES:
        if mode == text:
            return mode
    raise errors.UsageError(f"--mode is {text!r}; use {', '.join(get_args(Mode))}.")


async def _search(settings: Settings, name: str | None, query: Query) -> list[SearchHit]:
    async with job_store(settings, "read") as store:
        collection = await store.collection(name)
        if query.mode != "semantic":
            await index_for_search(store, collection, say)
        if query.mode == "keyword":
            return await search.search(store, collection, None, query)
        async with embedder_for(settings, collection.model) as (embedder, _):
            return await search.search(store, collection, embedder, query)


def _hit(hit: SearchHit) -> dict[str, Any]:
    return {
        "key": hit.key, "score": round(hit.score, 6), "parts": hit.parts, "content": hit.content,
        "snippet": hit.snippet, "row": hit.row,
    }  # fmt: skip


def show_hits(hits: list[SearchHit]) -> None:
    """Hits with their scores; entries of the knowledge base with title and parameters."""
    if not hits:
        out.print("No hits. Is the collection embedded? See: backline status")
    for rank, hit in enumerate(hits, start=1):
        title = hit.row.get("title") or hit.key
        parts = ", ".join(f"{name} {value:.2f}" for name, value in hit.parts.items())
        out.print(f"{rank}. [bold]{_escaped(title)}[/bold]  {hit.score:.3f}  [dim]{parts}[/dim]")
        out.print(f"   {hit.row.get('suggestion') or hit.content}", markup=False)
        show_parameters(hit.row.get("parameters"))


def show_parameters(parameters: Mapping[str, Any] | None) -> None:
    if parameters:
        shown = ", ".join(f"{name} {json.dumps(value)}" for name, value in parameters.items())
        out.print(f"   [dim]{_escaped(shown)}[/dim]")


def _escaped(text: object) -> str:
    return str(text).replace("[", r"\[")


# --- suggest ---


def suggest_command(
    prompt: Annotated[str, typer.Argument(help="What the person asks, in their own words.")],
    context: Annotated[
        str | None,
        typer.Option("--context", help="What it is about: a category or topic, such as mixing."),
    ] = None,
    genre: Annotated[str | None, typer.Option("--genre", help="Such as techno or jazz.")] = None,
    bpm: Annotated[
        float | None, typer.Option("--bpm", help="Tempo in beats a minute.", min=1, max=1000)
    ] = None,
    track_type: Annotated[
        str | None, typer.Option("--track-type", help="Such as vocals, bass or drums.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="At most this many suggestions.", min=1, max=20)
    ] = 5,
    collection: InCollection = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What a studio assistant answers: ranked advice with parameters, or that nothing is known."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)
    about = Context(context, genre, bpm, track_type)
    answer = run(_suggest(settings, collection, prompt, about, limit))
    if as_json:
        emit(answer)
        return
    out.print(answer.message)
    for rank, each in enumerate(answer.suggestions, start=1):
        out.print(f"{rank}. [bold]{_escaped(each.title)}[/bold]")
        out.print(f"   {each.advice}", markup=False)
        show_parameters(each.parameters)
        out.print(f"   [dim]{_escaped(each.reason)}[/dim]")


async def _suggest(
    settings: Settings, name: str | None, prompt: str, context: Context, limit: int
) -> Suggestions:
    async with database(settings) as store:
        collection = await store.collection(name)
        await index_for_search(store, collection, say)
        async with embedder_for(settings, collection.model) as (embedder, _):
            return await search.suggest(store, collection, embedder, prompt, context, limit=limit)


# --- index ---


def index_command(
    collection: CollectionName = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make both indexes anew, whatever is there.")
    ] = False,
    keywords: Annotated[
        str | None,
        typer.Option(
            "--keywords",
            help="What is indexed for keywords, such as '{title} {title} {body}'; a column named "
            "twice weighs twice. Default: the text that is embedded.",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            help="Text search configuration of Postgres for the keywords: english, german, simple "
            "(no stemming) and so on; default english.",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--check",
            help="Compare this many searches by the vector index with the exact answer, and report "
            "recall@10; 0 for none.",
            min=0,
            max=10_000,
        ),
    ] = 0,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make the indexes for search where they are missing: keywords, and HNSW for large tables."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)
    found = run(_index(settings, collection, keywords, language, samples, rebuild=rebuild))
    if as_json:
        emit(found)
        return
    _show_indexes(found)


async def _index(
    settings: Settings, name: str | None, keywords: str | None, language: str | None, samples: int,
    *, rebuild: bool,
) -> dict[str, Any]:  # fmt: skip
    async with database(settings) as store:
        collection = await store.collection(name)
        if keywords is not None or language is not None:
            await search.set_keywords(store, collection, template=keywords, language=language)
        indexes = await search.ensure_index(store, collection, rebuild=rebuild)
        recall = await search.recall(store, collection, samples) if samples else None
    return {
        "collection": collection.name,
        **asdict(indexes),
        "recall": None if recall is None else asdict(recall),
    }


def _show_indexes(found: dict[str, Any]) -> None:
    vectors, keywords, recall = found["vectors"], found["keywords"], found["recall"]
    out.print(f"[bold]{found['collection']}[/bold]")
    pairs = {
        "vectors": f"{vectors['state']}, {vectors['rows']:,} rows embedded",
        "keywords": f"{keywords['documents']:,} rows, {keywords['language']}, "
        f"{keywords['text_template']}",
    }
    if vectors["state"] == "built":
        pairs["vectors"] += f", in {duration(vectors['seconds'])}"
    if recall is not None:
        pairs["recall@10"] = (
            f"{recall['mean']:.4f} on average, {recall['worst']:.2f} at worst, "
            f"over {recall['queries']:,} searches"
        )
    facts(pairs)


# --- eval ---


def eval_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A folder with corpus.jsonl, queries.jsonl and qrels/*.tsv (BEIR)."
        ),
    ],
    mode: InMode = "hybrid",
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare", help="Two modes: run both, and say whether the difference is real.",
            metavar="A B",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Which judgments; default: test, dev or train, as there are."),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(
            "--collection", "-c",
            help="Search this collection, which holds the rows already, and load nothing.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="The model that the corpus is embedded with.")
    ] = "local",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the loaded corpus, as the collection eval_DIR.")
    ] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure search on judged queries: nDCG@10, recall@100, MRR@10 and latency."""
    modes = [mode_of(each) for each in (compare or (mode,))]
    settings = settings_of(database_url=database_url, data_dir=data_dir)
    dataset = evaluate.read_dataset(folder, split)
    results = run(_evaluate(settings, dataset, modes, collection, model, keep=keep, quiet=as_json))
    versus = evaluate.compare(results[0].ndcg_10, results[1].ndcg_10) if compare else None
    if as_json:
        emit(
            {
                "dataset": dataset.name, "split": dataset.split,
                "results": [result.as_dict() for result in results],
                "comparison": None if versus is None else asdict(versus),
            }
        )  # fmt: skip
        return
    _show_evaluation(dataset, results, versus)


async def _evaluate(
    settings: Settings, dataset: evaluate.Dataset, modes: list[Mode], name: str | None, model: str,
    *, keep: bool, quiet: bool,
) -> list[evaluate.Evaluation]:  # fmt: skip
    async with database(settings) as store:
        if name is not None:
            return await _measure(settings, store, await store.collection(name), dataset, modes)
        chosen = await model_of(settings, model)
        collection = await evaluate.load_corpus(store, dataset, chosen)
        try:
            report = await work.backfill_collection(store, settings, collection, None, quiet=quiet)
            if not report.complete:
                raise errors.EmbedderError(
                    f"Only {report.coverage.embedded:,} of {report.coverage.rows:,} rows of the "
                    "corpus could be embedded, so nothing was measured. See: backline failures "
                    f"list {collection.name}."
                )
            await search.ensure_index(store, collection)
            return await _measure(settings, store, collection, dataset, modes)
        finally:
            if not keep:
                await evaluate.unload(store, collection)


async def _measure(
    settings: Settings, store: Store, collection: Collection, dataset: evaluate.Dataset,
    modes: list[Mode],
) -> list[evaluate.Evaluation]:  # fmt: skip
    say(f"Asking {len(dataset.queries):,} questions of {collection.name}.")
    if modes == ["keyword"]:
        return [await evaluate.evaluate(store, collection, None, dataset, "keyword")]
    async with embedder_for(settings, collection.model) as (embedder, _):
        return [
            await evaluate.evaluate(store, collection, embedder, dataset, mode) for mode in modes
        ]


def _show_evaluation(
    dataset: evaluate.Dataset,
    results: list[evaluate.Evaluation],
    versus: evaluate.Comparison | None,
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
    if versus is not None:
        verdict = "a real difference" if versus.p_value < 0.05 else "may be chance"
        out.print(
            f"{results[0].mode} minus {results[1].mode}: {versus.difference:+.4f} nDCG@10, 95 % "
            f"between {versus.low:+.4f} and {versus.high:+.4f}, p = {versus.p_value:.4f}: {verdict}"
        )
