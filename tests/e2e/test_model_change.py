"""A model is changed in the studio: plan, price, progress, cut-over, rollback and cancellation."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import NARROW, WIDE
from tests.e2e.studio import World, at_rest
from tests.e2e.test_access import violations


def press(page: Page, name: str) -> None:
    """Press a button with the keyboard, once it can be."""
    button = page.get_by_role("button", name=name, exact=True)
    expect(button).not_to_have_attribute("aria-disabled", "true")
    button.focus()
    page.keyboard.press("Enter")


def take(page: Page, name: str) -> None:
    """Press the button of a step, and confirm it in the dialog."""
    press(page, name)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    at_rest(page)
    assert violations(page) == [], name
    title = "Cancel the change" if name == "Cancel change" else name
    confirm = dialog.get_by_role("button", name=title, exact=True)
    confirm.focus()
    page.keyboard.press("Enter")
    expect(dialog).not_to_be_visible()


@pytest.mark.parametrize(
    ("page", "theme"),
    [(WIDE, "dark"), (NARROW, "light")],
    indirect=["page"],
    ids=["wide", "narrow"],
)
def test_model_is_changed_with_the_keyboard(page: Page, theme: str, notes: World) -> None:
    notes.write_notes(30)
    notes.backline("backfill", "notes")
    page.add_init_script(f"localStorage.setItem('backline.theme', '{theme}')")
    page.goto("/coverage?collection=notes")
    press(page, "Change model")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Model", exact=True).fill("openai/no-such-model")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("no-such-model")
    dialog.get_by_label("Model", exact=True).fill("openai/text-embedding-3-large@16")
    page.keyboard.press("Enter")
    plan = page.get_by_test_id("model-plan")
    expect(plan).to_contain_text("openai/text-embedding-3-small → openai/text-embedding-3-large")
    expect(plan).to_contain_text("30 texts")
    expect(plan).to_contain_text("about $0.00")
    at_rest(page)
    assert violations(page) == [], "plan"
    press(page, "Pay and begin")
    state = page.get_by_test_id("model-change")
    expect(state).to_contain_text("is ready")
    expect(state).to_contain_text("100 % of notes@next")
    assert [row["name"] for row in notes.sql("select name from backline.collections "
            "where table_name = 'notes' order by name")] == ["notes", "notes@next"]  # fmt: skip
    # The other target is not a collection to choose.
    expect(page.get_by_test_id("collections").get_by_role("rowheader")).to_have_count(2)
    at_rest(page)
    assert violations(page) == [], "ready"
    take(page, "Cut over")
    expect(state).to_contain_text("openai/text-embedding-3-large@16 is searched")
    take(page, "Roll back")
    expect(state).to_contain_text("is ready")
    take(page, "Cancel change")
    expect(state).to_contain_text("was cancelled")
    expect(page.get_by_role("button", name="Change model", exact=True)).to_be_visible()
