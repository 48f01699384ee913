"""The studio is served as files, and nothing beside it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
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


@pytest.mark.parametrize(
    "path", ["/assets/gone.js", "/api/nothing", "/v1/nothing", "/assets/way-out.txt"]
)
async def test_what_is_not_there_is_no_page(s: Served, built: Path, path: str) -> None:
    answer = await s.http.get(path, headers=PAGE)
    assert answer.status_code == 404
    assert "secret" not in answer.text


async def test_without_a_build_the_page_says_how(
    s: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "STATIC", tmp_path / "none")
    answer = await s.http.get("/ask", headers=PAGE)
    assert answer.status_code == 200 and "make web" in answer.text
    assert (await s.http.get("/ask")).status_code == 404
