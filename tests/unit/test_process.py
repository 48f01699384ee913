"""What Backline's own processes set for themselves."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from backline import process


@pytest.fixture
def restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("restored")
def test_what_is_there_is_not_looked_through_again() -> None:
    before = len(gc.get_objects())
    process.tune_garbage_collector()
    assert gc.get_freeze_count() > before // 2
    assert len(gc.get_objects()) < before // 2


SCRIPT = """
import gc, sys
from backline import cli
assert gc.get_freeze_count() == 0, "importing Backline must not change another's process"
sys.argv = ["backline", "--version"]
try:
    cli.main()
finally:
    print(gc.get_threshold()[0], gc.get_freeze_count() > 10_000)
"""


def test_the_command_line_spares_the_collector_and_an_import_does_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == [str(process.COLLECTION_OBJECTS), "True"], done.stderr
