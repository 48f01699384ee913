"""SQL lives in files: named statements in queries.sql, numbered migrations in migrations/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def queries(file: str = "queries.sql") -> dict[str, str]:
    """The statements of a file by name, without their comments."""
    text = files(__name__).joinpath(file).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: _statement(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def query(name: str) -> str:
    """One statement of queries.sql."""
    return queries()[name]


def _statement(body: str) -> str:
    lines = [line for line in body.splitlines() if not line.startswith("--")]
    return "\n".join(lines).strip()


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered migration; never edited once it has shipped."""

    version: str
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations, in order. File names are <14 digits>_<name>.sql."""
    folder = files(__name__).joinpath("migrations")
    found = []
    for entry in folder.iterdir():
        version, _, name = entry.name.removesuffix(".sql").partition("_")
        if entry.name.endswith(".sql"):
            found.append(Migration(version, name, entry.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.version))
