"""Ask, read, apply, undo; and what an address holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import PATIENCE_S, Server, eventually, settled, wait_for_address

QUESTION = "my vocals sound muddy"
ANSWER = "Clear muddy vocals at 200 to 400 Hz"


class Host:
    """A studio at the other end of the server's WebSocket."""

    def __init__(self, socket: Connection) -> None:
        self._socket = socket

    def next(self, kind: str) -> dict[str, Any]:
        """The data of the next frame of a type; the others are let pass."""
        while True:
            frame = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if frame["type"] == kind:
                return dict(frame["data"])

    def next_action(self) -> dict[str, Any]:
        return self.next("action")

    def say(self, **action: Any) -> None:
        self.tell("action", **action)

    def tell(self, kind: str, **data: Any) -> None:
        self._socket.send(json.dumps({"type": kind, "data": data}))


@contextmanager
def host_of(server: Server, name: str = "Plugin") -> Iterator[Host]:
    """A host that the server knows of: it has said so, and was answered."""
    url = server.url.replace("http", "ws") + "/ws"
    with connect(url, compression=None, open_timeout=PATIENCE_S) as socket:
        host = Host(socket)
        host.tell("hello", role="host", name=name)
        host.next("welcome")
        yield host


def hostless(server: Server) -> None:
    """Until no host is connected: those of other tests have been let go."""
    eventually(lambda: server.get("/ws/status")["hosts"] == [], "all hosts to be gone")


def field(page: Page) -> Locator:
    return page.get_by_role("searchbox", name="What do you want to know?")


def ask(page: Page, question: str = QUESTION) -> None:
    """Type a question, and wait until it is the question of the page."""
    field(page).fill(question)
    wait_for_address(page, "q", lambda asked: (asked or "") == question)


def answered(page: Page) -> None:
    """Until what is shown is the whole answer to what the page asks now."""
    expect(page.get_by_role("region", name="Results")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("listitem").first).to_be_visible()


def card(page: Page, title: str = ANSWER) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=title))


@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True)
def test_ask_read_apply_undo(page: Page, server: Server) -> None:
    page.goto("/")
    expect(page).to_have_url(re.compile("/ask$"))
    settled(page)
    ask(page)
    found = card(page)
    expect(found).to_be_visible()
    for shown in ("EQ", "Hz", "dB", "Meaning", "Keywords", "Combined"):
        expect(found).to_contain_text(shown)
    [row] = [
        hit["row"]
        for hit in server.post("/api/search", {"query": QUESTION})["hits"]
        if hit["row"]["title"] == ANSWER
    ]
    expect(found).to_contain_text(row["suggestion"])
    expect(found).to_contain_text(f"{round(100 * row['confidence'])} %")
    with host_of(server, "Wavelab 3") as host:
        expect(page.get_by_test_id("hosts")).to_contain_text("Wavelab 3")
        found.get_by_role("button", name="Apply").click()
        applied = host.next_action()
        assert (applied["action_id"], applied["name"]) == (44300, "suggestion.apply")
        assert applied["parameters"]["parameters"] == row["parameters"]
        expect(found.get_by_role("button", name="Revert")).to_be_visible()
        expect(page.get_by_role("complementary", name="Applied")).to_contain_text(
            "sent to Wavelab 3"
        )
        page.keyboard.press("Control+z")
        reverted = host.next_action()
        assert reverted["name"] == "suggestion.revert"
        assert reverted["parameters"] == applied["parameters"]
        expect(found.get_by_role("button", name="Apply")).to_be_visible()
        page.keyboard.press("Control+Shift+z")  # though the undo may be under way
        assert host.next_action()["name"] == "suggestion.apply"


def test_without_a_host_the_parameters_are_copied(page: Page, server: Server) -> None:
    """Another tab of the studio is connected too, and is none."""
    another = page.context.new_page()
    another.goto("/coverage")
    settled(another)
    page.goto(f"/ask?q={QUESTION}")
    settled(page)
    hostless(server)
    page.bring_to_front()
    card(page).get_by_role("button", name="Apply").click()
    expect(page.get_by_text("No host connected. Copied the parameters")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    hits = server.post("/api/search", {"query": QUESTION})["hits"]
    assert copied == next(h["row"]["parameters"] for h in hits if h["row"]["title"] == ANSWER)


def is_write(sent: Request) -> bool:
    return sent.method == "POST" and "/api/runs" in sent.url


def test_a_host_may_ask_but_not_write(page: Page, server: Server) -> None:
    page.goto("/coverage")
    settled(page)
    writes: list[str] = []
    page.on("request", lambda sent: writes.append(sent.url) if is_write(sent) else None)
    with host_of(server) as host:
        host.say(action_id=44500, name="backfill.start", parameters={})
        host.say(action_id=44100, name="view.ask", parameters={})
        # Done after the first was heard: the page takes them one after the other.
        expect(page).to_have_url(re.compile("/ask"))
        expect(field(page)).to_be_visible()
        host.say(action_id=44201, name="search.setQuery", parameters={"query": QUESTION})
        expect(card(page)).to_be_visible()
        expect(field(page)).to_have_value(QUESTION)
    assert writes == []


def test_the_address_holds_the_whole_state(page: Page, server: Server) -> None:
    found = server.post("/api/search", {"query": QUESTION, "mode": "keyword"})["hits"]
    third = found[2]["row"]["title"]
    page.goto("/ask")
    settled(page)
    ask(page)
    answered(page)
    page.get_by_role("radio", name="Keywords").check(force=True)
    wait_for_address(page, "mode", lambda mode: mode == "keyword")
    answered(page)
    expect(page.get_by_role("listitem").nth(2)).to_contain_text(third)
    page.locator("body").press("j")
    page.locator("body").press("j")
    expect(page.locator("li[aria-current=true]").get_by_role("heading")).to_have_text(third)
    wait_for_address(page, "key", lambda key: key == found[2]["key"])
    another = page.context.new_page()
    another.goto(page.url)
    expect(field(another)).to_have_value(QUESTION)
    expect(another.get_by_role("radio", name="Keywords")).to_be_checked()
    expect(another.locator("li[aria-current=true]").get_by_role("heading")).to_have_text(third)


def test_a_deep_link_with_filters(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUESTION}&category=eq&mode=semantic")
    hits = server.post(
        "/api/search",
        {"query": QUESTION, "mode": "semantic", "where": {"category": "eq"}},
    )["hits"]
    titles = page.get_by_role("listitem").get_by_role("heading")
    expect(titles).to_have_text([hit["row"]["title"] for hit in hits])


HEEDLESS = """(() => { const own = window.fetch
  window.fetch = (address, init) => own(address, { ...init, signal: undefined }) })()"""


@pytest.mark.parametrize("aborted", [True, False], ids=["aborted", "answered"])
def test_an_answer_that_comes_too_late_is_dropped(page: Page, aborted: bool) -> None:
    """The answer to the first question is held back until the second has been answered.

    The page aborts what it does not wait for any more; where that is of no avail, the late answer
    reaches it, and is dropped nevertheless.
    """
    if not aborted:
        page.add_init_script(HEEDLESS)
    held: list[Route] = []

    def first_waits(route: Route, request: Request) -> None:
        if json.loads(request.post_data or "{}")["query"] == "muddy":
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/search", first_waits)
    page.goto("/ask")
    settled(page)
    end = "requestfailed" if aborted else "requestfinished"
    with page.expect_event(end, lambda sent: bool(held) and sent == held[0].request):
        ask(page, "muddy")
        ask(page, "clear kick drum")
        answered(page)
        before = page.get_by_role("listitem").all_inner_texts()
        [route] = held
        route.continue_()
    settled(page)
    expect(page.get_by_role("listitem")).to_have_text(before, use_inner_text=True)
    expect(field(page)).to_have_value("clear kick drum")


def test_nothing_found_says_so(page: Page) -> None:
    page.goto("/ask?q=zzxqj&mode=keyword")
    expect(page.get_by_role("heading", name=re.compile("[Nn]othing|No "))).to_be_visible()
