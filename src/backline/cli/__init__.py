"""The command line: parses arguments, calls the library and prints the results.

`backline --version` imports nothing beyond the standard library, `--help` only typer and rich. A
command's own module is imported when the command runs.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit code."""
    if sys.argv[1:] == ["--version"]:
        print_version()
        return
    try:
        from backline.cli import commands, entry

        code = entry.run(commands.command_line(after_import=entry.tune_garbage_collector))
    except KeyboardInterrupt:  # during the imports; `entry.run` reports it later on
        sys.stderr.write("Stopped.\n")
        code = 130
    sys.exit(code)


def print_version() -> None:
    """Print the version of the installed package."""
    from importlib.metadata import version

    sys.stdout.write(version("backline") + "\n")
