"""Verify a collection: check the vector of every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backline.store import JobStore
from backline.types import Collection, Verification

VERIFY_PAGE: Final = 2000
EXAMPLES: Final = 10


async def verify(
    store: JobStore, collection: Collection, on_page: Callable[[int], None] | None = None
) -> Verification:
    """Check every row for a valid vector of its current text and model.

    Calls `on_page` after each page with the number of rows checked so far.
    """
    checked = embedded = blank = excluded = 0
    problems: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    after: str | None = None
    while True:
        page = await store.verify_page(collection, after, VERIFY_PAGE)
        checked, embedded = checked + page.scanned, embedded + page.embedded
        blank, excluded = blank + page.blank, excluded + page.excluded
        for key, problem in page.problems:
            problems[problem] = problems.get(problem, 0) + 1
            examples.setdefault(problem, [])
            if len(examples[problem]) < EXAMPLES:
                examples[problem].append(key)
        if on_page is not None:
            on_page(checked)
        if page.scanned < VERIFY_PAGE:
            problems_now = await store.problems(collection)
            # Every row was just compared, so edits that no poll has seen are known.
            unseen = tuple(each for each in problems_now if each.kind != "polling")
            return Verification(
                checked - excluded, embedded, blank, problems, examples, unseen, excluded
            )
        after = page.last_key
