"""A server that dies and comes back."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.e2e.studio import Server, World, settled
from tests.e2e.test_ask import ANSWER, QUESTION, answered, ask, card, host_of
from tests.e2e.test_coverage import enabled, start
from tests.e2e.test_map import CANVAS
from tests.provider import StandInProvider


def away(page: Page) -> Locator:
    return page.get_by_role("alert").filter(has_text="Server unreachable.")


def test_the_page_says_that_the_server_is_gone_and_recovers(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUESTION}")
    settled(page)
    expect(card(page)).to_be_visible()
    light = page.get_by_role("status").filter(has_text="Connected")
    expect(light).to_be_visible()
    server.kill()
    expect(away(page)).to_contain_text("Server unreachable.")
    expect(card(page)).to_be_visible()  # what is there stays readable
    enabled(page.get_by_role("button", name="Reconnect now")).click()
    expect(away(page)).to_be_visible()
    server.start()
    expect(light).to_be_visible()
    expect(away(page)).to_have_count(0)
    ask(page, "kick drum lacks punch")
    answered(page)
    expect(card(page)).to_have_count(0)


def test_it_reconnects_by_itself(page: Page, server: Server) -> None:
    page.goto("/coverage")
    light = page.get_by_role("status").filter(has_text="Connected")
    expect(light).to_be_visible()
    server.kill()  # though parts of the page may be on their way
    expect(away(page)).to_be_visible()
    server.start()
    expect(light).to_be_visible()
    expect(page.get_by_test_id("collections")).to_be_visible()


def test_a_view_that_is_first_opened_while_the_server_is_away_waits_for_it(
    page: Page, server: Server
) -> None:
    page.goto(f"/ask?q={QUESTION}")
    settled(page)
    server.kill()
    expect(away(page)).to_be_visible()
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


def test_what_is_applied_while_the_server_is_away_is_sent_once_the_host_is_back(
    page: Page, server: Server
) -> None:
    page.goto(f"/ask?q={QUESTION}")
    settled(page)
    found = card(page)
    server.kill()
    expect(away(page)).to_be_visible()
    found.get_by_role("button", name="Apply").click()
    expect(away(page)).to_contain_text("1 queued")
    server.start()
    applied = page.get_by_role("complementary", name="Applied")
    expect(applied).to_contain_text("waiting for a host")
    with host_of(server) as host:
        sent = host.next_action()
        assert (sent["name"], sent["parameters"]["title"]) == ("suggestion.apply", ANSWER)
        expect(applied).to_contain_text("sent to Plugin")
        found.get_by_role("button", name="Revert").click()
        assert host.next_action()["name"] == "suggestion.revert"  # and was sent but once


def test_a_run_whose_server_dies_is_told_as_interrupted(
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
    expect(away(page)).to_have_count(0)
    server.post("/api/runs", {"collection": "notes"})  # what starts next finds what died
    runs = page.get_by_test_id("runs").get_by_role("row")
    expect(runs.nth(1)).to_contain_text("completed")
    expect(runs.nth(2)).to_contain_text("interrupted")
    expect(page.get_by_test_id("backfill-rest")).to_have_text("All rows are embedded.")
