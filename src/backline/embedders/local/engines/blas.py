"""Keeping numpy's BLAS to one thread while the numpy engine computes."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from typing import Any


class SingleThreadedBlas:
    """A context manager for any number of threads; BLAS's own setting returns with the last one.

    The engine's streams already use every processor. BLAS threads of their own on top would spin
    for one another: on 2 processors the engine then runs at a third of its speed.

    threadpoolctl comes with Backline; where it was taken out, results are the same and slower.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: Any = None
        self._controller = _blas_controller()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1 and self._controller is not None:
                self._limit = self._controller.limit(limits=1)

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limit is not None:
                self._limit.restore_original_limits()


def _blas_controller() -> Any:
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    threadpoolctl = importlib.import_module("threadpoolctl")
    return threadpoolctl.ThreadpoolController().select(user_api="blas")
