"""Batching: properties that hold for any items and any budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.worker.batching import Batch, Budget, Item, bisect, plan, split_text, unique

items_of_any_size = st.lists(
    st.builds(Item, tokens=st.integers(0, 400), bytes=st.integers(0, 2000)), max_size=80
)
budgets = st.builds(
    Budget,
    max_items=st.integers(1, 20),
    max_tokens=st.integers(1, 1000),
    max_bytes_over_4=st.integers(1, 1000),
)


def keeps(budget: Budget, items: Sequence[Item]) -> bool:
    return (
        len(items) <= budget.max_items
        and sum(item.tokens for item in items) <= budget.max_tokens
        and sum(item.bytes for item in items) / 4 <= budget.max_bytes_over_4
    )


def padding(batches: Sequence[Batch], items: Sequence[Item]) -> int:
    """Return the padding tokens that a model computes: batches are padded to their longest text."""
    lengths = [[items[i].tokens for i in batch] for batch in batches]
    return sum(max(batch) * len(batch) - sum(batch) for batch in lengths)


@given(items_of_any_size, budgets, st.booleans())
def test_every_item_is_in_exactly_one_batch(
    items: list[Item], budget: Budget, sort_by_length: bool
) -> None:
    batches = plan(items, budget, sort_by_length=sort_by_length)
    assert all(batches)
    assert sorted(i for batch in batches for i in batch) == list(range(len(items)))


@given(items_of_any_size, budgets, st.booleans())
def test_every_batch_is_within_the_budget_or_a_single_item(
    items: list[Item], budget: Budget, sort_by_length: bool
) -> None:
    for batch in plan(items, budget, sort_by_length=sort_by_length):
        assert len(batch) == 1 or keeps(budget, [items[i] for i in batch])


@given(items_of_any_size, budgets, st.booleans())
def test_batches_are_filled_before_the_next_one_starts(
    items: list[Item], budget: Budget, sort_by_length: bool
) -> None:
    batches = plan(items, budget, sort_by_length=sort_by_length)
    for batch, following in pairwise(batches):
        assert not keeps(budget, [items[i] for i in (*batch, following[0])])


@given(st.integers(0, 500), st.integers(1, 60))
def test_small_items_take_the_fewest_possible_batches(count: int, max_items: int) -> None:
    batches = plan([Item(1, 4)] * count, Budget(max_items=max_items), sort_by_length=False)
    assert len(batches) == -(-count // max_items)


@given(items_of_any_size, budgets)
def test_unsorted_plan_keeps_the_order(items: list[Item], budget: Budget) -> None:
    batches = plan(items, budget, sort_by_length=False)
    assert [i for batch in batches for i in batch] == list(range(len(items)))


@given(items_of_any_size, budgets)
def test_sorted_plan_starts_with_the_longest(items: list[Item], budget: Budget) -> None:
    batches = plan(items, budget, sort_by_length=True)
    tokens = [items[i].tokens for batch in batches for i in batch]
    assert tokens == sorted(tokens, reverse=True)


# Padding is compared with full batches limited by count alone. A last batch that is not full may
# hold the only long text, and a token budget changes the number of batches.
@given(items_of_any_size, st.integers(1, 20))
def test_sorting_never_pads_more(items: list[Item], max_items: int) -> None:
    items = items[: len(items) // max_items * max_items]
    budget = Budget(max_items=max_items)
    unsorted = plan(items, budget, sort_by_length=False)
    assert padding(plan(items, budget, sort_by_length=True), items) <= padding(unsorted, items)


def test_sorting_removes_padding_of_alternating_lengths() -> None:
    items = [Item(tokens, tokens * 4) for tokens in (10, 250) * 100]
    budget = Budget(max_items=50)
    assert padding(plan(items, budget, sort_by_length=False), items) == 24_000
    assert padding(plan(items, budget, sort_by_length=True), items) == 0


def test_byte_estimate_limits_batches_of_few_tokens() -> None:
    items = [Item(tokens=100, bytes=600_000)] * 4  # the server estimates 150,000 tokens each
    assert [len(batch) for batch in plan(items, Budget(), sort_by_length=False)] == [2, 2]


def test_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Budget(max_items=0)


@given(st.lists(st.integers(), min_size=2, max_size=50))
def test_bisect_returns_equal_halves(batch: list[int]) -> None:
    left, right = bisect(batch)
    assert [*left, *right] == batch
    assert 0 <= len(left) - len(right) <= 1


@given(st.integers(2, 3000), st.data())
def test_repeated_bisect_isolates_an_item_in_logarithmic_steps(
    size: int, data: st.DataObject
) -> None:
    failing = data.draw(st.integers(0, size - 1))
    batch, steps = tuple(range(size)), 0
    while len(batch) > 1:
        left, right = bisect(batch)
        batch, steps = (left if failing in left else right), steps + 1
    assert batch == (failing,)
    assert steps <= (size - 1).bit_length()


@pytest.mark.parametrize("batch", [(), (7,)])
def test_bisect_refuses_a_single_item(batch: Batch) -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        bisect(batch)


@given(st.lists(st.sampled_from("abcdef")))
def test_unique_lists_each_key_once_and_maps_every_key_back(keys: list[str]) -> None:
    firsts, inverse = unique(keys)
    assert firsts == sorted(keys.index(key) for key in set(keys))
    assert [keys[firsts[i]] for i in inverse] == keys


# --- texts that are longer than the model reads ---


def first_tokens(most: int) -> Callable[[str], str]:
    """Return a truncation to `most` tokens, where a character is one token and an emoji two."""

    def truncate(text: str) -> str:
        sizes = accumulate(1 + (ord(character) > 0xFFFF) for character in text)
        return text[: sum(1 for size in sizes if size <= most)]

    return truncate


@given(st.text(alphabet="ab \n\t🎛ü", max_size=300), st.integers(2, 20))
def test_parts_contain_the_whole_text_and_each_fits_the_model(text: str, most: int) -> None:
    truncate = first_tokens(most)
    parts = split_text(text, most, truncate)
    assert all(truncate(part) == part and part.strip() for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_parts_end_between_words() -> None:
    assert split_text("one two three", 9, first_tokens(9)) == ["one two ", "three"]
    assert split_text("uninterrupted", 5, first_tokens(5)) == ["unint", "errup", "ted"]


def test_splitting_reads_a_bounded_prefix_for_each_part() -> None:
    """Tokenizing the whole rest for every part takes hours for a text of a megabyte."""
    read = 0

    def truncate(text: str) -> str:
        nonlocal read
        read += len(text)
        return text[:100]

    text = "word " * 20_000
    assert "".join(split_text(text, 100, truncate)) == text
    assert read < 20 * len(text)


def test_text_without_a_part_that_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match="at most 1 tokens"):
        split_text("🎛", 1, first_tokens(1))
