"""The studio's files are served, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.studio import require_page
from tests.integration.server.harness import Served

from backline.server.routes import studio

PAGE = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A built studio, next to a file that must not be served."""
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html><title>The studio</title>")
    (static / "assets" / "index-1a2b.js").write_text("export const a = 1;")
    (static / "assets" / "style-3c4d.css").write_text("body {}")
    (static / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "secret.txt").write_text("secret")
    (static / "assets" / "way-out.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(studio, "STATIC", static)
    yield static


@pytest.mark.parametrize("path", ["/", "/ask", "/map", "/coverage", "/actions?page=2"])
async def test_every_page_is_the_studio(server: Served, built: Path, path: str) -> None:
    response = await server.http.get(path, headers=PAGE)
    assert response.status_code == 200 and "The studio" in response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "kind", "caching"),
    [
        ("/assets/index-1a2b.js", "text/javascript", "public, max-age=31536000, immutable"),
        ("/assets/style-3c4d.css", "text/css", "public, max-age=31536000, immutable"),
        ("/icon.svg", "image/svg+xml", "no-cache"),
    ],
)
async def test_hashed_files_are_immutable_and_others_revalidated(
    server: Served, built: Path, path: str, kind: str, caching: str
) -> None:
    response = await server.http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    assert response.headers["cache-control"] == caching
    again = await server.http.get(path, headers={"If-None-Match": response.headers["etag"]})
    assert again.headers["etag"] == response.headers["etag"]


@pytest.mark.parametrize("path", [
    "/assets/gone.js", "/assets/way-out.txt", "/api/nothing", "/v1/nothing", "/health/nothing",
    "/docs/nothing.js",
])  # fmt: skip
async def test_missing_files_are_not_found(server: Served, built: Path, path: str) -> None:
    response = await server.http.get(path, headers=PAGE)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/ask", "/api/nothing", "/assets/index-1a2b.js"])
async def test_other_methods_find_no_page(
    server: Served, built: Path, method: str, path: str
) -> None:
    problem = await server.http.request(method, path, headers=PAGE)
    assert problem.status_code == 404
    assert f"nothing at {path}" in problem.json()["detail"]


async def test_root_needs_no_accept_header(server: Served, built: Path) -> None:
    assert "The studio" in (await server.http.get("/")).text
    head = await server.http.head("/")
    assert (head.status_code, head.text) == (200, "")
    assert (await server.http.get("/ask")).status_code == 404


async def test_page_without_a_build_gives_the_command(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "STATIC", tmp_path / "none")
    response = await server.http.get("/ask", headers=PAGE)
    assert response.status_code == 200 and "make web" in response.text
    assert (await server.http.get("/ask")).status_code == 404


async def test_api_page_uses_only_files_of_this_server(server: Served) -> None:
    """The built page works on a machine without a network."""
    require_page()
    response = await server.http.get("/docs", headers=PAGE)
    assert response.status_code == 200 and "://" not in response.text
    sources = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    assert len(sources) == 4
    for source in sources:
        assert (await server.http.get(source)).status_code == 200, source
    assert "/openapi.json" in (await server.http.get("/docs/start.js")).text
