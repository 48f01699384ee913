"""The command `config`: the settings in force and their origins."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from backline import config as library
from backline.cli.options import AsJson
from backline.cli.output import emit, table


def config(as_json: AsJson = False) -> None:
    """Show the settings and where each value comes from.

    Secrets are masked.
    """
    settings, origins = library.load_with_origins()
    rows = [
        {
            "setting": name,
            "value": _printable(getattr(settings, name)),
            "from": str(origins[name]) if name in origins else "default",
            "environment": library.names_of(name),
        }
        for name in library.Settings.model_fields
    ]
    if as_json:
        emit({"settings": rows})
        return
    table(
        ("setting", "value", "from"),
        ((r["setting"], "unset" if r["value"] is None else r["value"], r["from"]) for r in rows),
    )


def _printable(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return ", ".join(value) or None
    return value if value is None or isinstance(value, bool | int | float) else str(value)
