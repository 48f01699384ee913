"""Behaviour of the page while the server is down and after it returns."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.e2e.studio import Server, World, settled
from tests.e2e.test_ask import ANSWER, QUERY, answered, ask, card, host_of
from tests.e2e.test_coverage import enabled, start
from tests.e2e.test_map import CANVAS
from tests.provider import StandInProvider


def offline_bar(page: Page) -> Locator:
    return page.get_by_role("alert").filter(has_text="Server unreachable.")


def test_the_page_reports_a_lost_connection_and_recovers(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUERY}")
    settled(page)
    expect(card(page)).to_be_visible()
    status = page.get_by_role("status").filter(has_text="Connected")
    expect(status).to_be_visible()
    server.kill()
    expect(offline_bar(page)).to_contain_text("Server unreachable.")
    expect(card(page)).to_be_visible()  # the results stay readable
    enabled(page.get_by_role("button", name="Reconnect now")).click()
    expect(offline_bar(page)).to_be_visible()
    server.start()
    expect(status).to_be_visible()
    expect(offline_bar(page)).to_have_count(0)
    ask(page, "kick drum lacks punch")
    answered(page)
    expect(card(page)).to_have_count(0)


def test_the_page_reconnects_automatically(page: Page, server: Server) -> None:
    page.goto("/coverage")
    status = page.get_by_role("status").filter(has_text="Connected")
    expect(status).to_be_visible()
    server.kill()  # parts of the page may still be loading
    expect(offline_bar(page)).to_be_visible()
    server.start()
    expect(status).to_be_visible()
    expect(page.get_by_test_id("collections")).to_be_visible()


def test_a_view_opened_while_offline_loads_on_reconnect(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUERY}")
    settled(page)
    server.kill()
    expect(offline_bar(page)).to_be_visible()
    for view in ("Map", "Coverage"):
        page.get_by_role("link", name=view).click()
        expect(page.get_by_role("heading", name="Waiting for the server")).to_be_visible()
    page.get_by_role("link", name="Actions").click()
    expect(page.get_by_role("row").filter(has_text="44101")).to_be_visible()
    page.get_by_role("link", name="Map").click()
    server.start()
    expect(page.locator(CANVAS)).to_be_visible()
    settled(page)
    page.get_by_role("link", name="Coverage").click()
    expect(page.get_by_test_id("collections")).to_be_visible()


def test_a_suggestion_applied_while_offline_is_sent_when_the_host_returns(
    page: Page, server: Server
) -> None:
    page.goto(f"/ask?q={QUERY}")
    settled(page)
    result = card(page)
    server.kill()
    expect(offline_bar(page)).to_be_visible()
    result.get_by_role("button", name="Apply").click()
    expect(offline_bar(page)).to_contain_text("1 queued")
    server.start()
    applied = page.get_by_role("complementary", name="Applied")
    expect(applied).to_contain_text("waiting for a host")
    with host_of(server) as host:
        sent = host.next_action()
        assert (sent["name"], sent["parameters"]["title"]) == ("suggestion.apply", ANSWER)
        expect(applied).to_contain_text("sent to Plugin")
        result.get_by_role("button", name="Revert").click()
        # The next action is the revert, so the suggestion was sent only once.
        assert host.next_action()["name"] == "suggestion.revert"


def test_a_run_of_a_killed_server_is_interrupted(
    page: Page, server: Server, notes: World, provider: StandInProvider
) -> None:
    notes.write_notes(100)
    provider.behave(held=True)
    page.goto("/coverage?collection=notes")
    start(page).click()
    expect(page.get_by_test_id("progress")).to_be_visible()
    server.kill()
    expect(page.get_by_text("Connection lost. These figures")).to_be_visible()
    provider.reset()
    server.start()
    expect(offline_bar(page)).to_have_count(0)
    server.post("/api/runs", {"collection": "notes"})  # a new run marks the dead one as interrupted
    runs = page.get_by_test_id("runs").get_by_role("row")
    expect(runs.nth(1)).to_contain_text("completed")
    expect(runs.nth(2)).to_contain_text("interrupted")
    expect(page.get_by_test_id("backfill-rest")).to_have_text("All rows are embedded.")
