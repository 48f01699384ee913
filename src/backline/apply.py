"""Compare declared collections with those of the database, and apply what differs.

The text, the condition and the language change in place: their rows are found with the present
vectors until they are embedded again. Whatever every vector depends on, such as the model, takes a
second target, see `backline.model_change`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from backline import errors, model_change
from backline.declarations import Declaration, Resolve, splitting
from backline.errors import command
from backline.model_change import NewTarget, describe_splitting
from backline.postgres.store import Store
from backline.search import indexes
from backline.sql import query
from backline.types import Collection, Model, ModelChange

OF_VECTORS: Final = frozenset({"model", "long_text", "vectors", "type", "passages"})
"""The fields that take a second target."""
IN_PLACE: Final = ("text", "where", "language")
NEXT: Final = {
    "ready": "cutover", "serving": "retire", "retiring": "retire", "cancelling": "cancel",
}  # fmt: skip
"""The verb that follows a state; otherwise `model change` continues."""
# A change stores vectors beside the present ones, under their name with a number.
NUMBER: Final = re.compile(r"_\d{1,2}$")


@dataclass(frozen=True, slots=True)
class Difference:
    """A field whose value in the file is not the present one.

    Attributes:
        remedy: what changes it; None if `apply` does.
    """

    field: str
    present: str
    declared: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What `apply` does with one collection.

    Attributes:
        action: "add" it, "change" it, "begin" a change of its model, "keep" it, or leave one alone
            that is "undeclared".
        differences: of what is searched at present.
        updates: targets by name, with the fields that are changed in place.
        state: of the open change of the model.
        next: the command that continues this change.
    """

    action: Literal["add", "change", "begin", "keep", "undeclared"]
    name: str
    table: str
    differences: tuple[Difference, ...] = ()
    updates: tuple[tuple[str, tuple[str, ...]], ...] = ()
    state: str | None = None
    next: str | None = None


# --- the plan -------------------------------------------------------------------------------------


async def plan(store: Store, declared: list[Declaration], resolve: Resolve) -> list[Step]:
    """Return what would make the database as declared.

    Collections that are not declared are part of it.

    Raises:
        ModelChangeError: another change of a collection is open.
    """
    collections = await store.collections()
    present = {each.name: each for each in collections if each.role == "serving"}
    others = {each.family: each for each in collections if each.role != "serving"}
    steps = []
    for declaration in declared:
        collection = present.get(declaration.name)
        if collection is None:
            record = await store.find_table(declaration.table)
            steps.append(Step("add", declaration.name, f"{record['schema']}.{record['name']}"))
            continue
        other = others.get(collection.name)
        steps.append(await _step(store, collection, other, declaration, resolve))
    names = {declaration.name for declaration in declared}
    rest = [collection for name, collection in present.items() if name not in names]
    return steps + [Step("undeclared", each.name, each.table) for each in rest]


async def _step(
    store: Store, collection: Collection, other: Collection | None, declaration: Declaration,
    resolve: Resolve,
) -> Step:  # fmt: skip
    found = tuple(await _differences(store, collection, declaration, resolve))
    fields = _in_place(found)
    step = Step("keep", collection.name, collection.table, found)
    if other is not None:
        beside = await _differences(store, other, declaration, resolve)
        return await _step_of_open(store, step, other, beside)
    if _of_vectors(found):
        following = command("model", "change", step.name)
        # The text is one of the new target, unless only the other fields differ.
        return replace(
            step, action="begin", next=following,
            updates=_updates((step.name, [field for field in fields if field != "text"])),
        )  # fmt: skip
    return replace(
        step, action="change" if found else "keep", updates=_updates((step.name, fields))
    )


async def _step_of_open(
    store: Store, step: Step, other: Collection, beside: Sequence[Difference]
) -> Step:
    """Return what `apply` does with a collection whose change of the model is open.

    A field that differs in both targets is changed in both. The other one may already be as
    declared, since the change makes it so.
    """
    [change, *_] = await store.changes(step.name)
    if not change.open:
        raise errors.ModelChangeError(f"The change of {step.name!r} ended now. Apply again.")
    filling = change.state in ("filling", "indexing", "ready")
    if _of_vectors(step.differences) and not (filling and not _of_vectors(beside)):
        _refuse(step, change)
    here, there = _in_place(step.differences), _in_place(beside)
    if filling and "text" not in there:
        here = [field for field in here if field != "text"]
    there = [field for field in there if field in here and not other.frozen]
    return replace(
        step, action="change" if here else "keep", state=change.state,
        next=command("model", NEXT.get(change.state, "change"), step.name),
        updates=_updates((step.name, here), (other.name, there)),
    )  # fmt: skip


def _refuse(step: Step, change: ModelChange) -> None:
    ending = {"serving": "retire", "retiring": "retire"}.get(change.state, "cancel")
    difference = next(each for each in step.differences if each.field in OF_VECTORS)
    raise errors.ModelChangeError(
        f"{step.name}: {difference.field} is {difference.present!r}, and the file says "
        f"{difference.declared!r}. A change from {change.former_model} to {change.new_model} is "
        f"{change.state}. End it first: {command('model', ending, step.name)}. Nothing was changed."
    )


def _of_vectors(found: Sequence[Difference]) -> bool:
    return any(difference.field in OF_VECTORS for difference in found)


def _in_place(found: Sequence[Difference]) -> list[str]:
    return [difference.field for difference in found if difference.field in IN_PLACE]


def _updates(*targets: tuple[str, list[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, tuple(fields)) for name, fields in targets if fields)


async def _differences(
    store: Store, collection: Collection, declaration: Declaration, resolve: Resolve
) -> list[Difference]:
    record = await store.find_table(declaration.table)
    model = await resolve(declaration.model)
    language = (await indexes.keyword_index(store, collection)).language
    here = [
        ("table", collection.table, f"{record['schema']}.{record['name']}"),
        ("key", ", ".join(collection.key_columns),
         ", ".join(declaration.key or collection.key_columns)),
        ("model", _short(collection.model), _short(model)),
        ("long_text", collection.long_text, declaration.long_text),
        ("language", language.removeprefix("pg_catalog."),
         (declaration.language or language).removeprefix("pg_catalog.")),
        ("vectors", *await _places(store, collection, declaration)),
        ("type", collection.column_type, declaration.column_type or collection.column_type),
        ("passages", describe_splitting(collection.splitting),
         describe_splitting(splitting(declaration, model))),
        ("follow", collection.follow or "triggers", declaration.follow or "triggers"),
        ("text", *await _texts(store, collection, declaration, record["oid"])),
        ("where", *await _conditions(store, collection, declaration, record["oid"])),
    ]  # fmt: skip
    return [
        Difference(field, str(present), str(declared), _remedy(collection, field))
        for field, present, declared in here
        if present != declared
    ]


def _short(model: Model) -> str:
    return f"{model.provider}/{model.name}@{model.dimensions}"


def _remedy(collection: Collection, field: str) -> str | None:
    if field in IN_PLACE or field in OF_VECTORS:
        return None
    return "Declare the collection again: " + command("drop", collection.name)


async def _places(
    store: Store, collection: Collection, declaration: Declaration
) -> tuple[str, str]:
    """Return the present place of the vectors and the declared one.

    A file keeps its name for the place through changes of the model, which add a number to it.
    """
    here = ".".join(collection.into) if collection.into else collection.vector_column
    present = here if collection.into or declaration.into else collection.embedding_column
    if declaration.into is not None:
        row = await store.connector.fetch_one(query("side_name"), {"into": declaration.into})
        declared = ".".join(row["name"])
    elif declaration.column is not None:
        declared = declaration.column
    else:
        return present, present
    if NUMBER.sub("", present) == declared and await _was_changed(store, collection):
        return declared, declared
    return present, declared


async def _was_changed(store: Store, collection: Collection) -> bool:
    changes = await store.changes(collection.family)
    return any(change.state != "cancelled" for change in changes)


async def _texts(
    store: Store, collection: Collection, declaration: Declaration, table: int
) -> tuple[str, str]:
    present = collection.text_template or collection.text_expression or ""
    if declaration.text_sql is None:
        return present, declaration.text or ""
    if await _same(store, table, declaration.text_sql, "text", collection.text_expression):
        return present, present
    return present, declaration.text_sql


async def _conditions(
    store: Store, collection: Collection, declaration: Declaration, table: int
) -> tuple[str, str]:
    present, declared = collection.where_sql or "", declaration.where or ""
    if declared and await _same(store, table, declared, "boolean", collection.where_sql):
        return present, present
    return present, declared


async def _same(store: Store, table: int, expression: str, kind: str, compiled: str | None) -> bool:
    if compiled is None:
        return False
    values = {"table": table, "expression": expression, "type": kind, "compiled": compiled}
    return bool((await store.connector.fetch_one(query("same_expression"), values))["same"])


# --- its application ------------------------------------------------------------------------------


def require_applicable(steps: Sequence[Step]) -> None:
    """Raise a UsageError if the plan has a difference that `apply` does not change."""
    for step in steps:
        for difference in step.differences:
            if difference.remedy is not None:
                raise errors.UsageError(
                    f"{step.name}: {difference.field} is {difference.present!r}, and the file says "
                    f"{difference.declared!r}. {difference.remedy}. Nothing was changed."
                )


async def new_target(
    store: Store, step: Step, declaration: Declaration, resolve: Resolve
) -> tuple[Collection, NewTarget]:
    """Return the collection of a step that begins a change, and what the change makes."""
    collection = await store.collection(step.name)
    changed = {difference.field for difference in step.differences}
    options: dict[str, Any] = {"published": declaration.published}
    if "vectors" in changed:
        options |= {"into": declaration.into, "column": declaration.column}
    if "type" in changed:
        options["column_type"] = declaration.column_type
    if "long_text" in changed:
        options["long_text"] = declaration.long_text
    if "text" in changed:
        options |= {"template": declaration.text, "text_sql": declaration.text_sql}
    passages = (declaration.passages, declaration.passage_tokens, declaration.overlap)
    model = await resolve(declaration.model)
    return collection, model_change.new_target_of(collection, model, passages, **options)


async def update(store: Store, step: Step, declaration: Declaration) -> int:
    """Change what differs in place, and return the number of rows that are due because of it."""
    due = 0
    for name, fields in step.updates:
        target = await store.collection(name)
        if "text" in fields:
            due += await store.set_text(
                target, template=declaration.text, text_sql=declaration.text_sql
            )
        if "where" in fields:
            due += await store.set_where(target, declaration.where)
        if "language" in fields:
            await indexes.set_keywords(store, target, language=declaration.language)
    return due
