"""Search, apply, undo, and the state in the address."""

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
from tests.e2e.studio import TIMEOUT_S, Server, eventually, settled, wait_for_address

QUERY = "my vocals sound muddy"
SEARCH = {"collection": "music_knowledge", "query": QUERY}
ANSWER = "Clear muddy vocals at 200 to 400 Hz"


class Host:
    """A host that is connected to the server's WebSocket."""

    def __init__(self, socket: Connection) -> None:
        self._socket = socket

    def next(self, kind: str) -> dict[str, Any]:
        """Return the data of the next frame of a type and skip the others."""
        while True:
            frame = json.loads(self._socket.recv(timeout=TIMEOUT_S))
            if frame["type"] == kind:
                return dict(frame["data"])

    def next_action(self) -> dict[str, Any]:
        return self.next("action")

    def send_action(self, **action: Any) -> None:
        self.send("action", **action)

    def send(self, kind: str, **data: Any) -> None:
        self._socket.send(json.dumps({"type": kind, "data": data}))


@contextmanager
def host_of(server: Server, name: str = "Plugin") -> Iterator[Host]:
    """Connect a host and wait until the server has accepted its role."""
    url = server.url.replace("http", "ws") + "/ws"
    with connect(url, compression=None, open_timeout=TIMEOUT_S) as socket:
        host = Host(socket)
        host.send("hello", role="host", name=name)
        host.next("welcome")
        yield host


def wait_for_no_hosts(server: Server) -> None:
    """Wait until the hosts of previous tests are disconnected."""
    eventually(lambda: server.get("/ws/status")["hosts"] == [], "all hosts to disconnect")


def field(page: Page) -> Locator:
    return page.get_by_role("searchbox", name="What do you want to know?")


def ask(page: Page, query: str = QUERY) -> None:
    """Type a query and wait until the page searches for it."""
    field(page).fill(query)
    wait_for_address(page, "q", lambda value: (value or "") == query)


def answered(page: Page) -> None:
    """Wait until the page shows the results of its current query."""
    expect(page.get_by_role("region", name="Results")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("listitem").first).to_be_visible()


def card(page: Page, title: str = ANSWER) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=title))


@pytest.mark.parametrize("page", [WIDE, NARROW], indirect=True)
def test_search_apply_and_undo(page: Page, server: Server) -> None:
    page.goto("/")
    expect(page).to_have_url(re.compile("/ask$"))
    settled(page)
    ask(page)
    result = card(page)
    expect(result).to_be_visible()
    for text in ("EQ", "Hz", "dB", "Meaning", "Keywords", "Combined"):
        expect(result).to_contain_text(text)
    [row] = [
        hit["row"]
        for hit in server.post("/api/search", SEARCH)["hits"]
        if hit["row"]["title"] == ANSWER
    ]
    expect(result).to_contain_text(row["suggestion"])
    expect(result).to_contain_text(f"{round(100 * row['confidence'])} %")
    with host_of(server, "Wavelab 3") as host:
        expect(page.get_by_test_id("hosts")).to_contain_text("Wavelab 3")
        result.get_by_role("button", name="Apply").click()
        applied = host.next_action()
        assert (applied["action_id"], applied["name"]) == (44300, "suggestion.apply")
        assert applied["parameters"]["parameters"] == row["parameters"]
        expect(result.get_by_role("button", name="Revert")).to_be_visible()
        expect(page.get_by_role("complementary", name="Applied")).to_contain_text(
            "sent to Wavelab 3"
        )
        page.keyboard.press("Control+z")
        reverted = host.next_action()
        assert reverted["name"] == "suggestion.revert"
        assert reverted["parameters"] == applied["parameters"]
        expect(result.get_by_role("button", name="Apply")).to_be_visible()
        page.keyboard.press("Control+Shift+z")  # while the undo may be unfinished
        assert host.next_action()["name"] == "suggestion.apply"


def test_parameters_are_copied_without_a_host(page: Page, server: Server) -> None:
    """Another tab of the studio does not count as a host."""
    another = page.context.new_page()
    another.goto("/coverage")
    settled(another)
    page.goto(f"/ask?q={QUERY}")
    settled(page)
    wait_for_no_hosts(server)
    page.bring_to_front()
    card(page).get_by_role("button", name="Apply").click()
    expect(page.get_by_text("No host connected. Copied the parameters")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    hits = server.post("/api/search", SEARCH)["hits"]
    assert copied == next(h["row"]["parameters"] for h in hits if h["row"]["title"] == ANSWER)


def is_write(request: Request) -> bool:
    return request.method == "POST" and "/api/runs" in request.url


def test_a_host_can_navigate_and_search_but_not_write(page: Page, server: Server) -> None:
    page.goto("/coverage")
    settled(page)
    writes: list[str] = []
    page.on("request", lambda request: writes.append(request.url) if is_write(request) else None)
    with host_of(server) as host:
        host.send_action(action_id=44500, name="backfill.start", parameters={})
        host.send_action(action_id=44100, name="view.ask", parameters={})
        # The page handles actions in order, so the first one has been rejected here.
        expect(page).to_have_url(re.compile("/ask"))
        expect(field(page)).to_be_visible()
        host.send_action(action_id=44201, name="search.setQuery", parameters={"query": QUERY})
        expect(card(page)).to_be_visible()
        expect(field(page)).to_have_value(QUERY)
    assert writes == []


def test_the_address_contains_the_full_state(page: Page, server: Server) -> None:
    hits = server.post("/api/search", {**SEARCH, "mode": "keyword"})["hits"]
    third = hits[2]["row"]["title"]
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
    wait_for_address(page, "key", lambda key: key == hits[2]["key"])
    another = page.context.new_page()
    another.goto(page.url)
    expect(field(another)).to_have_value(QUERY)
    expect(another.get_by_role("radio", name="Keywords")).to_be_checked()
    expect(another.locator("li[aria-current=true]").get_by_role("heading")).to_have_text(third)


def test_a_link_restores_filters(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUERY}&category=eq&mode=semantic")
    hits = server.post(
        "/api/search",
        {**SEARCH, "mode": "semantic", "where": {"category": "eq"}},
    )["hits"]
    titles = page.get_by_role("listitem").get_by_role("heading")
    expect(titles).to_have_text([hit["row"]["title"] for hit in hits])


WITHOUT_ABORT = """(() => { const fetch = window.fetch
  window.fetch = (address, init) => fetch(address, { ...init, signal: undefined }) })()"""


@pytest.mark.parametrize("aborted", [True, False], ids=["aborted", "answered"])
def test_a_late_response_is_dropped(page: Page, aborted: bool) -> None:
    """The response to the first query arrives after the response to the second.

    The page aborts the first request. If the abort has no effect, it ignores the late response.
    """
    if not aborted:
        page.add_init_script(WITHOUT_ABORT)
    held: list[Route] = []

    def hold_first(route: Route, request: Request) -> None:
        if json.loads(request.post_data or "{}")["query"] == "muddy":
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/search", hold_first)
    page.goto("/ask")
    settled(page)
    event = "requestfailed" if aborted else "requestfinished"
    with page.expect_event(event, lambda request: bool(held) and request == held[0].request):
        ask(page, "muddy")
        ask(page, "clear kick drum")
        answered(page)
        before = page.get_by_role("listitem").all_inner_texts()
        [route] = held
        route.continue_()
    settled(page)
    expect(page.get_by_role("listitem")).to_have_text(before, use_inner_text=True)
    expect(field(page)).to_have_value("clear kick drum")


def test_an_empty_result_is_reported(page: Page) -> None:
    page.goto("/ask?q=zzxqj&mode=keyword")
    expect(page.get_by_role("heading", name="No results for “zzxqj”")).to_be_visible()
