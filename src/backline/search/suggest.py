"""Suggestions: ranked advice for a prompt, or a plain statement that nothing relevant is known.

A suggestion is a hit of the hybrid search, rescored by its confidence and its match with the track.
Near-duplicates are dropped. The thresholds were tuned on the judged questions in the package.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backline.embedders.base import Embedder
from backline.postgres.store import Store
from backline.search.query import DEFAULT_WEIGHT, Query, search
from backline.sql import queries
from backline.types import Collection, SearchHit

RELEVANT: Final = 0.35
"""Mean evidence of the best three hits below which a prompt counts as off topic. It accepts 95 % of
the questions in the package and 5 % of those off topic."""

RELEVANT_HIT: Final = 0.30
"""Evidence below which a single hit is dropped, regardless of the others."""

RELATIVE_EVIDENCE: Final = 0.55
"""Share of the strongest hit's evidence below which a hit is dropped."""

KEYWORD_SCALE: Final = 16
"""Divisor of BM25, which then has about the scale of the cosine."""

CANDIDATES: Final = 30
CONTEXT_BONUS: Final = 0.05
"""Added to the score for each match with the track, and subtracted for a mismatch."""

NOVELTY: Final = 0.3
"""Weight of novelty against score in maximal marginal relevance (Carbonell and Goldstein 1998)."""

DUPLICATE: Final = 0.92
"""Cosine similarity above which two suggestions count as duplicates."""

NOTHING_KNOWN: Final = "Nothing relevant is known about this."

_MARKED: Final = re.compile(r"<mark>(.*?)</mark>")


@dataclass(frozen=True, slots=True)
class Context:
    """Facts about the track. All are optional and affect only the order of the suggestions.

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
        score: the sort key, from relevance, confidence and fit with the track.
        relevance: the score of the hybrid search.
        reason: a sentence that explains the suggestion.
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
    """The suggestions for a prompt; `known` is False if nothing relevant is known."""

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
    """Return advice for a prompt, the most useful first, or "nothing known".

    `relevant` is the threshold of the mean evidence of the best three hits. A higher value
    suggests less.

    Raises:
        UsageError, ModelMismatchError: as `backline.search.search`.
    """
    hits = await search(store, collection, embedder, Query(prompt, limit=CANDIDATES, snippets=True))
    if not _is_on_topic(hits, relevant):
        return Suggestions(prompt, known=False, message=NOTHING_KNOWN)
    ranking = sorted(
        (_suggestion(hit, context or Context()) for hit in _strong_hits(hits)),
        key=lambda each: (-each.score, each.key),
    )
    similarities = await _similarities(store, collection, [each.key for each in ranking])
    selected = tuple(diversify(ranking, similarities, limit))
    return Suggestions(prompt, known=True, message=_message(selected), suggestions=selected)


def evidence(hit: SearchHit) -> float:
    """Return the absolute relevance of a hit, about 0 to 1: cosine and BM25 at a fixed weight.

    The score of a hit is relative: it orders the hits of one query, and a poor best hit scores as
    high as a good one.
    """
    dense, words = (hit.parts.get(leg, 0.0) for leg in ("dense", "keyword"))
    return (1 - DEFAULT_WEIGHT) * dense + DEFAULT_WEIGHT * words / KEYWORD_SCALE


def _is_on_topic(hits: Sequence[SearchHit], relevant: float) -> bool:
    best = [evidence(hit) for hit in hits[:3]]
    return bool(best) and sum(best) / len(best) >= relevant


def _strong_hits(hits: Sequence[SearchHit]) -> Iterator[SearchHit]:
    """Yield the best hit and the hits with enough evidence beside the strongest one."""
    threshold = max(RELEVANT_HIT, RELATIVE_EVIDENCE * max(map(evidence, hits)))
    best = hits[0].key
    return (hit for hit in hits if evidence(hit) >= threshold or hit.key == best)


def _message(selected: Sequence[Suggestion]) -> str:
    return "One suggestion." if len(selected) == 1 else f"{len(selected)} suggestions."


# --- score and reason -----------------------------------------------------------------------------


def _suggestion(hit: SearchHit, context: Context) -> Suggestion:
    row = hit.row
    confidence = row.get("confidence")
    matches = list(context_matches(row, context))
    certainty = 1.0 if confidence is None else 0.85 + 0.15 * float(confidence)
    return Suggestion(
        key=hit.key,
        title=str(row.get("title") or hit.content[:80]),
        advice=str(row.get("suggestion") or hit.content),
        parameters=row.get("parameters") or {},
        confidence=None if confidence is None else float(confidence),
        score=hit.score * certainty + CONTEXT_BONUS * sum(sign for sign, _ in matches),
        relevance=hit.score,
        reason=_reason(hit, confidence, [why for sign, why in matches if sign > 0]),
        category=row.get("category"),
        topic=row.get("topic"),
    )


def context_matches(row: Mapping[str, Any], context: Context) -> Iterator[tuple[int, str]]:
    """Yield each match (1) and mismatch (-1) of an entry with the context, and its reason."""
    focus = _normalized(context.focus)
    if focus and focus in (_normalized(row.get("category")), _normalized(row.get("topic"))):
        yield 1, f"is about {focus}, as requested"
    text = _normalized(f"{row.get('title', '')} {row.get('topic', '')} {row.get('suggestion', '')}")
    for term in (context.genre, context.track_type):
        word = _normalized(term).removesuffix("s")
        if word and re.search(rf"\b{re.escape(word)}", text):
            yield 1, f"covers {_normalized(term)}"
    tempo = _tempo_range((row.get("parameters") or {}).get("tempo_bpm"))
    if context.bpm is not None and tempo is not None:
        yield _tempo_match(context.bpm, *tempo)


def _tempo_match(bpm: float, low: float, high: float) -> tuple[int, str]:
    if low <= bpm <= high:
        return 1, f"suits {bpm:g} bpm"
    return -1, f"is for {low:g} to {high:g} bpm"


def _normalized(text: object) -> str:
    return str(text or "").replace("_", " ").strip().lower()


def _tempo_range(value: object) -> tuple[float, float] | None:
    """Return a range of tempos; a single tempo stands for the range within 10 % of it."""
    if isinstance(value, int | float):
        return 0.9 * value, 1.1 * value
    if (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int | float) for v in value)
    ):
        return float(value[0]), float(value[1])
    return None


def _reason(hit: SearchHit, confidence: float | None, matches: Sequence[str]) -> str:
    """Return one sentence that names shared words, similarity, context matches and confidence."""
    marked = _MARKED.findall(hit.snippet or "")
    words = list(dict.fromkeys(html.unescape(word).lower() for word in marked))
    parts = []
    if words:
        parts.append("mentions " + ", ".join(f"“{word}”" for word in words[:4]))
    dense = hit.parts.get("dense")
    if dense is not None and dense >= 0.3:
        parts.append(f"is {'very ' if dense >= 0.6 else ''}close in meaning ({dense:.2f})")
    parts.extend(matches)
    if confidence is not None:
        parts.append(f"confidence {confidence:.2f}")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


# --- diversity ------------------------------------------------------------------------------------


def diversify(
    ranking: Sequence[Suggestion], similarities: Mapping[tuple[str, str], float], limit: int
) -> Iterator[Suggestion]:
    """Yield suggestions by maximal marginal relevance, without near-duplicates.

    `similarities` holds the cosine similarity of pairs of keys, the smaller key first.
    """
    rest, selected = list(ranking), list[Suggestion]()

    def similarity(each: Suggestion) -> float:
        pairs = (_pair(each.key, other.key) for other in selected)
        return max((similarities.get(pair, 0.0) for pair in pairs), default=0.0)

    def marginal_relevance(each: Suggestion) -> float:
        return (1 - NOVELTY) * each.score - NOVELTY * similarity(each) / 3

    while rest and len(selected) < limit:
        best = max(rest, key=marginal_relevance)
        rest.remove(best)
        if similarity(best) < DUPLICATE:
            selected.append(best)
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
