"""Writes supabase/migrations and supabase/seed.sql from what the package ships.

usage: python scripts/supabase_project.py [--check]

The migrations are copies, byte for byte, of src/backline/sql/migrations; the seed is the knowledge
base of src/backline/data. With --check nothing is written; the exit code says whether all is up to
date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from backline.sql import migrations

FOLDER: Final = Path(__file__).resolve().parent.parent / "supabase"
SEED: Final = """\
-- Made by `make docs` from src/backline/data/music_knowledge.jsonl; edit that file, not this one.
-- Entries that are there already stay as they are. `backline backfill` makes their vectors.
insert into public.music_knowledge
  (id, topic, category, title, suggestion, asked_as, parameters, confidence)
values
{rows}
on conflict (id) do nothing;
"""


def generated() -> dict[str, str]:
    """Every generated file by its path below supabase/."""
    made = {f"migrations/{m.version}_{m.name}.sql": m.sql for m in migrations()}
    return made | {"seed.sql": SEED.format(rows=",\n".join(_rows()))}


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


def differences() -> list[str]:
    """The files that are missing, not as they should be, or not ours, below supabase/."""
    made = generated()
    wrong = [name for name, text in made.items() if _read(FOLDER / name) != text]
    strangers = {f"migrations/{file.name}" for file in (FOLDER / "migrations").glob("*")}
    return sorted([*wrong, *strangers - made.keys()])


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


def write() -> None:
    (FOLDER / "migrations").mkdir(parents=True, exist_ok=True)
    for name in differences():
        (FOLDER / name).unlink(missing_ok=True)
    for name, text in generated().items():
        if _read(FOLDER / name) != text:
            (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        write()
    elif stale := differences():
        sys.exit(f"Not up to date below supabase/: {', '.join(stale)}. Run: make docs")
