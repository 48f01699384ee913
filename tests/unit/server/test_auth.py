"""The access policy and the rate limit."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from backline import errors
from backline.config import Settings
from backline.server.auth import AccessPolicy, RateLimit, is_loopback


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True),
        ("localhost", True), ("0.0.0.0", False), ("::", False), ("192.168.1.5", False),
        ("example.com", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_addresses_are_recognized(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="BACKLINE_API_KEY"):
        AccessPolicy(Settings(host=host))
    AccessPolicy(Settings(host=host, api_key=SecretStr("k")))


def test_protected_reads_need_a_key() -> None:
    with pytest.raises(errors.ConfigurationError, match="BACKLINE_API_KEY"):
        AccessPolicy(Settings(protect_reads=True))


def test_public_server_accepts_all_hosts_or_the_allowed_ones() -> None:
    key = SecretStr("k")
    AccessPolicy(Settings(host="0.0.0.0", api_key=key)).check_host("any.example:80")
    named = AccessPolicy(Settings(host="0.0.0.0", api_key=key, allowed_hosts=("api.example",)))
    named.check_host("API.example:80")
    with pytest.raises(errors.ForbiddenError, match=r"other\.example"):
        named.check_host("other.example")


@pytest.mark.parametrize(
    ("headers", "authorized"),
    [
        ({"authorization": "Bearer k€y"}, True), ({"authorization": "bearer  k€y "}, True),
        ({"x-api-key": "k€y"}, True), ({"authorization": "Basic k€y"}, False),
        ({"authorization": "Bearer"}, False), ({"x-api-key": "k€"}, False), ({}, False),
        ({"authorization": "Bearer wrong", "x-api-key": "k€y"}, False),
    ],
)  # fmt: skip
def test_key_is_read_from_either_header(headers: dict[str, str], authorized: bool) -> None:
    policy = AccessPolicy(Settings(api_key=SecretStr("k€y")))
    assert policy.access(headers).may("write") is authorized


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://a.example", "a.example:80", True),
        ("https://a.example", "a.example:443", True),
        ("https://a.example:443", "a.example", True),
        ("https://A.example", "a.EXAMPLE", True),
        ("http://[::1]", "[::1]:80", True),
        ("http://a.example:8000", "a.example:8000", True),
        ("http://a.example", "a.example:443", False),
        ("https://a.example", "a.example:80", False),
        ("https://a.example:80", "a.example", False),
        ("http://a.example:8000", "a.example", False),
        ("http://b.example", "a.example", False),
        ("http://a.example:x", "a.example", False),
        ("null", "a.example", False),
        ("null", "", False),
        ("http://", "", False),
    ],
)
def test_default_ports_are_equal_to_none(origin: str, host: str, same: bool) -> None:
    policy = AccessPolicy(Settings())
    if same:
        policy.check_origin(origin, host)
    else:
        with pytest.raises(errors.ForbiddenError, match="may not use this server"):
            policy.check_origin(origin, host)


@pytest.mark.parametrize("allowed", ["https://a.example", "https://a.example:443"])
@pytest.mark.parametrize("origin", ["https://a.example", "https://a.example:443"])
def test_allowed_origins_are_compared_without_default_ports(allowed: str, origin: str) -> None:
    policy = AccessPolicy(Settings(cors_origins=(allowed,)))
    policy.check_origin(origin, "b.example")
    with pytest.raises(errors.ForbiddenError):
        policy.check_origin("http://a.example", "b.example")


def test_each_address_has_its_bucket() -> None:
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


def test_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backline.server.auth.MAX_ADDRESSES", 100)
    rate = RateLimit(1.0)
    for n in range(1000):
        rate.take(str(n))
    assert len(rate._buckets) == 100


def test_loopback_has_no_rate_limit_by_default() -> None:
    loopback, public = RateLimit.of(Settings()), RateLimit.of(Settings(host="0.0.0.0"))
    for _ in range(200):
        loopback.take("a")
        public.take("a")
    for _ in range(1000):
        loopback.take("a")
    with pytest.raises(errors.RateLimitedError):
        for _ in range(100):
            public.take("a")
