"""The command `model evaluate`: compare a collection with the one that is to replace it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from backline import config, errors, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import count, emit, out, say, table
from backline.config import Settings
from backline.postgres.store import Store
from backline.search import compare as library
from backline.search import evaluate, query_sets
from backline.search.compare import Side
from backline.search.query_sets import QuerySet
from backline.types import Collection

Serving = Annotated[str, typer.Argument(help="The collection that is searched now.")]
Other = Annotated[
    str | None,
    typer.Option(
        "--with",
        metavar="NAME",
        help="The collection to compare with, over the same table. Default: COLLECTION@next, "
        "which a change of the model fills.",
    ),
]
QueryFile = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        metavar="FILE",
        help="Compare on these queries: one a line, or JSON objects with text in a .jsonl file. "
        "Default: the queries that were asked last, if BACKLINE_KEEP_QUERIES keeps them.",
    ),
]
JudgedFolder = Annotated[
    Path | None,
    typer.Option(
        "--judged",
        metavar="DIR",
        help="Compare on judged queries, and by nDCG@10 too: queries.jsonl and qrels/*.tsv, as "
        "eval takes them.",
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", help="Most kept queries to compare on.", min=1, max=10_000)
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Compare a collection that is not complete, too.")
]
SHOWN: Final = 3
WIDTH: Final = 52


@database_options()
def evaluate_change(
    collection: Serving,
    other: Other = None,
    queries: QueryFile = None,
    judged: JudgedFolder = None,
    limit: Limit = query_sets.QUERIES,
    partial: Partial = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Compare the search of a collection with that of the one to replace it.

    Reports the overlap of the first ten rows, the rank correlation, and the queries that moved
    most. The result is stored, and the studio shows it.
    """
    if queries is not None and judged is not None:
        raise errors.UsageError("--queries and --judged exclude each other. Use one of them.")
    asked = _asked(queries, judged)
    result = asyncio.run(
        _evaluate(config.load(**flags), (collection, other), asked, limit, partial=partial)
    )
    if as_json:
        emit(result)
    else:
        _show(result)


def _asked(queries: Path | None, judged: Path | None) -> QuerySet | None:
    if judged is not None:
        return query_sets.judged_queries(evaluate.read_dataset(judged))
    return None if queries is None else query_sets.read_queries(queries)


async def _evaluate(
    settings: Settings, names: tuple[str, str | None], asked: QuerySet | None, limit: int, *,
    partial: bool,
) -> dict[str, Any]:  # fmt: skip
    async with wiring.open_database(settings) as store:
        serving, candidate = await library.pair(store, *names)
        await library.filled(store, candidate, partial=partial)
        if asked is None:
            asked = await query_sets.kept_queries(store, serving, limit)
        say(f"Comparing {serving.name} with {candidate.name} on {_queries(len(asked.texts))}.")
        comparison = await _compare(settings, store, (serving, candidate), asked, partial=partial)
        return {"made_at": await _stored(store, comparison), **comparison.as_dict()}


async def _stored(store: Store, comparison: library.CollectionComparison) -> datetime | None:
    """Store a result; a database that refuses to is no reason to lose the result."""
    try:
        return await library.store_evaluation(store, comparison)
    except (errors.ReadOnlyError, errors.PermissionDeniedError) as error:
        say(f"The result is not stored for the studio: {error}")
        return None


async def _compare(
    settings: Settings, store: Store, collections: tuple[Collection, Collection], asked: QuerySet,
    *, partial: bool,
) -> library.CollectionComparison:  # fmt: skip
    serving, candidate = collections
    async with (
        wiring.embedder_for(settings, serving.model, say) as one,
        wiring.embedder_for(settings, candidate.model, say) as other,
    ):
        sides = Side(serving, *one), Side(candidate, *other)
        return await library.compare(store, *sides, asked, partial=partial)


# --- the report -----------------------------------------------------------------------------------


def _show(result: Mapping[str, Any]) -> None:
    serving, candidate = result["serving"], result["candidate"]
    for title, side in (("serving", serving), ("candidate", candidate)):
        out.print(f"{title:<9}  {side['collection']}, {side['model']}", markup=False)
    if not candidate["complete"]:
        out.print(
            f"Only {candidate['vectors']:,} of {candidate['rows']:,} rows of the candidate have "
            "vectors: this compares an incomplete collection."
        )
    out.print(f"{_queries(result['queries'])}, {_origin(result)}", markup=False)
    table(
        ("mode", "overlap@10", "lowest tenth", "rank correlation", "lowest tenth", "no change"),
        (
            (
                mode["mode"], f"{mode['overlap']['mean']:.2f}", f"{mode['overlap']['p10']:.2f}",
                f"{mode['rbo']['mean']:.2f}", f"{mode['rbo']['p10']:.2f}",
                f"{mode['unchanged']:,}",
            )
            for mode in result["modes"]
        ),
    )  # fmt: skip
    for mode in result["modes"]:
        if mode["ndcg"] is not None:
            _show_ndcg(mode["mode"], mode["ndcg"])
    for mode in result["modes"]:
        _show_queries(f"Moved most, {mode['mode']}", mode["moved"])


def _queries(number: int) -> str:
    return count(number, "query", "queries")


def _origin(result: Mapping[str, Any]) -> str:
    return "the latest that were asked" if result["source"] == "kept" else f"of {result['name']}"


def _show_ndcg(mode: str, ndcg: Mapping[str, Any]) -> None:
    conclusion = "significant" if ndcg["p_value"] < 0.05 else "not significant"
    out.print(
        f"nDCG@10, {mode}: {ndcg['serving']:.4f} to {ndcg['candidate']:.4f}, difference "
        f"{ndcg['difference']:+.4f}, 95 % confidence interval {ndcg['low']:+.4f} to "
        f"{ndcg['high']:+.4f}, p = {ndcg['p_value']:.4f}: {conclusion}",
        markup=False,
    )
    _show_queries(f"Lost most, {mode}", ndcg["worse"])


def _show_queries(title: str, compared: Sequence[Mapping[str, Any]]) -> None:
    """Print queries with the first rows of both collections side by side."""
    if not compared:
        return
    out.print(f"\n{title}:", markup=False)
    for each in compared[:SHOWN]:
        out.print(f'"{each["query"]}": {_numbers(each)}', markup=False)
        for one, other in zip_longest(each["serving"], each["candidate"]):
            out.print(f"  {_row(one):<{WIDTH}}  {_row(other)}".rstrip(), markup=False)


def _numbers(compared: Mapping[str, Any]) -> str:
    numbers = f"{count(compared['shared'], 'row')} in both, correlation {compared['rbo']:.2f}"
    if compared["serving_ndcg"] is None:
        return numbers
    return f"nDCG {compared['serving_ndcg']:.2f} to {compared['candidate_ndcg']:.2f}, {numbers}"


def _row(row: Mapping[str, Any] | None) -> str:
    """Return a row in WIDTH characters; only the JSON output has long keys and titles whole."""
    return "" if row is None else _shorten(f"{_shorten(row['key'], 12)} {row['title']}", WIDTH)


def _shorten(text: str, most: int) -> str:
    """Return a text of at most `most` characters in one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
