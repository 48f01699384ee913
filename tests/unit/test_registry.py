"""The registry of models and providers: its files, declared models, look-ups and announced ends."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from backline import config, errors
from backline.collections import announced_end
from backline.embedders import registry
from backline.embedders.http.wires import WIRES, address
from backline.embedders.providers import PROVIDERS, describe, spec_of
from backline.provider_settings import ProviderSettings
from backline.types import Collection, Model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _nothing_declared() -> Iterator[None]:
    yield
    registry.declare([])


# --- the files ------------------------------------------------------------------------------------


def test_every_entry_has_the_date_of_its_check_and_its_own_name() -> None:
    entries = registry.models()
    assert all(each.checked for each in entries)
    names = [each.id or each.repository for each in entries]
    assert len(names) == len(set(names))
    for each in entries:
        assert each.successor is None or each.successor in names, each.id
        assert each.ends is None or each.successor, "an end without a replacement"


def test_every_provider_has_a_wire_a_parser_and_settings() -> None:
    for name, entry in registry.providers().items():
        assert entry.wire in WIRES
        assert name in PROVIDERS
        assert config.names_of(f"{name}_api_key") == list(entry.keys)
        assert config.names_of(f"{name}_base_url") == list(entry.addresses)
        assert entry.base_url or entry.addresses
    settings = {
        name.rpartition("_")[0].rpartition("_")[0] for name in ProviderSettings.model_fields
    }
    assert settings == set(registry.providers())


def test_every_model_with_a_name_can_be_described_and_opened_again() -> None:
    for each in registry.models():
        if each.id is not None:
            model = describe(each.id)
            assert model is not None
            assert model.dimensions == each.dimensions
            again = describe(spec_of(model))
            assert again is not None
            assert again.identity == model.identity


def test_models_of_the_edge_function_are_up_to_date() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "models.py"), "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr


def test_no_module_lists_models_of_providers() -> None:
    """Names of models, prices and prefixes are data."""
    names = {each.name for each in registry.models() if each.provider in registry.providers()}
    names |= {each.query.strip() for each in registry.models() if len(each.query) > 10}
    allowed = {"text-embedding-3-small"}  # OpenAI's default
    for path in (ROOT / "src" / "backline").rglob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not {name for name in names - allowed if f'"{name}"' in code}, path


# --- look-ups -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "name", "repository"),
    [
        ("ollama", "nomic-embed-text", "nomic-ai/nomic-embed-text-v1.5"),
        ("ollama", "nomic-embed-text:v1.5", "nomic-ai/nomic-embed-text-v1.5"),
        ("ollama", "qwen3-embedding:0.6b", "Qwen/Qwen3-Embedding-0.6B"),
        ("ollama", "qwen3-embedding:8b", None),
        ("tei", "intfloat/e5-small-v2", "intfloat/e5-small-v2"),
        ("vllm", "BGE-M3", "BAAI/bge-m3"),
        ("compatible", "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("openai", "nomic-embed-text", "nomic-ai/nomic-embed-text-v1.5"),
        ("voyage", "nomic-embed-text", None),
        ("cohere", "BAAI/bge-m3", None),
    ],
)
def test_self_hosted_servers_find_open_weights_by_any_of_their_names(
    provider: str, name: str, repository: str | None
) -> None:
    entry = registry.find(provider, name)
    assert (entry and entry.repository) == repository


def test_azure_serves_the_models_of_openai() -> None:
    described = registry.describe("azure", "text-embedding-3-large", 256)
    assert described == Model("azure", "text-embedding-3-large", "v1", 256, 8192)
    assert registry.price("azure", "text-embedding-3-large") == 0.13
    assert registry.describe("azure", "our-deployment") is None


@pytest.mark.parametrize(
    ("provider", "name", "price"),
    [
        ("openai", "text-embedding-3-small", 0.02),
        ("openai", "house-model", None),
        ("local", "all-MiniLM-L6-v2", 0.0),
        ("local", "a-folder", 0.0),
        ("hash", "hash", 0.0),
        ("ollama", "anything", 0),
        ("compatible", "anything", None),
        ("voyage", "voyage-4", 0.06),
    ],
)
def test_price_is_known_free_or_unknown(provider: str, name: str, price: float | None) -> None:
    assert registry.price(provider, name) == price


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("voyage/voyage-3.5@300", "300 dimensions; it returns 256, 512, 1024, 2048"),
        ("gemini/gemini-embedding-001@64", "64 dimensions; it returns 128 to 3072"),
        ("mistral/mistral-embed@512", "512 dimensions; it returns 1024"),
        ("tei/BAAI/bge-m3@512", "512 dimensions; it returns 1024"),
    ],
)
def test_dimensions_that_the_model_lacks_are_refused(spec: str, message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        describe(spec)


def test_revision_changes_with_what_marks_a_passage() -> None:
    plain = registry.revision("openai", "text-embedding-3-small")
    typed = registry.revision("voyage", "voyage-3.5")
    assert plain == "v1"
    assert typed.startswith("v1-")
    registry.declare([entry(id="voyage/voyage-3.5", dimensions=1024, passage="text: ")])
    assert registry.revision("voyage", "voyage-3.5") not in (plain, typed)
    registry.declare([entry(id="voyage/voyage-3.5", dimensions=1024, query="ask: ")])
    assert registry.revision("voyage", "voyage-3.5") == typed, "a query is not stored"


def entry(**members: object) -> registry.ModelEntry:
    return registry.ModelEntry.model_validate(members)


@pytest.mark.parametrize(
    ("provider", "base", "expected"),
    [
        ("azure", "https://x.test", "https://x.test/openai/v1/embeddings"),
        ("azure", "https://x.test/openai/v1/", "https://x.test/openai/v1/embeddings"),
        ("azure", "https://x.test/openai", "https://x.test/openai/v1/embeddings"),
        ("cohere", "https://x.test/v2", "https://x.test/v2/embed"),
        ("tei", "http://x.test:8080/embed", "http://x.test:8080/embed"),
        ("ollama", "http://x.test/proxy", "http://x.test/proxy/api/embed"),
        ("gemini", "http://x.test/v1beta", "http://x.test/v1beta/models/m%2Fn:batchEmbedContents"),
    ],
)
def test_address_may_end_with_the_beginning_of_the_path(
    provider: str, base: str, expected: str
) -> None:
    assert address(registry.providers()[provider], base, "m/n") == expected


# --- declared models ------------------------------------------------------------------------------

HOUSE = """
[[models]]
id = "compatible/house"
dimensions = 7
choices = [3, 7]
max_tokens = 100
query = "q: "
passage = "p: "
price = 0.5

[[models]]
id = "openai/text-embedding-3-small"
dimensions = 1536
price = 0.01
"""


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "backline.toml"


def test_models_of_backline_toml_precede_the_shipped_ones(toml: Path) -> None:
    toml.write_text(f"batch_size = 3\n{HOUSE}")
    assert config.load().batch_size == 3
    assert describe("compatible/house@3") is not None
    assert registry.prompts("compatible", "house") == registry.Prompts("q: ", "p: ")
    assert registry.price("compatible", "house") == 0.5
    assert registry.price("openai", "text-embedding-3-small") == 0.01
    assert len([each for each in registry.models() if each.id == "compatible/house"]) == 1
    toml.write_text("batch_size = 3\n")
    config.load()
    assert describe("compatible/house") is None, "an entry that is removed does not remain"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ('id = "voyage/x"', "dimensions field required"),
        ('id = "voyage/x"\ndimension = 3', "no field dimension; did you mean dimensions?"),
        ('id = "voyage/x"\ndimensions = 0', "dimensions .*greater than or equal to 1"),
        ('id = "voyage/x"\ndimensions = "3"', "dimensions .*valid integer"),
        ('id = "voyag/x"\ndimensions = 3', "names no provider; there are openai, azure"),
        ('id = "x"\ndimensions = 3', "id .*pattern"),
        ("dimensions = 3", "neither id .* nor repository; write one"),
        ('id = "local/x"\ndimensions = 3', "write its repository and revision"),
        ('id = "tei/x"\ndimensions = 3\nchoices = [1, 2]', "3 dimensions, which its choices"),
        ('id = "tei/x"\ndimensions = 9\nrange = [1, 8]', "9 dimensions, which its choices"),
        ('id = "tei/x"\ndimensions = 3\nrange = [1, 8]\nchoices = [3]', "write one of them"),
        ('id = "tei/x"\ndimensions = 3\nends = "soon"', "ends .*valid date"),
        ('id = "tei/x"\ndimensions = 3\nprice = -1', "price .*greater than or equal to 0"),
        ('id = "tei/x"\ndimensions = 3\nrange = [1]', "range"),
    ],
)
def test_invalid_entry_names_its_place_and_the_remedy(
    toml: Path, members: str, message: str
) -> None:
    toml.write_text(f'[[models]]\nid = "tei/fine"\ndimensions = 3\n\n[[models]]\n{members}\n')
    with pytest.raises(errors.ConfigurationError, match=rf"models entry 2.*: .*{message}"):
        config.load()


@pytest.mark.parametrize("text", ["models = 3", '[models]\nid = "tei/x"', "models = [3]"])
def test_models_that_are_no_array_of_tables_are_refused(toml: Path, text: str) -> None:
    toml.write_text(f"{text}\n")
    with pytest.raises(errors.ConfigurationError, match=r"Write: \[\[models\]\]"):
        config.load()


# --- announced ends -------------------------------------------------------------------------------

TODAY = date(2026, 11, 30)


def collection_of(model: Model) -> Collection:
    return Collection(
        id=1, name="notes", table_schema="public", table_name="notes", key_columns=("id",),
        text_template="{body}", embedding_column="embedding", model_id=1, model=model,
        max_attempts=5, table_exists=True, column_type="vector", column_dimensions=3,
    )  # fmt: skip


def test_announced_end_has_the_date_and_the_command() -> None:
    model = Model("voyage", "old", "v1", 3)
    members = {"id": "voyage/old", "dimensions": 3, "successor": "voyage/voyage-4@256"}
    for days, verb in ((30, "ends"), (1, "ends"), (0, "ended"), (-30, "ended")):
        ends = TODAY + timedelta(days=days)
        registry.declare([entry(**members, ends=ends, checked=TODAY)])
        end = announced_end(collection_of(model), TODAY)
        assert end is not None
        assert end.problem == f"Voyage {verb} old on {ends}, as announced by {TODAY}."
        assert end.remedy == "backline model change notes --to voyage/voyage-4@256"
        other = replace(model, name="new")
        assert announced_end(collection_of(other), TODAY) is None


def test_end_without_a_successor_leaves_the_choice() -> None:
    registry.declare([entry(id="voyage/old", dimensions=3, ends=TODAY)])
    end = announced_end(collection_of(Model("voyage", "old", "v1", 3)), TODAY)
    assert end is not None
    assert end.remedy == "backline model change notes --to MODEL"
    assert end.problem == f"Voyage ended old on {TODAY}."


def test_nothing_is_said_of_models_without_an_announced_end() -> None:
    for model in (
        Model("openai", "text-embedding-3-small", "v1", 1536),
        Model("local", "all-MiniLM-L6-v2", "r", 384),
        Model("hash", "hash", "v1", 3),
        Model("voyage", "unknown", "v1", 3),
    ):
        assert announced_end(collection_of(model), TODAY) is None
