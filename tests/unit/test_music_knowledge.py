"""The entries of the shipped music knowledge are complete, well formed and distinct."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from importlib import resources
from itertools import combinations
from typing import Any

import pytest

FIELDS = [
    "id", "topic", "category", "title", "suggestion", "asked_as", "parameters", "confidence",
]  # fmt: skip
CATEGORIES = {
    "mixing",
    "eq",
    "dynamics",
    "effects",
    "automation",
    "harmony",
    "arrangement",
    "recording",
    "editing",
    "midi",
    "sound_design",
    "mastering",
    "monitoring",
    "workflow",
}
CORE_TOPICS = {
    "jazz_ballad",
    "gain_staging",
    "compression_vocals",
    "reverb_space",
    "automation_dynamics",
    "mixing_eq",
    "saturation",
    "mastering_loudness",
}
# Longer units come first, so that `slope_db_per_oct` does not match a shorter one.
UNIT_SUFFIX = re.compile(
    r"_(db_per_oct|db_spl|dbfs|dbtp|dba|db|lufs|lu|hz|m_per_s|kbps|ms|s|min|h|days|bpm|ips|rpm"
    r"|percent|cents|semitones|bits|lsb|samples|cm|m|degrees|bars|beats|ohm|v|ratio|factor"
    r"|coefficient|count|steps|number|value|velocity)$"
)
UNITLESS = {"q", "ratio", "velocity"}
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
SENTENCE_END = re.compile(r"[.?!](?=\s|$)")
PHYSICAL_BOUNDS = {
    "_hz": (0.01, 192_000),
    "_percent": (-100, 110),
    "_lufs": (-30, -5),
    "_dbtp": (-3, 0),
    "_dbfs": (-100, 0),
    "velocity": (1, 127),
    "cc_number": (0, 127),
    "cc_value": (0, 127),
}

Entry = dict[str, Any]


def _load(name: str) -> list[Entry]:
    text = resources.files("backline").joinpath("data", name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


ENTRIES = _load("music_knowledge.jsonl")


def _each_entry() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", ENTRIES, ids=[entry["title"] for entry in ENTRIES])


def _numbers(value: object) -> list[float]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]


def _shingles(text: str, size: int = 2) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


QUERY_SHINGLES = set[tuple[str, ...]]().union(
    *(_shingles(query["text"], 4) for query in _load("music_questions/queries.jsonl"))
)


def _has_unit(key: str) -> bool:
    return key in UNITLESS or UNIT_SUFFIX.search(key) is not None


def test_knowledge_base_has_at_least_150_entries() -> None:
    assert len(ENTRIES) >= 150


@_each_entry()
def test_entry_has_exactly_the_expected_fields(entry: Entry) -> None:
    assert list(entry) == FIELDS


@_each_entry()
def test_id_is_derived_from_the_title(entry: Entry) -> None:
    slug = re.sub(r"[^a-z0-9]+", "-", entry["title"].lower()).strip("-")
    address = f"https://backline.dev/music_knowledge/{slug}"
    assert entry["id"] == str(uuid.uuid5(uuid.NAMESPACE_URL, address))


@pytest.mark.parametrize("field", ["id", "title", "suggestion", "asked_as"])
def test_no_two_entries_share_a_value(field: str) -> None:
    repeated = [value for value, n in Counter(entry[field] for entry in ENTRIES).items() if n > 1]
    assert repeated == []


def test_every_category_has_at_least_eight_entries() -> None:
    counts = Counter(entry["category"] for entry in ENTRIES)
    assert set(counts) == CATEGORIES
    assert min(counts.values()) >= 8


def test_topics_group_several_entries_each() -> None:
    counts = Counter(entry["topic"] for entry in ENTRIES)
    assert all(SNAKE_CASE.fullmatch(topic) for topic in counts)
    assert 35 <= len(counts) <= 55
    assert min(counts[topic] for topic in CORE_TOPICS) >= 3
    assert min(counts.values()) >= 2


@_each_entry()
def test_text_is_short_prose(entry: Entry) -> None:
    title, suggestion = entry["title"], entry["suggestion"]
    assert 10 <= len(title) <= 80
    assert not title.endswith(".")
    assert 150 <= len(suggestion) <= 600
    assert 2 <= len(SENTENCE_END.findall(suggestion)) <= 5
    assert suggestion[-1] in ".?!"
    assert "  " not in suggestion


@_each_entry()
def test_entry_lists_distinct_query_phrases(entry: Entry) -> None:
    """Every entry has about as many, so that none is easier to find than another."""
    phrases = entry["asked_as"].split("; ")
    assert 6 <= len(phrases) <= 13
    assert len(set(phrases)) == len(phrases)
    assert 120 <= len(entry["asked_as"]) <= 370
    assert all(phrase == phrase.strip(" .;") != "" for phrase in phrases)


@_each_entry()
def test_query_phrases_are_not_copied_from_the_judged_queries(entry: Entry) -> None:
    """Otherwise the queries would measure the copying. Four consecutive words count as a copy."""
    phrases = entry["asked_as"].split("; ")
    phrase_shingles = set[tuple[str, ...]]().union(*(_shingles(phrase, 4) for phrase in phrases))
    assert phrase_shingles & QUERY_SHINGLES == set()


@_each_entry()
def test_parameters_are_flat_and_name_their_unit(entry: Entry) -> None:
    parameters = entry["parameters"]
    assert parameters
    for key, value in parameters.items():
        assert SNAKE_CASE.fullmatch(key), key
        if isinstance(value, str):
            assert value, key
            continue
        assert _has_unit(key), f"{key} has no unit"
        numbers = _numbers(value)
        assert numbers, key
        assert numbers == (value if isinstance(value, list) else [value]), key
        assert len(numbers) <= 4, key


@_each_entry()
def test_parameters_are_within_physical_bounds(entry: Entry) -> None:
    for key, value in entry["parameters"].items():
        for suffix, (low, high) in PHYSICAL_BOUNDS.items():
            if key.endswith(suffix):
                assert all(low <= number <= high for number in _numbers(value)), key


def test_confidence_is_a_probability_with_a_spread() -> None:
    values = [entry["confidence"] for entry in ENTRIES]
    assert all(0 < value < 1 for value in values)
    assert len(set(values)) >= 6
    assert sum(value <= 0.75 for value in values) >= len(values) / 5
    assert sum(value >= 0.95 for value in values) >= len(values) / 20


def test_suggestions_are_distinct() -> None:
    shingles = [(entry["title"], _shingles(entry["suggestion"])) for entry in ENTRIES]
    similar = [
        (first, second)
        for (first, left), (second, right) in combinations(shingles, 2)
        if len(left & right) / len(left | right) >= 0.5
    ]
    assert similar == []


def test_delay_times_follow_from_the_tempo() -> None:
    """A quarter note lasts 60,000 / bpm milliseconds."""
    [parameters] = [e["parameters"] for e in ENTRIES if "dotted_eighth_ms" in e["parameters"]]
    quarter = 60_000 / parameters["tempo_bpm"]
    assert parameters["quarter_ms"] == quarter
    assert parameters["eighth_ms"] == quarter / 2
    assert parameters["dotted_eighth_ms"] == quarter * 3 / 4
    assert parameters["eighth_triplet_ms"] == round(quarter / 3)
