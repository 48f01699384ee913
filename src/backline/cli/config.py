"""The command `config`: the settings in force, and where each one comes from."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from backline import config
from backline.cli.context import AsJson
from backline.cli.output import emit, table


def config_command(as_json: AsJson = False) -> None:
    """Show the settings in force and where each one comes from; secrets are masked."""
    settings, origins = config.load_with_origins()
    rows = [
        {
            "setting": name,
            "value": _shown(getattr(settings, name)),
            "from": str(origins[name]) if name in origins else "default",
            "environment": config.names_of(name),
        }
        for name in config.Settings.model_fields
    ]
    if as_json:
        emit({"settings": rows})
        return
    table(
        ("setting", "value", "from"),
        ((r["setting"], "unset" if r["value"] is None else r["value"], r["from"]) for r in rows),
    )


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return ", ".join(value) or None
    return value if value is None or isinstance(value, bool | int | float) else str(value)
