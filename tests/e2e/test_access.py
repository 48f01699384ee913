"""Every view, in both themes and at both widths, as axe and a narrow screen find it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import AXE, POISON, Server, World, at_rest, settled
from tests.e2e.test_ask import QUESTION
from tests.provider import StandInProvider

VIEWS = {
    "ask": "/ask",
    "results": f"/ask?q={QUESTION}",
    "nothing": "/ask?q=zzxqj&mode=keyword",
    "map": f"/map?q={QUESTION}",
    "coverage": "/coverage?collection=notes",
    "actions": "/actions",
}
SERIOUS = ("serious", "critical")
# The panels that reach beyond the content of the view.
ASKEW = """() => {
  const main = document.querySelector('main')
  const end = main.getBoundingClientRect().right - parseFloat(getComputedStyle(main).paddingRight)
  return [...main.querySelectorAll('section')].map(each => each.getBoundingClientRect().right)
    .filter(right => right > end + 0.5)
}"""


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


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True, ids=["wide", "narrow"])
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(
    page: Page, theme: str, notes: World, provider: StandInProvider
) -> None:
    notes.write_notes(40, poisoned=2)
    provider.behave(reject_marker=POISON)
    notes.backline("backfill", "notes", "--limit", "20", code=1)
    page.add_init_script(f"localStorage.setItem('backline.theme', '{theme}')")
    for view, address in VIEWS.items():
        page.goto(address)
        if view in ("results", "map"):
            expect(page.get_by_text("Clear muddy vocals at 200 to 400 Hz").first).to_be_visible()
        settled(page)
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        assert violations(page) == [], view
        wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{view} is {wider} px wider than the screen"
        assert page.evaluate(ASKEW) == [], f"panels of {view} do not end where the view does"
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Search actions")).to_be_focused()
    at_rest(page)
    assert violations(page) == [], "palette"


def test_what_has_the_focus_is_seen(page: Page) -> None:
    page.goto("/coverage?collection=notes")
    settled(page)
    seen = set()
    for _ in range(16):  # some of them on the way through the browser's own buttons
        page.keyboard.press("Tab")
        at_rest(page)
        tag, text, style, width = page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            " return [e.tagName, e.textContent, s.outlineStyle, parseFloat(s.outlineWidth)] }"
        )
        if tag != "BODY":
            seen.add((tag, text))
            assert style != "none" and width >= 2, (tag, text, style, width)
    assert len(seen) > 8


def test_an_error_is_told_in_the_servers_words(page: Page) -> None:
    page.goto("/ask?q=mud&collection=no_such")
    expect(page.get_by_role("alert")).to_contain_text("no_such")


def test_no_script_but_the_pages_own_runs(browser: Browser, server: Server) -> None:
    page = browser.new_page(base_url=server.url)
    answer = page.goto("/ask?q=<img src=x onerror=alert(1)>")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "script-src 'unsafe-inline'" not in policy
    refused = page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener('securitypolicyviolation',
            (event) => resolve(event.effectiveDirective))
          window.heard = resolve
          document.body.insertAdjacentHTML('beforeend',
            '<img src=/nowhere.png onerror="window.heard(String(window.bad = 1))">')
        })"""
    )
    assert refused == "script-src-attr"
    assert page.evaluate("typeof bad") == "undefined"
    page.close()
