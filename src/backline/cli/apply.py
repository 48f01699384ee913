"""The command `apply`: declare all collections of a project from a file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from backline import apply as applying
from backline import config, declarations, errors, model_change, wiring
from backline.apply import Step
from backline.cli.model_change import Yes, consent, show_plan
from backline.cli.options import NO_FLAGS, AsJson, Flags, database_options
from backline.cli.output import count, emit, out, say
from backline.config import Settings
from backline.declarations import Declaration
from backline.model_change import NewTarget, Plan
from backline.postgres import migrate
from backline.postgres.store import Store
from backline.types import Collection

SIGNS: Final = {"add": "+", "change": "~", "begin": "~", "keep": "=", "undeclared": "?"}

File = Annotated[Path, typer.Argument(metavar="[FILE]", help="The file with the collections.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]


@database_options()
def apply(
    file: File = Path("backline.toml"),
    dry_run: DryRun = False,
    yes: Yes = False,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """Declare the collections of a file, and change those that differ.

    Shows the plan first: + add, ~ change, = keep, ? not in the file. Collections that are not in
    the file are left alone. Another model takes a second target beside the vectors that are
    searched, see `backline model change`.
    """
    declared = declarations.read(file)
    run = _Apply(config.load(**flags), dry_run=dry_run, yes=yes, as_json=as_json)
    asyncio.run(run.run(declared))
    if as_json:
        emit({
            "plan": [asdict(step) for step in run.steps], "applied": not dry_run, "due": run.due,
            "changes": [asdict(begun.plan) for begun in run.changes.values()],
        })  # fmt: skip
    else:
        _show_outcome(run.steps, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the model that a step begins."""

    collection: Collection
    target: NewTarget
    plan: Plan


class _Apply:
    """One call of `apply`."""

    def __init__(self, settings: Settings, *, dry_run: bool, yes: bool, as_json: bool) -> None:
        self._settings = settings
        self._resolve = partial(wiring.resolve_model, settings)
        self._dry_run = dry_run
        self._yes = yes
        self._json = as_json
        self.steps: list[Step] = []
        self.changes: dict[str, _Change] = {}
        self.due = 0

    async def run(self, declared: Sequence[Declaration]) -> None:
        """Plan, ask, and carry out."""
        async with wiring.open_database(self._settings, migrated=self._dry_run) as store:
            if not self._dry_run:
                published = any(declaration.published for declaration in declared)
                applied = await migrate.apply(store.connector, published=published)
                if applied:
                    say(f"Schema: {count(len(applied), 'migration')} applied")
            expanded = await declarations.expand(store, list(declared))
            self.steps = await applying.plan(store, expanded, self._resolve)
            if not self._json:
                _show(self.steps)
            applying.require_applicable(self.steps)
            by_name = {declaration.name: declaration for declaration in expanded}
            await self._plan_changes(store, by_name)
            if not self._dry_run:
                plans = [begun.plan for begun in self.changes.values()]
                consent(plans, yes=self._yes, as_json=self._json)
                await self._carry_out(store, by_name)

    async def _plan_changes(self, store: Store, declared: dict[str, Declaration]) -> None:
        """Plan each change of a model, and probe its model, before anything is changed."""
        for step in self.steps:
            if step.action != "begin":
                continue
            declaration = declared[step.name]
            found, target = await applying.new_target(store, step, declaration, self._resolve)
            async with wiring.embedder_for(self._settings, target.model, say) as (embedder, _):
                if not self._dry_run:
                    await model_change.probe(embedder)
                plan = await model_change.plan(store, found, embedder, target)
            self.changes[step.name] = _Change(found, target, plan)
            if not self._json:
                show_plan(plan)

    async def _carry_out(self, store: Store, declared: dict[str, Declaration]) -> None:
        done: list[str] = []
        for step in self.steps:
            if step.action not in ("add", "change", "begin"):
                continue
            try:
                await self._apply_step(store, step, declared[step.name])
            except errors.BacklineError:
                if done:
                    say(f"Applied before the error: {', '.join(done)}. Run apply again after it.")
                raise
            done.append(step.name)

    async def _apply_step(self, store: Store, step: Step, declaration: Declaration) -> None:
        if step.action == "add":
            await declarations.add(store, declaration, self._resolve)
            return
        self.due += await applying.update(store, step, declaration)
        if step.action == "begin":
            begun = self.changes[step.name]
            await model_change.begin(store, begun.collection, begun.target)


def _show(steps: Sequence[Step]) -> None:
    width = max(len(step.name) for step in steps)
    for step in steps:
        rest = "  not in the file" if step.action == "undeclared" else ""
        if step.state is not None:
            rest = f"  its change is {step.state}; next: {step.next}"
        sign = "~" if step.differences else SIGNS[step.action]
        out.print(f"{sign} {step.name:{width}}  {step.table}{rest}", markup=False)
        for difference in step.differences:
            change = f"{difference.present!r} → {difference.declared!r}"
            out.print(f"    {difference.field}: {change}", markup=False)
        if step.action == "begin":
            cutover = errors.command("model", "cutover", step.name)
            out.print(f"    by a second target; cut over with {cutover}", markup=False)


def _show_outcome(steps: Sequence[Step], *, dry_run: bool) -> None:
    todo = [step for step in steps if step.action in ("add", "change", "begin")]
    following = [step.next or errors.command("backfill", step.name) for step in todo]
    if dry_run and todo:
        out.print(f"{count(len(todo), 'collection')} to apply. Nothing was changed.", markup=False)
    elif todo:
        names = " && ".join(following)
        out.print(f"Applied {count(len(todo), 'collection')}. Next: {names}", markup=False)
    elif waiting := [step for step in steps if step.state is not None and step.differences]:
        names = " && ".join(str(step.next) for step in waiting)
        out.print(f"Nothing was changed. Next: {names}", markup=False)
    else:
        out.print("Every collection is as declared.", markup=False)
