"""The studio is served as files, and nothing beside it is."""

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
    """A studio as the build makes it, with a file beside it that is nobody's business."""
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
async def test_every_page_is_the_studio(s: Served, built: Path, path: str) -> None:
    answer = await s.http.get(path, headers=PAGE)
    assert answer.status_code == 200 and "The studio" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "kind", "caching"),
    [
        ("/assets/index-1a2b.js", "text/javascript", "public, max-age=31536000, immutable"),
        ("/assets/style-3c4d.css", "text/css", "public, max-age=31536000, immutable"),
        ("/icon.svg", "image/svg+xml", "no-cache"),
    ],
)
async def test_its_files_are_cached_as_long_as_they_stay_the_same(
    s: Served, built: Path, path: str, kind: str, caching: str
) -> None:
    answer = await s.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["cache-control"] == caching
    again = await s.http.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize("path", [
    "/assets/gone.js", "/assets/way-out.txt", "/api/nothing", "/v1/nothing", "/health/nothing",
    "/docs/nothing.js",
])  # fmt: skip
async def test_what_is_not_there_is_no_page(s: Served, built: Path, path: str) -> None:
    answer = await s.http.get(path, headers=PAGE)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/ask", "/api/nothing", "/assets/index-1a2b.js"])
async def test_only_get_finds_a_page(s: Served, built: Path, method: str, path: str) -> None:
    problem = await s.http.request(method, path, headers=PAGE)
    assert problem.status_code == 404
    assert f"nothing at {path}" in problem.json()["detail"]


async def test_the_first_page_needs_no_accept_header(s: Served, built: Path) -> None:
    assert "The studio" in (await s.http.get("/")).text
    head = await s.http.head("/")
    assert (head.status_code, head.text) == (200, "")
    assert (await s.http.get("/ask")).status_code == 404


async def test_without_a_build_the_page_says_how(
    s: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "STATIC", tmp_path / "none")
    answer = await s.http.get("/ask", headers=PAGE)
    assert answer.status_code == 200 and "make web" in answer.text
    assert (await s.http.get("/ask")).status_code == 404


async def test_the_page_of_the_api_is_made_of_this_servers_files(s: Served) -> None:
    """Of the real build: a machine without a network shows it whole."""
    require_page()
    answer = await s.http.get("/docs", headers=PAGE)
    assert answer.status_code == 200 and "://" not in answer.text
    sources = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert len(sources) == 4
    for source in sources:
        assert (await s.http.get(source)).status_code == 200, source
    assert "/openapi.json" in (await s.http.get("/docs/start.js")).text
