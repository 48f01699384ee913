"""Ctrl-C and SIGTERM: the first stops a command cleanly, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from backline.cli.output import say

STOPPED: Final = 130
"""Exit code of a process that Ctrl-C ended before it had a result."""


@contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with a reason on the first Ctrl-C or SIGTERM; a second one ends the process."""
    import asyncio

    loop = asyncio.get_running_loop()
    received: list[str] = []

    def on_signal(name: str) -> None:
        received.append(name)
        if len(received) == 1:
            say("Stopping: finishing the requests in flight. Press Ctrl-C again to end at once.")
            stop(f"stopped by {name}")
        elif len(received) == 2:
            # A thread that embeds cannot be interrupted. The next run takes its rows over when the
            # lease expires or the connection closes.
            end_process_after()
            raise KeyboardInterrupt

    handled = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
    for number, name in handled.items():
        loop.add_signal_handler(number, on_signal, name)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        raise_on_sigterm()


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind the stack like Ctrl-C, so that leases are released."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def end_process_after(seconds: float = 1.5) -> None:
    """End the process after `seconds`, even while a thread of it still runs."""

    def end() -> None:
        from backline.postgres import embedded

        embedded.stop()
        os._exit(STOPPED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
