"""The program without a process of its own: what costs 0.6 s a call is paid once a session.

For tests of what the program does and says. What needs a process that can be killed, or two at
once, starts them (`start`).
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from unittest import mock

import structlog

from backline.cli import entry
from backline.cli.commands import command_line
from tests.integration.cli.conftest import BACKLINE, Cli, Outcome


class InlineCli(Cli):
    """Runs `backline` in this process, in a folder and with an environment of its own."""

    def __call__(
        self, *args: str, code: int | None = 0, program: str = BACKLINE, **environment: str
    ) -> Outcome:
        out, err = _stream(), _stream()
        surroundings = mock.patch.dict(os.environ, self.environment | environment)
        arguments = mock.patch.object(sys, "argv", [program, *args])
        streams = redirect_stdout(out), redirect_stderr(err)
        with surroundings, arguments, chdir(self.folder), _as_it_was(), streams[0], streams[1]:
            ended = entry.run(command_line())
        outcome = Outcome(ended, _written(out), _written(err))
        assert "Traceback" not in outcome.err, outcome.err
        if code is not None:
            assert outcome.code == code, outcome
        return outcome


@contextmanager
def _as_it_was() -> Iterator[None]:
    """The process's log settings and signals after a command as before it."""
    logs, terminated = structlog.get_config(), signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        structlog.configure(**logs)
        signal.signal(signal.SIGTERM, terminated)


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
