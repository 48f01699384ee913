from __future__ import annotations

import os
from pathlib import Path

import pytest

from backline.embedders.local import cpus


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000", None), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)],
)
def test_quota_is_read_in_whole_processors(tmp_path: Path, text: str, quota: int | None) -> None:
    write(tmp_path / "cpu.max", text)
    assert cpus._cgroup_quota(tmp_path, "") == quota


def test_lowest_quota_of_the_ancestors_applies(tmp_path: Path) -> None:
    write(tmp_path / "cpu.max", "max 100000")
    write(tmp_path / "a" / "cpu.max", "300000 100000")
    write(tmp_path / "a" / "b" / "cpu.max", "800000 100000")
    assert cpus._cgroup_quota(tmp_path, "a/b") == 3


def test_own_cgroup_is_the_unified_one(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", "1:cpu:/old\n0::/user.slice/app\n")
    assert cpus._own_cgroup(tmp_path / "cgroup") == "user.slice/app"
    assert cpus._own_cgroup(tmp_path / "missing") == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_is_respected() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cpus.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= cpus.usable_cpus() <= len(allowed)
