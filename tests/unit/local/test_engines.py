"""Every engine against the encoder written out in float64, on tiny random models."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from tests.unit.local.tiny import naive_vector, write_tiny_model

from backline.embedders.local.bert import read_bert
from backline.embedders.local.catalog import Pooling
from backline.embedders.local.engines.base import Engine
from backline.embedders.local.engines.blas import SingleThreadedBlas
from backline.embedders.local.engines.numpy import erf
from backline.embedders.local.engines.select import choose_engine, start_engine
from backline.errors import ConfigurationError

ENGINES = ["numpy", "openvino-f32"]
LENGTHS = (1, 2, 3, 5, 8, 16, 17, 31, 33, 38)

Start = Callable[[Path, Pooling, str], Engine]


def start(folder: Path, pooling: Pooling, name: str) -> Engine:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    return start_engine(name, read_bert(folder, pooling), 2)


def random_ids(lengths: tuple[int, ...], highest: int = 60) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(4, highest, n).astype(np.int32) for n in lengths]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"wrapper": "bert."},
        {"family": "xlm-roberta"},
        {"dtype": "float16"},
    ],
    ids=["bert", "wrapped", "xlm-roberta", "float16"],
)
def test_engine_agrees_with_the_plain_encoder(
    tmp_path: Path, name: str, pooling: Pooling, variant: dict[str, str]
) -> None:
    folder = write_tiny_model(tmp_path / "model", **variant)  # type: ignore[arg-type]
    texts = random_ids(LENGTHS, 40)
    vectors = start(folder, pooling, name).forward(texts)
    expected = [naive_vector(folder, ids.tolist(), pooling) for ids in texts]
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, expected, atol=3e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_vector_does_not_depend_on_the_sub_batch(tiny_folder: Path, name: str) -> None:
    engine, texts = start(tiny_folder, "mean", name), random_ids(LENGTHS)
    together = engine.forward(texts)
    alone = np.concatenate([engine.forward([ids]) for ids in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_bf16_engine_is_close_to_float32(tiny_folder: Path) -> None:
    texts = random_ids(LENGTHS)
    exact = start(tiny_folder, "mean", "openvino-f32")
    fast = start(tiny_folder, "mean", "openvino-bf16")
    assert (exact.precision, fast.precision) == ("f32", "bf16")
    assert (exact.forward(texts) * fast.forward(texts)).sum(axis=1).min() > 0.999


def test_auto_selects_openvino_if_installed(tiny_folder: Path) -> None:
    engine = start_engine("auto", read_bert(tiny_folder, "mean"), 2)
    try:
        import openvino  # noqa: F401
    except ImportError:
        assert engine.name == "numpy"
    else:
        assert engine.name == "openvino"
    assert engine.threads == 2


def test_auto_falls_back_to_numpy_and_a_named_engine_names_the_remedy(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("openvino", "openvino_import"):
        monkeypatch.delitem(
            sys.modules, f"backline.embedders.local.engines.{module}", raising=False
        )
    monkeypatch.setitem(sys.modules, "openvino", None)
    bert = read_bert(tiny_folder, "mean")
    with pytest.raises(ConfigurationError, match="pip install"):
        start_engine("openvino", bert, 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert start_engine("auto", bert, 2).name == "numpy"


def test_unknown_engine_lists_the_engines(tiny_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"warp.*auto, openvino.*numpy"):
        start_engine("warp", read_bert(tiny_folder, "mean"), 2)


def test_openvino_sends_no_telemetry(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from backline.embedders.local.bert import read_bert\n"
        "from backline.embedders.local.engines.select import start_engine\n"
        "start_engine('openvino', read_bert(Path(sys.argv[1]), 'mean'), 1)\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_folder)],
        env={**os.environ, "HOME": str(home), "USERPROFILE": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert list(home.iterdir()) == []


def test_erf_is_accurate_to_four_ten_millionths() -> None:
    x = np.linspace(-6, 6, 20_001, dtype=np.float32)
    expected = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - expected).max() < 4e-7


def test_blas_is_limited_during_computation_and_restored_after() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}

    with threadpoolctl.threadpool_limits(2):
        blas = SingleThreadedBlas()
        with blas:
            with blas:
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {2}


def test_chosen_engine_is_the_one_that_starts(tmp_path: Path) -> None:
    """`model list` must name the engine that then computes."""
    folder = write_tiny_model(tmp_path / "model")
    for name in ("auto", "numpy", "openvino", "openvino-f32", "openvino-bf16"):
        choice = choose_engine(name, 2)
        engine = start(folder, "mean", name)
        assert (choice.name, choice.precision, choice.threads) == (
            engine.name, engine.precision, engine.threads,
        )  # fmt: skip


def test_slow_engine_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    choice = choose_engine("auto", 2)
    assert choice.name == "numpy"
    assert choice.remedy == "pip install openvino"


def test_unknown_engine_is_rejected_before_loading() -> None:
    with pytest.raises(ConfigurationError, match="auto, openvino, openvino-f32"):
        choose_engine("onnx")
