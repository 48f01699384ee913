"""The comparison of models: started and shown in the view Coverage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import World, at_rest, settled
from tests.e2e.test_access import OVERFLOWING, violations

COVERAGE = "/coverage?collection=music_knowledge"


@pytest.fixture(scope="module")
def candidate(world: World) -> Iterator[World]:
    """A filled candidate for the knowledge base."""
    world.backline("model", "change", "music_knowledge", "--to", "hash@16")
    yield world
    world.backline("model", "cancel", "music_knowledge")


@pytest.fixture
def kept(candidate: World) -> Iterator[None]:
    """A kept query; deletes it, and the comparison that quotes it, after the test."""
    candidate.sql(
        'select backline.keep_queries(\'[{"collection": "music_knowledge", "mode": '
        '"hybrid", "text": "my vocals sound muddy", "times": 1}]\')'
    )
    yield
    candidate.sql("select backline.delete_queries('music_knowledge')")


def test_collection_without_a_candidate_shows_no_comparison(page: Page) -> None:
    page.goto(COVERAGE)
    settled(page)
    expect(page.get_by_role("heading", name="Backfills")).to_be_visible()
    expect(page.get_by_role("heading", name="Comparison of models")).to_have_count(0)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("page", "theme"), [(WIDE, "dark"), (NARROW, "light")], indirect=["page"]
)  # fmt: skip
def test_comparison_is_started_and_shown(page: Page, theme: str) -> None:
    page.add_init_script(f"localStorage.setItem('backline.theme', '{theme}')")
    page.goto(COVERAGE)
    expect(page.get_by_text("No comparison yet")).to_be_visible()
    page.get_by_test_id("evaluate").click()
    report = page.get_by_test_id("evaluation")
    expect(report).to_contain_text("1 query, the latest asked")
    expect(report.get_by_role("row").nth(1)).to_contain_text("semantic")
    report.get_by_text("Moved most, semantic").click()
    expect(report.get_by_text("my vocals sound muddy").first).to_be_visible()
    expect(report.get_by_text("Clear muddy vocals at 200 to 400 Hz").first).to_be_visible()
    at_rest(page)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert page.evaluate(OVERFLOWING) == []
