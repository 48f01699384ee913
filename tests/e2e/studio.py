"""What the tests of the studio stand on: a filled database, a server to kill, a browser.

Every function here blocks; the tests do too. Playwright's own loop would be in the way of another.

A page changes when it will, and a busy machine is slow: a test waits for what it speaks of
(`expect`, `settled`, `wait_for_address`), reads only what has come to rest, and proves that nothing
happens by waiting for the event that would have made it happen. No wait is for a time.
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

# How long anything may take where eight processes share two processors; nobody waits longer than
# it takes.
PATIENCE_S: Final = 60.0

# A row with this in its text is refused by the provider, and so becomes a dead letter.
POISON: Final = "UNREADABLE"


# --- what must be there ---------------------------------------------------------------------------


def require_page() -> None:
    """Skip where the studio was not built, and say how it is."""
    if not (PAGE.is_file() and AXE.is_file()):
        _without("the built studio. It needs Node.js 20 with npm; then: make web")


def require_chromium() -> str:
    """The path of a Chromium; skip where there is none, and say how to get it."""
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        _without("Chromium. As root on Debian: apt-get install chromium; or: CHROMIUM=/path/to/it")
    return str(found)


def _without(what: str) -> None:
    message = f"without {what}"
    if _NOTHING_SKIPPED:
        pytest.fail(f"NOTHING_SKIPPED is set, and this test runs {message}")
    pytest.skip(message)


def launch(playwright: Playwright) -> Browser:
    """A headless Chromium with a new, empty profile."""
    return playwright.chromium.launch(
        executable_path=require_chromium(), headless=True, args=[*CHROMIUM_FLAGS], timeout=120_000
    )


# --- the server -----------------------------------------------------------------------------------


@dataclass
class Server:
    """`backline serve` as a process, on a port that it keeps through kills and restarts."""

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
        eventually(self._answers, f"{self.url} to answer", 120)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE_S)
        self.process = None

    def _answers(self) -> bool:
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
        with urlopen(request, timeout=PATIENCE_S) as answer:
            found = json.load(answer)
        assert isinstance(found, dict)
        return found


def environment(**more: str) -> dict[str, str]:
    """This process's, with the package of this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], what: str, within: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        time.sleep(0.05)


# --- the page -------------------------------------------------------------------------------------

# Counts the requests of a page that are not answered yet.
COUNT_REQUESTS: Final = """(() => {
  const own = window.fetch
  window.underWay = 0
  window.fetch = (...given) => {
    window.underWay += 1
    return own(...given).finally(() => { window.underWay -= 1 })
  }
})()"""
# True once nothing is under way, on its way to the screen, or moving, for some frames in a row.
AT_REST: Final = """() => {
  const resting = window.underWay === 0 && document.fonts.status === 'loaded'
    && document.querySelector('[aria-busy=true]') === null
    && document.getAnimations().every((each) => each.playState !== 'running')
  window.framesAtRest = resting ? window.framesAtRest + 1 : 0
  return window.framesAtRest > 3
}"""


def settled(page: Page) -> None:
    """Until the page is connected, has all that it asked for, and has drawn it."""
    expect(page.get_by_role("status").filter(has_text="Connected")).to_be_visible()
    expect(page.locator("main :is(h1, h2)").first).to_be_attached()
    at_rest(page)


def at_rest(page: Page) -> None:
    page.evaluate("window.framesAtRest = 0")
    page.wait_for_function(AT_REST)


def address(page: Page, name: str) -> str | None:
    """A member of the page's address as it is now; it may change, so wait for it first."""
    return parse_qs(urlsplit(page.url).query).get(name, [None])[0]


def wait_for_address(page: Page, name: str, wanted: Callable[[str | None], bool]) -> None:
    """Until a member of the page's address is as wanted."""
    page.wait_for_url(lambda url: wanted(parse_qs(urlsplit(url).query).get(name, [None])[0]))


# --- the database ---------------------------------------------------------------------------------


@dataclass
class World:
    """A database with the knowledge base, filled, and `notes`, whose vectors a provider sells."""

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
        done = subprocess.run(
            [BACKLINE, *args], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=240, check=False, env=environment(DATABASE_URL=self.url, **self.settings),
        )  # fmt: skip
        assert done.returncode == code, done.stderr.decode()

    def sql(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def fill(self) -> None:
        """The knowledge base, embedded; `notes` declared, with nothing in it."""
        self.backline("demo")
        self.sql("create table notes (id bigint primary key, title text, category text, body text)")
        self.backline("add", "notes", "--text", "{title} {body}", "--model", f"openai/{MODEL}@32")

    def write_notes(self, count: int, poisoned: int = 0) -> None:
        """Put `notes` back to so many rows that wait for their vectors."""
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
    """A server over a world, until the end of the block."""
    made = Server(world.url, world.folder, world.settings | settings, ("--no-worker", *options))
    made.start()
    try:
        yield made
    finally:
        made.kill()
