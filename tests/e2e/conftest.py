"""Fixtures: one database, one server and one browser for all tests, and a new page per test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.conftest import Postgres
from tests.e2e.studio import (
    COUNT_REQUESTS,
    TIMEOUT_S,
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
# CPU throttling factor of the pages: STUDIO_SLOWDOWN=6 is about as slow as a phone.
SLOWDOWN = float(os.environ.get("STUDIO_SLOWDOWN") or 1)
# Console messages of the browser when the server is down or a test reads a canvas.
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
    created = World(postgres.url(name), tmp_path_factory.mktemp("studio"), stand_in)
    created.fill()
    yield created
    postgres.drop(name)


@pytest.fixture
def notes(world: World) -> Iterator[World]:
    """The world; deletes all `notes` after the test."""
    yield world
    world.write_notes(0)


@pytest.fixture(scope="package")
def shared_server(world: World) -> Iterator[Server]:
    with serving(world) as server:
        yield server


@pytest.fixture
def server(shared_server: Server, provider: StandInProvider) -> Server:
    """The running shared server. A test may kill it."""
    if shared_server.process is None:
        shared_server.start()
    return shared_server


@pytest.fixture(scope="package")
def browser(world: World) -> Iterator[Browser]:  # created after the database, which uses asyncio
    with sync_playwright() as playwright:
        expect.set_options(timeout=1000 * TIMEOUT_S)
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of the server in a new browser profile. Fails if the console reports an error.

    `@pytest.mark.parametrize("page", [NARROW], indirect=True)` sets the viewport.
    """
    size: ViewportSize = getattr(request, "param", WIDE)
    context = browser.new_context(
        base_url=server.url, viewport=size, reduced_motion="reduce",
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    context.set_default_timeout(1000 * TIMEOUT_S)
    context.add_init_script(COUNT_REQUESTS)
    new_page = context.new_page()
    if SLOWDOWN > 1:
        session = context.new_cdp_session(new_page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
    problems: list[str] = []
    new_page.on("pageerror", lambda error: problems.append(str(error)))
    new_page.on(
        "console",
        lambda entry: problems.append(entry.text) if entry.type in ("error", "warning") else None,
    )
    yield new_page
    context.close()
    assert [text for text in problems if not any(part in text for part in EXPECTED)] == []
