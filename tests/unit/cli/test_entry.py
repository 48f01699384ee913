"""The garbage collector of Backline's own processes."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from backline.cli import entry


@pytest.fixture
def restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("restored")
def test_existing_objects_are_not_collected_again() -> None:
    before = len(gc.get_objects())
    entry.tune_garbage_collector()
    assert gc.get_freeze_count() > before // 2
    assert len(gc.get_objects()) < before // 2


SCRIPT = """
import gc, sys
from backline import cli
from backline.cli import commands, entry
assert gc.get_freeze_count() == 0, "importing Backline must not change another's process"
sys.argv = ["backline", "config"]
try:
    cli.main()
finally:
    print(gc.get_threshold()[0], gc.get_freeze_count() > 10_000)
"""


def test_the_command_line_tunes_the_collector_and_an_import_does_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == [str(entry.COLLECTION_OBJECTS), "True"], done.stderr
