"""Parse the conditions of `--where` on a table's columns into a tree.

    category = 'mixing' and (confidence >= 0.8 or not parameters.ratio > 3)
    topic in ('eq', 'compression') and title like 'De-ess%' and parameters.attack_ms is not null

Postgres receives the tree as one parameter, and `backline.compile_filter` checks it against the
table. This module never turns a condition into SQL text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
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
    """Parse a condition into the tree that `backline.compile_filter` documents.

    Raises:
        UsageError: the condition does not parse; the message gives the position.
    """
    if len(condition) > LONGEST:
        raise errors.UsageError(
            f"The condition is {len(condition):,} characters long; the limit is {LONGEST:,}."
        )
    return _Parser(condition).parse()


def validate(tree: Any, depth: int = 0) -> Filter:
    """Return a tree received from outside if it has the right form. Postgres checks its columns.

    Raises:
        UsageError: the tree does not have the form that `backline.compile_filter` documents.
    """
    _check_depth(depth)
    if not isinstance(tree, dict):
        raise errors.UsageError(f"A condition's tree consists of objects, not of {_short(tree)}.")
    op = tree.get("op")
    if op in ("and", "or", "not"):
        for each in _operands(op, tree):
            validate(each, depth + 1)
    elif isinstance(op, str) and op in _OPERATORS:
        _check_comparison(op, tree)
    else:
        raise errors.UsageError(f"There is no operator {_short(op)} for a condition.")
    return tree


def _check_depth(depth: int) -> None:
    if depth > DEEPEST:
        raise errors.UsageError(f"The condition is nested more than {DEEPEST} deep.")


def _operands(op: str, tree: Filter) -> list[Any]:
    args = tree.get("args")
    if not isinstance(args, list) or not args or (op == "not" and len(args) > 1):
        kind = "of one condition" if op == "not" else "of conditions"
        raise errors.UsageError(f"The operator {op!r} needs `args`, a list {kind}.")
    return args


def _check_comparison(op: str, tree: Filter) -> None:
    path, value = tree.get("path"), tree.get("value")
    if not isinstance(path, list) or not path or not all(isinstance(step, str) for step in path):
        raise errors.UsageError(
            f"The operator {op!r} needs `path`, a list of a column and the keys below it."
        )
    if op == "in" and not (isinstance(value, list) and value):
        raise errors.UsageError("The operator 'in' needs `value`, a list with at least one value.")
    if op not in _WITHOUT_VALUE and value is None:
        raise errors.UsageError(f"The operator {op!r} needs a `value`; use 'is null' for NULL.")
    if not all(map(_is_storable, _leaves([path, value]))):
        raise errors.UsageError(
            "The condition holds a value that no row can hold: "
            "NUL, half of a surrogate pair, NaN or infinity."
        )


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the scalars of a JSON value, including the keys of its objects."""
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


def _short(value: Any) -> str:
    return repr(value)[:50]


_Token: TypeAlias = tuple[str, str, int]
"""Kind, text and position in the condition."""


class _Parser:
    """Recursive descent over the tokens; `or` binds weakest."""

    def __init__(self, condition: str) -> None:
        self._condition = condition
        self._tokens = self._split(condition)
        self._at = 0

    def parse(self) -> Filter:
        tree = self._any_of(0)
        if self._peek() is not None:
            self._fail("and, or, or the end")
        return tree

    def _split(self, condition: str) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        end = len(condition.rstrip())
        while at < end:
            match = _TOKEN.match(condition, at)
            if match is None or match.lastgroup is None:
                self._reject("a column, an operator or a value", at)
            kind, text = match.lastgroup, match[match.lastgroup]
            if kind == "name" and text.lower() in _WORDS:
                kind, text = "word", text.lower()
            tokens.append((kind, text, match.start(match.lastgroup)))
            at = match.end()
        return tokens

    def _any_of(self, depth: int) -> Filter:
        return self._sequence("or", self._all_of, depth)

    def _all_of(self, depth: int) -> Filter:
        return self._sequence("and", self._term, depth)

    def _sequence(self, op: str, operand: Callable[[int], Filter], depth: int) -> Filter:
        """Parse operands separated by `op`."""
        _check_depth(depth)
        args = [operand(depth + 1)]
        while self._take("word", op):
            args.append(operand(depth + 1))
        return args[0] if len(args) == 1 else {"op": op, "args": args}

    def _term(self, depth: int) -> Filter:
        if self._take("word", "not"):
            _check_depth(depth)
            return {"op": "not", "args": [self._term(depth + 1)]}
        if self._take("sign", "("):
            tree = self._any_of(depth + 1)
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
        return {"op": self._operator(negated=negated), "path": path, "value": self._value()}

    def _operator(self, *, negated: bool) -> str:
        token = self._peek()
        if negated or token is None or token[1] not in _COMPARISONS:
            self._fail("in, like or ilike" if negated else "an operator such as = or >=")
        self._at += 1
        return _COMPARISONS[token[1]]

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

    def _peek(self) -> _Token | None:
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
        self._reject(expected, len(self._condition) if token is None else token[2])

    def _reject(self, expected: str, at: int) -> NoReturn:
        at += len(self._condition[at:]) - len(self._condition[at:].lstrip())
        rest = self._condition[at : at + 30].strip()
        actual = repr(rest) if rest else "the end"
        raise errors.UsageError(
            f"The condition does not parse at character {at + 1}: expected {expected}, "
            f"found {actual}. For example: category = 'mixing' and parameters.ratio > 3."
        )


def _unquoted(step: str) -> str:
    return step[1:-1].replace('""', '"') if step.startswith('"') else step
