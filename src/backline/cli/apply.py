"""The command `apply`: declare all collections of a project from a file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from backline import config, declarations, errors, wiring
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import count, emit, out, say
from backline.config import Settings
from backline.declarations import Declaration, Step
from backline.postgres import migrate
from backline.postgres.store import Store

SIGNS: Final = {"add": "+", "change": "~", "keep": "=", "undeclared": "?"}

File = Annotated[Path, typer.Argument(metavar="[FILE]", help="The file with the collections.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]


@database_options()
def apply(
    file: File = Path("backline.toml"),
    dry_run: DryRun = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Declare the collections of a file, and change those that differ.

    Shows the plan first: + add, ~ change, = keep, ? not in the file. Collections that are not in
    the file are left alone.
    """
    declared = declarations.read(file)
    steps, due = asyncio.run(
        _apply(config.load(**flags), declared, dry_run=dry_run, as_json=as_json)
    )
    if as_json:
        emit({"plan": [asdict(step) for step in steps], "applied": not dry_run, "due": due})
        return
    todo = [step for step in steps if step.action in ("add", "change")]
    if not todo:
        out.print("Every collection is as declared.", markup=False)
    elif dry_run:
        out.print(f"{count(len(todo), 'collection')} to apply. Nothing was changed.", markup=False)
    else:
        names = " && ".join(errors.command("backfill", step.name) for step in todo)
        out.print(f"Applied {count(len(todo), 'collection')}. Next: {names}", markup=False)


async def _apply(
    settings: Settings, declared: Sequence[Declaration], *, dry_run: bool, as_json: bool
) -> tuple[list[Step], int]:
    resolve = partial(wiring.resolve_model, settings)
    async with wiring.open_database(settings, migrated=dry_run) as store:
        if not dry_run:
            published = any(declaration.published for declaration in declared)
            applied = await migrate.apply(store.connector, published=published)
            if applied:
                say(f"Schema: {count(len(applied), 'migration')} applied")
        expanded = await declarations.expand(store, list(declared))
        steps = await declarations.plan(store, expanded, resolve)
        if not as_json:
            _show(steps)
        declarations.require_applicable(steps)
        if dry_run:
            return steps, 0
        return steps, await _carry_out(store, steps, expanded, resolve)


async def _carry_out(
    store: Store, steps: Sequence[Step], declared: Sequence[Declaration], resolve: Any
) -> int:
    by_name = {declaration.name: declaration for declaration in declared}
    due = 0
    done: list[str] = []
    for step in steps:
        if step.action not in ("add", "change"):
            continue
        try:
            due += await _apply_step(store, step, by_name[step.name], resolve)
        except errors.BacklineError:
            if done:
                say(f"Applied before the error: {', '.join(done)}. Run apply again after it.")
            raise
        done.append(step.name)
    return due


async def _apply_step(store: Store, step: Step, declaration: Declaration, resolve: Any) -> int:
    if step.action == "add":
        await declarations.add(store, declaration, resolve)
        return 0
    collection = await store.collection(step.name)
    return await declarations.change(store, collection, step, declaration)


def _show(steps: Sequence[Step]) -> None:
    width = max(len(step.name) for step in steps)
    for step in steps:
        rest = "  not in the file" if step.action == "undeclared" else ""
        out.print(f"{SIGNS[step.action]} {step.name:{width}}  {step.table}{rest}", markup=False)
        for difference in step.differences:
            change = f"{difference.present!r} → {difference.declared!r}"
            out.print(f"    {difference.field}: {change}", markup=False)
