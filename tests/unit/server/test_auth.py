"""The rules of access, without a server."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from backline import errors
from backline.config import Settings
from backline.server.auth import AccessPolicy, RateLimit, is_loopback


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True),
        ("localhost", True), ("0.0.0.0", False), ("::", False), ("192.168.1.5", False),
        ("example.com", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_this_machines_own_address(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_no_other_address_without_a_key(host: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="BACKLINE_API_KEY"):
        AccessPolicy(Settings(host=host))
    AccessPolicy(Settings(host=host, api_key=SecretStr("k")))


def test_protected_reads_need_a_key_to_protect_them() -> None:
    with pytest.raises(errors.ConfigurationError, match="BACKLINE_API_KEY"):
        AccessPolicy(Settings(protect_reads=True))


def test_hosts_elsewhere_are_all_or_those_named() -> None:
    key = SecretStr("k")
    AccessPolicy(Settings(host="0.0.0.0", api_key=key)).check_host("any.example:80")
    named = AccessPolicy(Settings(host="0.0.0.0", api_key=key, allowed_hosts=("api.example",)))
    named.check_host("API.example:80")
    with pytest.raises(errors.ForbiddenError, match=r"other\.example"):
        named.check_host("other.example")


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({"authorization": "Bearer k€y"}, True), ({"authorization": "bearer  k€y "}, True),
        ({"x-api-key": "k€y"}, True), ({"authorization": "Basic k€y"}, False),
        ({"authorization": "Bearer"}, False), ({"x-api-key": "k€"}, False), ({}, False),
        ({"authorization": "Bearer wrong", "x-api-key": "k€y"}, False),
    ],
)  # fmt: skip
def test_the_key_is_read_from_either_header(headers: dict[str, str], known: bool) -> None:
    assert AccessPolicy(Settings(api_key=SecretStr("k€y"))).authorized(headers) is known


def test_the_rate_is_a_bucket_for_each_address() -> None:
    now = 0.0
    rate = RateLimit(2.0, clock=lambda: now)
    for _ in range(20):
        rate.take("a")
    with pytest.raises(errors.RateLimitedError) as refused:
        rate.take("a")
    assert refused.value.retry_after == 1
    rate.take("b")
    now = 1.0
    rate.take("a")
    rate.take("a")
    with pytest.raises(errors.RateLimitedError):
        rate.take("a")


def test_addresses_are_forgotten_not_gathered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backline.server.auth.MAX_ADDRESSES", 100)
    rate = RateLimit(1.0)
    for n in range(1000):
        rate.take(str(n))
    assert len(rate._buckets) == 100


def test_the_rate_is_free_here_and_limited_elsewhere() -> None:
    here, elsewhere = RateLimit.of(Settings()), RateLimit.of(Settings(host="0.0.0.0"))
    for _ in range(200):
        here.take("a")
        elsewhere.take("a")
    for _ in range(1000):
        here.take("a")
    with pytest.raises(errors.RateLimitedError):
        for _ in range(100):
            elsewhere.take("a")
