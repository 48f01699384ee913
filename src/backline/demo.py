"""The shipped knowledge base as records of `music_knowledge`."""

from __future__ import annotations

from importlib.resources import as_file, files

from backline import loading
from backline.loading import Loaded
from backline.postgres import migrate
from backline.postgres.store import Store

QUESTION = "my vocals sound muddy and boxy"
COLLECTION = "music_knowledge"


async def seed(store: Store) -> tuple[list[str], Loaded]:
    """Migrate and load the knowledge base; both do nothing the second time.

    Returns:
        the names of the migrations applied, and what was loaded.

    """
    applied = await migrate.apply(store.connector)
    source = files("backline.data").joinpath("music_knowledge.jsonl")
    with as_file(source) as file:
        loaded = await loading.load(store, file, f"public.{COLLECTION}")
    return [migration.name for migration in applied], loaded
