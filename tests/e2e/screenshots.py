"""Takes screenshots of every view of the studio in both themes and widths.

usage: python -m tests.e2e.screenshots [FOLDER]; the default folder is screenshots/
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, expect, sync_playwright

from backline.postgres import embedded, migrate
from backline.postgres.connector import Connector
from tests.conftest import Postgres, disable_durability, server_folder
from tests.e2e.studio import (
    COUNT_REQUESTS,
    POISON,
    ROOT,
    Server,
    World,
    at_rest,
    eventually,
    launch,
    serving,
    settled,
)
from tests.provider import StandInProvider

QUERY: Final = "my vocals sound muddy and boxy"
QUERY_IN_URL: Final = QUERY.replace(" ", "+")
WIDTHS: Final = {"wide": (1440, 900), "narrow": (390, 844)}
THEMES: Final = ("dark", "light")
VIEWS: Final = {
    "ask": "/ask",
    "ask-results": f"/ask?q={QUERY_IN_URL}",
    "ask-no-results": "/ask?q=zzxqj&mode=keyword",
    "map": "/map",
    "map-query": f"/map?q={QUERY_IN_URL}",
    "coverage": "/coverage",
    "coverage-notes": "/coverage?collection=notes",
    "actions": "/actions",
    "not-found": "/no-such-page",
}


@contextmanager
def filled_server(folder: Path) -> Iterator[tuple[Server, World]]:
    """A server with the knowledge base and with notes after several backfills."""
    with server_folder() as data, StandInProvider() as provider:
        postgres = Postgres(embedded.start(data))
        disable_durability(postgres)
        world = World(postgres.url(postgres.create()), folder, provider)
        asyncio.run(apply_migrations(world.url))
        world.fill()
        world.write_notes(260, poisoned=3)
        provider.behave(reject_marker=POISON)
        with serving(world) as server:
            for limit in (20, 60, 35, 80):
                fill_notes(server, limit)
            yield server, world


async def apply_migrations(url: str) -> None:
    connector = Connector(url)
    await connector.open()
    await migrate.apply(connector)
    await connector.aclose()


def fill_notes(server: Server, limit: int) -> None:
    run = server.post("/api/runs", {"collection": "notes", "limit": limit})["run"]["id"]

    def completed() -> bool:
        return str(server.get(f"/api/runs/{run}")["run"]["state"]) == "completed"

    eventually(completed, f"run {run} to end", 60)


def take_screenshots(server: Server, folder: Path) -> list[Path]:
    files = []
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for theme, (width, size) in itertools.product(THEMES, WIDTHS.items()):
            context = browser.new_context(
                base_url=server.url, reduced_motion="reduce",
                viewport={"width": size[0], "height": size[1]},
            )  # fmt: skip
            context.add_init_script(COUNT_REQUESTS)
            context.add_init_script(f"localStorage.setItem('backline.theme', '{theme}')")
            page = context.new_page()

            def take(name: str, page: Page = page, suffix: str = f"{theme}-{width}") -> None:
                at_rest(page)
                file = folder / f"{name}-{suffix}.png"
                page.screenshot(path=file, full_page=not name.startswith("palette"))
                files.append(file)

            for name, address in VIEWS.items():
                page.goto(address)
                expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
                take(name)
            take_states(page, server, take)
            context.close()
        browser.close()
    return files


def take_states(page: Page, server: Server, take: Any) -> None:
    """Take the states that no address opens: the palette and the lost connection."""
    page.goto(f"/ask?q={QUERY_IN_URL}")
    settled(page)
    page.keyboard.press("Control+K")
    take("palette")
    page.keyboard.press("Escape")
    server.kill()
    expect(page.get_by_role("alert")).to_be_visible()
    take("offline")
    server.start()


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, filled_server(Path(scratch)) as (server, _):
        files = take_screenshots(server, folder)
    print(f"{len(files)} screenshots in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
