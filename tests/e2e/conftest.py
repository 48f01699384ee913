"""One filled database, one server and one browser for all; a page of its own for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.conftest import Postgres
from tests.e2e.studio import (
    COUNT_REQUESTS,
    PATIENCE_S,
    Server,
    World,
    launch,
    require_chromium,
    require_page,
    serving,
)
from tests.provider import StandInProvider

WIDE: ViewportSize = {"width": 1440, "height": 900}
NARROW: ViewportSize = {"width": 390, "height": 844}
# How many times slower than this machine the pages are to be: STUDIO_SLOWDOWN=6 is a telephone.
SLOWDOWN = float(os.environ.get("STUDIO_SLOWDOWN") or 1)
# Said by the browser itself where a server is away, and where a test reads a canvas.
EXPECTED = ("Failed to load resource", "WebSocket connection to", "ERR_CONNECTION", "readback")


@pytest.fixture(scope="package")
def world(
    postgres: Postgres,
    template_database: str,
    stand_in: StandInProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    require_page()
    require_chromium()
    name = postgres.create(template_database)
    made = World(postgres.url(name), tmp_path_factory.mktemp("studio"), stand_in)
    made.fill()
    yield made
    postgres.drop(name)


@pytest.fixture
def notes(world: World) -> Iterator[World]:
    """The world, whose `notes` are put back to none at the end."""
    yield world
    world.write_notes(0)


@pytest.fixture(scope="package")
def shared_server(world: World) -> Iterator[Server]:
    with serving(world) as made:
        yield made


@pytest.fixture
def server(shared_server: Server, provider: StandInProvider) -> Server:
    """The shared server, running; a test may kill it."""
    if shared_server.process is None:
        shared_server.start()
    return shared_server


@pytest.fixture(scope="package")
def browser(world: World) -> Iterator[Browser]:  # after the database, which is made with asyncio
    with sync_playwright() as playwright:
        expect.set_options(timeout=1000 * PATIENCE_S)
        made = launch(playwright)
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page at the server's address, in a browser profile of its own, which must not complain.

    A test asks for a narrow one by `@pytest.mark.parametrize("page", [NARROW], indirect=True)`.
    """
    size: ViewportSize = getattr(request, "param", WIDE)
    context = browser.new_context(
        base_url=server.url, viewport=size, reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    context.set_default_timeout(1000 * PATIENCE_S)
    context.add_init_script(COUNT_REQUESTS)
    made = context.new_page()
    if SLOWDOWN > 1:
        session = context.new_cdp_session(made)
        session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
    complaints: list[str] = []
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on(
        "console",
        lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    yield made
    context.close()
    assert [each for each in complaints if not any(known in each for known in EXPECTED)] == []
