"""Generates the Edge Function's models.gen.ts from the registry of providers and models.

usage: python scripts/models.py [--check]

With --check nothing is written, and the exit code says whether the file is up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from backline.embedders import registry

ROOT: Final = Path(__file__).resolve().parent.parent
TARGET: Final = ROOT / "supabase" / "functions" / "upsert-embeddings" / "models.gen.ts"
TEMPLATE: Final = """\
// Made by `make docs` from src/backline/data/{{providers,models}}.toml. Do not edit.
// deno-fmt-ignore-file

export interface Provider {{
  readonly title: string;
  readonly wire: "openai" | "cohere" | "gemini" | "ollama" | "tei";
  readonly address: string | null;
  readonly path: string;
  readonly keys: readonly string[];
  readonly addresses: readonly string[];
  readonly keyHeader: string | null;
  readonly keyRequired: boolean;
  readonly selfHosted: boolean;
  /** Names of members of a request in OpenAI's form. */
  readonly fields: Readonly<Record<"dimensions" | "type" | "encoding", string | null>>;
  readonly body: Readonly<Record<string, unknown>>;
  /** The status that says the same as a code or a phrase of an error. */
  readonly means: Readonly<Record<string, number>>;
  /** What marks the passages of a model without an entry. */
  readonly marks: Marks;
}}

/** What precedes a passage, the type that goes with it, and the revision that stands for both. */
export interface Marks {{
  readonly prefix: string;
  readonly type: string | null;
  readonly revision: string;
}}

export interface ModelEntry extends Marks {{
  readonly dimensions: number;
}}

export const PROVIDERS: Readonly<Record<string, Provider>> = {{
{providers}
}};

export const MODELS: Readonly<Record<string, ModelEntry>> = {{
{models}
}};

/** Models that self-hosted servers name as they like. */
export const OPEN_WEIGHTS: readonly (ModelEntry & {{ readonly names: readonly string[] }})[] = [
{weights}
];
"""


def generated() -> str:
    """Return the text of the module."""
    return TEMPLATE.format(
        providers=_lines({name: _provider(name) for name in registry.providers()}),
        models=_lines(_models()),
        weights="\n".join(f"  {_json(each)}," for each in _open_weights()),
    )


def _provider(name: str) -> dict[str, Any]:
    entry = registry.providers()[name]
    return {
        "title": entry.title,
        "wire": entry.wire,
        "address": entry.base_url,
        "path": entry.path,
        "keys": entry.keys,
        "addresses": entry.addresses,
        "keyHeader": entry.key_header,
        "keyRequired": entry.key_required,
        "selfHosted": entry.self_hosted,
        "fields": entry.fields.model_dump(),
        "body": entry.body,
        "means": entry.means,
        "marks": _marks(name, ""),
    }


def _marks(provider: str, name: str) -> dict[str, Any]:
    prompts = registry.prompts(provider, name)
    return {
        "prefix": prompts.passage,
        "type": prompts.passage_type,
        "revision": registry.revision(provider, name),
    }


def _models() -> dict[str, Any]:
    """Return the models of each provider, also of one that serves those of another."""
    return {
        f"{provider}/{each.name}": {"dimensions": each.dimensions, **_marks(provider, each.name)}
        for provider, entry in registry.providers().items()
        for each in registry.models()
        if each.id is not None and each.provider in (provider, entry.models_of)
    }


def _open_weights() -> list[dict[str, Any]]:
    return [
        {
            "names": each.names,
            "dimensions": each.dimensions,
            **_marks("compatible", each.repository or ""),
        }
        for each in registry.models()
        if each.repository is not None
    ]


def _lines(entries: dict[str, Any]) -> str:
    return "\n".join(f"  {_json(name)}: {_json(entry)}," for name, entry in entries.items())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(generated(), encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != generated():
        sys.exit(f"{TARGET.relative_to(ROOT)} is not up to date. Run: make docs")
