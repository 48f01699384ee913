"""Parsing, describing and opening of embedder specifications, and their errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.provider import StandInProvider

from backline import embedders
from backline.embedders import registry
from backline.embedders.local import models
from backline.embedders.providers import (
    EmbedderOptions,
    EmbedderSpec,
    describe,
    open_embedder,
    parse_spec,
)
from backline.errors import (
    ConfigurationError,
    ModelNotFoundError,
    ProviderUnavailableError,
    WeightsError,
)


@pytest.mark.parametrize(
    ("text", "spec", "canonical"),
    [
        ("local", ("local", "all-MiniLM-L6-v2", None), "local/all-MiniLM-L6-v2"),
        ("local/gte-small", ("local", "gte-small", None), "local/gte-small"),
        ("local/thenlper/gte-small", ("local", "thenlper/gte-small", None), None),
        ("local:/models/mine@home", ("local", "local:/models/mine@home", None), None),
        ("hash", ("hash", "hash", None), "hash"),
        ("hash@1536", ("hash", "hash", 1536), "hash@1536"),
        ("openai", ("openai", "text-embedding-3-small", None), "openai/text-embedding-3-small"),
        (" openai@512 ", ("openai", "text-embedding-3-small", 512), None),
        ("openai/text-embedding-3-large@256", ("openai", "text-embedding-3-large", 256), None),
        ("openai/BAAI/bge-m3", ("openai", "BAAI/bge-m3", None), None),
        ("openai/nomic-embed-text:v1.5@768", ("openai", "nomic-embed-text:v1.5", 768), None),
        ("voyage/voyage-3.5@512", ("voyage", "voyage-3.5", 512), "voyage/voyage-3.5@512"),
        ("tei/BAAI/bge-m3", ("tei", "BAAI/bge-m3", None), "tei/BAAI/bge-m3"),
        ("compatible/mine@7", ("compatible", "mine", 7), "compatible/mine@7"),
    ],
)
def test_every_form_parses_and_round_trips(
    text: str, spec: tuple[str, str, int | None], canonical: str | None
) -> None:
    parsed = parse_spec(text)
    assert (parsed.provider, parsed.name, parsed.dimensions) == spec
    assert parse_spec(str(parsed)) == parsed
    assert canonical is None or str(parsed) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opneai",
        "openai/",
        "hash/384",
        "local:",
        "openai/x@y",
        "openai@",
        "coher/embed",
        "voyage",
        "tei@3",
    ],
)
def test_unknown_model_lists_the_forms_the_providers_and_the_local_models(text: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        parse_spec(text)
    for name in (repr(text), "hash@DIMENSIONS", *models(), *registry.providers()):
        assert name in str(caught.value)


def test_unknown_model_names_a_close_one() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Did you mean voyage/voyage-3\.5\?"):
        parse_spec("voyag/voyage-3.5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hash@0", "0 dimensions; it supports 1 to 16000"),
        ("hash@16001", "16001 dimensions"),
        ("local@384", "Leave off @384"),
        ("openai/text-embedding-3-small@1537", "1537 dimensions; it returns 1 to 1536"),
        ("openai/text-embedding-ada-002@512", "512 dimensions; it returns 1536"),
        ("openai/unknown@0", "0 dimensions; the least is 1"),
    ],
)
def test_error_about_dimensions_names_both_numbers(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_spec(text)


@pytest.mark.parametrize(
    "text", ["hash", "hash@7", "local", "openai", "openai/text-embedding-3-large@64"]
)
async def test_description_equals_the_opened_model(text: str) -> None:
    with StandInProvider() as provider:
        described = describe(text)
        try:
            embedder = await open_embedder(text, reaching(provider))
        except WeightsError:
            pytest.skip("the local weights are not here: backline model pull")
        assert described == embedder.model
        assert provider.calls == []
        await embedder.aclose()


def test_identity_known_only_after_opening_is_none() -> None:
    assert describe("openai/mine") is None
    assert describe("local:/models/mine") is None
    given = describe("openai/mine@768")
    assert given is not None
    assert given.identity == ("openai", "mine", "v1", 768)


def test_unknown_local_model_is_not_described() -> None:
    with pytest.raises(ModelNotFoundError, match="all-MiniLM-L6-v2"):
        describe(EmbedderSpec("local", "all-MiniLM-L7"))


async def test_missing_openai_key_names_the_variable() -> None:
    for options in (None, EmbedderOptions(), EmbedderOptions(api_key=SecretStr(""))):
        with pytest.raises(ConfigurationError, match="set OPENAI_API_KEY"):
            await open_embedder("openai", options)


async def test_other_server_needs_no_key() -> None:
    with StandInProvider(api_key="no-key-needed", models={"nomic": 5}) as provider:
        options = EmbedderOptions(base_url=provider.base_url)
        embedder = await open_embedder("openai/nomic", options)
        assert (await embedder.embed(["a"])).shape == (1, 5)
        await embedder.aclose()


async def test_limits_reach_the_callback() -> None:
    seen: list[int | None] = []
    with StandInProvider() as provider:
        provider.behave(requests_per_minute=77)
        options = EmbedderOptions(
            api_key=provider.api_key,
            base_url=provider.base_url,
            on_limits=lambda limits: seen.append(limits.requests),
        )
        embedder = await open_embedder("openai", options)
        await embedder.embed(["a"])
        await embedder.aclose()
    assert seen == [77]


async def test_timeout_applies_to_the_provider() -> None:
    with StandInProvider() as provider, provider.held():
        options = EmbedderOptions(
            api_key=provider.api_key, base_url=provider.base_url, timeout_s=0.1
        )
        embedder = await open_embedder("openai", options)
        with pytest.raises(ProviderUnavailableError, match="in time"):
            await embedder.embed(["a"])
        await embedder.aclose()


async def test_folder_without_a_model_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        await open_embedder(f"local:{tmp_path}")


async def test_options_apply_to_the_local_embedder() -> None:
    with pytest.raises(ConfigurationError, match="no engine 'abacus'"):
        await open_embedder("local", EmbedderOptions(local_engine="abacus"))
    with pytest.raises(ConfigurationError, match="threads is 0"):
        await open_embedder("local", EmbedderOptions(local_threads=0))


def test_key_is_not_in_the_repr_of_options() -> None:
    assert "secret" not in repr(EmbedderOptions(api_key="sk-secret"))


def test_unused_provider_is_not_imported() -> None:
    code = (
        "import sys, asyncio; from backline.embedders.providers import open_embedder;"
        "asyncio.run(open_embedder('hash'));"
        "sys.exit(' '.join({'openai', 'tiktoken', 'tokenizers'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr.strip()) == (0, "")


def reaching(provider: StandInProvider) -> EmbedderOptions:
    return EmbedderOptions(api_key=provider.api_key, base_url=provider.base_url)


def test_exported_names_are_importable() -> None:
    for name in embedders.__all__:
        assert getattr(embedders, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        embedders.Oracle  # noqa: B018
