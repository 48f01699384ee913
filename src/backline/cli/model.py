"""The commands of `model`: models, their weights, a collection's model."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from backline import config, errors, extras, wiring
from backline.cli import model_change
from backline.cli.model_evaluate import evaluate_change
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import emit, out, say, table
from backline.collections import check, declared_splitting
from backline.config import Settings
from backline.embedders import local
from backline.embedders.openai.models import MAX_TOKENS, OPENAI_MODELS

app = typer.Typer(
    help="List models, download weights, change a model.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that --model takes, and which local ones are on this machine."""
    settings = config.load()
    engine = local.choose_engine(settings.local_engine, settings.local_threads)
    rows = [*_local_rows(), *_openai_rows(), _HASH]
    if as_json:
        emit({"models": rows, "engine": asdict(engine)})
        return
    table(
        ("model", "dimensions", "max tokens", "where"),
        ((r["model"], r["dimensions"] or "any", f"{r['max_tokens']:,}", r["where"]) for r in rows),
    )
    out.print(f"Engine of local models: {_describe(engine)}", markup=False)


def _describe(engine: local.EngineChoice) -> str:
    threads = "1 thread" if engine.threads == 1 else f"{engine.threads} threads"
    faster = f" OpenVINO is faster: {engine.remedy}" if engine.remedy else ""
    return f"{engine.name}, {engine.precision}, {threads}.{faster}"


for _name in ("change", "changes", "cutover", "rollback", "retire", "cancel"):
    app.command(_name)(getattr(model_change, _name))


_HASH: Final[dict[str, Any]] = {
    "model": "hash@DIMENSIONS",
    "dimensions": None,
    "max_tokens": 8192,
    "where": "built in; vectors without meaning",
}


def _local_rows() -> list[dict[str, Any]]:
    return [
        {
            "model": f"local/{model.info.name}",
            "dimensions": model.info.dimensions,
            "max_tokens": model.info.max_tokens,
            "where": _location(model) + _missing_extra(model.info.extra),
        }
        for model in local.list_models()
    ]


def _location(model: local.CachedModel) -> str:
    if model.cached:
        return f"on this machine, {model.size_bytes / 1e6:.0f} MB"
    return f"not downloaded: {errors.command('model', 'pull', model.info.name)}"


def _missing_extra(extra: str | None) -> str:
    if extra is None or extras.installed(extra):
        return ""
    return f"; needs {extras.install(extra)}"


def _openai_rows() -> list[dict[str, Any]]:
    return [
        {
            "model": f"openai/{name}",
            "dimensions": model.dimensions,
            "max_tokens": MAX_TOKENS,
            "where": "needs OPENAI_API_KEY" + _missing_extra("openai"),
        }
        for name, model in OPENAI_MODELS.items()
    ]


Name = Annotated[str, typer.Argument(help="Name of a local model.")]


@app.command("pull")
def pull(
    name: Name = local.DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Download and check a local model's weights, so that later runs need no network."""
    folder = local.pull(name, progress=None if as_json else say)
    if as_json:
        emit({"model": name, "folder": str(folder)})
    else:
        out.print(f"{name} is on this machine: {folder}", markup=False)


Collection = Annotated[str, typer.Argument(help="The collection.")]
ModelSpec = Annotated[str, typer.Argument(help="The model, as --model takes it.")]


InPlace = Annotated[
    bool,
    typer.Option(
        "--in-place",
        help="Although rows have vectors: they are not found by meaning until they are embedded "
        "again.",
    ),
]


@app.command("use")
@database_options()
def use(
    collection: Collection,
    model: ModelSpec,
    in_place: InPlace = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Change a collection's model in place, without the present vectors.

    For a collection that has no vectors yet. Otherwise its rows are not found by meaning until a
    backfill has embedded them again, and --in-place is needed. See: backline model change.
    """
    chosen = asyncio.run(_use(config.load(**flags), collection, model, in_place=in_place))
    if as_json:
        emit({"collection": collection, "model": chosen})
    else:
        out.print(
            f"{collection} uses {chosen}. Embed its rows again: "
            f"{errors.command('backfill', collection)}",
            markup=False,
        )


async def _use(settings: Settings, name: str, spec: str, *, in_place: bool) -> str:
    model = await wiring.resolve_model(settings, spec)
    async with wiring.open_database(settings) as store:
        collection = await store.collection(name)
        embedded = 0 if collection.unusable else (await store.coverage(collection)).embedded
        if embedded and not in_place and model.identity != collection.model.identity:
            raise errors.ModelChangeError(
                f"{embedded:,} rows of {name!r} have vectors of {collection.model}. To keep "
                "searching them until the new ones are complete: "
                f"{errors.command('model', 'change', name, '--to', spec)}. To do without: "
                "--in-place."
            )
        with suppress(errors.ModelMismatchError):  # the mismatch that this command resolves
            check(collection, model)
        if collection.splitting is not None:
            splitting = collection.splitting
            declared_splitting(model, splitting.by, splitting.tokens, splitting.overlap)
        await store.set_model(collection, model)
    return str(model)


app.command("evaluate")(evaluate_change)
