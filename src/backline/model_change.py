"""Change the model of a collection while it is searched.

A second target is filled beside the serving one, by ordinary backfills and live edits. Its indexes
are built before one statement makes it serve. The former target stays for a rollback until it is
retired. The same serves for other dimensions, another column type, other passages or another text.
Every step may be interrupted and run again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from psycopg.types.json import Jsonb

from backline import errors
from backline.collections import check_column, declared_splitting
from backline.embedders.base import Embedder
from backline.embedders.providers import shortens
from backline.estimation import Preview, estimate
from backline.postgres.store import Store
from backline.search.indexes import ensure_index
from backline.store import JobStore
from backline.types import SUFFIXES, Collection, LongText, Model, ModelChange, Splitting
from backline.worker.retry import backoff, retry_while_unavailable

T = TypeVar("T")

PROBE: Final = "A short text, to see whether the model answers."
# Bytes of a stamp, a job and their index entries, and of one posting in the keyword index.
RECORD_BYTES: Final = 260
# Neighbours of a vector in the index, 2 m of 6 bytes, with their page overhead.
NEIGHBOUR_BYTES: Final = 600
# How long a cut-over waits for a moment without an edit in flight, then for one in which the oldest
# edit in flight is younger than LAG_SECONDS. A table that is always edited may have no such moment.
QUIET_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 30.0
LAG_SECONDS: Final = 2.0
LOCKED_SECONDS: Final = 60.0
_FOR_THE_OWNER: Final = (
    "Only the owner of the table can {} the former vectors of {!r}, over a connection to Postgres. "
    "Set DATABASE_URL to the connection string."
)


@dataclass(frozen=True, slots=True)
class NewTarget:
    """What a change makes different; None leaves a property as it is.

    Attributes:
        model: of the new vectors; it may be the present one.
        column_type: "vector" or "halfvec".
        into: the side table to make for the vectors.
        column: the column to add for them; without both, one beside the present.
        template: of a row's text.
        text_sql: the text as an SQL expression over the row `r`.
        splitting: the passages; with `whole`, each row has one vector.
        published: whether the subscribers of a published table have the column.
    """

    model: Model
    column_type: str | None = None
    into: str | None = None
    column: str | None = None
    template: str | None = None
    text_sql: str | None = None
    splitting: Splitting | None = None
    whole: bool = False
    long_text: LongText | None = None
    published: bool = False

    def values(self) -> dict[str, Any]:
        """Return the arguments of the SQL function `begin_change`."""
        passages = None if self.splitting is None else Jsonb(asdict(self.splitting))
        return {
            "provider": self.model.provider, "model": self.model.name,
            "revision": self.model.revision, "dimensions": self.model.dimensions,
            "column_type": self.column_type, "into": self.into, "column": self.column,
            "template": self.template, "text_sql": self.text_sql,
            "passages": Jsonb(None) if self.whole else passages, "long_text": self.long_text,
            "published": self.published, "shortens": shortens(self.model),
        }  # fmt: skip


def new_target_of(
    collection: Collection, model: Model,
    passages: tuple[str | None, int | None, int] = (None, None, 0), **options: Any,
) -> NewTarget:  # fmt: skip
    """Return the target of a change of a collection to a model.

    Args:
        collection: whose other properties stay.
        model: of the new vectors.
        passages: unit, largest passage and overlap; without a unit, as they are, within what the
            new model reads.
        options: other fields of `NewTarget`.

    Raises:
        UsageError: the passages cannot be made.
    """
    unit, tokens, overlap = passages
    splitting = collection.splitting
    if unit is not None:
        splitting = declared_splitting(model, unit, tokens, overlap)
    elif splitting is not None:
        splitting = declared_splitting(
            model, splitting.by, min(splitting.tokens, model.max_tokens), splitting.overlap
        )
    return NewTarget(
        model, **options, whole=splitting is None and collection.splitting is not None,
        splitting=None if splitting == collection.splitting else splitting,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change will cost, and what it changes.

    Attributes:
        copies: the vectors are computed from those that are there, so that nothing is paid.
        preview: rows, texts, tokens, price and time.
        bytes: of disk until the former target is retired; about.
        differences: names of properties, with their present and their new values.
    """

    collection: str
    copies: bool
    preview: Preview
    bytes: int
    differences: tuple[tuple[str, str, str], ...]

    @property
    def dollars(self) -> float | None:
        return 0.0 if self.copies else self.preview.dollars

    @property
    def price(self) -> str:
        return "an unknown amount" if self.dollars is None else f"about ${self.dollars:,.2f}"


def require_consent(plans: Sequence[Plan], remedy: str) -> None:
    """Raise a UsageError with the price if the vectors of a plan cost money or may cost it."""
    costly = [
        f"The vectors of {p.collection!r} will cost {p.price}." for p in plans if p.dollars != 0
    ]
    if costly:
        raise errors.UsageError(f"{' '.join(costly)} Nothing was changed. {remedy}")


async def probe(embedder: Embedder) -> None:
    """Embed one text, so that a model that cannot be used is found before anything is changed.

    Raises:
        EmbedderError: the provider refused it or gave no answer.
        DimensionMismatchError: the vector has other dimensions than the model.
    """
    [vector] = await embedder.embed([PROBE])
    check_column("of the probe", "vector", len(vector), embedder.model)


async def plan(store: Store, collection: Collection, embedder: Embedder, target: NewTarget) -> Plan:
    """Return what a change will cost. Reads the texts of all rows, and changes nothing.

    The tokens are those of the present text if the target has another one.

    Raises:
        ModelChangeError: the new target would be like the present one.
    """
    kind = target.column_type or collection.column_type or "vector"
    splitting = None if target.whole else target.splitting or collection.splitting
    differences = _differences(collection, target, kind, splitting)
    if not differences:
        raise errors.ModelChangeError(
            f"{collection.name!r} has {target.model} with these settings already. Name what is to "
            "change: --to MODEL, --column-type, --text, --passages."
        )
    copies = _copies(collection.model, target.model) and splitting == collection.splitting
    future = replace(
        collection, model=target.model, splitting=splitting,
        long_text=target.long_text or collection.long_text,
    )  # fmt: skip
    preview = await estimate(store, future, embedder, every_row=True)
    return Plan(
        collection.name, copies and target.template is None and target.text_sql is None, preview,
        preview.rows * _bytes_of_row(target.model.dimensions, kind), differences,
    )  # fmt: skip


def _differences(
    collection: Collection, target: NewTarget, kind: str, splitting: Splitting | None
) -> tuple[tuple[str, str, str], ...]:
    model, new = collection.model, target.model
    text = target.template or target.text_sql
    here: list[tuple[str, object, object]] = [
        ("model", f"{model.provider}/{model.name}", f"{new.provider}/{new.name}"),
        ("revision", model.revision, new.revision),
        ("dimensions", model.dimensions, new.dimensions),
        ("reads", f"{model.max_tokens:,} tokens", f"{new.max_tokens:,} tokens"),
        ("type", collection.column_type, kind),
        ("passages", describe_splitting(collection.splitting), describe_splitting(splitting)),
        ("long texts", collection.long_text, target.long_text or collection.long_text),
        ("text", collection.text_template or collection.text_expression,
         text or collection.text_template or collection.text_expression),
        ("place", collection.vector_column,
         target.into or target.column or collection.vector_column),
    ]  # fmt: skip
    return tuple((name, str(old), str(now)) for name, old, now in here if old != now)


def describe_splitting(splitting: Splitting | None) -> str:
    """Return the passages of a collection in words."""
    if splitting is None:
        return "none"
    return f"{splitting.by} of {splitting.tokens} tokens, overlap {splitting.overlap}"


def _copies(former: Model, new: Model) -> bool:
    """Return whether vectors of one model can be computed from those of another."""
    if former.identity[:3] != new.identity[:3]:
        return False
    return former.dimensions == new.dimensions or (
        shortens(new) and new.dimensions < former.dimensions
    )


def _bytes_of_row(dimensions: int, kind: str) -> int:
    stored = dimensions * (2 if kind == "halfvec" else 4)
    return stored + 2 * dimensions + NEIGHBOUR_BYTES + RECORD_BYTES


# --- the steps ------------------------------------------------------------------------------------


async def find(store: JobStore, name: str) -> ModelChange | None:
    """Return the change of a collection that has not ended."""
    return next((change for change in await store.changes(name) if change.open), None)


async def require_same(
    store: Store, begun: ModelChange, model: Model | None, others: Sequence[str] = ()
) -> None:
    """Raise unless an open change can be continued with what is asked for.

    Args:
        store: of the collection.
        begun: the open change.
        model: that is asked for; None for any.
        others: names of other properties that are asked for.

    Raises:
        ModelChangeError: the change is another one, or it has reached its cut-over.
    """
    if begun.state in ("serving", "retiring", "cancelling"):
        verb = "cancel" if begun.state == "cancelling" else "retire"
        raise errors.ModelChangeError(
            f"The last change of {begun.name!r} is {begun.state}. End it first: "
            f"{errors.command('model', verb, begun.name)}."
        )
    target = await new_target(store, begun)
    if others or (model is not None and model.identity != target.model.identity):
        raise errors.ModelChangeError(
            f"A change of {begun.name!r} to {begun.new_model} is {begun.state} already. "
            f"Continue it: {errors.command('model', 'change', begun.name)}; or end it: "
            f"{errors.command('model', 'cancel', begun.name)}."
        )


async def begin(store: Store, collection: Collection, target: NewTarget) -> ModelChange:
    """Make the second target of a collection, in one transaction.

    Raises:
        ModelChangeError: a change is open already.
        ConfigurationError: the target cannot be made. Nothing was changed.
    """
    await _while_locked(lambda: store.begin_change(collection.name, target.values()))
    change = await find(store, collection.name)
    if change is None:
        raise errors.ModelChangeError
    return change


async def new_target(store: JobStore, change: ModelChange) -> Collection:
    """Return the target that is being filled."""
    return await store.collection(change.name + SUFFIXES["filling"])


async def copy(store: Store, change: ModelChange) -> int:
    """Copy the vectors that need no call of the model; return how many rows were read.

    Does nothing unless the two targets have the same model.
    """
    rows = 0
    while page := await retry_while_unavailable(
        lambda: _while_locked(lambda: store.copy_page(change.name))
    ):
        rows += page
    return rows


async def finish(store: Store, change: ModelChange, *, despite_failures: bool = False) -> None:
    """Build the indexes of a target that is full, and record that it can serve.

    Raises:
        NotFilledError: rows have no vector yet.
        ModelChangeError: rows are dead letters.
    """
    finish_fill = partial(store.finish_fill, change.name, despite_failures=despite_failures)
    await _patiently(finish_fill)
    await ensure_index(store, await new_target(store, change))
    await store.finish_indexes(change.name)


async def cutover(
    store: JobStore, name: str, *, despite_failures: bool = False, freeze: bool = False
) -> None:
    """Make the new target serve. Searches that have begun end with the former one.

    Waits for a moment without an edit in flight, or else with edits of the last seconds only. With
    `freeze`, edits no longer reach the former target.

    Raises:
        ConfigurationError: only the owner of the table can freeze, over a connection.
        NotFilledError: rows have no vector yet.
        ModelChangeError: the target is not ready, or rows are dead letters.
    """
    database = store if isinstance(store, Store) else None
    if freeze and database is None:
        raise errors.ConfigurationError(_FOR_THE_OWNER.format("freeze", name))
    await _patiently(partial(store.cutover, name, despite_failures=despite_failures))
    if freeze and database is not None:
        await _while_locked(lambda: database.freeze(name))


async def rollback(store: JobStore, name: str) -> None:
    """Make the former target serve again, and edits reach it if it was frozen.

    A reconciliation then finds the edits of the meantime.

    Raises:
        ModelChangeError: there was no cut-over, or the former target is retired.
        ContentionError: the former target serves, but another transaction held the table for a
            minute, so that it is still frozen. Run it again.
        ConfigurationError: the former target is frozen, and the store is a project's API.
    """
    if isinstance(store, Store):
        await _while_locked(lambda: store.rollback(name))
        await _while_locked(lambda: store.thaw(name))
        return
    change = await find(store, name)
    if change is not None and change.frozen:
        raise errors.ConfigurationError(_FOR_THE_OWNER.format("thaw", name))
    await _while_locked(lambda: store.rollback(name))


async def discard(store: Store, name: str, *, retire: bool, keep_vectors: bool = False) -> None:
    """Drop the former target with `retire`, or otherwise the new one, and end the change.

    Raises:
        ModelChangeError: the state of the change does not permit it.
        ContentionError: another transaction held the table for a minute. Run it again.
    """
    number = await store.begin_discard(name, retire=retire)
    if number is None:
        return
    if not retire:  # a rollback that was interrupted may have left the former target frozen
        await _while_locked(lambda: store.thaw(name))
    unwanted = await store.target(number)
    if unwanted is not None:
        place = partial(store.drop_place, unwanted.id, drop_column=not keep_vectors)
        with suppress(errors.CollectionNotFoundError):  # another process drops it too
            await _while_locked(place)
            await _while_locked(partial(store.drop_collection, unwanted, drop_column=False))
    await store.finish_discard(name)


async def _patiently(attempt: Callable[..., Awaitable[object]]) -> None:
    """Repeat an attempt, which takes a `lag`, until it succeeds."""
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        try:
            await attempt(lag=0 if waited < QUIET_SECONDS else LAG_SECONDS)
        except (errors.NotFilledError, errors.ContentionError):
            if waited > PATIENCE_SECONDS:
                raise
        else:
            return
        await asyncio.sleep(0.02)


async def _while_locked(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat an attempt whose lock other transactions hold; return its result."""
    deadline = time.monotonic() + LOCKED_SECONDS
    pauses = backoff()
    while True:
        try:
            return await attempt()
        except (errors.ContentionError, errors.StatementTimeoutError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(min(next(pauses), 2.0))
