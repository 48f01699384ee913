"""Stops a build whose result would lack the studio or the page of the API at /docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STATIC = Path("src/backline/server/static")
PAGES = {
    "the studio": ("index.html", "assets/*.js", "assets/*.css"),
    "the page of the API, /docs": (
        "docs/index.html",
        "docs/swagger-ui-bundle.js",
        "docs/swagger-ui.css",
    ),
}


class Pages(BuildHookInterface):  # type: ignore[type-arg]
    """Requires the built pages, which are not in git. An editable installation needs none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Abort the build of a wheel or sdist if a page is missing."""
        static = Path(self.root) / STATIC
        missing = {
            f"{page} ({STATIC / file})"
            for page, files in PAGES.items()
            for file in files
            if not any(static.glob(file))
        }
        if missing and version != "editable":
            self.app.abort(
                f"This checkout lacks {', '.join(sorted(missing))}, so the package would be "
                "incomplete. Run: make web. It needs Node.js 20.19 or newer. Then build again."
            )
