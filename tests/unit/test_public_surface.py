"""The public API: its names, their docstrings, and the cost of the import."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest

import backline

FROZEN = {
    "Adopted", "adopt",
    "Backfill", "BackfillReport", "BacklineError", "Collection", "Coverage", "Embedder",
    "EmbedderOptions", "Failure", "Limiter", "Loaded", "Model", "Preview", "Reconciled",
    "Reconciliation", "RunRecord", "SearchHit", "Store", "Sync", "Verification", "WorkerOptions",
    "check", "embedded", "errors", "estimate", "load", "migrate", "open_embedder", "open_store",
    "search", "verify",
}  # fmt: skip


def test_the_public_names_are_frozen() -> None:
    """A change here affects every user and needs an entry in CHANGELOG.md."""
    assert set(backline.__all__) == FROZEN
    assert backline.__all__ == sorted(backline.__all__)
    assert set(dir(backline)) >= FROZEN


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = getattr(backline, name)
    docstring = inspect.getdoc(value) or ""
    assert len(docstring.split()) >= 3
    if dataclasses.is_dataclass(value):
        assert not docstring.startswith(f"{name}("), "the docstring is the generated one"


@pytest.mark.parametrize("name", ["Backfill", "Limiter", "Reconciliation", "Store", "Sync"])
def test_public_methods_have_docstrings(name: str) -> None:
    undocumented = [
        method
        for method, function in inspect.getmembers(getattr(backline, name), inspect.isfunction)
        if not method.startswith("_") and not inspect.getdoc(function)
    ]
    plain = {"aclose", "compact", "drop_collection", "finish_run", "set_model", "start_run"}
    assert set(undocumented) <= plain | {"stop", "verify_page"}


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nope"):
        _ = backline.nope


PROBE = """
import sys, time
began = time.process_time()
import backline
print(time.process_time() - began, *({"numpy", "psycopg", "openai", "pydantic"} & {*sys.modules}))
"""


def test_the_import_is_fast_and_loads_no_large_module() -> None:
    """Less than 0.3 s of processor time."""
    output = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
    ).stdout.split()
    assert output[1:] == []
    assert float(output[0]) < 0.3
