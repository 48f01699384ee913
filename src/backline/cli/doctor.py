"""The command `doctor`: everything that an installation needs, on one page."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Final

import typer
from rich.markup import escape

from backline import config, doctor
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import emit, out
from backline.config import Settings
from backline.doctor import Finding

_COLORS: Final = {"ok": "green", "warning": "yellow", "failed": "red"}


@database_options()
def examine(flags: Flags = NO_FLAGS, as_json: AsJson = False) -> None:
    """Check connection, rights, schema, indexes, models, disk and clock, with remedies.

    Changes nothing.
    """
    findings = asyncio.run(_findings(config.load(**flags), show=not as_json))
    failed = any(each.state == "failed" for each in findings)
    if as_json:
        emit({"healthy": not failed, "findings": [asdict(each) for each in findings]})
    if failed:
        raise typer.Exit(1)


async def _findings(settings: Settings, *, show: bool) -> list[Finding]:
    findings: list[Finding] = []
    async for each in doctor.examine(settings):
        findings.append(each)
        if show:
            _show(each)
    return findings


def _show(each: Finding) -> None:
    color = _COLORS[each.state]
    out.print(f"[{color}]{each.state:<8}[/{color}]{escape(each.check)}: {escape(each.detail)}")
    if each.remedy:
        out.print(f"        {escape(each.remedy)}")
