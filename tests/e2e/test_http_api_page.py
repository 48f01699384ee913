"""The page of the HTTP API, in a browser that reaches nothing but the server."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.e2e.studio import Server


def test_the_api_is_described_and_tried_without_a_network(page: Page, server: Server) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/docs")
    page.get_by_role("button", name="get /health", exact=True).click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert f"{server.url}/openapi.json" in asked
    foreign = [url for url in asked if not url.startswith((f"{server.url}/", "data:"))]
    assert foreign == []
