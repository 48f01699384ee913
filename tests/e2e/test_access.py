"""Accessibility of every view in both themes and widths, and the content security policy."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import AXE, POISON, Server, World, at_rest, settled
from tests.e2e.test_ask import QUERY
from tests.provider import StandInProvider

VIEWS = {
    "ask": "/ask",
    "results": f"/ask?q={QUERY}",
    "nothing": "/ask?q=zzxqj&mode=keyword",
    "map": f"/map?q={QUERY}",
    "coverage": "/coverage?collection=notes",
    "actions": "/actions",
}
SERIOUS = ("serious", "critical")
# Right edges of the panels that extend beyond the content of the view.
OVERFLOWING = """() => {
  const main = document.querySelector('main')
  const end = main.getBoundingClientRect().right - parseFloat(getComputedStyle(main).paddingRight)
  return [...main.querySelectorAll('section')].map(each => each.getBoundingClientRect().right)
    .filter(right => right > end + 0.5)
}"""


def violations(page: Page) -> list[tuple[Any, ...]]:
    """Return the serious violations that axe reports, including contrast below WCAG AA."""
    # Evaluated by the debugger, to which the page's Content-Security-Policy does not apply.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    reported = page.evaluate("async () => (await axe.run()).violations")
    return [
        (violation["id"], node["target"], node["failureSummary"])
        for violation in reported
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True, ids=["wide", "narrow"])
def test_views_have_no_serious_violations_and_no_overflow(
    page: Page, theme: str, notes: World, provider: StandInProvider
) -> None:
    notes.write_notes(40, poisoned=2)
    provider.behave(reject_marker=POISON)
    notes.backline("backfill", "notes", "--limit", "39", code=1)  # a poisoned row at least
    page.add_init_script(f"localStorage.setItem('backline.theme', '{theme}')")
    for view, address in VIEWS.items():
        page.goto(address)
        if view in ("results", "map"):
            expect(page.get_by_text("Clear muddy vocals at 200 to 400 Hz").first).to_be_visible()
        settled(page)
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        assert violations(page) == [], view
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{view} is {overflow} px wider than the screen"
        assert page.evaluate(OVERFLOWING) == [], f"panels of {view} extend beyond the view"
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Search actions")).to_be_focused()
    at_rest(page)
    assert violations(page) == [], "palette"


def test_focus_is_visible(page: Page) -> None:
    page.goto("/coverage?collection=notes")
    settled(page)
    focused = set()
    for _ in range(16):  # some stops are buttons of the browser
        page.keyboard.press("Tab")
        at_rest(page)
        tag, text, style, width = page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return [e.tagName, e.textContent, s.outlineStyle, parseFloat(s.outlineWidth)] }"
        )
        if tag != "BODY":
            focused.add((tag, text))
            assert style != "none" and width >= 2, (tag, text, style, width)
    assert len(focused) > 8


def test_an_error_shows_the_servers_explanation(page: Page) -> None:
    page.goto("/ask?q=mud&collection=no_such")
    expect(page.get_by_role("alert")).to_contain_text("no_such")


def test_content_security_policy_blocks_injected_scripts(browser: Browser, server: Server) -> None:
    page = browser.new_page(base_url=server.url)
    response = page.goto("/ask?q=<img src=x onerror=alert(1)>")
    assert response is not None
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "script-src 'unsafe-inline'" not in policy
    blocked = page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener('securitypolicyviolation',
            (event) => resolve(event.effectiveDirective))
          window.finish = resolve
          document.body.insertAdjacentHTML('beforeend',
            '<img src=/nowhere.png onerror="window.finish(String(window.bad = 1))">')
        })"""
    )
    assert blocked == "script-src-attr"
    assert page.evaluate("typeof bad") == "undefined"
    page.close()
