"""OpenAI's official clients and LangChain against the server."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from pydantic import SecretStr
from tests.integration.harness import World, eventually
from tests.integration.server.harness import Served, served
from tests.provider import StandInProvider

from backline.embedders.hash import hash_vectors
from backline.embedders.local.batcher import Batcher
from backline.embedders.providers import open_embedder

JS = Path(__file__).parent / "js"
TEXTS = ["muddy vocals", "a longer text about the low end of a mix", "é ü 漢字 🎛️"]


def client_of(server: Served, key: str = "none needed") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


async def test_python_client_reads_lists_floats_and_base64(server: Served) -> None:
    async with client_of(server) as client:
        expected = hash_vectors(TEXTS, 384)
        many = await client.embeddings.create(model="hash", input=TEXTS)  # base64 on the wire
        assert [each.index for each in many.data] == [0, 1, 2]
        assert np.array_equal(np.array([e.embedding for e in many.data], np.float32), expected)
        one = await client.embeddings.create(model="hash", input=TEXTS[0], encoding_format="float")
        assert np.array_equal(np.array(one.data[0].embedding, np.float32), expected[0])
        assert one.usage.prompt_tokens == one.usage.total_tokens == 3
        assert one.model == "hash"
        raw = await client.embeddings.with_raw_response.create(
            model="hash", input="x", encoding_format="base64"
        )
        assert isinstance(json.loads(raw.text)["data"][0]["embedding"], str)


async def test_python_client_chooses_dimensions_and_lists_models(
    server: Served, world: World
) -> None:
    async with client_of(server) as client:
        few = await client.embeddings.create(model="hash", input="x", dimensions=16)
        assert len(few.data[0].embedding) == 16
        assert "hash@8" in [model.id async for model in client.models.list()]
        with pytest.raises(openai.UnprocessableEntityError, match="8 dimensions, and 9"):
            await client.embeddings.create(model="hash@8", input="x", dimensions=9)


async def test_python_client_raises_its_own_errors(world: World) -> None:
    async with served(world.store, key="the key") as server, client_of(server, "wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="key"):
            await client.embeddings.create(model="hash", input="x")
        client.api_key = "the key"
        with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
            await client.embeddings.create(model="gpt", input="x")
        with pytest.raises(openai.UnprocessableEntityError, match="tokens of another model"):
            await client.embeddings.create(model="hash", input=[1, 2, 3])
        with pytest.raises(openai.APIStatusError) as caught:
            await client.embeddings.create(model="hash", input=["x"] * 2049)
        assert caught.value.status_code == 413
        assert (await client.embeddings.create(model="hash", input="x")).data


async def test_local_model_returns_the_same_vectors_as_in_process(server: Served) -> None:
    embedder = await open_embedder("local")
    expected = await embedder.embed(TEXTS)
    await embedder.aclose()
    async with client_of(server) as client:
        result = await client.embeddings.create(model="local/all-MiniLM-L6-v2", input=TEXTS)
        given = np.array([each.embedding for each in result.data], np.float32)
        assert np.allclose(given, expected, atol=1e-5)


async def test_javascript_client(server: Served) -> None:
    result = await run_js(server.url)
    expected = hash_vectors(TEXTS, 384)
    assert np.allclose(np.array(result["many"], np.float32), expected, atol=1e-7)
    assert np.allclose(np.array(result["one"], np.float32), expected[0], atol=1e-7)
    assert np.allclose(np.array(result["floats"], np.float32), expected[1], atol=1e-7)
    assert result["few"] == 16
    assert result["refused"] == {"status": 404, "code": "ModelNotFoundError"}
    assert result["usage"]["total_tokens"] > 0


async def run_js(url: str) -> Any:
    """Run a script that uses OpenAI's npm package."""
    node = shutil.which("node")
    if node is None or not (JS / "node_modules" / "openai").is_dir():
        pytest.skip("OpenAI's JavaScript client is not installed. Run: make js")
    process = await asyncio.create_subprocess_exec(
        node, str(JS / "client.mjs"), f"{url}/v1", json.dumps(TEXTS),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_langchain(server: Served) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised by LangChain's imports
        from langchain_openai import OpenAIEmbeddings
    with openai.DefaultHttpxClient() as unused:
        async with openai.DefaultAsyncHttpxClient() as http:
            embeddings = OpenAIEmbeddings(
                model="hash", openai_api_base=f"{server.url}/v1", openai_api_key=SecretStr("none"),
                check_embedding_ctx_length=False, http_client=unused, http_async_client=http,
            )  # fmt: skip
            documents = await embeddings.aembed_documents(TEXTS)
            query = await embeddings.aembed_query(TEXTS[0])
    expected = hash_vectors(TEXTS, 384)
    assert np.allclose(np.array(documents, np.float32), expected, atol=1e-7)
    assert np.allclose(np.array(query, np.float32), expected[0], atol=1e-7)


async def test_concurrent_requests_share_batches(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = Batcher._next_parts

    def counting(self: Batcher) -> Any:
        taken = original(self)
        sizes.append(len(taken))
        return taken

    monkeypatch.setattr(Batcher, "_next_parts", counting)
    async with client_of(server) as client:
        vectors: dict[int, Any] = {}
        await client.embeddings.create(model="local/all-MiniLM-L6-v2", input="warm")
        await asyncio.gather(*(one_local(client, n, vectors) for n in range(40)))
    assert max(sizes) > 1
    embedder = await open_embedder("local")
    expected = await embedder.embed([f"text {n}" for n in range(40)])
    await embedder.aclose()
    assert all(np.allclose(vectors[n], expected[n], atol=1e-5) for n in range(40))


async def one_local(client: openai.AsyncOpenAI, n: int, vectors: dict[int, Any]) -> None:
    result = await client.embeddings.create(model="local/all-MiniLM-L6-v2", input=f"text {n}")
    vectors[n] = np.array(result.data[0].embedding, np.float32)


async def test_text_of_a_disconnected_client_is_not_embedded(
    paid_server: Served, provider: StandInProvider
) -> None:
    """Two calls occupy both tasks of the batcher; the third waits and is cancelled."""
    model = "openai/text-embedding-3-small"
    async with client_of(paid_server) as client:
        with provider.held():
            busy = []
            for n in range(2):
                busy.append(asyncio.create_task(_embed(client, model, f"busy {n}")))
                await eventually(
                    lambda: provider.in_flight == len(busy), "the call to be in flight"
                )
            cancelled = asyncio.create_task(_embed(client, model, "cancelled"))
            await eventually(lambda: waiting(paid_server), "the call to wait")
            cancelled.cancel()
            await eventually(
                lambda: not waiting(paid_server), "the server to notice the disconnect"
            )
        await asyncio.gather(*busy)
        await _embed(client, model, "after")
    assert set(provider.texts_embedded) == {"busy 0", "busy 1", "after"}


def waiting(server: Served) -> bool:
    """Return whether a call waits for its batch."""
    batchers = [pooled.embedder._calls for pooled in server.services.embedder_pool._open.values()]
    return any(not call.result.cancelled() for each in batchers for call in each._calls)


async def _embed(client: openai.AsyncOpenAI, model: str, text: str) -> Any:
    return await client.embeddings.create(model=model, input=text)
