"""A request for any path finds the studio or a 404, never a server error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backline.server.routes import studio

PARTS = st.one_of(
    st.sampled_from(["", ".", "..", "assets", "docs", "loop", "\0", "~", "%2e%2e", "\\", "C:"]),
    st.integers(200, 5000).map(lambda length: "a" * length),
    st.text(st.characters(), max_size=12),
)
PATHS = st.lists(PARTS, max_size=40).map("/".join)


@pytest.fixture(scope="module", autouse=True)
def _built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A built studio with a loop of links, next to a file that must not be served."""
    static = tmp_path_factory.mktemp("built") / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html><title>The studio</title>")
    (static / "assets" / "loop").symlink_to(static / "assets" / "loop")
    (static.parent / "secret.txt").write_text("secret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio, "STATIC", static)
        yield


@given(path=PATHS)
@example(path="a" * 256)
@example(path="a/" * 3000)
@example(path="\0")
@example(path="loop")
@example(path="\ud800")
@example(path="é" * 200)
@example(path="../../secret.txt")
@settings(max_examples=200, deadline=None)
def test_any_unknown_path_is_not_found(path: str) -> None:
    scope = {"type": "http", "method": "GET", "path": f"/assets/{path}", "headers": []}
    try:
        response = asyncio.run(studio.page(Request(scope)))
    except HTTPException as error:
        assert error.status_code == 404
    else:  # the path led back to the studio's own page
        assert str(response.path).endswith("index.html")  # type: ignore[attr-defined]
