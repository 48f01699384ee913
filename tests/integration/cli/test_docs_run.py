"""The shell blocks of the README and the quickstart run in order, in an empty home."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"(?P<skip><!-- not run: [^>]+ -->\n)?```sh\n(?P<script>.*?)```", re.DOTALL)


def blocks(page: str) -> list[str]:
    matches = BLOCK.finditer((ROOT / page).read_text())
    return [block["script"] for block in matches if not block["skip"]]


@pytest.mark.parametrize(
    ("page", "count", "expected"),
    [
        ("README.md", 2, ["Verify music_knowledge: passed", "1. Refund not received"]),
        (
            "docs/quickstart.md",
            4,
            ["292 of 292 rows embedded", "  embedded  1 row in 1 request,", "0 to embed"],
        ),
    ],
)
def test_the_shell_blocks_run(tmp_path: Path, page: str, count: int, expected: list[str]) -> None:
    scripts = blocks(page)
    assert len(scripts) == count
    commands = str(Path(sys.executable).parent)
    venv = Path(commands).parent
    # Runs the same targets from another folder, with the environment that runs this test.
    make = f'make() {{ command make -f {ROOT}/Makefile VENV={venv} -o {venv}/.ready "$@"; }}'
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "BACKLINE_DATA_DIR": str(tmp_path / "postgres"),
    }
    done = subprocess.run(
        ["bash", "-eu"], input="\n".join([make, *scripts]), cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    for words in expected:
        assert words in done.stdout, (words, done.stdout)
