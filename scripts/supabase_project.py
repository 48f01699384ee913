"""Write supabase/migrations and supabase/seed.sql from the files of the package.

usage: python scripts/supabase_project.py [--check]

The migrations are byte copies of src/backline/sql/migrations. The seed is the advice base of
src/backline/data. With --check, nothing is written and the exit code is 1 if a file is outdated.
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
    """Return the text of every generated file by its path below supabase/."""
    texts = {f"migrations/{m.version}_{m.name}.sql": m.sql for m in migrations()}
    return texts | {"seed.sql": SEED.format(rows=",\n".join(_rows()))}


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
    """Return the files below supabase/ that are missing, outdated or not generated."""
    texts = generated()
    wrong = [name for name, text in texts.items() if _read(FOLDER / name) != text]
    existing = {f"migrations/{file.name}" for file in (FOLDER / "migrations").glob("*")}
    return sorted([*wrong, *existing - texts.keys()])


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
