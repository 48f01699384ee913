"""The command line: parses arguments, calls the library and prints the results.

`backline --version` imports nothing beyond the standard library, `--help` only typer and rich. A
command's own module is imported when the command runs.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from backline.cli import streams


def main() -> None:
    """Run the command line and end the process with its exit code."""
    streams.prepare()
    if sys.argv[1:] == ["--version"]:
        sys.exit(_version())
    try:
        from backline.cli import commands, entry

        code = entry.run(commands.command_line(after_import=entry.tune_garbage_collector))
    except KeyboardInterrupt:  # during the imports; `entry.run` reports it later on
        sys.stderr.write("Stopped.\n")
        code = 130
    sys.exit(code)


def _version() -> int:
    """Print the version without the imports of a command; return the exit code."""
    try:
        print_version()
        sys.stdout.flush()
    except OSError as error:
        streams.discard_stdout()
        with suppress(OSError):
            sys.stderr.write(f"error: {streams.not_written(error)}\n")
        return 1
    return 0


def print_version() -> None:
    """Print the version of the installed package."""
    from importlib.metadata import version

    sys.stdout.write(version("backline") + "\n")
