"""Loading of models in the catalog and of folders, and the errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.unit.local.tiny import naive_vector, write_tiny_model

from backline.embedders.base import Embedder
from backline.embedders.local import LocalEmbedder, find_model, models, open_local
from backline.errors import ConfigurationError, ModelNotFoundError, WeightsError


async def test_minilm_has_its_published_identity(minilm: LocalEmbedder) -> None:
    assert isinstance(minilm, Embedder)
    assert minilm.model.identity == ("local", "all-MiniLM-L6-v2", "c9745ed1d9f2", 384)
    assert minilm.model.max_tokens == 256
    assert minilm.free is False


async def test_info_describes_model_and_engine(minilm_folder: Path) -> None:
    embedder = await open_local(engine="numpy", threads=1)
    info = embedder.info()
    await embedder.aclose()
    assert (info.name, info.dimensions, info.max_tokens) == ("all-MiniLM-L6-v2", 384, 256)
    assert (info.engine, info.precision, info.threads, info.cached) == ("numpy", "f32", 1, True)
    assert 90e6 < info.size_bytes < 100e6


@pytest.mark.parametrize("engine", ["numpy", "openvino-f32"])
@pytest.mark.parametrize("pooling", ["mean", "cls", None])
async def test_folder_uses_its_pooling_file(
    tmp_path: Path, pooling: str | None, engine: str
) -> None:
    if engine.startswith("openvino"):
        pytest.importorskip("openvino")
    folder = write_tiny_model(tmp_path / "mine", pooling=pooling)
    embedder = await open_local(f"local:{folder}", engine=engine)
    vectors = await embedder.embed(["my vocals sound muddy", "pan wide"])
    ids = embedder._tokenizer.encode(["my vocals sound muddy", "pan wide"])
    await embedder.aclose()
    expected = [naive_vector(folder, row.tolist(), pooling or "mean") for row in ids]
    np.testing.assert_allclose(vectors, expected, atol=3e-6)
    assert (embedder.model.provider, embedder.model.name) == ("local", "mine")
    assert embedder.model.dimensions == 32


async def test_xlm_roberta_positions_start_after_the_padding_id(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "multilingual", family="xlm-roberta")
    embedder = await open_local(f"local:{folder}", engine="numpy")
    vectors = await embedder.embed(["gently pan drums", "mud " * 100])
    ids = embedder._tokenizer.encode(["gently pan drums", "mud " * 100])
    await embedder.aclose()
    assert embedder.model.max_tokens == 38
    assert [len(row) for row in ids][1] == 38
    np.testing.assert_allclose(
        vectors, [naive_vector(folder, row.tolist()) for row in ids], atol=3e-6
    )


async def test_folder_with_a_catalog_name_uses_its_conventions(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "e5-small-v2")
    embedder = await open_local(f"local:{folder}", engine="numpy")
    passage, query = (
        await embedder.embed(["drums"]),
        await embedder.embed(["drums"], purpose="query"),
    )
    plain = write_tiny_model(tmp_path / "plain")
    other = await open_local(f"local:{plain}", engine="numpy")
    np.testing.assert_allclose(passage, await other.embed(["passage: drums"]), atol=1e-6)
    np.testing.assert_allclose(query, await other.embed(["query: drums"]), atol=1e-6)
    assert np.abs(passage - query).max() > 1e-3
    await embedder.aclose()
    await other.aclose()


async def test_revision_of_a_folder_follows_its_content(tmp_path: Path) -> None:
    revisions = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = write_tiny_model(tmp_path / name, seed=seed)
        embedder = await open_local(f"local:{folder}", engine="numpy")
        revisions.append(embedder.model.revision)
        await embedder.aclose()
    assert revisions[0] == revisions[1] != revisions[2]
    assert len(revisions[0]) == 12


async def test_length_limit_comes_from_the_sentence_transformers_file(tiny_folder: Path) -> None:
    (tiny_folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    embedder = await open_local(f"local:{tiny_folder}", engine="numpy")
    await embedder.aclose()
    assert embedder.model.max_tokens == 9


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
async def test_missing_file_is_named(tiny_folder: Path, missing: str) -> None:
    (tiny_folder / missing).unlink()
    with pytest.raises(WeightsError, match=f"holds no {missing}"):
        await open_local(f"local:{tiny_folder}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "'t5' model"),
        ({"hidden_act": "relu"}, "'relu' is not supported"),
        ({"position_embedding_type": "relative_key"}, "absolute"),
        ({"num_hidden_layers": 3}, r"encoder\.layer\.2"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
async def test_unsupported_model_is_rejected(
    tiny_folder: Path, change: dict[str, object], message: str
) -> None:
    config = json.loads((tiny_folder / "config.json").read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (tiny_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        await open_local(f"local:{tiny_folder}", engine="numpy")


async def test_damaged_weights_raise_weights_error(tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(WeightsError, match="not a readable weights"):
        await open_local(f"local:{tiny_folder}", engine="numpy")


async def test_unsupported_pooling_is_rejected(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", pooling="max")
    with pytest.raises(WeightsError, match="neither mean nor cls"):
        await open_local(f"local:{folder}")


async def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match="no engine 'warp'"):
        await open_local(engine="warp")
    with pytest.raises(ConfigurationError, match="threads is 0"):
        await open_local(threads=0)
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        await open_local("no-such-model")


def test_models_are_found_with_and_without_organization() -> None:
    for info in models().values():
        assert find_model(info.name) == find_model(info.repository) == info
        assert len(info.revision) == 40
    with pytest.raises(ModelNotFoundError):
        find_model("someone-else/all-MiniLM-L6-v2")
