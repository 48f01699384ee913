"""The language of `--where`: a condition on a table's own columns, parsed to a tree.

    category = 'mixing' and (confidence >= 0.8 or not parameters.ratio > 3)
    topic in ('eq', 'compression') and title like 'De-ess%' and parameters.attack_ms is not null

The tree goes to Postgres as one parameter, where `backline.compile_filter` checks it against the
table. No part of a condition ever becomes SQL text here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn, TypeAlias

from backline import errors

Filter: TypeAlias = dict[str, Any]
Scalar: TypeAlias = str | int | float | bool

LONGEST: Final = 4000
DEEPEST: Final = 40
_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])
    | (?P<text>'(?:[^']|'')*')
    | (?P<name>(?:[^\W\d]\w*|"(?:[^"]|"")+")(?:\.(?:\w+|"(?:[^"]|"")+"))*)
    | (?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_STEP: Final = re.compile(r'"(?:[^"]|"")+"|\w+')
_COMPARISONS: Final = {
    "=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
}  # fmt: skip
_WITHOUT_VALUE: Final = frozenset({"is null", "is not null"})
_OPERATORS: Final = frozenset({*_COMPARISONS.values(), "in", "like", "ilike"}) | _WITHOUT_VALUE
_WORDS: Final = frozenset(
    {"and", "or", "not", "in", "is", "null", "like", "ilike", "true", "false"}
)


def parse(condition: str) -> Filter:
    """The tree of a condition; its form is described at `backline.compile_filter`.

    Raises:
        UsageError: the condition does not parse; the message shows where.
    """
    if len(condition) > LONGEST:
        raise errors.UsageError(
            f"The condition is {len(condition):,} characters long; at most {LONGEST:,} are read."
        )
    return _Parser(condition).whole()


def checked(tree: Any, depth: int = 0) -> Filter:
    """A tree that somebody else made, if its shape is right; columns and types Postgres checks.

    Raises:
        UsageError: it has not the form that `backline.compile_filter` describes.
    """
    if depth > DEEPEST:
        raise errors.UsageError(f"The condition is nested more than {DEEPEST} deep.")
    if not isinstance(tree, dict):
        raise errors.UsageError(f"A condition's tree is made of objects, not of {_shown(tree)}.")
    op = tree.get("op")
    if op in ("and", "or", "not"):
        args = tree.get("args")
        if not isinstance(args, list) or not args or (op == "not" and len(args) > 1):
            few = "of one condition" if op == "not" else "of conditions"
            raise errors.UsageError(f"The operator {op!r} needs `args`, a list {few}.")
        for each in args:
            checked(each, depth + 1)
    elif isinstance(op, str) and op in _OPERATORS:
        _check_comparison(op, tree)
    else:
        raise errors.UsageError(f"There is no operator {_shown(op)} for a condition.")
    return tree


def _check_comparison(op: str, tree: Filter) -> None:
    path, value = tree.get("path"), tree.get("value")
    if not isinstance(path, list) or not path or not all(isinstance(step, str) for step in path):
        raise errors.UsageError(
            f"The operator {op!r} needs `path`, a list of a column and the keys below it."
        )
    if op == "in" and not (isinstance(value, list) and value):
        raise errors.UsageError("The operator 'in' needs `value`, a list with at least one value.")
    if op not in _WITHOUT_VALUE and value is None:
        raise errors.UsageError(
            f"The operator {op!r} needs a `value`; for none there is 'is null'."
        )
    if not all(map(_is_storable, _leaves([path, value]))):
        raise errors.UsageError(
            "The condition holds what no row can: NUL, half of a surrogate pair, NaN or infinity."
        )


def _leaves(value: Any) -> Iterator[Any]:
    """The texts, numbers and so on that a JSON value is made of."""
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    if not isinstance(parts, list):
        yield value
        return
    for part in parts:
        yield from _leaves(part)


def _is_storable(leaf: Any) -> bool:
    if isinstance(leaf, str):
        return "\0" not in leaf and leaf == leaf.encode("utf-8", "ignore").decode()
    return not isinstance(leaf, float) or math.isfinite(leaf)


def _shown(value: Any) -> str:
    return repr(value)[:50]


class _Parser:
    """Recursive descent over the tokens, `or` binding weakest."""

    def __init__(self, condition: str) -> None:
        self._condition = condition
        self._tokens = self._split(condition)
        self._at = 0

    def whole(self) -> Filter:
        tree = self._either(0)
        if self._peek() is not None:
            self._fail("and, or, or the end")
        return tree

    def _split(self, condition: str) -> list[tuple[str, str, int]]:
        tokens: list[tuple[str, str, int]] = []
        at = 0
        end = len(condition.rstrip())
        while at < end:
            match = _TOKEN.match(condition, at)
            if match is None or match.lastgroup is None:
                self._refuse("a column, an operator or a value", at)
            kind, text = match.lastgroup, match[match.lastgroup]
            if kind == "name" and text.lower() in _WORDS:
                kind, text = "word", text.lower()
            tokens.append((kind, text, match.start(match.lastgroup)))
            at = match.end()
        return tokens

    def _either(self, depth: int) -> Filter:
        return self._joined("or", depth)

    def _joined(self, op: str, depth: int) -> Filter:
        """Terms between `op`; `or` is made of `and`s, and `and` of single conditions."""
        if depth > DEEPEST:
            raise errors.UsageError(f"The condition is nested more than {DEEPEST} deep.")
        part = self._term if op == "and" else lambda at: self._joined("and", at)
        args = [part(depth + 1)]
        while self._take("word", op):
            args.append(part(depth + 1))
        return args[0] if len(args) == 1 else {"op": op, "args": args}

    def _term(self, depth: int) -> Filter:
        if self._take("word", "not"):
            if depth > DEEPEST:
                raise errors.UsageError(f"The condition is nested more than {DEEPEST} deep.")
            return {"op": "not", "args": [self._term(depth + 1)]}
        if self._take("sign", "("):
            tree = self._either(depth + 1)
            self._need("sign", ")")
            return tree
        return self._comparison()

    def _comparison(self) -> Filter:
        path = [_unquoted(step) for step in _STEP.findall(self._need("name"))]
        if self._take("word", "is"):
            op = "is not null" if self._take("word", "not") else "is null"
            self._need("word", "null")
            return {"op": op, "path": path}
        negated = self._take("word", "not")
        for word in ("in", "like", "ilike"):
            if self._take("word", word):
                value: Any = self._values() if word == "in" else self._value()
                tree: Filter = {"op": word, "path": path, "value": value}
                return {"op": "not", "args": [tree]} if negated else tree
        token = self._peek()
        if negated or token is None or token[1] not in _COMPARISONS:
            self._fail("in, like or ilike" if negated else "an operator such as = or >=")
        self._at += 1
        return {"op": _COMPARISONS[token[1]], "path": path, "value": self._value()}

    def _values(self) -> list[Scalar]:
        self._need("sign", "(")
        values = [self._value()]
        while self._take("sign", ","):
            values.append(self._value())
        self._need("sign", ")")
        return values

    def _value(self) -> Scalar:
        token = self._peek()
        if token is None or (
            token[0] not in ("number", "text") and token[1] not in ("true", "false")
        ):
            self._fail("a number, a text in 'single quotes', true or false")
        self._at += 1
        kind, text, _ = token
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            return float(text) if re.search(r"[.eE]", text) else int(text)
        return text == "true"

    def _peek(self) -> tuple[str, str, int] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, kind: str, text: str) -> bool:
        token = self._peek()
        if token is None or token[:2] != (kind, text):
            return False
        self._at += 1
        return True

    def _need(self, kind: str, text: str | None = None) -> str:
        token = self._peek()
        if token is None or token[0] != kind or text not in (None, token[1]):
            self._fail(repr(text) if text else "a column")
        self._at += 1
        return token[1]

    def _fail(self, expected: str) -> NoReturn:
        token = self._peek()
        self._refuse(expected, len(self._condition) if token is None else token[2])

    def _refuse(self, expected: str, at: int) -> NoReturn:
        at += len(self._condition[at:]) - len(self._condition[at:].lstrip())
        rest = self._condition[at : at + 30].strip()
        found = repr(rest) if rest else "the end"
        raise errors.UsageError(
            f"The condition does not read at character {at + 1}: expected {expected}, "
            f"found {found}. For example: category = 'mixing' and parameters.ratio > 3."
        )


def _unquoted(step: str) -> str:
    return step[1:-1].replace('""', '"') if step.startswith('"') else step
