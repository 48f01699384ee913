"""A server that dies and comes back."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.e2e.studio import Server, World
from tests.e2e.test_ask import ANSWER, QUESTION, ask, card, host_of
from tests.provider import StandInProvider


def away(page: Page) -> Locator:
    return page.get_by_role("alert").filter(has_text="The server is not reached.")


def test_the_page_says_that_the_server_is_gone_and_recovers(page: Page, server: Server) -> None:
    page.goto(f"/ask?q={QUESTION}")
    expect(card(page)).to_be_visible()
    light = page.get_by_role("status").filter(has_text="Connected")
    expect(light).to_be_visible()
    server.kill()
    expect(away(page)).to_contain_text("The server is not reached.")
    expect(card(page)).to_be_visible()  # what is there stays readable
    page.get_by_role("button", name="Reconnect now").click()
    expect(away(page)).to_be_visible()
    server.start()
    expect(light).to_be_visible(timeout=30_000)
    expect(away(page)).to_have_count(0)
    ask(page, "kick drum lacks punch")
    expect(card(page)).to_have_count(0)
    expect(page.get_by_role("listitem").first).to_be_visible()


def test_it_reconnects_by_itself(page: Page, server: Server) -> None:
    page.goto("/coverage")
    light = page.get_by_role("status").filter(has_text="Connected")
    expect(light).to_be_visible()
    page.wait_for_load_state("networkidle")  # no part of the page is still on its way
    server.kill()
    expect(away(page)).to_be_visible()
    server.start()
    expect(light).to_be_visible(timeout=30_000)


def test_what_is_applied_while_the_server_is_away_is_sent_once_it_is_back(
    page: Page, server: Server
) -> None:
    page.goto(f"/ask?q={QUESTION}")
    found = card(page)
    expect(found).to_be_visible()
    server.kill()
    expect(away(page)).to_be_visible()
    found.get_by_role("button", name="Apply").click()
    expect(away(page)).to_contain_text("1 waiting")
    server.start()
    with host_of(server) as host:
        expect(away(page)).to_have_count(0, timeout=30_000)
        sent = host.next_action()
        assert (sent["name"], sent["parameters"]["title"]) == ("suggestion.apply", ANSWER)


def test_a_run_whose_server_dies_is_told_as_interrupted(
    page: Page, server: Server, world: World, provider: StandInProvider
) -> None:
    world.write_notes(100)
    provider.behave(held=True)
    page.goto("/coverage?collection=notes")
    page.get_by_test_id("start").click()
    expect(page.get_by_test_id("progress")).to_be_visible()
    server.kill()
    expect(page.get_by_text("These figures are from before")).to_be_visible()
    provider.reset()
    server.start()
    expect(away(page)).to_have_count(0, timeout=30_000)
    server.post("/api/runs", {"collection": "notes"})  # what starts next finds what died
    runs = page.get_by_test_id("runs").get_by_role("row")
    expect(runs.nth(1)).to_contain_text("completed", timeout=15_000)
    expect(runs.nth(2)).to_contain_text("interrupted")
    expect(page.get_by_test_id("backfill-rest")).to_have_text("Everything is embedded.")
    world.write_notes(0)
