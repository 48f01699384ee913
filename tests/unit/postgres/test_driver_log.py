"""The driver's warnings go to the handlers of the application, and never to standard error."""

from __future__ import annotations

import subprocess
import sys

import pytest

WARN = """
import logging
{handler}
import backline.postgres.connector
for name in ("psycopg", "psycopg.pool"):
    logging.getLogger(name).warning("discarding closed connection")
"""


@pytest.mark.parametrize(
    ("handler", "lines"), [("", 0), ("logging.basicConfig(level=logging.INFO)", 2)]
)
def test_driver_warns_only_where_the_application_logs(handler: str, lines: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WARN.format(handler=handler)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.count("discarding closed connection") == lines, done.stderr
