"""Coverage: backfills, dead letters and the history of runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import POISON, Server, World, eventually
from tests.provider import StandInProvider


@pytest.fixture(autouse=True)
def reset(world: World, server: Server) -> Iterator[None]:
    yield
    world.provider.reset()
    eventually(lambda: not active(server), "the last run to end")
    world.write_notes(0)


def active(server: Server) -> list[int]:
    states = ("running", "cancelling")
    return [run["id"] for run in server.get("/api/runs")["runs"] if run["state"] in states]


def cell(page: Page, label: str) -> Locator:
    return page.get_by_test_id("collection-notes").locator(f"td[data-label={label}]")


def running(server: Server) -> list[int]:
    """Return the runs that are neither ended nor being cancelled."""
    return [run["id"] for run in server.get("/api/runs")["runs"] if run["state"] == "running"]


def start(page: Page) -> Locator:
    """Return the start button once the page knows that no run is active."""
    return enabled(page.get_by_test_id("start"))


def enabled(button: Locator) -> Locator:
    """Wait until a button is enabled and return it."""
    expect(button).to_have_attribute("aria-disabled", "false")
    return button


@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True)
def test_progress_of_a_backfill_is_shown_until_it_completes(
    page: Page, world: World, provider: StandInProvider
) -> None:
    world.write_notes(400)
    provider.behave(held=True)
    page.goto("/coverage?collection=notes")
    expect(page.get_by_test_id("backfill-rest")).to_have_text("400 rows to embed.")
    start(page).click()
    progress = page.get_by_test_id("progress")
    expect(progress).to_contain_text("0 %")
    expect(progress.get_by_role("meter")).to_have_attribute("aria-valuenow", "0")
    provider.let(4)  # of 40 calls with 10 rows each
    expect(progress.get_by_role("meter")).to_have_attribute("aria-valuenow", "10")
    expect(progress).to_contain_text(re.compile(r"Rate\s*[\d.,]+ rows/s"))
    expect(progress).to_contain_text(re.compile(r"Time left\s*[\d.]+ (ms|s|min|h|d)"))
    provider.behave(held=False)
    expect(page.get_by_test_id("backfill-rest")).to_have_text("All rows are embedded.")
    expect(page.get_by_test_id("last-run")).to_contain_text("completed")
    expect(cell(page, "Embedded")).to_have_text("400")
    expect(cell(page, "Pending")).to_have_text("0")
    expect(page.get_by_test_id("runs").get_by_role("row").nth(1)).to_contain_text("completed")


def test_a_cancelled_backfill_keeps_the_stored_vectors(
    page: Page, world: World, provider: StandInProvider, server: Server
) -> None:
    world.write_notes(150)
    provider.behave(held=True)
    page.goto("/coverage?collection=notes")
    expect(page.get_by_test_id("backfill-rest")).to_contain_text("150 rows")
    start(page)
    page.locator("body").press("b")
    progress = page.get_by_test_id("progress")
    expect(progress.get_by_role("meter")).to_have_attribute("aria-valuenow", "0")
    provider.let(3)  # of 15 calls with 10 rows each
    expect(progress.get_by_role("meter")).to_have_attribute("aria-valuenow", "20")
    enabled(page.get_by_test_id("cancel")).click()
    eventually(lambda: running(server) == [], "the run to be cancelled")
    provider.behave(held=False)  # unfinished calls are stored, no new ones start
    expect(page.get_by_test_id("last-run")).to_contain_text("was cancelled")
    expect(page.get_by_test_id("backfill-rest")).to_contain_text("rows to embed")
    left = world.sql("select count(*) as n from notes where embedding is null")[0]["n"]
    assert 0 < left <= 120
    expect(cell(page, "Pending")).to_have_text(str(left))


def test_dead_letters_are_listed_and_requeued(
    page: Page, world: World, provider: StandInProvider
) -> None:
    world.write_notes(30, poisoned=3)
    provider.behave(reject_marker=POISON)
    page.goto("/coverage?collection=notes")
    start(page).click()
    letters = page.get_by_test_id("failures").get_by_role("listitem")
    expect(letters).to_have_count(3)
    expect(letters.first).to_contain_text("does not accept")
    expect(page.get_by_test_id("backfill-rest")).to_have_text("3 rows could not be embedded.")
    enabled(letters.first.get_by_role("button", name="Retry")).click()
    expect(letters).to_have_count(2)
    enabled(page.get_by_test_id("retry-all")).click()
    expect(page.get_by_text("No dead letters")).to_be_visible()
    expect(cell(page, "Pending")).to_have_text("3")
    provider.behave(reject_marker=None)
    start(page).click()
    expect(page.get_by_test_id("backfill-rest")).to_have_text("All rows are embedded.")


def test_the_run_history_is_drawn_and_listed(page: Page, world: World, server: Server) -> None:
    world.write_notes(20)
    run = server.post("/api/runs", {"collection": "notes"})["run"]["id"]
    page.goto("/coverage?collection=notes")
    expect(page.get_by_test_id("runs").get_by_role("row").nth(1)).to_contain_text("completed")
    page.get_by_role("button", name=f"Backfill {run}", exact=True).click()
    expect(page).to_have_url(re.compile(f"run={run}"))
    expect(page.get_by_test_id("selected-run")).to_contain_text("20")
    expect(page.get_by_role("img", name=re.compile("last .* backfills"))).to_be_visible()
    expect(page.get_by_test_id("run-chart").locator("canvas")).to_be_visible()
    page.wait_for_function(
        """() => { const c = document.querySelector('[data-testid=run-chart] canvas')
        const pixels = c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer
        return new Set(new Uint32Array(pixels)).size > 10 }"""
    )
    page.reload()
    expect(page.get_by_test_id("selected-run")).to_contain_text("20")


def test_selecting_a_collection_can_be_undone(page: Page) -> None:
    page.goto("/coverage")
    row = page.get_by_test_id("collection-notes")
    row.get_by_role("button", name="notes").click()
    expect(page).to_have_url(re.compile("collection=notes"))
    expect(row).to_have_attribute("data-selected", "true")
    page.locator("body").press("Control+z")
    expect(row).to_have_attribute("data-selected", "false")


def test_an_unknown_collection_is_reported(page: Page) -> None:
    page.goto("/coverage?collection=nowhere")
    expect(page.get_by_role("heading", name="Collection “nowhere” not found")).to_be_visible()


@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True)
def test_empty_table_is_not_called_embedded(page: Page, world: World) -> None:
    world.write_notes(0)
    page.goto("/coverage?collection=notes")
    rest = page.get_by_test_id("backfill-rest")
    expect(rest).to_have_text("The table is empty.")
    row = page.get_by_test_id("collection-notes")
    expect(row).to_contain_text("empty")
    expect(row).not_to_contain_text("%")
    expect(row.get_by_role("meter")).to_have_count(0)
    panel = page.locator("section", has=rest)
    expect(panel).not_to_contain_text("All rows are embedded")
    expect(panel).not_to_contain_text("100 %")
