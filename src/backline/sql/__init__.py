"""Load SQL from its files: named statements from queries.sql, migrations from migrations/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_EXTENSIONS = re.compile(r"\bextensions\b(?=[.;])")


@cache
def queries(file: str = "queries.sql") -> dict[str, str]:
    """Return the statements of a file by name, without their comments."""
    text = files(__name__).joinpath(file).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: _statement(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def query(name: str) -> str:
    """Return one statement of queries.sql."""
    return queries()[name]


def _statement(body: str) -> str:
    lines = [line for line in body.splitlines() if not line.startswith("--")]
    return "\n".join(lines).strip()


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered migration. It does not change after its release."""

    version: str
    name: str
    sql: str

    @property
    def is_core(self) -> bool:
        """Whether every database needs it; the others are those of the music studio's table."""
        return self.name.startswith("backline")

    def for_schema(self, vector_schema: str) -> str:
        """Return its text with Supabase's schema `extensions` replaced by that of pgvector."""
        if vector_schema == "extensions":
            return self.sql
        return _EXTENSIONS.sub(lambda _: vector_schema, self.sql)


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations in order. Their files are named <14 digits>_<name>.sql."""
    folder = files(__name__).joinpath("migrations")
    unsorted = []
    for entry in folder.iterdir():
        version, _, name = entry.name.removesuffix(".sql").partition("_")
        if entry.name.endswith(".sql"):
            unsorted.append(Migration(version, name, entry.read_text(encoding="utf-8")))
    return tuple(sorted(unsorted, key=lambda migration: migration.version))
