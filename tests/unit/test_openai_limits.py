"""Rate limits in the response headers of OpenAI's API."""

from __future__ import annotations

import pytest

from backline.embedders import registry
from backline.embedders.headers import parse_duration, parse_limits, parse_retry_after

NAMES = registry.providers()["openai"].limits


def test_responses_without_limits_report_nothing() -> None:
    assert parse_limits({"content-type": "application/json"}, NAMES) is None
    assert parse_limits({"x-ratelimit-limit-requests": "many"}, NAMES) is None
    assert parse_retry_after({"x-ratelimit-limit-requests": "3"}, NAMES) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12", 12.0),
        ("1.5", 1.5),
        ("120ms", 0.12),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("7m12s", 432.0),
        ("250us", 0.00025),
        ("", None),
        ("s", None),
        ("1x", None),
        ("nan", None),
        ("inf", None),
        (None, None),
    ],
)
def test_durations_are_parsed(text: str | None, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))
