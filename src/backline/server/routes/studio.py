"""Serves the built files of the studio and the API page at all other addresses."""

from __future__ import annotations

import mimetypes
import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import request_response
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC: Final = Path(str(files("backline.server"))) / "static"
IMMUTABLE: Final = "public, max-age=31536000, immutable"
# The studio has no pages below these paths, so an unknown address there is an error.
NO_PAGES: Final = ("assets/", "api/", "codette/", "docs/", "health/", "metrics/", "v1/", "ws/")
NOT_BUILT: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Backline</title>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto">
<h1>Backline</h1>
<p>The server is running. Its web pages, the studio and the API description, are not built in this
checkout yet:</p>
<pre>make web</pre>
<p>Then load this page again. <a href="/openapi.json">/openapi.json</a> describes the API too.</p>
</body></html>
"""


_LINK: Final = re.compile(r'\b(href|src)="\.?/(?!/)')


def fallback(otherwise: ASGIApp) -> ASGIApp:
    """Return the application for addresses without a route; `otherwise` handles other protocols.

    A catch-all route would accept GET at every address, so other methods would get a 405 where a
    404 is right.
    """
    serve_page = request_response(page)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (serve_page if scope["type"] == "http" else otherwise)(scope, receive, send)

    return app


async def page(request: Request) -> Response:
    """Return a file of the studio, or the studio itself, which routes on the client."""
    path = request.scope["path"].strip("/")
    if request.method not in ("GET", "HEAD"):
        raise _not_found(path)
    if (file := _file(path)) is not None and file.suffix != ".html":
        return _file_response(file, IMMUTABLE if path.startswith("assets/") else "no-cache")
    wants_page = not path or "text/html" in request.headers.get("accept", "")
    if file is None and (path.startswith(NO_PAGES) or not wants_page):
        raise _not_found(path)
    index = file or _file("docs/index.html" if path == "docs" else "index.html")
    html = NOT_BUILT if index is None else index.read_text(encoding="utf-8")
    return HTMLResponse(_below(_base(request), html), headers={"Cache-Control": "no-cache"})


def _base(request: Request) -> str:
    """Return the address of the server's root, relative to the page if a proxy may add a path."""
    root = request.app.state.services.settings.root_path
    return f"{root}/" if root else "../" * (request.scope["path"].count("/") - 1) or "./"


def _below(base: str, html: str) -> str:
    """Return a page whose links to files of the server begin at `base`."""
    return _LINK.sub(rf'\1="{base}', html)


def _not_found(path: str) -> HTTPException:
    return HTTPException(404, f"There is nothing at /{path[:200]}. The API is described at /docs.")


def _file_response(file: Path, caching: str) -> FileResponse:
    kind, _ = mimetypes.guess_type(file.name)
    return FileResponse(file, media_type=kind, headers={"Cache-Control": caching})


def _file(path: str) -> Path | None:
    """Return a file of the built studio, or None, also for a path that leads outside it."""
    if not path:
        return None
    root = STATIC.resolve()
    try:
        file = (root / path).resolve()
        return file if file.is_relative_to(root) and file.is_file() else None
    except (OSError, ValueError, RuntimeError):
        # The path cannot name a file: too long, a NUL or a lone surrogate in it, a loop of links.
        return None
