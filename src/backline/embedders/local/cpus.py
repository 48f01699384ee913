"""Count the processors that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cpus() -> int:
    """Return the processors of this process: its affinity, limited by the container's quota."""
    quota = _cgroup_quota(Path("/sys/fs/cgroup"), _own_cgroup(Path("/proc/self/cgroup")))
    return max(1, min(_affinity(), quota or _affinity()))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _own_cgroup(listing: Path) -> str:
    """Return the process's path in the cgroup v2 hierarchy, or "" without one."""
    try:
        lines = listing.read_text().splitlines()
    except OSError:
        return ""
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def _cgroup_quota(root: Path, group: str) -> int | None:
    """Return the lowest cpu.max of the process's group and its ancestors, in whole CPUs."""
    at, quotas = root / group, []
    while True:
        quotas.append(_read_quota(at / "cpu.max"))
        if at == root:
            break
        at = at.parent
    limits = [quota for quota in quotas if quota]
    return min(limits) if limits else None


def _read_quota(path: Path) -> int | None:
    """Parse one cpu.max file: "<quota> <period>" in microseconds, or "max <period>"."""
    try:
        quota, period = path.read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None
