"""The studio and the API page below a path of a proxy."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.e2e.studio import World, serving, settled

ROOT = "/tools/backline"


def test_the_studio_works_below_a_path(page: Page, world: World) -> None:
    with serving(world, "--root-path", ROOT) as server:
        page.goto(server.url + ROOT)
        expect(page).to_have_url(re.compile(f"{ROOT}/ask"))
        expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
        page.get_by_role("link", name="Coverage").click()
        expect(page).to_have_url(re.compile(f"{ROOT}/coverage"))
        expect(page.get_by_test_id("collections")).to_be_visible()
        page.reload()
        expect(page.get_by_test_id("collections")).to_be_visible()
        settled(page)


def test_the_api_page_works_below_a_path(page: Page, world: World) -> None:
    with serving(world, "--root-path", ROOT) as server:
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.goto(f"{server.url}{ROOT}/docs")
        page.get_by_role("button", name="get /health", exact=True).click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        status = page.locator(".live-responses-table .response-col_status").last
        expect(status).to_contain_text("200")
        assert f"{server.url}{ROOT}/health" in urls
