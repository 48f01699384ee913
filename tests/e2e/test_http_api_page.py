"""The documentation page of the HTTP API loads only files of the server."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.e2e.studio import Server


def test_the_api_page_works_without_internet_access(page: Page, server: Server) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto("/docs")
    page.get_by_role("button", name="get /health", exact=True).click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert f"{server.url}/openapi.json" in urls
    foreign = [url for url in urls if not url.startswith((f"{server.url}/", "data:"))]
    assert foreign == []
