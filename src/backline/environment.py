"""Read `.env` files, and warn about lines and variables that have no effect."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from backline import errors

# The warnings reach standard error, unless the program that imports Backline handles its log.
_LOG: Final = logging.getLogger("backline")
PREFIX: Final = "BACKLINE_"
# Read by the command line alone.
_OTHERS: Final = frozenset({"BACKLINE_VERBOSE"})


def env_file(file: Path) -> Mapping[str, str | None]:
    """Return the variables of a file, and warn about each line that is none.

    Raises:
        ConfigurationError: the file cannot be read.

    """
    try:
        if not file.is_file():
            return {}
        with file.open(encoding="utf-8") as lines:
            broken = [each.original.line for each in parse_stream(lines) if each.error]
        for line in broken:
            _LOG.warning("%s, line %d, is not NAME=value and is ignored.", file, line)
        logging.getLogger("dotenv.main").disabled = True  # warns in other words
        return dotenv_values(file)
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigurationError(f"{file} cannot be read: {error}.") from None


def warn_of_unknown(names: Iterable[str], known: Collection[str], layer: str) -> None:
    """Warn about each variable with Backline's prefix that is not `known`, with the nearest one."""
    for name in names:
        if name.upper().startswith(PREFIX) and name not in known and name not in _OTHERS:
            near = difflib.get_close_matches(name.upper(), known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            _LOG.warning("%s in %s is no setting and is ignored.%s", name, layer, hint)
