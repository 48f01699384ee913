"""Every view, in both themes and at both widths, as axe and a narrow screen find it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import AXE, Server, World
from tests.e2e.test_ask import QUESTION

VIEWS = {
    "ask": "/ask",
    "results": f"/ask?q={QUESTION}",
    "nothing": "/ask?q=zzxqj&mode=keyword",
    "map": f"/map?q={QUESTION}",
    "coverage": "/coverage?collection=notes",
    "actions": "/actions",
}
SERIOUS = ("serious", "critical")


def violations(page: Page) -> list[tuple[Any, ...]]:
    """What axe finds serious, the contrast of WCAG AA among it."""
    # By the debugger, which the page's Content-Security-Policy does not bind.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        (each["id"], node["target"], node["failureSummary"])
        for each in found
        if each["impact"] in SERIOUS
        for node in each["nodes"]
    ]


def settled(page: Page) -> None:
    expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
    expect(page.locator("main :is(h1, h2)").first).to_be_attached()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True, ids=["wide", "narrow"])
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(
    page: Page, theme: str, world: World
) -> None:
    world.write_notes(12)
    page.add_init_script(f"localStorage.setItem('backline.theme', '{theme}')")
    for view, address in VIEWS.items():
        page.goto(address)
        settled(page)
        if view in ("results", "map"):
            expect(page.get_by_text("Clear muddy vocals at 200 to 400 Hz").first).to_be_visible()
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        assert violations(page) == [], view
        wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{view} is {wider} px wider than the screen"
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert violations(page) == [], "palette"
    world.write_notes(0)


def test_what_has_the_focus_is_seen(page: Page) -> None:
    page.goto("/coverage?collection=notes")
    settled(page)
    seen = 0
    while seen < 12:
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            continue  # on its way through the browser's own buttons
        seen += 1
        outline = page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement);"
            " return [s.outlineStyle, parseFloat(s.outlineWidth), document.activeElement.tagName] }"
        )
        assert outline[0] != "none" and outline[1] >= 2, outline


def test_an_error_is_told_in_the_servers_words(page: Page) -> None:
    page.goto("/ask?q=mud&collection=no_such")
    expect(page.get_by_role("alert")).to_contain_text("no_such")


def test_no_script_but_the_pages_own_runs(browser: Browser, server: Server) -> None:
    page = browser.new_page(base_url=server.url)
    answer = page.goto("/ask?q=<img src=x onerror=alert(1)>")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "script-src 'unsafe-inline'" not in policy
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=bad=1>')")
    page.wait_for_timeout(200)
    assert page.evaluate("typeof bad") == "undefined"
    page.close()
