"""The commands `model change`, `cutover`, `rollback`, `retire`, `cancel` and `changes`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from backline import config, errors, model_change, wiring
from backline.cli.backfill import backfill_collection
from backline.cli.options import NO_FLAGS, AsJson, Flags, StoreTransport, database_options
from backline.cli.output import count, duration, emit, facts, moment, out, say, table
from backline.cli.report import show_backfill
from backline.config import Settings
from backline.model_change import NewTarget, Plan
from backline.postgres.store import Store
from backline.reconcile import reconcile_unscanned
from backline.store import JobStore
from backline.types import Collection, ModelChange

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="MODEL", help="The new model, as --model takes it. Default: the "
                 "present one, for another type, text or other passages.", show_default=False),
]  # fmt: skip
ColumnType = Annotated[
    str | None,
    typer.Option("--column-type", metavar="TYPE", help="Type of the new vectors: vector, or "
                 "halfvec (16-bit floats). Default: the present one.", show_default=False),
]  # fmt: skip
Into = Annotated[
    str | None,
    typer.Option("--into", metavar="NAME", help="Side table to make for the new vectors.",
                 show_default=False),
]  # fmt: skip
Column = Annotated[
    str | None,
    typer.Option("--column", help="Column to add for the new vectors. Default: that of the present "
                 "ones with a number, or a side table if theirs is one.", show_default=False),
]  # fmt: skip
Text = Annotated[
    str | None,
    typer.Option("--text", metavar="TEMPLATE", help="New template of the text.",
                 show_default=False),
]  # fmt: skip
TextSql = Annotated[
    str | None,
    typer.Option("--text-sql", metavar="EXPR", help="New text as an SQL expression over the row r.",
                 show_default=False),
]  # fmt: skip
Passages = Annotated[
    str | None,
    typer.Option("--passages", metavar="UNIT", help="New passages, as in add; none embeds each row "
                 "whole.", show_default=False),
]  # fmt: skip
PassageTokens = Annotated[
    int | None,
    typer.Option("--passage-tokens", metavar="N", help="Largest passage.", show_default=False),
]
Overlap = Annotated[int, typer.Option("--overlap", metavar="N", help="Tokens that passages share.")]
LongTexts = Annotated[
    str | None,
    typer.Option("--long-text", metavar="POLICY", help="truncate, average or reject, as in add.",
                 show_default=False),
]  # fmt: skip
Published = Annotated[
    bool, typer.Option("--published", help="Subscribers of the table have the new column.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Pay for the vectors without a question.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
Despite = Annotated[
    bool,
    typer.Option("--despite-failures", help="Go on although rows of the new target failed."),
]
ThenCutover = Annotated[
    bool, typer.Option("--cutover", help="Cut over as soon as the new target is ready.")
]
Freeze = Annotated[
    bool,
    typer.Option(
        "--freeze",
        help="Stop keeping the former vectors fresh, which saves their cost. After a rollback, "
        "edits since then are embedded by a backfill.",
    ),
]
KeepVectors = Annotated[
    bool, typer.Option("--keep-vectors", help="Leave the column or the side table in place.")
]


@database_options()
def change(
    collection: Name, to: To = None, column_type: ColumnType = None, into: Into = None,
    column: Column = None, text: Text = None, text_sql: TextSql = None, passages: Passages = None,
    passage_tokens: PassageTokens = None, overlap: Overlap = 0, long_text: LongTexts = None,
    published: Published = False, yes: Yes = False, dry_run: DryRun = False,
    despite_failures: Despite = False, then_cutover: ThenCutover = False, flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fill vectors of another model beside the present ones, while these are searched.

    Shows what it costs, and asks. Edits reach both from then on. Run it again after an
    interruption: it continues. Then compare both, and cut over.
    """
    options = {
        "column_type": column_type, "into": into, "column": column, "template": text,
        "text_sql": text_sql, "long_text": long_text, "published": published,
    }  # fmt: skip
    run = _Change(
        config.load(**flags), collection, to, options, (passages, passage_tokens, overlap),
        yes=yes, despite_failures=despite_failures, as_json=as_json,
    )  # fmt: skip
    asyncio.run(run.preview() if dry_run else run.run(then_cutover=then_cutover))


class _Change:
    """One call of `model change`."""

    def __init__(
        self, settings: Settings, name: str, to: str | None, options: dict[str, Any],
        passages: tuple[str | None, int | None, int], *, yes: bool, despite_failures: bool,
        as_json: bool,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._name = name
        self._to = to
        self._options = options
        self._passages = passages
        self._yes = yes
        self._despite_failures = despite_failures
        self._json = as_json

    async def preview(self) -> None:
        """Print the plan."""
        async with wiring.open_database(self._settings) as store:
            collection = await store.collection(self._name)
            target = await self._target(collection)
            async with wiring.embedder_for(self._settings, target.model, say) as (embedder, _):
                plan = await model_change.plan(store, collection, embedder, target)
            emit({"plan": asdict(plan)}) if self._json else show_plan(plan)

    async def run(self, *, then_cutover: bool) -> None:
        """Begin or continue the change, as far as it goes."""
        async with wiring.open_database(self._settings) as store:
            collection = await store.collection(self._name)
            begun = await model_change.find(store, collection.family)
            if begun is None:
                begun = await self._begin(store, collection)
            else:
                await self._require_same(store, begun)
            if begun.state in ("filling", "indexing", "ready"):
                await self._fill(store, begun)
            if then_cutover and begun.state != "serving":
                await model_change.cutover(
                    store, begun.name, despite_failures=self._despite_failures
                )
            _report(await _found(store, begun.name), as_json=self._json)

    async def _begin(self, store: Store, collection: Collection) -> ModelChange:
        target = await self._target(collection)
        async with wiring.embedder_for(self._settings, target.model, say) as (embedder, _):
            await model_change.probe(embedder)
            plan = await model_change.plan(store, collection, embedder, target)
        if not self._json:
            show_plan(plan)
        consent([plan], yes=self._yes, as_json=self._json)
        return await model_change.begin(store, collection, target)

    async def _target(self, collection: Collection) -> NewTarget:
        model = collection.model
        if self._to is not None:
            model = await wiring.resolve_model(self._settings, self._to)
        return model_change.new_target_of(collection, model, self._passages, **self._options)

    async def _require_same(self, store: Store, begun: ModelChange) -> None:
        """Raise unless the open change is what this call asks for."""
        asked = [name for name, value in self._options.items() if value]
        if self._passages[0] is not None:
            asked.append("passages")
        model = None if self._to is None else await wiring.resolve_model(self._settings, self._to)
        await model_change.require_same(store, begun, model, asked)

    async def _fill(self, store: Store, begun: ModelChange) -> None:
        if begun.copies and begun.state == "filling":
            say(f"Computing the vectors of {begun.name} from those that are there.")
            await model_change.copy(store, begun)
        target = await model_change.new_target(store, begun)
        report = await backfill_collection(
            store, self._settings, target, None, index=False, quiet=self._json
        )
        if report.stopped_by or (report.failed and not self._despite_failures):
            emit(report.as_dict()) if self._json else show_backfill(report)
            raise typer.Exit(1)
        if begun.state == "ready":  # edits since then are embedded, if no sync has done it
            return
        say(f"{count(report.embedded, 'row')} embedded. Building the indexes.")
        await model_change.finish(store, begun, despite_failures=self._despite_failures)


def consent(plans: Sequence[Plan], *, yes: bool, as_json: bool) -> None:
    """Ask before calls that cost money or may cost it.

    Raises:
        UsageError: the command cannot ask.
    """
    costly = [plan for plan in plans if plan.dollars != 0]
    if yes or not costly:
        return
    if as_json or not sys.stdin.isatty():
        model_change.require_consent(costly, "To pay it, run the same command with --yes.")
    prices = ", ".join(f"of {plan.collection} {plan.price}" for plan in costly)
    typer.confirm(f"The vectors will cost: {prices}. Go on?", abort=True, err=True)


def show_plan(plan: Plan) -> None:
    """Print what a change costs."""
    out.print(f"[bold]Change of {plan.collection}[/bold]", markup=True)
    pairs = {name: f"{old} → {new}" for name, old, new in plan.differences}
    preview = plan.preview
    if plan.copies:
        pairs["cost"] = "none: the vectors are computed from those that are there"
    else:
        price = "not known" if plan.dollars is None else f"${plan.dollars:,.2f}"
        pairs["cost"] = f"{count(preview.unique, 'text')}, {preview.tokens:,} tokens, {price}"
        pairs["time"] = f"about {duration(preview.seconds)}, {preview.time_basis}"
    pairs["rows"] = f"{preview.rows:,}"
    pairs["disk"] = f"about {plan.bytes / 1e6:,.0f} MB more until the former vectors are retired"
    facts(pairs)


# --- the other commands ---------------------------------------------------------------------------


@database_options(via=StoreTransport)
def cutover(
    collection: Name, freeze: Freeze = False, despite_failures: Despite = False,
    flags: Flags = NO_FLAGS, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search the new vectors from now on. Searches that have begun end with the former ones.

    The former vectors stay for a rollback, and edits reach both, until they are retired.
    """

    async def work(store: JobStore, name: str) -> None:
        await model_change.cutover(store, name, despite_failures=despite_failures, freeze=freeze)

    _run(flags, collection, work, as_json=as_json)


@database_options(via=StoreTransport)
def rollback(collection: Name, flags: Flags = NO_FLAGS, as_json: AsJson = False) -> None:
    """Search the former vectors again.

    If they were frozen, every row is read to find the edits of the meantime.
    """

    async def work(store: JobStore, name: str) -> None:
        await model_change.rollback(store, name)
        if isinstance(store, Store):
            await reconcile_unscanned(store, name, say)

    _run(flags, collection, work, as_json=as_json)


@database_options()
def retire(
    collection: Name, keep_vectors: KeepVectors = False, flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Drop the former vectors, which ends the change."""

    async def work(store: JobStore, name: str) -> None:
        await model_change.discard(_database(store), name, retire=True, keep_vectors=keep_vectors)

    _run(flags, collection, work, as_json=as_json)


@database_options()
def cancel(collection: Name, flags: Flags = NO_FLAGS, as_json: AsJson = False) -> None:
    """Drop the new vectors before they serve, which ends the change."""

    async def work(store: JobStore, name: str) -> None:
        await model_change.discard(_database(store), name, retire=False)

    _run(flags, collection, work, as_json=as_json)


def _run(flags: Flags, name: str, work: Any, *, as_json: bool) -> None:
    async def main() -> None:
        async with wiring.open_job_store(config.load(**flags)) as store:
            family = (await store.collection(name)).family
            step: Coroutine[Any, Any, None] = work(store, family)
            await step
            _report(await _found(store, family), as_json=as_json)

    asyncio.run(main())


def _database(store: JobStore) -> Store:
    """Return the store of a step that the owner of the table takes.

    Raises:
        ConfigurationError: the store is a project's API.
    """
    if not isinstance(store, Store):
        raise errors.ConfigurationError(wiring.NEEDS_CONNECTION.format("the API of a project"))
    return store


async def _found(store: JobStore, name: str) -> ModelChange:
    return (await store.changes(name))[0]


def _report(change: ModelChange, *, as_json: bool) -> None:
    if as_json:
        emit({"change": asdict(change)})
        return
    former, new, name = change.former_model, change.new_model, change.name
    lines = {
        "filling": f"{name}: {new} is being filled; {former} serves.",
        "indexing": f"{name}: the indexes of {new} are being built; {former} serves.",
        "ready": f"{name}: {new} is ready; {former} serves. Compare them: "
        f"{errors.command('model', 'evaluate', name)}. Then: "
        f"{errors.command('model', 'cutover', name)}",
        "serving": f"{name}: {new} serves. Back: {errors.command('model', 'rollback', name)}. "
        f"Keep it: {errors.command('model', 'retire', name)}. Until then "
        + ("the former vectors are frozen and take disk space."
           if change.frozen else "every edit is embedded twice."),
        "retired": f"{name}: the former vectors are gone; {new} serves.",
        "cancelled": f"{name}: the new vectors are gone; {former} serves.",
    }  # fmt: skip
    out.print(lines.get(change.state, f"{name}: {change.state}"), markup=False)


@database_options(via=StoreTransport)
def changes(
    collection: Annotated[
        str | None, typer.Argument(metavar="COLLECTION", help="Default: all.", show_default=False)
    ] = None,
    flags: Flags = NO_FLAGS,
    as_json: AsJson = False,
) -> None:
    """List the changes of models, with their states."""
    found = asyncio.run(_changes(config.load(**flags), collection))
    if as_json:
        emit({"changes": [asdict(each) for each in found]})
        return
    if not found:
        out.print("No model was changed yet. Begin: backline model change COLLECTION --to MODEL")
        return
    table(
        ("change", "collection", "state", "from", "to", "since"),
        (
            (each.id, each.name, each.state, each.former_model,
             each.new_model, moment(each.changed_at))
            for each in found
        ),
    )  # fmt: skip


async def _changes(settings: Settings, name: str | None) -> list[ModelChange]:
    async with wiring.open_job_store(settings) as store:
        return await store.changes(name)
