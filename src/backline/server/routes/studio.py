"""The studio: a built page, served as files."""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

router = APIRouter(include_in_schema=False)

STATIC: Final = Path(str(files("backline.server"))) / "static"
FOR_EVER: Final = "public, max-age=31536000, immutable"
NOT_BUILT: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Backline</title>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto">
<h1>Backline</h1>
<p>The server runs. The studio, its web page, is not built in this checkout yet:</p>
<pre>make web</pre>
<p>Then load this page again. The API is described at <a href="/docs">/docs</a>.</p>
</body></html>
"""


@router.get("/{path:path}")
async def page(request: Request, path: str) -> Response:
    """A file of the studio; for a page's address, the studio itself, which routes by itself."""
    if (file := _file(path)) is not None:
        caching = FOR_EVER if path.startswith("assets/") else "no-cache"
        kind, _ = mimetypes.guess_type(file.name)
        return FileResponse(file, media_type=kind, headers={"Cache-Control": caching})
    wants_page = "text/html" in request.headers.get("accept", "")
    if path.startswith(("assets/", "api/", "v1/")) or not wants_page:
        raise HTTPException(404, f"There is nothing at /{path}. The API is described at /docs.")
    index = _file("index.html")
    if index is None:
        return HTMLResponse(NOT_BUILT)
    return FileResponse(index, media_type="text/html", headers={"Cache-Control": "no-cache"})


def _file(path: str) -> Path | None:
    """A file within the built studio, and never one outside it."""
    if not path or "\0" in path:
        return None
    root = STATIC.resolve()
    found = (root / path).resolve()
    return found if found.is_relative_to(root) and found.is_file() else None
