"""Long texts sent to the server are handled as in a backfill."""

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
async def test_stored_vectors_equal_those_of_a_backfill(
    store: Store, provider: StandInProvider, policy: LongText
) -> None:
    async with make_world(store, provider, ddl=NOTES, long_text=policy) as world:
        await world.insert("short", LONG, LONG)
        async with served(store, **with_provider(provider)) as server:
            result = await server.post(PATH, body((1, "short"), (2, LONG), (3, LONG)))
        assert (result["success"], result["updated"]) == (True, 3)
        assert overpaid(provider) == {}
        assert (await store.coverage(world.collection)).long == 2
        assert await store.recount(world.collection.id) == {}
        by_server = await world.stored_vector(2)
        await world.sql("delete from backline.vectors")
        await world.sql("delete from backline.stamps")
        await world.store.recount(world.collection.id)
        await world.fill()
        np.testing.assert_array_equal(await world.stored_vector(2), by_server)


async def test_rejection_equals_that_of_a_backfill(store: Store, provider: StandInProvider) -> None:
    async with make_world(store, provider, ddl=NOTES, long_text="reject") as world:
        await world.insert("short", LONG)
        async with served(store, **with_provider(provider)) as server:
            result = await server.post(PATH, body((1, "short"), (2, LONG)), 207)
        assert result["updated"] == 1
        [failed] = result["failed"]
        assert failed["id"] == "2" and "--long-text reject" in failed["error"]
        assert set(provider.texts_embedded) == {"short"}
