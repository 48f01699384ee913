"""The command `model`: which models there are, their weights, and a collection's choice."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from backline import errors, extras
from backline.cli.context import AsJson, DatabaseUrl, DataDir, database, run, settings_of
from backline.cli.data import model_of
from backline.cli.output import emit, out, say, table
from backline.collections import check
from backline.embedders import local
from backline.embedders.openai.models import MAX_TOKENS, OPENAI_MODELS

model_app = typer.Typer(help="The models, and which one a collection uses.", no_args_is_help=True)


@model_app.command("list")
def model_list(as_json: AsJson = False) -> None:
    """List the models that --model takes, and which local ones are on this machine."""
    settings = settings_of()
    engine = local.choose_engine(settings.local_engine, settings.local_threads)
    rows = [*_local_rows(), *_openai_rows(), _HASH]
    if as_json:
        emit({"models": rows, "engine": asdict(engine)})
        return
    table(
        ("model", "dimensions", "max tokens", "where"),
        ((r["model"], r["dimensions"] or "any", f"{r['max_tokens']:,}", r["where"]) for r in rows),
    )
    out.print(f"Local models are computed by {_described(engine)}", markup=False)


def _described(engine: local.EngineChoice) -> str:
    shares = "1 thread" if engine.threads == 1 else f"{engine.threads} threads"
    faster = f" OpenVINO is the engine made for speed: {engine.remedy}" if engine.remedy else ""
    return f"{engine.name} in {engine.precision}, on {shares}.{faster}"


_HASH: Final[dict[str, Any]] = {
    "model": "hash@DIMENSIONS",
    "dimensions": None,
    "max_tokens": 8192,
    "where": "always there; no meaning",
}


def _local_rows() -> list[dict[str, Any]]:
    return [
        {
            "model": f"local/{model.info.name}",
            "dimensions": model.info.dimensions,
            "max_tokens": model.info.max_tokens,
            "where": _whereabouts(model) + _needed(model.info.extra),
        }
        for model in local.list_models()
    ]


def _whereabouts(model: local.CachedModel) -> str:
    if model.cached:
        return f"on this machine, {model.size_bytes / 1e6:.0f} MB"
    return f"to be fetched: backline model pull {model.info.name}"


def _needed(extra: str | None) -> str:
    """What to install first, where something is missing."""
    if extra is None or extras.installed(extra):
        return ""
    return f"; needs {extras.install(extra)}"


def _openai_rows() -> list[dict[str, Any]]:
    return [
        {
            "model": f"openai/{name}",
            "dimensions": model.dimensions,
            "max_tokens": MAX_TOKENS,
            "where": "with OPENAI_API_KEY" + _needed("openai"),
        }
        for name, model in OPENAI_MODELS.items()
    ]


@model_app.command("pull")
def model_pull(
    name: Annotated[str, typer.Argument(help="A local model's name.")] = local.DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Fetch a local model's weights and check them, so that later runs need no network."""
    folder = local.pull(name, progress=None if as_json else say)
    if as_json:
        emit({"model": name, "folder": str(folder)})
    else:
        out.print(f"{name} is on this machine: {folder}", markup=False)


@model_app.command("use")
def model_use(
    collection: Annotated[str, typer.Argument(help="The collection.")],
    model: Annotated[str, typer.Argument(help="The model, as --model takes it.")],
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change a collection's model. Every row is due then; backline backfill embeds them anew."""
    settings = settings_of(database_url=database_url, data_dir=data_dir)

    async def act() -> str:
        chosen = await model_of(settings, model)
        async with database(settings) as store:
            found = await store.collection(collection)
            with suppress(errors.ModelMismatchError):  # that is what is about to be changed
                check(found, chosen)
            await store.set_model(found, chosen)
        return str(chosen)

    chosen = run(act())
    if as_json:
        emit({"collection": collection, "model": chosen})
    else:
        out.print(
            f"{collection} uses {chosen}. Embed its rows anew: backline backfill {collection}",
            markup=False,
        )
