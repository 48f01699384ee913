"""Limit numpy's BLAS to one thread while the numpy engine computes."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from typing import Any


class SingleThreadedBlas:
    """A context manager that several threads may enter; the last one restores BLAS's setting.

    The engine's streams use every processor already. Additional BLAS threads wait for each other in
    spin locks, which on 2 processors cuts the engine's speed to a third.

    Without the package threadpoolctl, results are the same but slower.
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
