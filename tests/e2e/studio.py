"""Helpers of the studio tests: a filled database, a server that can be killed, a browser.

All functions block, because Playwright's event loop conflicts with another one.

Tests never sleep for a fixed time. They wait for a state (`expect`, `settled`,
`wait_for_address`) and read a value only after the page has settled. A test that nothing happens
waits for the event that would have caused it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import psycopg
import pytest
from playwright.sync_api import Browser, Page, Playwright, expect
from psycopg.rows import dict_row

from tests.provider import StandInProvider

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "src/backline/server/static/index.html"
AXE: Final = ROOT / "web/node_modules/axe-core/axe.min.js"
BACKLINE: Final = str(Path(sys.executable).with_name("backline"))
CHROMIUM_FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_NOTHING_SKIPPED: Final = bool(os.environ.get("NOTHING_SKIPPED"))

# Timeout of every wait, long enough for eight test processes on two cores.
TIMEOUT_S: Final = 60.0

# The provider rejects a row with this text, so that it becomes a dead letter.
POISON: Final = "UNREADABLE"


# --- requirements ---------------------------------------------------------------------------------


def require_page() -> None:
    """Skip the test if the studio is not built."""
    if not (PAGE.is_file() and AXE.is_file()):
        _skip_without("the built studio. Install Node.js 20 with npm and run: make web")


def require_chromium() -> str:
    """Return the path of Chromium, or skip the test if it is not installed."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if not path:
        _skip_without("Chromium. Run apt-get install chromium, or set CHROMIUM to its path")
    return str(path)


def _skip_without(requirement: str) -> None:
    message = f"without {requirement}"
    if _NOTHING_SKIPPED:
        pytest.fail(f"NOTHING_SKIPPED is set, but this test runs {message}")
    pytest.skip(message)


def launch(playwright: Playwright) -> Browser:
    """Start a headless Chromium with an empty profile."""
    return playwright.chromium.launch(
        executable_path=require_chromium(), headless=True, args=[*CHROMIUM_FLAGS], timeout=120_000
    )


# --- the server -----------------------------------------------------------------------------------


@dataclass
class Server:
    """A `backline serve` process. The port stays the same across restarts."""

    database: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ("--no-worker",)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    def start(self) -> None:
        self.port = self.port or free_port()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BACKLINE, "serve", "--port", str(self.port), *self.options],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment(DATABASE_URL=self.database, **self.environment),
            )  # fmt: skip
        eventually(self._is_ready, f"{self.url} to respond", 120)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(TIMEOUT_S)
        self.process = None

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self.get("/health"))
        except OSError:
            return False

    def get(self, path: str) -> dict[str, Any]:
        return self._json(Request(self.url + path))

    def post(self, path: str, body: Any) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        return self._json(Request(self.url + path, json.dumps(body).encode(), headers))

    @staticmethod
    def _json(request: Request) -> dict[str, Any]:
        with urlopen(request, timeout=TIMEOUT_S) as response:
            body = json.load(response)
        assert isinstance(body, dict)
        return body


def environment(**overrides: str) -> dict[str, str]:
    """Return the environment of this process with the package of this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **overrides}


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def eventually(condition: Callable[[], Any], description: str, timeout: float = TIMEOUT_S) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s for {description}"
        time.sleep(0.05)


# --- the page -------------------------------------------------------------------------------------

# Counts the pending requests of a page.
COUNT_REQUESTS: Final = """(() => {
  const fetch = window.fetch
  window.pendingRequests = 0
  window.fetch = (...parameters) => {
    window.pendingRequests += 1
    return fetch(...parameters).finally(() => { window.pendingRequests -= 1 })
  }
})()"""
# True after four consecutive frames without pending requests, loading content or animations.
AT_REST: Final = """() => {
  const resting = window.pendingRequests === 0 && document.fonts.status === 'loaded'
    && document.querySelector('[aria-busy=true]') === null
    && document.getAnimations().every((animation) => animation.playState !== 'running')
  window.framesAtRest = resting ? window.framesAtRest + 1 : 0
  return window.framesAtRest > 3
}"""


def settled(page: Page) -> None:
    """Wait until the page is connected, loaded and drawn."""
    expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
    expect(page.locator("main :is(h1, h2)").first).to_be_attached()
    at_rest(page)


def at_rest(page: Page) -> None:
    """Wait until the page has no pending requests and no animations."""
    page.evaluate("window.framesAtRest = 0")
    page.wait_for_function(AT_REST)


def address(page: Page, name: str) -> str | None:
    """Return a query parameter of the current address. Call `wait_for_address` before."""
    return parse_qs(urlsplit(page.url).query).get(name, [None])[0]


def wait_for_address(page: Page, name: str, matches: Callable[[str | None], bool]) -> None:
    """Wait until a query parameter of the address matches."""
    page.wait_for_url(lambda url: matches(parse_qs(urlsplit(url).query).get(name, [None])[0]))


# --- the database ---------------------------------------------------------------------------------


@dataclass
class World:
    """A database with the embedded knowledge base and a table `notes` with a paid provider."""

    url: str
    folder: Path
    provider: StandInProvider

    @property
    def settings(self) -> dict[str, str]:
        return {
            "OPENAI_API_KEY": self.provider.api_key,
            "OPENAI_BASE_URL": self.provider.base_url,
            "BATCH_SIZE": "10",
        }

    def backline(self, *args: str, code: int = 0) -> None:
        completed = subprocess.run(
            [BACKLINE, *args], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=240, check=False, env=environment(DATABASE_URL=self.url, **self.settings),
        )  # fmt: skip
        assert completed.returncode == code, completed.stderr.decode()

    def sql(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def fill(self) -> None:
        """Embed the knowledge base and declare an empty collection `notes`."""
        self.backline("demo")
        self.sql("create table notes (id bigint primary key, title text, category text, body text)")
        self.backline("add", "notes", "--text", "{title} {body}", "--model", f"openai/{MODEL}@32")

    def write_notes(self, count: int, poisoned: int = 0) -> None:
        """Replace the `notes` with new rows that are not embedded."""
        self.sql("delete from notes")
        self.sql(
            "insert into notes select n, 'Note ' || n, (array['mixing', 'vocals', 'drums'])"
            "[1 + n %% 3], case when n <= %s then %s else 'take ' end || clock_timestamp() || n "
            "from generate_series(1, %s) n",
            poisoned, POISON, count,
        )  # fmt: skip


MODEL: Final = "text-embedding-3-small"


@contextmanager
def serving(world: World, *options: str, **settings: str) -> Iterator[Server]:
    """Run a server on the database of a world."""
    server = Server(world.url, world.folder, world.settings | settings, ("--no-worker", *options))
    server.start()
    try:
        yield server
    finally:
        server.kill()
