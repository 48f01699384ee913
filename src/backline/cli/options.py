"""Options that several commands share, and the decorator that adds those of the database."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer

Flags: TypeAlias = Mapping[str, Any]
"""The options that `database_options` adds, as `config.load` takes them."""

NO_FLAGS: Final[Flags] = {}

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="Postgres with pgvector, postgresql://user:password@host/db. Default: the "
        "embedded Postgres. Environment: DATABASE_URL, which keeps the password out of the "
        "process list.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="Folder of the embedded Postgres. Each folder is a separate database. Default: the "
        "per-user data folder. Environment: BACKLINE_DATA_DIR.",
        show_default=False,
    ),
]
StoreTransport = Annotated[
    str | None,
    typer.Option(
        "--via",
        metavar="TRANSPORT",
        help="How to reach the rows. postgres: a database connection. rest: the API of a Supabase "
        "project, which needs only its URL and secret key. Default: postgres. Environment: "
        "BACKLINE_VIA.",
        show_default=False,
    ),
]
EmbeddingTransport = Annotated[
    str | None,
    typer.Option(
        "--via",
        metavar="TRANSPORT",
        help="How to embed and write. postgres: embed here, write over a database connection. "
        "rest: embed here, write over the API of a Supabase project, which needs only its URL and "
        "secret key. api: a Backline server embeds and writes. edge: the Edge Function "
        "upsert-embeddings embeds and writes. Default: postgres. Environment: BACKLINE_VIA.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object on standard output, for an error too. For scripts."
    ),
]
CollectionName = Annotated[
    str | None,
    typer.Argument(
        metavar="COLLECTION",
        help="The collection. Default: the only one.",
        show_default=False,
    ),
]
InCollection = Annotated[
    str | None,
    typer.Option("--collection", "-c", help="The collection. Default: the only one."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Concurrent requests to the embedder. Raise it for a provider with high rate limits. "
        "Default: 2 for local and hash models, 8 for a provider. Environment: BACKLINE_WORKERS.",
        min=1,
        max=256,
        show_default=False,
    ),
]
SearchMode = Annotated[
    str,
    typer.Option(
        "--mode",
        help="hybrid: by meaning and by words, which finds the most. semantic: by meaning only. "
        "keyword: by words only, which needs no model.",
    ),
]


def database_options(via: Any = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter `flags` by the options that select its database.

    Args:
        via: the annotation of `--via`, for commands with a choice of transports.

    """
    options = {"database_url": DatabaseUrl, "data_dir": DataDir}
    if via is not None:
        options = {"via": via, **options}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(**values: Any) -> None:
            flags = {name: values.pop(name) for name in options}
            function(flags=flags, **values)

        signature = _with_options(inspect.signature(function, eval_str=True), options)
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate


def _with_options(signature: inspect.Signature, options: Mapping[str, Any]) -> inspect.Signature:
    """Return the signature with the options in the place of `flags`, which typer reads."""
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == "flags":
            parameters += [
                parameter.replace(name=name, annotation=annotation, default=None)
                for name, annotation in options.items()
            ]
        else:
            parameters.append(parameter)
    return signature.replace(parameters=parameters)
