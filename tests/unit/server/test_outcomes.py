"""The outcome sentences that the server and the Edge Function share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backline.server.upsert import outcomes

ROOT = Path(__file__).resolve().parents[3]


def test_the_edge_functions_copy_is_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "outcomes.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_every_reason_for_a_skipped_row_has_a_sentence() -> None:
    reasons = {"gone", "changed", "unstable", "busy", "lost", "twice", "time"}
    assert reasons == set(outcomes())
    assert all(sentence.endswith(".") for sentence in outcomes().values())
