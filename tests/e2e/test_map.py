"""The map: what it shows, by pointer and by keyboard, and that ten thousand points stay smooth."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.studio import Server, World
from tests.e2e.test_ask import ANSWER, QUESTION

CANVAS = "canvas[data-testid=map-canvas]"
# A sum over the picture: another one for all but the same picture.
PICTURE = """c => { const d = new Uint32Array(
  c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
  return d.reduce((sum, pixel, at) => (Math.imul(sum, 31) + pixel + at) | 0, 7) }"""


@pytest.fixture(scope="module")
def ten_thousand(world: World) -> int:
    world.sql("create table takes (id bigint primary key, title text, category text, body text)")
    world.sql(
        "insert into takes select n, 'Take ' || n, 'kind ' || n %% 9, 'b' from"
        " generate_series(1, %s) n", 10_000,
    )  # fmt: skip
    world.backline("add", "takes", "--text", "{title} {body}", "--model", "hash@16")
    world.backline("backfill", "takes", "--no-index")
    return 10_000


def picture(page: Page) -> int:
    """The picture once it has come to rest."""
    before = None
    while before != (now := int(page.locator(CANVAS).evaluate(PICTURE))):
        before = now
        page.wait_for_timeout(120)
    return now


def pixel_of(page: Page, place: dict[str, Any], at: int) -> tuple[float, float]:
    """Where a point is on the screen while the whole map is shown."""
    box = page.locator(CANVAS).bounding_box()
    assert box is not None
    inside = (box["width"] - 72, box["height"] - 72)
    stretch = min(max(inside[0] / inside[1], 1 / 1.8), 1.8)
    scale = min(inside[0] / stretch / 2, inside[1] / 2)
    x = box["x"] + box["width"] / 2 + place["x"][at] * scale * stretch
    return x, box["y"] + box["height"] / 2 - place["y"][at] * scale


def address(page: Page, name: str) -> str | None:
    return parse_qs(urlsplit(page.url).query).get(name, [None])[0]


def test_the_question_and_its_hits_are_lit_up(page: Page, server: Server) -> None:
    page.goto("/map")
    expect(page.locator(CANVAS)).to_be_visible()
    plain = picture(page)
    page.get_by_role("searchbox").fill(QUESTION)
    hits = page.get_by_test_id("map-hits").get_by_role("button")
    expect(hits).to_have_count(10)
    expect(hits.first).to_contain_text(ANSWER)
    assert picture(page) != plain
    hits.first.click()
    expect(page.get_by_test_id("map-selected")).to_contain_text("Hz")
    place = server.get("/api/map?collection=music_knowledge")
    assert address(page, "key") == place["keys"][place["titles"].index(ANSWER)]


def test_hover_names_the_entry_and_a_click_selects_it(page: Page, server: Server) -> None:
    page.goto("/map")
    expect(page.locator(CANVAS)).to_be_visible()
    picture(page)
    place = server.get("/api/map?collection=music_knowledge")
    at = place["x"].index(max(place["x"]))
    page.mouse.move(*pixel_of(page, place, at))
    label = page.get_by_test_id("map-label")
    expect(label).to_contain_text(place["titles"][at])
    page.mouse.down()
    page.mouse.up()
    expect(page.get_by_test_id("map-selected")).to_be_visible()
    assert address(page, "key") == place["keys"][at]
    page.mouse.move(2, 2)
    expect(label).to_be_hidden()


def test_the_keyboard_moves_zooms_and_goes_from_point_to_point(page: Page, server: Server) -> None:
    page.goto("/map")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    listed = page.get_by_test_id("map-list").get_by_role("button")
    body = page.locator("body")
    whole = picture(page)
    for key in ("+", "+", "+", "ArrowRight", "ArrowDown"):
        body.press(key)
    expect(page.get_by_text("In view: 292")).to_have_count(0)
    assert picture(page) != whole
    x, y, zoom = (float(part) for part in str(address(page, "at")).split(","))
    assert x > 0 > y and zoom == pytest.approx(1.5**3, rel=0.01)
    near = listed.count()
    page.reload()
    expect(listed).to_have_count(near)  # the address holds the view
    body.press("0")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    assert address(page, "at") is None
    body.press(".")
    selected = page.get_by_test_id("map-selected")
    expect(selected).to_be_visible()
    first = address(page, "key")
    body.press(".")
    expect(page).not_to_have_url(re.compile(f"key={first}"))
    place = server.get("/api/map?collection=music_knowledge")
    of = dict(zip(place["keys"], place["x"], strict=True))
    assert of[str(address(page, "key"))] >= of[str(first)]
    body.press(",")
    expect(page).to_have_url(re.compile(f"key={first}"))


def test_a_category_is_hidden_and_that_is_undone(page: Page) -> None:
    page.goto("/map")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    before = picture(page)
    chip = page.get_by_role("button", name=re.compile(r"^EQ\s*24$"))
    chip.click()
    expect(page.get_by_text("In view: 268")).to_be_visible()
    assert picture(page) != before
    page.locator("body").press("Control+z")
    expect(page.get_by_text("In view: 292")).to_be_visible()
    page.mouse.move(2, 2)
    assert picture(page) == before


def test_ten_thousand_points_are_panned_without_a_change_of_the_page(
    page: Page, ten_thousand: int
) -> None:
    page.goto("/map?collection=takes")
    expect(page.get_by_text("In view: 10,000")).to_be_visible()
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
    assert picture(page) != before
    assert page.evaluate("window.changes") == 0
    page.mouse.up()
    expect(page.get_by_text("In view: 10,000")).to_have_count(0)


def test_a_collection_without_vectors_says_what_to_do(page: Page, world: World) -> None:
    world.write_notes(5)
    page.goto("/map?collection=notes")
    expect(page.get_by_role("heading", name="Nothing to draw yet")).to_be_visible()
    world.write_notes(0)
