"""Adopt the vectors that a column holds when its table is declared.

A sample of the rows is embedded again. Where the vectors agree, all rows are stamped without a call
to the provider; otherwise nothing is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from backline import errors
from backline.collections import check_model
from backline.embedders.base import Embedder
from backline.embedders.limiter import Limiter, limited_call
from backline.postgres.adoption import AdoptedPage, SampledRow
from backline.postgres.store import Store
from backline.types import Collection
from backline.worker import batching
from backline.worker.retry import backoff, retry_while_unavailable

if TYPE_CHECKING:
    import numpy as np

SAMPLE: Final = 200
# Two computations of one model differ by less: rounding to 16 bits costs 1e-6 of the cosine.
AGREES: Final = 0.99
# Some rows may have been edited since their vector was made.
SHARE: Final = 0.95
PAGE: Final = 2000
BUDGET: Final = batching.Budget()


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the vectors of a sample compare with those of the declared model.

    Attributes:
        compared: rows of the sample that the model embedded.
        agreeing: those with a cosine of at least 0.99.
        median: of the cosines; None if no vector has the model's dimensions.
        differing: keys of the other rows.
        dimensions: other dimensions that vectors of the sample have.
        lengths: the least and the greatest length of a vector of the sample.
    """

    compared: int
    agreeing: int
    median: float | None
    differing: tuple[str, ...]
    dimensions: tuple[int, ...]
    lengths: tuple[float, float]

    @property
    def sufficient(self) -> bool:
        """Whether at least 95 % of the sample agree."""
        return self.compared > 0 and self.agreeing >= SHARE * self.compared


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an adoption did.

    Attributes:
        held: vectors that the column held; None if an interrupted adoption was continued.
        adopted: rows that were stamped.
        agreement: of the sample; None without one.
    """

    held: int | None
    adopted: int
    agreement: Agreement | None


async def adopt(
    store: Store,
    embedder: Embedder,
    limiter: Limiter,
    name: str,
    table: int,
    *,
    give_up_after: float | None = 600,
    on_page: Callable[[int], None] | None = None,
    **declaration: Any,
) -> Adopted:
    """Declare a table and keep the vectors that it holds, or finish an interrupted adoption.

    Rows of the sample with another vector, and rows without one, are due afterwards. `declaration`
    holds the other arguments of `Store.add_collection`. Calls `on_page` with the rows seen so far.

    Raises:
        ModelMismatchError: the vectors are not of this model and text. Nothing was changed.
        ConfigurationError: the table cannot be declared. Nothing was changed.
        EmbedderError: the sample could not be embedded. Nothing was changed.

    """
    declaration = {**declaration, "model": embedder.model}
    if (begun := await _interrupted(store, name)) is not None:
        check_model(begun, embedder.model)
        return Adopted(None, await _stamp(store, begun, on_page), None)
    held, sample = await store.adoption_sample(name, table, SAMPLE, **declaration)
    agreement = None
    if held:
        agreement = await compare(embedder, limiter, sample, give_up_after)
        if not agreement.sufficient:
            raise errors.ModelMismatchError(_disagreement(held, agreement, embedder))
    differing = agreement.differing if agreement else ()
    await store.begin_adoption(name, table, differing, **declaration)
    collection = await store.collection(name)
    return Adopted(held, await _stamp(store, collection, on_page), agreement)


async def _interrupted(store: Store, name: str) -> Collection | None:
    found = [each for each in await store.collections() if each.name == name and each.adopting]
    return found[0] if found else None


async def _stamp(
    store: Store, collection: Collection, on_page: Callable[[int], None] | None
) -> int:
    """Stamp the rows of a collection page by page; return how many."""
    seen = adopted = 0
    page = AdoptedPage(PAGE, 0, None)
    while page.scanned == PAGE:
        page = await retry_while_unavailable(
            partial(store.adopt_page, collection, page.last_key, PAGE)
        )
        seen, adopted = seen + page.scanned, adopted + page.adopted
        if on_page is not None:
            on_page(seen)
    await store.finish_adoption(collection)
    return adopted


# --- the sample -----------------------------------------------------------------------------------


async def compare(
    embedder: Embedder, limiter: Limiter, sample: Sequence[SampledRow], give_up_after: float | None
) -> Agreement:
    """Embed the texts of a sample again and compare the vectors."""
    import numpy as np

    rows = await _read_whole(embedder, sample)
    vectors = await _embed(embedder, limiter, [row.content for row in rows], give_up_after)
    found = [(row, new) for row, new in zip(rows, vectors, strict=True) if new is not None]
    cosines = [_cosine(row.vector, new) for row, new in found]
    known = [cosine for cosine in cosines if cosine is not None]
    agreeing = [cosine is not None and cosine >= AGREES for cosine in cosines]
    lengths = [float(np.linalg.norm(row.vector)) for row, _ in found]
    return Agreement(
        compared=len(found),
        agreeing=sum(agreeing),
        median=float(np.median(known)) if known else None,
        differing=tuple(
            row.key for (row, _), agrees in zip(found, agreeing, strict=True) if not agrees
        ),
        dimensions=tuple(sorted({len(r.vector) for r, _ in found} - {embedder.model.dimensions})),
        lengths=(min(lengths, default=0.0), max(lengths, default=0.0)),
    )


async def _read_whole(embedder: Embedder, sample: Sequence[SampledRow]) -> list[SampledRow]:
    """Return the rows that the model reads whole, or all of them cut if there is none.

    Another program may have cut long texts in another way.
    """
    counts = await asyncio.to_thread(embedder.count_tokens, [row.content for row in sample])
    whole = [row for row, n in zip(sample, counts, strict=True) if n <= embedder.model.max_tokens]
    return whole or [row._replace(content=embedder.truncate(row.content)) for row in sample]


def _cosine(held: Sequence[float], new: np.ndarray[Any, Any]) -> float | None:
    """Return the cosine of two vectors, or None if it is not defined."""
    import numpy as np

    length = float(np.linalg.norm(held))
    if len(held) != len(new) or not length:
        return None
    return float(np.dot(np.asarray(held, dtype=np.float32), new)) / length


async def _embed(
    embedder: Embedder, limiter: Limiter, texts: Sequence[str], give_up_after: float | None
) -> list[Any]:
    """Return the vector of each text, or None for a text that the provider rejects."""
    counts = await asyncio.to_thread(embedder.count_tokens, texts)
    items = [batching.Item(n, len(text.encode())) for n, text in zip(counts, texts, strict=True)]
    vectors: list[Any] = [None] * len(texts)
    open_batches = batching.plan(items, BUDGET, sort_by_length=True)
    while open_batches:
        batch = open_batches.pop()
        try:
            found = await _call(embedder, limiter, [texts[i] for i in batch], give_up_after)
        except errors.InputRejectedError:
            if len(batch) > 1:
                open_batches.extend(batching.bisect(batch))
            continue
        for i, vector in zip(batch, found, strict=True):
            vectors[i] = vector
    return vectors


async def _call(
    embedder: Embedder, limiter: Limiter, texts: Sequence[str], give_up_after: float | None
) -> Any:
    """Embed one batch, and wait out rate limits and outages of up to `give_up_after` seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    pauses = backoff()
    while True:
        try:
            async with limited_call(limiter, sum(embedder.count_tokens(texts))):
                return await embedder.embed(texts)
        except (errors.RateLimitedError, errors.ProviderUnavailableError):
            if give_up_after is not None and loop.time() - began > give_up_after:
                raise
        await asyncio.sleep(next(pauses))


def _disagreement(held: int, agreement: Agreement, embedder: Embedder) -> str:
    """Return why vectors are not adopted, and what may mend it."""
    if not agreement.compared:
        return (
            f"None of the {held:,} vectors belongs to a row with a text that {embedder.model} "
            "accepts, so they cannot be compared. Nothing was changed. Run the same command with "
            "--overwrite to replace them."
        )
    facts = [
        f"of {agreement.compared:,} texts embedded again, {agreement.agreeing:,} have the vector "
        f"that is there (cosine of at least {AGREES})"
    ]
    if agreement.median is not None:
        facts.append(f"the median cosine is {agreement.median:.3f}")
    if agreement.dimensions:
        found = ", ".join(map(str, agreement.dimensions))
        facts.append(f"some have {found} dimensions")
    least, most = agreement.lengths
    if not (least > 0.999 and most < 1.001):
        facts.append(f"their lengths are {least:.3g} to {most:.3g}")
    return (
        f"The {held:,} vectors are not those of {embedder.model} and this text: "
        f"{'; '.join(facts)}. Nothing was changed. They may be of another model, of another "
        "prefix or of another text: declare the --model and the --text that made them, or replace "
        "them with --overwrite."
    )
