"""Ask, read, apply, undo; and what an address holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import Server

QUESTION = "my vocals sound muddy"
ANSWER = "Clear muddy vocals at 200 to 400 Hz"


class Host:
    """A studio at the other end of the server's WebSocket."""

    def __init__(self, socket: Connection) -> None:
        self._socket = socket

    def next_action(self) -> dict[str, Any]:
        while True:
            frame = json.loads(self._socket.recv(timeout=20))
            if frame["type"] == "action":
                return dict(frame["data"])

    def say(self, **action: Any) -> None:
        self._socket.send(json.dumps({"type": "action", "data": action}))


@contextmanager
def host_of(server: Server) -> Iterator[Host]:
    with connect(server.url.replace("http", "ws") + "/ws", compression=None) as socket:
        yield Host(socket)


def ask(page: Page, question: str = QUESTION) -> None:
    page.get_by_role("searchbox", name="What do you want to know?").fill(question)


def card(page: Page, title: str = ANSWER) -> Any:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=title))


@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True)
def test_ask_read_apply_undo(page: Page, server: Server) -> None:
    page.goto("/")
    expect(page).to_have_url(re.compile("/ask$"))
    ask(page)
    found = card(page)
    expect(found).to_be_visible()
    for shown in ("EQ", "Hz", "dB", "Meaning", "Words", "Together"):
        expect(found).to_contain_text(shown)
    [row] = [
        hit["row"]
        for hit in server.post("/api/search", {"query": QUESTION})["hits"]
        if hit["row"]["title"] == ANSWER
    ]
    expect(found).to_contain_text(row["suggestion"])
    expect(found).to_contain_text(f"{round(100 * row['confidence'])} %")
    with host_of(server) as host:
        found.get_by_role("button", name="Apply").click()
        applied = host.next_action()
        assert (applied["action_id"], applied["name"]) == (44300, "suggestion.apply")
        assert applied["parameters"]["parameters"] == row["parameters"]
        expect(found.get_by_role("button", name="Take back")).to_be_visible()
        page.locator("body").press("Control+z")
        reverted = host.next_action()
        assert reverted["name"] == "suggestion.revert"
        assert reverted["parameters"] == applied["parameters"]
        expect(found.get_by_role("button", name="Apply")).to_be_visible()
        page.locator("body").press("Control+Shift+z")
        assert host.next_action()["name"] == "suggestion.apply"


def test_without_a_host_the_parameters_are_copied(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUESTION}")
    card(page).get_by_role("button", name="Apply").click()
    expect(page.get_by_text("No host is connected")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    hits = server.post("/api/search", {"query": QUESTION})["hits"]
    assert copied == next(h["row"]["parameters"] for h in hits if h["row"]["title"] == ANSWER)


def test_a_host_may_ask_but_not_write(page: Page, server: Server) -> None:
    page.goto("/coverage")
    expect(page.get_by_test_id("collections")).to_be_visible()
    with host_of(server) as host:
        host.say(action_id=44500, name="backfill.start", parameters={})
        host.say(action_id=44100, name="view.ask", parameters={})
        expect(page).to_have_url(re.compile("/ask"))
        ask(page, "")
        host.say(action_id=44201, name="search.setQuery", parameters={"query": QUESTION})
        expect(card(page)).to_be_visible()
    assert not [run for run in server.get("/api/runs")["runs"] if run["state"] == "running"]


def test_the_address_holds_the_whole_state(page: Page) -> None:
    page.goto("/ask")
    ask(page)
    expect(card(page)).to_be_visible()
    page.get_by_role("radio", name="Words").check(force=True)
    expect(page).to_have_url(re.compile("mode=keyword"))
    expect(page.locator("[aria-busy=true]")).to_have_count(0)  # the answers by words are there
    page.locator("body").press("j")
    page.locator("body").press("j")
    expect(page.get_by_role("listitem").nth(2)).to_have_attribute("aria-current", "true")
    chosen = page.locator("[aria-current=true]").get_by_role("heading")
    title = chosen.inner_text()
    another = page.context.new_page()
    another.goto(page.url)
    expect(another.get_by_role("searchbox")).to_have_value(QUESTION)
    expect(another.get_by_role("radio", name="Words")).to_be_checked()
    expect(another.locator("[aria-current=true]").get_by_role("heading")).to_have_text(title)


def test_a_deep_link_with_filters(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUESTION}&category=eq&mode=semantic")
    hits = server.post(
        "/api/search",
        {"query": QUESTION, "mode": "semantic", "where": {"category": "eq"}},
    )["hits"]
    titles = page.get_by_role("listitem").get_by_role("heading")
    expect(titles).to_have_text([hit["row"]["title"] for hit in hits])


def test_an_answer_that_comes_too_late_is_dropped(page: Page) -> None:
    """The answer to the first question is held back until the second has been answered."""
    page.goto("/ask")
    held: list[Any] = []

    def first_waits(route: Any, request: Request) -> None:
        if "muddy" in (request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/search", first_waits)
    ask(page, "muddy")
    page.wait_for_function("document.querySelector('input[type=search]').value === 'muddy'")
    page.wait_for_url(re.compile("q=muddy"))
    ask(page, "clear kick drum")
    expect(page.get_by_role("listitem").first).to_be_visible()
    before = page.get_by_role("listitem").all_inner_texts()
    for route in held:
        route.continue_()
    page.wait_for_timeout(400)
    assert page.get_by_role("listitem").all_inner_texts() == before


def test_nothing_found_says_so(page: Page) -> None:
    page.goto("/ask?q=zzxqj&mode=keyword")
    expect(page.get_by_role("heading", name=re.compile("[Nn]othing|No "))).to_be_visible()
