"""The conditions of --where: which ones parse, and the errors for the others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline import errors
from backline.search import parse_filter
from backline.search.filters import validate


@pytest.mark.parametrize(
    ("condition", "tree"),
    [
        ("a = 1", {"op": "=", "path": ["a"], "value": 1}),
        ("a == -1.5e3", {"op": "=", "path": ["a"], "value": -1500.0}),
        ("a <> 'it''s'", {"op": "!=", "path": ["a"], "value": "it's"}),
        ("a>=true", {"op": ">=", "path": ["a"], "value": True}),
        ("p.x.y < 3", {"op": "<", "path": ["p", "x", "y"], "value": 3}),
        ('"A b"."c.d" = 0', {"op": "=", "path": ["A b", "c.d"], "value": 0}),
        ("a IN (1, 'x')", {"op": "in", "path": ["a"], "value": [1, "x"]}),
        ("a is NULL", {"op": "is null", "path": ["a"]}),
        ("a is not null", {"op": "is not null", "path": ["a"]}),
        ("a not like 'x%'", {"op": "not", "args": [{"op": "like", "path": ["a"], "value": "x%"}]}),
        ("tags.0 = 'x'", {"op": "=", "path": ["tags", "0"], "value": "x"}),
    ],
)
def test_condition_parses_to_its_tree(condition: str, tree: object) -> None:
    assert parse_filter(condition) == tree


def test_not_binds_tighter_than_and_which_binds_tighter_than_or() -> None:
    tree = parse_filter("not a = 1 and b = 2 or c = 3 and (d = 4 or e = 5)")
    assert tree["op"] == "or"
    left, right = tree["args"]
    assert [left["op"], right["op"]] == ["and", "and"]
    assert left["args"][0]["op"] == "not"
    assert right["args"][1]["op"] == "or"


@pytest.mark.parametrize(
    ("condition", "position"),
    [
        ("", 1), ("a", 2), ("a = ", 5), ("a = b", 5), ("a = 1 b", 7), ("(a = 1", 7), ("a in ()", 7),
        ("a = 'x", 5), ("a; drop table t", 2), ("a = 1 -- x", 7), ("a = null", 5), ("= 1", 1),
        ("a is 3", 6), ("a not = 1", 7), ("a = 1.2.3", 5), ("and", 1), ("a = 1 and", 10),
    ],
)  # fmt: skip
def test_syntax_error_names_its_position(condition: str, position: int) -> None:
    with pytest.raises(errors.UsageError, match=f"character {position}:"):
        parse_filter(condition)


@pytest.mark.parametrize(
    "condition", ["(" * 200 + "a = 1", "not " * 200 + "a = 1", "a = 1 or " * 900]
)
def test_condition_that_is_too_deep_or_too_long_is_rejected(condition: str) -> None:
    with pytest.raises(errors.UsageError, match=r"deep|long"):
        parse_filter(condition)


@given(
    st.text(alphabet="ab.'\"()=<>!,0 1\\;-andornotiskelu%_\n", max_size=60) | st.text(max_size=60)
)
def test_any_text_parses_or_raises_usage_error(condition: str) -> None:
    try:
        tree = parse_filter(condition)
    except errors.UsageError:
        return
    assert tree["op"]


COMPARED = {"op": "=", "path": ["a"], "value": 1}


@pytest.mark.parametrize(
    "tree",
    [
        COMPARED,
        {"op": "not", "args": [COMPARED]},
        {"op": "or", "args": [COMPARED, {"op": "is null", "path": ["a", "b"]}]},
        {"op": "in", "path": ["a"], "value": [1, "x", True]},
        {"op": "=", "path": ["a"], "value": {"in": ["a jsonb column"]}},
    ],
)
def test_well_formed_tree_is_returned_unchanged(tree: dict[str, Any]) -> None:
    assert validate(tree) is tree


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "consists of objects"),
        ({}, "no operator None"),
        ({"op": "xor", "args": [COMPARED]}, "no operator 'xor'"),
        ({"op": {"a": 1}}, "no operator"),
        ({"op": "and", "args": []}, "a list of conditions"),
        ({"op": "or"}, "a list of conditions"),
        ({"op": "and", "args": "x"}, "a list of conditions"),
        ({"op": "and", "args": [COMPARED, 1]}, "not of 1"),
        ({"op": "not", "args": [COMPARED, COMPARED]}, "a list of one condition"),
        ({"op": "=", "value": 1}, "needs `path`"),
        ({"op": "=", "path": "a", "value": 1}, "needs `path`"),
        ({"op": "=", "path": ["a", None], "value": 1}, "needs `path`"),
        ({"op": "=", "path": ["a"]}, "is null"),
        ({"op": "in", "path": ["a"], "value": []}, "at least one value"),
        ({"op": "in", "path": ["a"], "value": "x"}, "at least one value"),
        ({"op": "=", "path": ["a"], "value": "\0"}, "no row can"),
        ({"op": "=", "path": ["a"], "value": ["\ud800"]}, "no row can"),
        ({"op": "=", "path": ["a"], "value": {"\0": 1}}, "no row can"),
        ({"op": "in", "path": ["a"], "value": [1, float("nan")]}, "no row can"),
        ({"op": "=", "path": ["\ud800"], "value": 1}, "no row can"),
    ],
    ids=str,
)
def test_malformed_tree_is_rejected(tree: Any, message: str) -> None:
    with pytest.raises(errors.UsageError, match=re.escape(message)):
        validate(tree)


def test_tree_that_is_too_deep_is_rejected() -> None:
    tree: dict[str, Any] = COMPARED
    for _ in range(100):
        tree = {"op": "not", "args": [tree]}
    with pytest.raises(errors.UsageError, match="nested more than 40"):
        validate(tree)
