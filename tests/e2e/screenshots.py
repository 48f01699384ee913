"""Photographs every view of the studio, in both themes and widths, into screenshots/.

usage: python -m tests.e2e.screenshots [FOLDER]
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

QUESTION: Final = "my vocals sound muddy and boxy"
ASKED: Final = QUESTION.replace(" ", "+")
WIDTHS: Final = {"wide": (1440, 900), "narrow": (390, 844)}
THEMES: Final = ("dark", "light")
VIEWS: Final = {
    "ask": "/ask",
    "ask-results": f"/ask?q={ASKED}",
    "ask-nothing": "/ask?q=zzxqj&mode=keyword",
    "map": "/map",
    "map-question": f"/map?q={ASKED}",
    "coverage": "/coverage",
    "coverage-notes": "/coverage?collection=notes",
    "actions": "/actions",
    "nowhere": "/no-such-page",
}


@contextmanager
def furnished(folder: Path) -> Iterator[tuple[Server, World]]:
    """A server over a database with a past: the knowledge base, and notes after some backfills."""
    with server_folder() as data, StandInProvider() as provider:
        postgres = Postgres(embedded.start(data))
        disable_durability(postgres)
        world = World(postgres.url(postgres.create()), folder, provider)
        asyncio.run(migrated(world.url))
        world.fill()
        world.write_notes(260, poisoned=3)
        provider.behave(reject_marker=POISON)
        with serving(world) as server:
            for limit in (20, 60, 35, 80):
                fill_notes(server, limit)
            yield server, world


async def migrated(url: str) -> None:
    connector = Connector(url)
    await connector.open()
    await migrate.apply(connector)
    await connector.aclose()


def fill_notes(server: Server, limit: int) -> None:
    run = server.post("/api/runs", {"collection": "notes", "limit": limit})["run"]["id"]

    def ended() -> bool:
        return str(server.get(f"/api/runs/{run}")["run"]["state"]) == "completed"

    eventually(ended, f"run {run} to end", 60)


def photograph(server: Server, folder: Path) -> list[Path]:
    taken = []
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

            def take(name: str, page: Page = page, end: str = f"{theme}-{width}") -> None:
                at_rest(page)
                file = folder / f"{name}-{end}.png"
                page.screenshot(path=file, full_page=not name.startswith("palette"))
                taken.append(file)

            for name, address in VIEWS.items():
                page.goto(address)
                expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
                take(name)
            states(page, server, take)
            context.close()
        browser.close()
    return taken


def states(page: Page, server: Server, take: Any) -> None:
    """What an address does not bring about: the palette, and a server that is gone."""
    page.goto(f"/ask?q={ASKED}")
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
    with tempfile.TemporaryDirectory() as scratch, furnished(Path(scratch)) as (server, _):
        taken = photograph(server, folder)
    print(f"{len(taken)} pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
