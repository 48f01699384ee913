"""Simulates an installation without some packages, also in child processes."""

from __future__ import annotations

import os
from pathlib import Path

from backline.extras import EXTRAS

OPTIONAL = sorted({module for extra in EXTRAS.values() for module in extra.modules})

_HIDE = """
import sys

class HidingFinder:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r} or name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, HidingFinder())
"""


def without(folder: Path, *modules: str) -> dict[str, str]:
    """Return environment variables under which Python finds none of `modules`.

    Args:
        folder: receives the sitecustomize.py that hides them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HIDE.format(names=modules))
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    }
