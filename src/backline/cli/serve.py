"""The command `serve`: HTTP API, WebSocket, studio, and a worker."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import structlog
import typer

from backline import process
from backline.cli.context import (
    DatabaseUrl,
    DataDir,
    database,
    require_schema,
    run,
    settings_of,
    where,
)
from backline.cli.output import say
from backline.cli.work import Workers, stopping
from backline.config import Settings
from backline.postgres import migrate
from backline.postgres.store import Store

CONNECTIONS = 24


def serve_command(
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", show_default=False,
            help="Address to listen on; default 127.0.0.1, this machine only. On any other, "
            "BACKLINE_API_KEY must be set. Environment: BACKLINE_HOST.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", metavar="N", min=0, max=65535, show_default=False,
            help="Port to listen on; default 8000, 0 for any that is free. Environment: "
            "BACKLINE_PORT.",
        ),
    ] = None,
    no_worker: Annotated[
        bool,
        typer.Option(
            "--no-worker",
            help="Do not embed edits as they come; another process does, such as backline sync.",
        ),
    ] = False,
    protect_reads: Annotated[
        bool | None,
        typer.Option(
            "--protect-reads", show_default=False,
            help="Ask for the key before answering reads too. Environment: BACKLINE_PROTECT_READS.",
        ),
    ] = None,
    workers: Workers = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:  # fmt: skip
    """Serve the HTTP API, the WebSocket and the studio, and embed edits as they come."""
    settings = settings_of(
        host=host, port=port, protect_reads=protect_reads or None, workers=workers,
        database_url=database_url, data_dir=data_dir,
    )  # fmt: skip
    _log_as_json_unless_watched()
    run(_serve(settings, worker=not no_worker))


async def _serve(settings: Settings, *, worker: bool) -> None:
    from backline.server import create_app, uvicorn

    uvicorn.allow_many_sockets()
    bound = uvicorn.bind(settings.host, settings.port)
    try:
        async with database(settings, migrated=False, size=CONNECTIONS) as store:
            await _prepare(settings, store)
            place = where(settings, store)
            app = create_app(store, settings, worker=worker, where=place)
            server = uvicorn.make_server(app)

            def ready() -> None:
                say(f"Serving {place} on {uvicorn.address_of(bound)}")
                say("Press Ctrl-C to stop.")
                process.tune_garbage_collector()  # what was imported since the start, too

            server.ready = ready
            with stopping(server.stop):
                await server.serve([bound])
    finally:
        bound.close()


async def _prepare(settings: Settings, store: Store) -> None:
    """The embedded database is ours to bring up to date; any other one is its owner's."""
    if settings.database_url is None:
        applied = await migrate.apply(store.connector)
        if applied:
            names = ", ".join(each.name for each in applied)
            say(f"Schema: applied {names} to the embedded database.")
    else:
        await require_schema(store)


def _log_as_json_unless_watched() -> None:
    """One JSON object a line for what collects logs; on a terminal, lines to be read."""
    if sys.stderr.isatty():
        last: structlog.typing.Processor = structlog.dev.ConsoleRenderer(pad_event_to=0)
    else:
        last = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
