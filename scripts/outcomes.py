"""Generates the Edge Function's outcomes.gen.ts from src/backline/data/outcomes.json.

usage: python scripts/outcomes.py [--check]

With --check nothing is written, and the exit code says whether the file is up to date.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
TARGET: Final = ROOT / "supabase" / "functions" / "upsert-embeddings" / "outcomes.gen.ts"
TEMPLATE: Final = """\
// Made by `make docs` from src/backline/data/outcomes.json. Do not edit.

export const OUTCOMES = {{
{entries}
}} as const;

export type Outcome = keyof typeof OUTCOMES;
"""


def generated() -> str:
    """Return the module as `deno fmt` formats it."""
    text = files("backline.data").joinpath("outcomes.json").read_text(encoding="utf-8")
    return TEMPLATE.format(entries="\n".join(_entry(*item) for item in json.loads(text).items()))


def _entry(name: str, sentence: str) -> str:
    return f"  {name}: {json.dumps(sentence, ensure_ascii=False)},"


def is_current() -> bool:
    return TARGET.exists() and TARGET.read_text(encoding="utf-8") == generated()


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(generated(), encoding="utf-8")
    elif not is_current():
        sys.exit(f"{TARGET.relative_to(ROOT)} is not up to date. Run: make docs")
