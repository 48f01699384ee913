"""The command palette, the shortcuts, and keyboard-only use."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.studio import ROOT, Server, settled, wait_for_address
from tests.e2e.test_ask import ANSWER, QUERY, answered, card, field


@pytest.fixture
def body(page: Page) -> Page:
    page.goto("/ask")
    settled(page)
    return page


def press_sequence(page: Page, keys: str, path: str) -> None:
    """Press the keys of a sequence. Repeat it if a busy machine exceeds the time limit."""
    for _ in range(5):
        for key in keys:
            page.keyboard.press(key)
        with suppress(AssertionError):
            expect(page).to_have_url(re.compile(path), timeout=5_000)
            return
    expect(page).to_have_url(re.compile(path))


def test_the_palette_searches_runs_and_lists_recent_actions(body: Page) -> None:
    page = body
    page.keyboard.press("Control+k")
    finder = page.get_by_role("combobox", name="Search actions")
    expect(finder).to_be_focused()
    finder.fill("gocov")  # letters of the title in order
    expect(page.get_by_role("option").first).to_contain_text("Go to Coverage")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/coverage"))
    expect(page.get_by_role("dialog")).to_have_count(0)
    settled(page)
    page.keyboard.press("Control+k")
    expect(finder).to_be_focused()
    expect(page.get_by_role("option").first).to_contain_text("Go to Coverage")
    expect(page.get_by_role("option").first).to_contain_text(re.compile("g *c", re.IGNORECASE))
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_shortcuts_open_views_and_change_the_theme(body: Page) -> None:
    page = body
    for keys, path in (("gm", "/map"), ("gc", "/coverage"), ("gk", "/actions"), ("ga", "/ask")):
        press_sequence(page, keys, path)
    page.keyboard.press("Shift+T")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.keyboard.press("Control+z")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.keyboard.press("Control+Shift+Z")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_search_and_apply_by_keyboard(body: Page) -> None:
    page = body
    page.keyboard.press("/")
    expect(field(page)).to_be_focused()
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")  # searches immediately and moves the focus to the results
    wait_for_address(page, "q", lambda query: query == QUERY)
    answered(page)
    expect(field(page)).not_to_be_focused()
    page.keyboard.press("j")
    expect(page.get_by_role("listitem").nth(1)).to_have_attribute("aria-current", "true")
    page.keyboard.press("k")
    expect(card(page)).to_have_attribute("aria-current", "true")
    page.keyboard.press("a")
    expect(card(page).get_by_role("button", name="Revert")).to_be_visible()
    page.keyboard.press("Control+z")
    expect(card(page).get_by_role("button", name="Apply")).to_be_visible()
    page.keyboard.press("Shift+V")
    expect(page).to_have_url(re.compile("/map"))
    expect(page.get_by_test_id("map-hits")).to_contain_text(ANSWER)


def test_typing_in_a_field_runs_no_shortcuts(body: Page) -> None:
    page = body
    page.get_by_role("searchbox").fill("")
    page.get_by_role("searchbox").press_sequentially("gmba")
    expect(page.get_by_role("searchbox")).to_have_value("gmba")
    wait_for_address(page, "q", lambda query: query == "gmba")  # all keys are handled now
    expect(page).to_have_url(re.compile("/ask"))


def test_shortcuts_are_changed_and_conflicts_rejected(page: Page) -> None:
    page.goto("/actions")
    settled(page)
    button = page.get_by_role("button", name=re.compile("^Change shortcut of Go to Map"))
    button.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("textbox", name="New shortcut")).to_be_focused()
    page.keyboard.press("Shift+T")
    expect(dialog).to_contain_text("Switch theme")
    save = dialog.get_by_role("button", name="Save")
    expect(save).to_be_disabled()
    page.keyboard.press("Shift+Y")
    expect(save).to_be_enabled()
    save.click()
    expect(dialog).to_have_count(0)
    expect(button).to_contain_text("changed")
    page.goto("/ask")
    settled(page)
    page.keyboard.press("Shift+Y")
    expect(page).to_have_url(re.compile("/map"))


def test_the_page_the_server_and_the_file_list_the_same_actions(page: Page, server: Server) -> None:
    file = json.loads((ROOT / "src/backline/data/actions.json").read_text())["actions"]
    served = server.get("/api/actions")["actions"]
    assert [(a["id"], a["name"], a["shortcut"]) for a in served] == [
        (a["id"], a["name"], a["shortcut"]) for a in file
    ]
    assert all(44100 <= a["id"] <= 44999 for a in file)
    page.goto("/actions")
    expect(page.get_by_role("row").filter(has_text=re.compile(r"\b44\d{3}"))).to_have_count(
        len(file)
    )
    for action in file:
        row = page.get_by_role("row").filter(has_text=str(action["id"]))
        expect(row).to_contain_text(action["title"])
