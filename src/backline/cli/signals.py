"""Ctrl-C and SIGTERM: the first stops a command cleanly, the second ends the process.

A stalled network, a provider or a database may keep a command from stopping. The process then ends
`END_SECONDS` after the first signal. Other workers take its rows over.
"""

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

# Seconds from the first signal to the end of the work: batches in flight get 5 of them, and the
# writes and the report the others.
END_SECONDS: Final = 8.0
# Seconds for connections to be closed and leases to be released after a command was interrupted.
UNWIND_SECONDS: Final = 1.5


@contextmanager
def stopping(stop: Callable[[str], None], within: float = END_SECONDS) -> Iterator[None]:
    """Call `stop` with a reason on the first Ctrl-C or SIGTERM.

    A second one ends the process, and so does a stop that takes longer than `within` seconds.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    received: list[str] = []

    def on_signal(name: str) -> None:
        received.append(name)
        if len(received) == 1:
            say("Stopping: finishing the requests in flight. Press Ctrl-C again to end at once.")
            timers.append(loop.call_later(within, on_deadline))
            end_process_after(within + UNWIND_SECONDS)
            stop(f"stopped by {name}")
        elif len(received) == 2:
            interrupt()

    def on_deadline() -> None:
        say(f"Not stopped within {within:.0f} s. Rows in progress are free when the lease expires.")
        interrupt()

    timers: list[asyncio.TimerHandle] = []
    handled = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
    for number, name in handled.items():
        loop.add_signal_handler(number, on_signal, name)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        for timer in timers:
            timer.cancel()
        interrupt_on_signals()


def interrupt() -> None:
    """Unwind the stack, and end the process soon, even while a thread of it computes."""
    end_process_after(UNWIND_SECONDS)
    raise KeyboardInterrupt


def interrupt_on_signals() -> None:
    """Let Ctrl-C and SIGTERM unwind the stack, so that leases are released."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_again)
    end_process_after(END_SECONDS)
    raise KeyboardInterrupt


def _interrupt_again(_number: int, _frame: FrameType | None) -> None:
    interrupt()


def end_process_after(seconds: float) -> None:
    """End the process after `seconds`, even while a thread of it still runs."""

    def end() -> None:
        from backline.postgres import embedded

        embedded.stop()
        os._exit(STOPPED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
