"""The command `serve`: HTTP API, WebSocket, studio and a worker."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from backline import config, wiring
from backline.cli.entry import tune_garbage_collector
from backline.cli.logs import log_for_server
from backline.cli.options import NO_FLAGS, Flags, Workers, database_options
from backline.cli.output import count, say
from backline.cli.signals import stopping
from backline.config import Settings
from backline.postgres import migrate
from backline.postgres.store import Store

CONNECTIONS: Final = 24
# Requests in flight get 10 of these seconds, and workers 15.
STOP_SECONDS: Final = 30.0

Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        show_default=False,
        help="Address to listen on. Any other than this machine's own needs BACKLINE_API_KEY. "
        "Default: 127.0.0.1, this machine only. Environment: BACKLINE_HOST.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        "-p",
        metavar="N",
        min=0,
        max=65535,
        show_default=False,
        help="Port to listen on; 0 takes a free one. Default: 8000. Environment: BACKLINE_PORT.",
    ),
]
NoWorker = Annotated[
    bool,
    typer.Option(
        "--no-worker",
        help="Do not embed edits. Use it when another process does, such as backline sync.",
    ),
]
RootPath = Annotated[
    str | None,
    typer.Option(
        "--root-path",
        metavar="PATH",
        show_default=False,
        help="Path below which a proxy serves the server, such as /backline. The proxy may strip "
        "it or pass it on. Environment: BACKLINE_ROOT_PATH.",
    ),
]
ProtectReads = Annotated[
    bool | None,
    typer.Option(
        "--protect-reads",
        show_default=False,
        help="Require the API key for reads too. Environment: BACKLINE_PROTECT_READS.",
    ),
]


@database_options()
def serve(
    host: Host = None,
    port: Port = None,
    no_worker: NoWorker = False,
    protect_reads: ProtectReads = None,
    root_path: RootPath = None,
    workers: Workers = None,
    flags: Flags = NO_FLAGS,
) -> None:
    """Serve the HTTP API, the WebSocket and the studio.

    Also embeds edits as they are committed, unless --no-worker is set.
    """
    settings = config.load(
        **flags, host=host, port=port, protect_reads=protect_reads or None, workers=workers,
        root_path=root_path,
    )  # fmt: skip
    log_for_server()
    asyncio.run(_serve(settings, worker=not no_worker))


async def _serve(settings: Settings, *, worker: bool) -> None:
    from backline.server import create_app, uvicorn

    uvicorn.allow_many_sockets()
    bound = uvicorn.bind(settings.host, settings.port)
    try:
        async with wiring.open_database(settings, migrated=False, size=CONNECTIONS) as store:
            await _prepare(settings, store)
            place = wiring.describe_database(settings, store)
            app = create_app(store, settings, worker=worker, where=place)
            server = uvicorn.make_server(app, settings)

            def ready() -> None:
                say(f"Serving {place} on {uvicorn.address_of(bound)}")
                say("Press Ctrl-C to stop.")
                tune_garbage_collector()  # again, for the objects of the server's imports

            server.ready = ready
            with stopping(server.stop, STOP_SECONDS):
                await server.serve([bound])
    finally:
        bound.close()


async def _prepare(settings: Settings, store: Store) -> None:
    """Migrate the embedded database; require the schema of any other one."""
    if settings.database_url is None:
        applied = await migrate.apply(store.connector)
        if applied:
            say(f"Schema: {count(len(applied), 'migration')} applied to the embedded database.")
        await migrate.repair(store.connector)
    else:
        await wiring.require_schema(store)
