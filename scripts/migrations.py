"""Build the migrations from src/backline/sql/schema, and the Supabase project from both.

usage: python scripts/migrations.py [--check | --freeze]

Each schema file becomes one migration. After a release (`--freeze`), released migrations stay as
they are, and only schema files that are new or have changed become further migrations. The files of
supabase/migrations are byte-for-byte copies. supabase/seed.sql is the knowledge base of
src/backline/data. With --check nothing is written, and the exit code says whether every file is up
to date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SQL: Final = Path("src/backline/sql")
SUPABASE: Final = Path("supabase")
# The version of the first migration that is not released. Set it to the date of the next release.
UNRELEASED: Final = datetime(2026, 11, 21, 0, 1)
MIGRATION: Final = """\
-- Built by `make docs` from schema/{topic}.sql. Edit that file instead.

{text}"""
SEED: Final = """\
-- Built by `make docs` from src/backline/data/music_knowledge.jsonl. Edit that file instead.
-- Existing entries are not changed. `backline backfill` creates their vectors.
insert into public.music_knowledge
  (id, topic, category, title, suggestion, asked_as, parameters, confidence)
values
{rows}
on conflict (id) do nothing;
-- The entries can be found by their words at once.
select backline.apply_changes(c.id) from backline.collections c where c.name = 'music_knowledge';
"""


class FrozenError(Exception):
    """A released file differs from its recorded hash."""


def migrations(sql: Path, first: datetime = UNRELEASED) -> dict[str, str]:
    """Return the text of every migration by file name, released ones included.

    Raises:
        FrozenError: a released migration or table file was edited, or `first` does not sort after
            the released migrations.

    """
    frozen = _frozen(sql)
    built = {
        Path(file).name: (sql / file).read_text(encoding="utf-8")
        for file in frozen
        if file.startswith("migrations/")
    }
    for name, text in built.items():
        if _digest(text) != frozen[f"migrations/{name}"]:
            raise FrozenError(f"migrations/{name} is released and must not change.")
    for number, topic in enumerate(_changed(sql, frozen)):
        name = f"{first + timedelta(minutes=number):%Y%m%d%H%M%S}_{_name(topic)}.sql"
        if built and number == 0 and name < max(built):
            raise FrozenError(f"UNRELEASED must be later than {max(built)}.")
        text = (sql / "schema" / f"{topic}.sql").read_text(encoding="utf-8")
        built[name] = MIGRATION.format(topic=topic, text=text)
    return built


def topics(sql: Path) -> list[str]:
    """Return the schema files in the order in which a database gets them."""
    lines = (sql / "schema" / "order.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def freeze(sql: Path) -> str:
    """Return the content of frozen.txt that records all present files, in sha256sum's format."""
    files = [f"migrations/{name}" for name in migrations(sql)]
    files += [f"schema/{topic}.sql" for topic in topics(sql)]
    return "".join(
        f"{_digest((sql / file).read_text(encoding='utf-8'))}  {file}\n" for file in files
    )


def _changed(sql: Path, frozen: dict[str, str]) -> list[str]:
    """Return the topics that are new or differ from the last release."""
    changed = []
    for topic in topics(sql):
        file = f"schema/{topic}.sql"
        if frozen.get(file) == _digest((sql / file).read_text(encoding="utf-8")):
            continue
        if file in frozen and topic.startswith("tables/"):
            raise FrozenError(f"{file} is released: write the change into a new file of tables/.")
        changed.append(topic)
    # New functions need their privileges.
    return [t for t in topics(sql) if t in changed or (changed and t == "functions/privileges")]


def _name(topic: str) -> str:
    folder, _, name = topic.partition("/")
    return f"{name}_{folder}" if name.startswith("music") else f"backline_{name}_{folder}"


def _frozen(sql: Path) -> dict[str, str]:
    lines = (sql / "schema" / "frozen.txt").read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, file in (line.split() for line in lines)}


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def generated(root: Path) -> dict[Path, str]:
    """Return every generated file by its path below the repository's root."""
    built = migrations(root / SQL)
    folders = (SQL / "migrations", SUPABASE / "migrations")
    made = {folder / name: text for folder in folders for name, text in built.items()}
    return made | {SUPABASE / "seed.sql": SEED.format(rows=",\n".join(_rows()))}


def _rows() -> Iterator[str]:
    text = files("backline.data").joinpath("music_knowledge.jsonl").read_text(encoding="utf-8")
    columns = (
        "id", "topic", "category", "title", "suggestion", "asked_as", "parameters", "confidence",
    )  # fmt: skip
    for entry in map(json.loads, text.splitlines()):
        if unknown := entry.keys() - set(columns):
            sys.exit(f"seed.sql has no column for {', '.join(sorted(unknown))}")
        yield f"  ({', '.join(_literal(entry[column]) for column in columns)})"


def _literal(value: Any) -> str:
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "'" + text.replace("'", "''") + "'"


def stale(root: Path) -> list[Path]:
    """Return the generated files that are missing or outdated, and files that do not belong."""
    made = generated(root)
    outdated = {file for file, text in made.items() if _read(root / file) != text}
    folders = (SQL / "migrations", SUPABASE / "migrations")
    existing = {folder / file.name for folder in folders for file in (root / folder).glob("*.sql")}
    return sorted(outdated | existing - made.keys())


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


def write(root: Path) -> None:
    """Write the generated files, and remove migrations that are no longer built."""
    made = generated(root)
    for file in stale(root):
        if file in made:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(made[file], encoding="utf-8")
        else:
            (root / file).unlink()


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if "--check" in arguments:
        if outdated := stale(ROOT):
            sys.exit(f"Not up to date: {', '.join(map(str, outdated))}. Run: make docs")
        return
    write(ROOT)
    if "--freeze" in arguments:
        (ROOT / SQL / "schema" / "frozen.txt").write_text(freeze(ROOT / SQL), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FrozenError as error:
        sys.exit(str(error))
