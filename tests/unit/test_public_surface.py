"""The public API: what it holds, that every name has its words, and that importing is cheap."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

import backline

FROZEN = {
    "Backfill", "BackfillReport", "BacklineError", "Collection", "Coverage", "Embedder",
    "EmbedderOptions", "Failure", "Limiter", "Loaded", "Model", "Preview", "Reconciled",
    "Reconciliation", "RunRecord", "SearchHit", "Store", "Sync", "Verification", "WorkerOptions",
    "check", "embedded", "errors", "estimate", "load", "migrate", "open_embedder", "open_store",
    "search", "verify",
}  # fmt: skip


def test_the_surface_is_frozen() -> None:
    """A change here is a change for every user: say so in CHANGELOG.md."""
    assert set(backline.__all__) == FROZEN
    assert backline.__all__ == sorted(backline.__all__)
    assert set(dir(backline)) >= FROZEN


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_every_name_is_there_and_says_what_it_is_for(name: str) -> None:
    found = getattr(backline, name)
    own = inspect.getdoc(found) or ""
    assert len(own.split()) >= 3
    if dataclasses.is_dataclass(found):
        assert not own.startswith(f"{name}("), "the docstring is the generated one"


@pytest.mark.parametrize("name", ["Backfill", "Limiter", "Reconciliation", "Store", "Sync"])
def test_every_public_method_says_what_it_does(name: str) -> None:
    silent = [
        method
        for method, found in inspect.getmembers(getattr(backline, name), inspect.isfunction)
        if not method.startswith("_") and not inspect.getdoc(found)
    ]
    plain = {"aclose", "compact", "drop_collection", "finish_run", "set_model", "start_run"}
    assert set(silent) <= plain | {"stop", "verify_page"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nope"):
        _ = backline.nope


PROBE = """
import sys, time
began = time.process_time()
import backline
print(time.process_time() - began, *({"numpy", "psycopg", "openai", "pydantic"} & {*sys.modules}))
"""


def test_importing_is_cheap() -> None:
    """Under 0.3 s of processor time, and nothing large comes with it."""
    said = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
    ).stdout.split()
    assert said[1:] == []
    assert float(said[0]) < 0.3
