"""The studio and the page of the API: built files, served where no route of the API is."""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import request_response
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC: Final = Path(str(files("backline.server"))) / "static"
FOR_EVER: Final = "public, max-age=31536000, immutable"
# Below these the studio has no page of its own: what is not there is a mistake of the caller's.
NO_PAGES: Final = ("assets/", "api/", "codette/", "docs/", "health/", "metrics/", "v1/", "ws/")
NOT_BUILT: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Backline</title>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto">
<h1>Backline</h1>
<p>The server runs. Its web pages, the studio and the description of the API, are not built in this
checkout yet:</p>
<pre>make web</pre>
<p>Then load this page again. <a href="/openapi.json">/openapi.json</a> describes the API too.</p>
</body></html>
"""


def fallback(otherwise: ASGIApp) -> ASGIApp:
    """The application for every address that no route has; `otherwise` is for what is not HTTP.

    As a route that takes any path, it would make every unknown address one that GET is right for,
    and answer 405 in place of 404 to the other methods.
    """
    answered = request_response(page)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (answered if scope["type"] == "http" else otherwise)(scope, receive, send)

    return app


async def page(request: Request) -> Response:
    """A file of the studio; for a page's address, the studio itself, which routes by itself."""
    path = request.scope["path"].strip("/")
    if request.method not in ("GET", "HEAD"):
        raise _nothing(path)
    if (file := _file(path)) is not None:
        return _served(file, FOR_EVER if path.startswith("assets/") else "no-cache")
    wants_page = not path or "text/html" in request.headers.get("accept", "")
    if path.startswith(NO_PAGES) or not wants_page:
        raise _nothing(path)
    index = _file("docs/index.html" if path == "docs" else "index.html")
    return HTMLResponse(NOT_BUILT) if index is None else _served(index, "no-cache")


def _nothing(path: str) -> HTTPException:
    return HTTPException(404, f"There is nothing at /{path[:200]}. The API is described at /docs.")


def _served(file: Path, caching: str) -> FileResponse:
    kind, _ = mimetypes.guess_type(file.name)
    return FileResponse(file, media_type=kind, headers={"Cache-Control": caching})


def _file(path: str) -> Path | None:
    """A file within the built studio, and never one outside it."""
    if not path or "\0" in path:
        return None
    root = STATIC.resolve()
    found = (root / path).resolve()
    return found if found.is_relative_to(root) and found.is_file() else None
