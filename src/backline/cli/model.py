"""The commands of `model`: models, their weights, a collection's model."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final

import typer

from backline import config, errors, extras, wiring
from backline.cli import model_change
from backline.cli.model_evaluate import evaluate_change
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import emit, out, say, table
from backline.collections import check, declared_splitting
from backline.config import Settings
from backline.embedders import local, registry

app = typer.Typer(
    help="List models, download weights, change a model.",
    no_args_is_help=True,
    add_completion=False,
)


Everything = Annotated[
    bool,
    typer.Option("--all", help="Also models of providers that no setting reaches, and ended ones."),
]


@app.command("list")
def list_models(everything: Everything = False, as_json: AsJson = False) -> None:
    """List the models that --model takes: local ones, and those of providers that are set up."""
    settings = config.load()
    engine = local.choose_engine(settings.local_engine, settings.local_threads)
    rows = [*_local_rows(), *_served_rows(settings, everything=everything), *_OTHERS]
    if as_json:
        emit({"models": rows, "providers": _providers(settings), "engine": asdict(engine)})
        return
    table(("model", "dimensions", "max tokens", "$/M tokens", "where"), map(_cells, rows))
    out.print(f"Engine of local models: {_describe(engine)}", markup=False)
    if not everything:
        out.print(_unreached(settings), markup=False)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    price = row["price"]
    return (
        row["model"],
        str(row["dimensions"] or "any"),
        f"{row['max_tokens']:,}",
        "" if price is None else f"{price:g}",
        row["where"],
    )


def _describe(engine: local.EngineChoice) -> str:
    threads = "1 thread" if engine.threads == 1 else f"{engine.threads} threads"
    faster = f" OpenVINO is faster: {engine.remedy}" if engine.remedy else ""
    return f"{engine.name}, {engine.precision}, {threads}.{faster}"


for _name in ("change", "changes", "cutover", "rollback", "retire", "cancel"):
    app.command(_name)(getattr(model_change, _name))


_OTHERS: Final[tuple[dict[str, Any], ...]] = (
    {
        "model": "hash@DIMENSIONS",
        "dimensions": None,
        "max_tokens": 8192,
        "price": 0.0,
        "where": "built in; vectors without meaning",
    },
)


def _local_rows() -> list[dict[str, Any]]:
    entries = {each.name: each for each in registry.models() if each.provider == "local"}
    return [
        _row(
            entries[model.info.name],
            f"local/{model.info.name}",
            0.0,
            _location(model) + _missing_extra(model.info.extra),
        )
        for model in local.list_models()
    ]


def _served_rows(settings: Settings, *, everything: bool) -> list[dict[str, Any]]:
    """Return the models of providers; open weights under the name of a server that may run them."""
    rows = []
    for entry in registry.models():
        if entry.provider == "local" or (not everything and entry.ends is not None):
            continue
        if entry.id is None:
            names = [f"{name}/{_named(entry, name)}" for name in _open_servers(settings)]
        else:
            names = [entry.id] if everything or settings.reaches(str(entry.provider)) else []
        rows += [
            _row(entry, name, registry.price(*name.split("/", 1)), _where(settings, name, entry))
            for name in names
        ]
    return rows


def _open_servers(settings: Settings) -> list[str]:
    """Return the self-hosted servers whose address is set."""
    return [
        name
        for name, entry in registry.providers().items()
        if entry.self_hosted and settings.provider_address(name)
    ]


def _named(entry: registry.ModelEntry, server: str) -> str:
    """Return what a self-hosted server calls a model. Ollama has names of its own."""
    ollama = registry.providers()[server].wire == "ollama"
    return entry.aliases[0] if ollama and entry.aliases else entry.name


def _row(entry: registry.ModelEntry, name: str, price: float | None, where: str) -> dict[str, Any]:
    return {
        "model": name,
        "dimensions": entry.dimensions,
        "choices": list(entry.choices) or None,
        "range": list(entry.range) if entry.range else None,
        "max_tokens": entry.max_tokens,
        "query_prefix": entry.query,
        "passage_prefix": entry.passage,
        "price": price,
        "license": entry.license,
        "ends": entry.ends,
        "successor": entry.successor,
        "checked": entry.checked,
        "where": where,
    }


def _where(settings: Settings, name: str, entry: registry.ModelEntry) -> str:
    provider = name.partition("/")[0]
    server = registry.provider(provider)
    if entry.ends is not None:
        return f"ended on {entry.ends}" if entry.ends <= _today() else f"ends on {entry.ends}"
    if server is None:
        return "Supabase's Edge Runtime"
    extra = _missing_extra("openai") if provider == "openai" else ""
    if settings.reaches(provider):
        return (settings.provider_address(provider) or server.title) + extra
    return f"needs {_needed(provider)}" + extra


def _needed(provider: str) -> str:
    """Return the variables that a provider needs."""
    server = registry.providers()[provider]
    needed = [] if server.base_url else [server.addresses[0]]
    return " and ".join([*needed, *(server.keys[:1] if server.key_required else [])])


def _providers(settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            "provider": name,
            "title": entry.title,
            "key": entry.keys[0],
            "address": entry.addresses[0],
            "base_url": settings.provider_address(name) or entry.base_url,
            "reached": settings.reaches(name),
        }
        for name, entry in registry.providers().items()
    ]


def _unreached(settings: Settings) -> str:
    """Return what makes more models available."""
    needs = [_needed(name) for name in registry.providers() if not settings.reaches(name)]
    return (
        f"More with: {', '.join(needs)}. Every model: {errors.command('model', 'list', '--all')}."
    )


def _today() -> date:
    return datetime.now(UTC).date()


def _location(model: local.CachedModel) -> str:
    if model.cached:
        return f"on this machine, {model.size_bytes / 1e6:.0f} MB"
    return f"not downloaded: {errors.command('model', 'pull', model.info.name)}"


def _missing_extra(extra: str | None) -> str:
    if extra is None or extras.installed(extra):
        return ""
    return f"; needs {extras.install(extra)}"


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
