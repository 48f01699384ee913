"""The commands `keys add`, `list` and `revoke`: the keys of the server's callers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from backline import config, errors, keys
from backline.cli.options import AsJson
from backline.cli.output import emit, moment, out, say, table

app = typer.Typer(
    help="Keys of the server: names, roles and expiry.", no_args_is_help=True, add_completion=False
)

Name = Annotated[str, typer.Argument(help="The name of the key, such as its caller.")]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        show_default=False,
        help="The file of keys. Environment: BACKLINE_KEYS_FILE.",
    ),
]
RoleOption = Annotated[
    str,
    typer.Option(
        "--role",
        help="read: protected reads. write: also embed texts, send rows and actions. admin: also "
        "start and cancel backfills, and retry failures.",
    ),
]
Expires = Annotated[
    str | None,
    typer.Option(
        "--expires",
        metavar="TIME",
        show_default=False,
        help="When the key ends: a time from now, such as 90d or 12h, or a date. Default: never.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate-limit",
        metavar="N",
        min=0.001,
        show_default=False,
        help="Requests a second, after a burst of ten times as many. Default: that of addresses, "
        "BACKLINE_RATE_LIMIT.",
    ),
]


@app.command("add")
def add(
    name: Name,
    role: RoleOption = "write",
    expires: Expires = None,
    rate_limit: Rate = None,
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, store its hash, and print it once.

    A running server accepts it within a second.
    """
    if role not in keys.ROLES:
        raise errors.UsageError(f"--role is {role!r}; use {', '.join(keys.ROLES)}.")
    key = keys.add_key(_file(file), name, role, expires=_time(expires), rate_limit=rate_limit)
    if as_json:
        emit({"name": name, "key": key})
    else:
        out.print(key, markup=False, soft_wrap=True)
        say("The key is not stored and cannot be shown again.")


@app.command("list")
def list_keys(file: File = None, as_json: AsJson = False) -> None:
    """List names, roles and expiry of the keys."""
    stored = keys.read_keys(_file(file))
    if as_json:
        emit({"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in stored]})
        return
    table(
        ("name", "role", "created", "expires", "requests/s"),
        [
            (
                key.name,
                key.role,
                moment(key.created),
                f"{moment(key.expires)}{' (expired)' if key.expired() else ''}"
                if key.expires
                else "never",
                key.rate_limit,
            )
            for key in stored
        ],
    )


@app.command("revoke")
def revoke(name: Name, file: File = None, as_json: AsJson = False) -> None:
    """Remove a key. A running server refuses it within a second."""
    keys.revoke_key(_file(file), name)
    if as_json:
        emit({"revoked": name})
    else:
        out.print(f"Revoked {name}.", markup=False)


def _file(file: Path | None) -> Path:
    settings = config.load(keys_file=file)
    if settings.keys_file is None:
        raise errors.UsageError("Name the file of keys: --file FILE, or BACKLINE_KEYS_FILE.")
    return settings.keys_file


def _time(text: str | None) -> datetime | None:
    """Return the time of `--expires`.

    Raises:
        UsageError: it is neither a time from now nor a date, or has passed.
    """
    if text is None:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        if match := re.fullmatch(r"(\d{1,5})([dh])", text):
            time = now + timedelta(**{{"d": "days", "h": "hours"}[match[2]]: int(match[1])})
        else:
            time = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise errors.UsageError(
            f"--expires is {text!r}; write 90d, 12h, or a date such as 2027-01-31."
        ) from None
    if time <= now:
        raise errors.UsageError(f"--expires is {text}, which has passed.")
    return time
