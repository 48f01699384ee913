"""The map by pointer and by keyboard, and with 10,000 points."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.studio import Server, World, address, settled, wait_for_address
from tests.e2e.test_ask import ANSWER, QUERY

CANVAS: Final = "canvas[data-testid=map-canvas]"
# A hash of the pixels of the canvas.
PIXEL_HASH: Final = """c => { const d = new Uint32Array(
  c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
  return d.reduce((sum, pixel, at) => (Math.imul(sum, 31) + pixel + at) | 0, 7) }"""


@pytest.fixture(scope="module")
def ten_thousand(world: World) -> Iterator[int]:
    world.sql("create table takes (id bigint primary key, title text, category text, body text)")
    world.sql(
        "insert into takes select n, 'Take ' || n, 'kind ' || n %% 9, 'b' from"
        " generate_series(1, %s) n", 10_000,
    )  # fmt: skip
    world.backline("add", "takes", "--text", "{title} {body}", "--model", "hash@16")
    world.backline("backfill", "takes", "--no-index")
    yield 10_000
    world.backline("drop", "takes")
    world.sql("drop table takes")


def pixel_hash(page: Page) -> int:
    """Return the hash of the canvas after the page has settled."""
    settled(page)
    return int(page.locator(CANVAS).evaluate(PIXEL_HASH))


def wait_for_change(page: Page, before: int) -> None:
    """Wait until the canvas differs from an earlier state."""
    current = f"({PIXEL_HASH})(document.querySelector('{CANVAS}'))"
    page.wait_for_function(f"(before) => {current} !== before", arg=before)


def wait_for_same(page: Page, before: int) -> None:
    """Wait until the canvas equals an earlier state."""
    current = f"({PIXEL_HASH})(document.querySelector('{CANVAS}'))"
    page.wait_for_function(f"(before) => {current} === before", arg=before)


def open_map(page: Page, entries: str = "292", path: str = "/map") -> None:
    page.goto(path)
    expect(page.get_by_text(f"In view: {entries}")).to_be_visible()
    settled(page)


def pixel_of(page: Page, points: dict[str, Any], index: int) -> tuple[float, float]:
    """Return the screen position of a point while the whole map is visible."""
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    width, height = box["width"] - 72, box["height"] - 72
    stretch = min(max(width / height, 1 / 1.8), 1.8)
    scale = min(width / stretch / 2, height / 2)
    x = box["x"] + box["width"] / 2 + points["x"][index] * scale * stretch
    return x, box["y"] + box["height"] / 2 - points["y"][index] * scale


def test_the_query_and_its_hits_are_highlighted(page: Page, server: Server) -> None:
    open_map(page)
    plain = pixel_hash(page)
    page.get_by_role("searchbox").fill(QUERY)
    hits = page.get_by_test_id("map-hits").get_by_role("button")
    expect(hits).to_have_count(10)
    expect(hits.first).to_contain_text(ANSWER)
    wait_for_change(page, plain)
    settled(page)
    hits.first.click()
    expect(page.get_by_test_id("map-selected")).to_contain_text("Hz")
    points = server.get("/api/map?collection=music_knowledge")
    index = points["titles"].index(ANSWER)
    wait_for_address(page, "key", lambda key: key == points["keys"][index])


def test_hovering_shows_the_title_and_a_click_selects_the_entry(page: Page, server: Server) -> None:
    open_map(page)
    points = server.get("/api/map?collection=music_knowledge")
    index = points["x"].index(max(points["x"]))
    page.mouse.move(*pixel_of(page, points, index))
    label = page.get_by_test_id("map-label")
    expect(label).to_contain_text(points["titles"][index])
    page.mouse.down()
    page.mouse.up()
    expect(page.get_by_test_id("map-selected")).to_be_visible()
    wait_for_address(page, "key", lambda key: key == points["keys"][index])
    page.mouse.move(2, 2)
    expect(label).to_be_hidden()


def test_keys_pan_zoom_and_select_points(page: Page, server: Server) -> None:
    open_map(page)
    listed = page.get_by_test_id("map-list").get_by_role("button")
    body = page.locator("body")
    whole = pixel_hash(page)
    for key in ("+", "+", "+", "ArrowRight", "ArrowDown"):
        body.press(key)
    wait_for_address(page, "at", is_moved)
    settled(page)
    expect(page.get_by_text("In view: 292")).to_have_count(0)
    wait_for_change(page, whole)
    listed_count = listed.count()
    page.reload()
    settled(page)
    expect(listed).to_have_count(listed_count)  # the address contains the view
    body.press("0")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    wait_for_address(page, "at", lambda at: at is None)
    wait_for_same(page, whole)
    step(page, ".")
    expect(page.get_by_test_id("map-selected")).to_be_visible()
    first = step(page, None)
    second = step(page, ".")
    points = server.get("/api/map?collection=music_knowledge")
    x = dict(zip(points["keys"], points["x"], strict=True))
    assert x[second] >= x[first]
    assert step(page, ",") == first


def is_moved(at: str | None) -> bool:
    """Return whether `at` is the view after the keys of the test: zoomed in, right and down."""
    if at is None:
        return False
    x, y, zoom = (float(part) for part in at.split(","))
    return x > 0 > y and zoom == pytest.approx(1.5**3, rel=0.01)


def step(page: Page, key: str | None) -> str:
    """Press a key that selects another point. Return the selected key in the address."""
    before = address(page, "key")
    if key is not None:
        page.locator("body").press(key)
        wait_for_address(page, "key", lambda now: now not in (None, before))
    return str(address(page, "key"))


def test_hiding_a_category_can_be_undone(page: Page) -> None:
    open_map(page)
    before = pixel_hash(page)
    chip = page.get_by_role("button", name=re.compile(r"^EQ\s*24$"))
    chip.click()
    expect(page.get_by_text("In view: 268")).to_be_visible()
    wait_for_change(page, before)
    page.locator("body").press("Control+z")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    page.mouse.move(2, 2)
    wait_for_same(page, before)


def test_panning_10000_points_does_not_change_the_dom(page: Page, ten_thousand: int) -> None:
    open_map(page, "10,000", "/map?collection=takes")
    before = pixel_hash(page)
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 10, middle[1])
    page.evaluate(
        "() => { window.changes = 0; new MutationObserver(records => { window.changes += records"
        ".filter(record => record.type !== 'attributes').length }).observe(document.body,"
        " {subtree: true, childList: true, characterData: true}) }"
    )
    for step in range(2, 30):
        page.mouse.move(middle[0] + 10 * step, middle[1] + 3 * step)
    wait_for_change(page, before)
    assert page.evaluate("window.changes") == 0
    page.mouse.up()
    expect(page.get_by_text("In view: 10,000")).to_have_count(0)


def test_a_collection_without_vectors_offers_a_backfill(page: Page, notes: World) -> None:
    notes.write_notes(5)
    page.goto("/map?collection=notes")
    expect(page.get_by_role("heading", name="No embeddings yet")).to_be_visible()
