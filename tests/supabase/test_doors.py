"""A query and a passage are marked alike on every path that embeds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from backline.embedders import registry
from backline.embedders.providers import EmbedderOptions, open_embedder
from backline.postgres.store import open_store
from tests.integration.server.harness import Served, served
from tests.provider import StandInProvider
from tests.supabase.function import SECRET, function_running
from tests.supabase.processes import RESPONSE_TIMEOUT_S
from tests.supabase.stack import Project
from tests.supabase.world import rest_world


@dataclass(frozen=True)
class Case:
    """A model, and what a request says of passages and of queries.

    Attributes:
        dimensions: the model's default.
        passage: the type of a passage, or the prefix of its text; `query` likewise.
    """

    spec: str
    dimensions: int
    passage: str
    query: str

    @property
    def provider(self) -> str:
        return self.spec.partition("/")[0]

    @property
    def name(self) -> str:
        return self.spec.partition("/")[2].partition("@")[0]


CASES = [
    Case("voyage/voyage-3.5@256", 1024, "document", "query"),
    Case("cohere/embed-v4.0@256", 1536, "search_document", "search_query"),
    Case("gemini/gemini-embedding-001@128", 3072, "RETRIEVAL_DOCUMENT", "RETRIEVAL_QUERY"),
    Case("ollama/nomic-embed-text@64", 768, "search_document: ", "search_query: "),
    Case("tei/intfloat/multilingual-e5-base", 768, "passage: ", "query: "),
    Case("compatible/intfloat/multilingual-e5-large", 1024, "passage: ", "query: "),
]


@pytest.fixture(params=CASES, ids=lambda case: case.provider)
def case(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


@pytest.fixture
def server(case: Case) -> Iterator[StandInProvider]:
    models = {"" if case.provider == "tei" else case.name: case.dimensions}
    with StandInProvider(dialect=case.provider, models=models) as started:
        yield started


def mark(server: StandInProvider, text: str) -> str:
    """Return how the only request marked `text`, and forget the request."""
    [call] = server.calls
    assert (call.status, len(call.texts)) == (200, 1)
    assert call.texts[0].endswith(text)
    server.reset()
    return call.type or call.texts[0].removesuffix(text)


async def test_every_door_marks_texts_alike(
    project: Project, case: Case, server: StandInProvider
) -> None:
    options = EmbedderOptions(api_key=server.api_key, base_url=server.base_url)
    settings: dict[str, Any] = {
        f"{case.provider}_api_key": SecretStr(server.api_key),
        f"{case.provider}_base_url": server.base_url,
    }
    async with (
        open_store(project.url) as store,
        rest_world(project, embedder=await open_embedder(case.spec, options)) as world,
        served(store, **settings) as api,
    ):
        await world.insert("from a worker")
        assert (await world.fill()).complete
        assert mark(server, "from a worker") == case.passage

        await world.insert("from the function", first=2)
        assert _through_function(project, case, server, 2, "from the function") == 200
        assert mark(server, "from the function") == case.passage

        await world.insert("from a row", first=3)
        rows = [{"id": 3, "text": "from a row"}]
        await _post(api, "/api/upsert-embeddings", rows=rows, collection="notes")
        assert mark(server, "from a row") == case.passage

        question = {"query": "a question", "collection": "notes", "mode": "semantic"}
        assert len((await _post(api, "/api/search", **question))["hits"]) == 3
        assert mark(server, "a question") == case.query

        model = case.spec.partition("@")[0]
        for member in ("input_type", "prompt_name"):
            for word, expected in WORDS.items():
                await _post(api, "/v1/embeddings", model=model, input="a text", **{member: word})
                assert mark(server, "a text") == getattr(case, expected)
        await _post(api, "/v1/embeddings", model=model, input="a text")
        assert mark(server, "a text") == case.passage


WORDS = {
    "passage": "passage", "document": "passage", "search_document": "passage", "query": "query",
    "search_query": "query", "retrieval.query": "query", "RETRIEVAL_QUERY": "query",
}  # fmt: skip


async def _post(api: Served, path: str, **body: Any) -> Any:
    response = await api.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def _through_function(
    project: Project, case: Case, server: StandInProvider, key: int, text: str
) -> int:
    entry = registry.providers()[case.provider]
    variables = {entry.keys[0]: server.api_key, entry.addresses[0]: server.base_url}
    with function_running(project, **variables) as url:
        body = {"rows": [{"id": key, "text": text}], "collection": "notes"}
        headers = {"Authorization": f"Bearer {SECRET}"}
        return httpx.post(url, json=body, headers=headers, timeout=RESPONSE_TIMEOUT_S).status_code


async def test_words_that_name_no_purpose_are_refused(project: Project) -> None:
    async with open_store(project.url) as store, served(store) as api:
        for body, message in (
            ({"input_type": "question"}, "Send query or passage"),
            ({"input_type": "query", "prompt_name": "passage"}, "differ"),
        ):
            response = await api.http.post(
                "/v1/embeddings", json={"model": "hash", "input": "x", **body}
            )
            assert response.status_code == 422, response.text
            assert message in response.json()["detail"]


async def test_function_refuses_passages_that_it_would_mark_otherwise(
    project: Project, provider: StandInProvider
) -> None:
    """As of a model that only `backline.toml` declares, or of a function of another version."""
    case = CASES[0]
    with StandInProvider(dialect="voyage", models={case.name: case.dimensions}) as server:
        async with rest_world(project, provider) as world:
            await world.insert("one")
            project.execute(
                "update backline.collections set model_id = "
                "backline.model_id('voyage', 'voyage-3.5', 'v1-00000000', 8) where name = 'notes'"
            )
            assert _through_function(project, case, server, 1, "one") == 409
        assert server.calls == []
