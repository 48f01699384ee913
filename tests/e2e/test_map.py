"""The map: what it shows, by pointer and by keyboard, and that ten thousand points stay smooth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.studio import Server, World, address, settled, wait_for_address
from tests.e2e.test_ask import ANSWER, QUESTION

CANVAS: Final = "canvas[data-testid=map-canvas]"
# A sum over the picture: another one for all but the same picture.
PICTURE: Final = """c => { const d = new Uint32Array(
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


def picture(page: Page) -> int:
    """The picture once it has come to rest."""
    settled(page)
    return int(page.locator(CANVAS).evaluate(PICTURE))


def becomes_other(page: Page, before: int) -> None:
    """Until the picture is another one."""
    seen = f"({PICTURE})(document.querySelector('{CANVAS}'))"
    page.wait_for_function(f"(before) => {seen} !== before", arg=before)


def becomes_same(page: Page, before: int) -> None:
    """Until the picture is that one again."""
    seen = f"({PICTURE})(document.querySelector('{CANVAS}'))"
    page.wait_for_function(f"(before) => {seen} === before", arg=before)


def open_map(page: Page, entries: str = "292", path: str = "/map") -> None:
    page.goto(path)
    expect(page.get_by_text(f"In view: {entries}")).to_be_visible()
    settled(page)


def pixel_of(page: Page, place: dict[str, Any], at: int) -> tuple[float, float]:
    """Where a point is on the screen while the whole map is shown."""
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    inside = (box["width"] - 72, box["height"] - 72)
    stretch = min(max(inside[0] / inside[1], 1 / 1.8), 1.8)
    scale = min(inside[0] / stretch / 2, inside[1] / 2)
    x = box["x"] + box["width"] / 2 + place["x"][at] * scale * stretch
    return x, box["y"] + box["height"] / 2 - place["y"][at] * scale


def test_the_question_and_its_hits_are_lit_up(page: Page, server: Server) -> None:
    open_map(page)
    plain = picture(page)
    page.get_by_role("searchbox").fill(QUESTION)
    hits = page.get_by_test_id("map-hits").get_by_role("button")
    expect(hits).to_have_count(10)
    expect(hits.first).to_contain_text(ANSWER)
    becomes_other(page, plain)
    settled(page)
    hits.first.click()
    expect(page.get_by_test_id("map-selected")).to_contain_text("Hz")
    place = server.get("/api/map?collection=music_knowledge")
    at = place["titles"].index(ANSWER)
    wait_for_address(page, "key", lambda key: key == place["keys"][at])


def test_hover_names_the_entry_and_a_click_selects_it(page: Page, server: Server) -> None:
    open_map(page)
    place = server.get("/api/map?collection=music_knowledge")
    at = place["x"].index(max(place["x"]))
    page.mouse.move(*pixel_of(page, place, at))
    label = page.get_by_test_id("map-label")
    expect(label).to_contain_text(place["titles"][at])
    page.mouse.down()
    page.mouse.up()
    expect(page.get_by_test_id("map-selected")).to_be_visible()
    wait_for_address(page, "key", lambda key: key == place["keys"][at])
    page.mouse.move(2, 2)
    expect(label).to_be_hidden()


def test_the_keyboard_moves_zooms_and_goes_from_point_to_point(page: Page, server: Server) -> None:
    open_map(page)
    listed = page.get_by_test_id("map-list").get_by_role("button")
    body = page.locator("body")
    whole = picture(page)
    for key in ("+", "+", "+", "ArrowRight", "ArrowDown"):
        body.press(key)
    wait_for_address(page, "at", is_moved)
    settled(page)
    expect(page.get_by_text("In view: 292")).to_have_count(0)
    becomes_other(page, whole)
    near = listed.count()
    page.reload()
    settled(page)
    expect(listed).to_have_count(near)  # the address holds the view
    body.press("0")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    wait_for_address(page, "at", lambda at: at is None)
    becomes_same(page, whole)
    step(page, ".")
    expect(page.get_by_test_id("map-selected")).to_be_visible()
    first = step(page, None)
    second = step(page, ".")
    place = server.get("/api/map?collection=music_knowledge")
    x = dict(zip(place["keys"], place["x"], strict=True))
    assert x[second] >= x[first]
    assert step(page, ",") == first


def is_moved(at: str | None) -> bool:
    """Three times closer, to the right, and down: what the keys of the test bring about."""
    if at is None:
        return False
    x, y, zoom = (float(part) for part in at.split(","))
    return x > 0 > y and zoom == pytest.approx(1.5**3, rel=0.01)


def step(page: Page, key: str | None) -> str:
    """Press a key that selects another point; returns the selected one, as the address has it."""
    before = address(page, "key")
    if key is not None:
        page.locator("body").press(key)
        wait_for_address(page, "key", lambda now: now not in (None, before))
    return str(address(page, "key"))


def test_a_category_is_hidden_and_that_is_undone(page: Page) -> None:
    open_map(page)
    before = picture(page)
    chip = page.get_by_role("button", name=re.compile(r"^EQ\s*24$"))
    chip.click()
    expect(page.get_by_text("In view: 268")).to_be_visible()
    becomes_other(page, before)
    page.locator("body").press("Control+z")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    page.mouse.move(2, 2)
    becomes_same(page, before)


def test_ten_thousand_points_are_panned_without_a_change_of_the_page(
    page: Page, ten_thousand: int
) -> None:
    open_map(page, "10,000", "/map?collection=takes")
    before = picture(page)
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 10, middle[1])
    page.evaluate(
        "() => { window.changes = 0; new MutationObserver(found => { window.changes += found"
        ".filter(each => each.type !== 'attributes').length }).observe(document.body,"
        " {subtree: true, childList: true, characterData: true}) }"
    )
    for step in range(2, 30):
        page.mouse.move(middle[0] + 10 * step, middle[1] + 3 * step)
    becomes_other(page, before)
    assert page.evaluate("window.changes") == 0
    page.mouse.up()
    expect(page.get_by_text("In view: 10,000")).to_have_count(0)


def test_a_collection_without_vectors_says_what_to_do(page: Page, notes: World) -> None:
    notes.write_notes(5)
    page.goto("/map?collection=notes")
    expect(page.get_by_role("heading", name="No embeddings yet")).to_be_visible()
