"""What the process of a server does for itself."""

from __future__ import annotations

import gc

from backline.server import running


def test_what_was_there_at_the_start_is_not_looked_through_again() -> None:
    try:
        before = len(gc.get_objects())
        running.spare_the_collector()
        assert gc.get_freeze_count() > before // 2
        assert len(gc.get_objects()) < before // 2
    finally:
        gc.unfreeze()
