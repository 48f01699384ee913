"""Suggestions: what an assistant tells a person who asks for advice, or that it knows nothing.

A suggestion is a hit of the hybrid search, weighed by how sure its entry is and how well it fits
what the caller says of the track, without near-duplicates. The thresholds were measured on the
judged questions that ship; docs/explanation/search.md has the numbers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backline.embedders.base import Embedder
from backline.postgres.store import Store
from backline.search.ranking import DEFAULT_WEIGHT, Query, search
from backline.sql import queries
from backline.types import Collection, SearchHit

# The mean evidence of the best three hits below which a prompt is not about anything known. Of the
# questions that ship it lets 95 in 100 through, and of those off topic 5 in 100.
RELEVANT: Final = 0.35
# A single hit with less evidence is left out, however good the others are.
RELEVANT_HIT: Final = 0.30
WORTHWHILE: Final = 0.55
# BM25 is divided by this, as in the SQL function `backline.search`.
KEYWORD_SCALE: Final = 16
CANDIDATES: Final = 30
# What fits the track counts for so much more, in units of the score.
BONUS: Final = 0.05
# How much of a suggestion's worth is that it says something new (Carbonell and Goldstein 1998).
NOVELTY: Final = 0.3
DUPLICATE: Final = 0.92
NOTHING_KNOWN: Final = "Nothing relevant is known about this."

_MARKED: Final = re.compile(r"<mark>(.*?)</mark>")


@dataclass(frozen=True, slots=True)
class Context:
    """What the caller says of the track. All of it is optional and only shifts the order.

    Attributes:
        focus: a category or topic of the collection, such as "mixing" or "gain staging".
        bpm: beats a minute.
        track_type: such as "vocals", "bass" or "drums".
    """

    focus: str | None = None
    genre: str | None = None
    bpm: float | None = None
    track_type: str | None = None


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One piece of advice.

    Attributes:
        score: what the order is by: relevance, confidence and fit together.
        relevance: the score of the hybrid search.
        reason: in words, why this is suggested.
    """

    key: str
    title: str
    advice: str
    parameters: Mapping[str, Any]
    confidence: float | None
    score: float
    relevance: float
    reason: str
    category: str | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Suggestions:
    """The answer to a prompt; where nothing relevant is known, `known` is False."""

    prompt: str
    known: bool
    message: str
    suggestions: tuple[Suggestion, ...] = ()


async def suggest(
    store: Store,
    collection: Collection,
    embedder: Embedder,
    prompt: str,
    context: Context | None = None,
    *,
    limit: int = 5,
    relevant: float = RELEVANT,
) -> Suggestions:
    """Advice for a prompt, the most useful first, or a plain "nothing known".

    `relevant` is the bar of the mean evidence of the best three hits: raise it to answer less.

    Raises:
        UsageError, ModelMismatchError: as `backline.search.search`.
    """
    hits = await search(store, collection, embedder, Query(prompt, limit=CANDIDATES, snippets=True))
    if not _about_something_known(hits, relevant):
        return Suggestions(prompt, known=False, message=NOTHING_KNOWN)
    weighed = sorted(
        (_weighed(hit, context or Context()) for hit in _worthwhile(hits)),
        key=lambda each: (-each.score, each.key),
    )
    alike = await _similarities(store, collection, [each.key for each in weighed])
    chosen = tuple(diverse(weighed, alike, limit))
    return Suggestions(prompt, known=True, message=_message(chosen), suggestions=chosen)


def evidence(hit: SearchHit) -> float:
    """What speaks for a hit by itself, about 0 to 1: cosine and words, at a fixed weight.

    Its score, by contrast, is made to order one query's hits: what resembles a poor best answer
    scores as high as what resembles a good one.
    """
    dense, words = (hit.parts.get(leg, 0.0) for leg in ("dense", "keyword"))
    return (1 - DEFAULT_WEIGHT) * dense + DEFAULT_WEIGHT * words / KEYWORD_SCALE


def _about_something_known(hits: Sequence[SearchHit], relevant: float) -> bool:
    best = [evidence(hit) for hit in hits[:3]]
    return bool(best) and sum(best) / len(best) >= relevant


def _worthwhile(hits: Sequence[SearchHit]) -> Iterator[SearchHit]:
    """The hits that hold up beside the one with the most evidence."""
    bar = max(RELEVANT_HIT, WORTHWHILE * max(map(evidence, hits)))
    best = hits[0].key
    return (hit for hit in hits if evidence(hit) >= bar or hit.key == best)


def _message(chosen: Sequence[Suggestion]) -> str:
    return "One suggestion." if len(chosen) == 1 else f"{len(chosen)} suggestions."


# --- weight and reason ----------------------------------------------------------------------------


def _weighed(hit: SearchHit, context: Context) -> Suggestion:
    row = hit.row
    confidence = row.get("confidence")
    fits = list(fitting(row, context))
    sure = 1.0 if confidence is None else 0.85 + 0.15 * float(confidence)
    return Suggestion(
        key=hit.key,
        title=str(row.get("title") or hit.content[:80]),
        advice=str(row.get("suggestion") or hit.content),
        parameters=row.get("parameters") or {},
        confidence=None if confidence is None else float(confidence),
        score=hit.score * sure + BONUS * sum(sign for sign, _ in fits),
        relevance=hit.score,
        reason=_reason(hit, confidence, [why for sign, why in fits if sign > 0]),
        category=row.get("category"),
        topic=row.get("topic"),
    )


def fitting(row: Mapping[str, Any], context: Context) -> Iterator[tuple[int, str]]:
    """What speaks for an entry in this context (1) and what against it (-1), each with why."""
    focus = _plain(context.focus)
    if focus and focus in (_plain(row.get("category")), _plain(row.get("topic"))):
        yield 1, f"is about {focus}, as asked"
    text = _plain(f"{row.get('title', '')} {row.get('topic', '')} {row.get('suggestion', '')}")
    for wanted in (context.genre, context.track_type):
        word = _plain(wanted).removesuffix("s")
        if word and re.search(rf"\b{re.escape(word)}", text):
            yield 1, f"speaks of {_plain(wanted)}"
    tempo = _range((row.get("parameters") or {}).get("tempo_bpm"))
    if context.bpm is not None and tempo is not None:
        low, high = tempo
        if low <= context.bpm <= high:
            yield 1, f"suits {context.bpm:g} bpm"
        else:
            yield -1, f"is for {low:g} to {high:g} bpm"


def _plain(text: object) -> str:
    return str(text or "").replace("_", " ").strip().lower()


def _range(value: object) -> tuple[float, float] | None:
    """A tempo or a range of tempos; a single one stands for what is within a tenth of it."""
    if isinstance(value, int | float):
        return 0.9 * value, 1.1 * value
    if (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int | float) for v in value)
    ):
        return float(value[0]), float(value[1])
    return None


def _reason(hit: SearchHit, confidence: float | None, fits: Sequence[str]) -> str:
    """Why, in one sentence: shared words, closeness in meaning, fit, confidence."""
    marked = _MARKED.findall(hit.snippet or "")
    words = list(dict.fromkeys(html.unescape(word).lower() for word in marked))
    parts = []
    if words:
        parts.append("mentions " + ", ".join(f"“{word}”" for word in words[:4]))
    dense = hit.parts.get("dense")
    if dense is not None and dense >= 0.3:
        parts.append(f"is {'very ' if dense >= 0.6 else ''}close in meaning ({dense:.2f})")
    parts.extend(fits)
    if confidence is not None:
        parts.append(f"confidence {confidence:.2f}")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


# --- diversity ------------------------------------------------------------------------------------


def diverse(
    weighed: Sequence[Suggestion], alike: Mapping[tuple[str, str], float], limit: int
) -> Iterator[Suggestion]:
    """Maximal marginal relevance: each next one is good, and unlike those before it.

    `alike` holds the cosine similarity of pairs of keys, the smaller key first. What is all but the
    same as one before it never comes.
    """
    rest, chosen = list(weighed), list[Suggestion]()

    def likeness(each: Suggestion) -> float:
        return max((alike.get(_pair(each.key, other.key), 0.0) for other in chosen), default=0.0)

    while rest and len(chosen) < limit:
        best = max(rest, key=lambda each: (1 - NOVELTY) * each.score - NOVELTY * likeness(each) / 3)
        rest.remove(best)
        if likeness(best) < DUPLICATE:
            chosen.append(best)
            yield best


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


async def _similarities(
    store: Store, collection: Collection, keys: Sequence[str]
) -> dict[tuple[str, str], float]:
    rows = await store.connector.fetch(
        queries("search.sql")["similarities"], {"collection": collection.id, "keys": list(keys)}
    )
    return {_pair(row["one"], row["other"]): row["similarity"] for row in rows}
