"""A server without the extra that a collection's provider needs."""

from __future__ import annotations

import sys

import pytest
from tests.integration.harness import World
from tests.integration.server.harness import served, with_provider
from tests.provider import StandInProvider


async def test_missing_extra_is_reported_with_its_remedy(
    paid: World, provider: StandInProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paid.insert("my vocals sound muddy")
    async with served(paid.store, **with_provider(provider)) as server:
        monkeypatch.setitem(sys.modules, "tiktoken", None)
        request = {"model": paid.collection.model.name, "input": "mud"}
        refused = [
            await server.post("/v1/embeddings", request, 409),
            await server.post("/api/runs", {"collection": "notes"}, 409),
            await server.post("/api/search", {"collection": "notes", "query": "mud"}, 409),
        ]
        for problem in refused:
            assert problem["type"] == "urn:backline:problem:MissingExtraError"
            assert "pip install 'backline[openai]'" in problem["detail"]
        assert provider.calls == []
        words = {"collection": "notes", "query": "mud", "mode": "keyword"}
        await server.post("/api/search", words, 200)
        assert (await server.get("/api/runs"))["runs"] == []
