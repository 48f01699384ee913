"""What a process of Backline's own sets for itself; a program that imports Backline is let be."""

from __future__ import annotations

import gc
from typing import Final

COLLECTION_OBJECTS: Final = 50_000
"""New objects between two looks for cycles among them: a fetched page of 2,000 rows is 12,000."""


def tune_garbage_collector() -> None:
    """Look for garbage rarely, and never among what the imports made, which lives on anyway.

    Rows come and go by the thousand and have no cycles; looking for some took a fifth of a
    backfill's time in Python, and an eighth of a busy server's.
    """
    gc.freeze()
    gc.set_threshold(COLLECTION_OBJECTS)
