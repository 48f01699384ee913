"""The objects that the core migrations create, read from their text.

The text has one form: statements begin in the first column, and a table has one column or
constraint a line. A test compares what is read here with the catalog of a migrated database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from hashlib import md5
from typing import Final

from backline.sql import migrations

_FUNCTION: Final = re.compile(
    r"^create (?:or replace )?function ((?:backline|public)\.\w+)\s*(\(.*?\sas (\$\w*\$))",
    re.MULTILINE | re.DOTALL,
)
_TABLE: Final = re.compile(
    r"^create (?:unlogged )?table backline\.(\w+) \(\n(.*?)^\)", re.MULTILINE | re.DOTALL
)
_COLUMN: Final = re.compile(
    r"^alter table backline\.(\w+) add column (?:if not exists )?(\w+)( [^;]*);$", re.MULTILINE
)
_INDEX: Final = re.compile(r"^create (?:unique )?index (\w+) on backline\.", re.MULTILINE)
_SEQUENCE: Final = re.compile(r"^create sequence backline\.(\w+)", re.MULTILINE)
_TRIGGER: Final = re.compile(
    r"^create (?:or replace )?trigger (\w+)[^;]*? on backline\.(\w+)", re.MULTILINE
)
_KEY: Final = re.compile(r"^(primary key|unique) \(([^)]*)\)")
_NO_COLUMN: Final = re.compile(r"^(primary key|unique|check|constraint|foreign key|exclude)\b")
_REPEATABLE: Final = re.compile(
    r"^(create (?:(?:unlogged )?table|(?:unique )?index|sequence|schema)"
    r"|alter table backline\.\w+ add column) (?!if not exists)",
    re.MULTILINE,
)

# A call that fills tables, such as of collections that exist already.
_CALL: Final = re.compile(r"^select backline\.[^;]*;$", re.MULTILINE)


@dataclass(slots=True)
class Objects:
    """Names by kind, in the form of the query `schema_objects`.

    Attributes:
        bodies: MD5 of the bodies of a function's overloads, by its qualified name.
        columns: definition of each column, by table and column.
        keys: primary keys and unique constraints, by table and sorted columns.
    """

    bodies: dict[str, set[str]] = field(default_factory=dict)
    columns: dict[tuple[str, str], str] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    indexes: set[str] = field(default_factory=set)
    sequences: set[str] = field(default_factory=set)
    triggers: set[tuple[str, str]] = field(default_factory=set)

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.columns}


@cache
def objects(vector_schema: str) -> Objects:
    """Return what the core migrations create, with pgvector in the quoted `vector_schema`."""
    return parse(m.for_schema(vector_schema) for m in migrations() if m.is_core)


def repeatable(text: str) -> str:
    """Return a migration that leaves tables, columns, indexes and sequences alone that exist."""
    return _REPEATABLE.sub(r"\1 if not exists ", text)


def definitions(text: str) -> str:
    """Return a repeatable migration that only creates objects, and calls no function."""
    return _CALL.sub("", repeatable(text))


def parse(texts: Iterable[str]) -> Objects:
    """Return what the migrations create. A later definition of a function replaces an earlier."""
    found = Objects()
    functions: dict[tuple[str, str], str] = {}
    for text in texts:
        functions |= _functions(text)
        for name, body in _TABLE.findall(text):
            _add_table(found, name, body)
        for table, name, definition in _COLUMN.findall(text):
            found.columns[table, name] = name + definition
        found.indexes |= set(_INDEX.findall(text))
        found.sequences |= set(_SEQUENCE.findall(text))
        found.triggers |= {(table, name) for name, table in _TRIGGER.findall(text)}
    for (name, _), digest in functions.items():
        found.bodies.setdefault(name, set()).add(digest)
    return found


def _functions(text: str) -> dict[tuple[str, str], str]:
    """Return the digest of each function's body, by name and parameters."""
    made = {}
    for match in _FUNCTION.finditer(text):
        name, header, quote = match.groups()
        body = text[match.end() : text.index(quote, match.end())]
        made[name, " ".join(header.split())] = digest(body)
    return made


def digest(body: str) -> str:
    """Return what `md5(prosrc)` returns for this body."""
    return md5(body.encode(), usedforsecurity=False).hexdigest()


def _add_table(found: Objects, table: str, body: str) -> None:
    for line in _entries(body):
        name = line.split()[0]
        if key := _KEY.match(line):
            columns = ",".join(sorted(each.strip() for each in key[2].split(",")))
            found.keys[table, columns] = line
        elif not _NO_COLUMN.match(line):
            found.columns[table, name] = line
            for kind in re.findall(r"\b(primary key|unique)\b", line):
                found.keys[table, name] = f"{kind} ({name})"


def _entries(body: str) -> list[str]:
    """Return the columns and constraints of a table, without comments. Deeper lines continue."""
    entries: list[str] = []
    for raw in body.splitlines():
        line = re.sub(r"\s*--.*", "", raw)
        if line.startswith("   "):
            entries[-1] += " " + line.strip()
        elif line.strip():
            entries.append(line.strip())
    return [entry.removesuffix(",") for entry in entries]
