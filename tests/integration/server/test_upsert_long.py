"""Texts longer than the model reads, sent to the server: the same policy, the same vectors."""

from __future__ import annotations

import numpy as np
import pytest
from tests.integration.harness import LONG, make_world, overpaid
from tests.integration.server.harness import NOTES, served, with_provider
from tests.integration.server.test_upsert import PATH, body
from tests.provider import StandInProvider

from backline.postgres.store import Store
from backline.types import LongText


@pytest.mark.parametrize("policy", ["truncate", "average"])
async def test_the_server_stores_what_a_backfill_would(
    store: Store, provider: StandInProvider, policy: LongText
) -> None:
    async with make_world(store, provider, ddl=NOTES, long_text=policy) as w:
        await w.insert("short", LONG, LONG)
        async with served(store, **with_provider(provider)) as server:
            found = await server.post(PATH, body((1, "short"), (2, LONG), (3, LONG)))
        assert (found["success"], found["updated"]) == (True, 3)
        assert overpaid(provider) == {}
        assert (await store.coverage(w.collection)).long == 2
        assert await store.recount(w.collection.id) == {}
        by_server = await w.stored_vector(2)
        await w.sql("delete from backline.vectors")
        await w.sql("delete from backline.stamps")
        await w.store.recount(w.collection.id)
        await w.fill()
        np.testing.assert_array_equal(await w.stored_vector(2), by_server)


async def test_the_server_rejects_what_a_backfill_would(
    store: Store, provider: StandInProvider
) -> None:
    async with make_world(store, provider, ddl=NOTES, long_text="reject") as w:
        await w.insert("short", LONG)
        async with served(store, **with_provider(provider)) as server:
            found = await server.post(PATH, body((1, "short"), (2, LONG)), 207)
        assert found["updated"] == 1
        [failed] = found["failed"]
        assert failed["id"] == "2" and "--long-text reject" in failed["error"]
        assert set(provider.texts_embedded) == {"short"}
