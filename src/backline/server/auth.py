"""Who may do what: by host, by origin, by key, by rate."""

from __future__ import annotations

import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from backline import errors
from backline.config import Settings

THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")
MOST_ADDRESSES: Final = 10_000
BURST_SECONDS: Final = 10
RATE_ELSEWHERE: Final = 20.0


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """The rules of one server.

    A page that a browser shows may have come from anywhere, and so may the name that it was found
    under (DNS rebinding): on this machine's own address only this machine's names are answered to,
    and a foreign page's writes and sockets are refused wherever the server listens.

    Raises:
        ConfigurationError: anybody could reach the server, and no key is set.
    """

    def __init__(self, settings: Settings) -> None:
        secret = settings.api_key or settings.function_secret
        self._key = secret.get_secret_value().encode() if secret else None
        self.loopback = is_loopback(settings.host)
        if self._key is None and not self.loopback:
            raise errors.ConfigurationError(
                f"On {settings.host} anybody in the network could write. Set BACKLINE_API_KEY to a "
                "long random text, or listen on 127.0.0.1."
            )
        self.key_required_for_writes = self._key is not None
        self.key_required_for_reads = self._key is not None and settings.protect_reads
        if settings.protect_reads and self._key is None:
            raise errors.ConfigurationError(
                "To protect reads there must be a key: set BACKLINE_API_KEY."
            )
        self._origins = frozenset(settings.cors_origins)
        self._hosts = self._answered(settings)

    def _answered(self, settings: Settings) -> frozenset[str] | None:
        """The host names that are answered to; None where every one is."""
        named = {host.lower() for host in settings.allowed_hosts}
        if self.loopback:
            return frozenset(named | {*THIS_MACHINE, settings.host})
        return frozenset(named | {settings.host}) if named else None

    def check_host(self, host: str | None) -> None:
        """Refuse a request that was sent to a name which is none of ours."""
        name = _hostname(host or "")
        if self._hosts is not None and name not in self._hosts:
            raise errors.ForbiddenError(
                f"This server does not answer to the name {name!r}. Use one of "
                f"{', '.join(sorted(self._hosts))}, or add it to BACKLINE_ALLOWED_HOSTS."
            )

    def check_origin(self, origin: str | None, host: str | None) -> None:
        """Refuse what a page of another origin sends, unless that origin is allowed."""
        if origin is None or origin.lower() in self._origins:
            return
        if urlsplit(origin).netloc.lower() != (host or "").lower():
            raise errors.ForbiddenError(
                f"Pages of {origin} may not use this server. Add the origin to "
                "BACKLINE_CORS_ORIGINS if they should."
            )

    def knows(self, key: str | None) -> bool:
        """Whether a key is the server's, in constant time; True where no key is asked for."""
        if self._key is None:
            return True
        return key is not None and hmac.compare_digest(key.encode(), self._key)

    def authorized(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers of a request carry the key."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")
        return self.knows(given)

    def check_write(self, *, authorized: bool) -> None:
        if self.key_required_for_writes and not authorized:
            raise errors.UnauthorizedError

    def check_read(self, *, authorized: bool) -> None:
        if self.key_required_for_reads and not authorized:
            raise errors.UnauthorizedError


def _hostname(host: str) -> str:
    """The name of a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class Rate:
    """A token bucket for each address, `limit` requests a second; None: no limit."""

    def __init__(self, limit: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings) -> Rate:
        elsewhere = None if is_loopback(settings.host) else RATE_ELSEWHERE
        return cls(settings.rate_limit or elsewhere)

    def take(self, address: str) -> None:
        """Count one request.

        Raises:
            RateLimitedError: the address has used up its burst; says when to come again.
        """
        if self._limit is None:
            return
        burst, now = self._limit * BURST_SECONDS, self._clock()
        left, then = self._buckets.pop(address, (burst, now))
        left = min(burst, left + (now - then) * self._limit)
        self._buckets[address] = (max(0.0, left - 1), now)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        if left < 1:
            raise errors.RateLimitedError(
                f"More than {self._limit:g} requests a second came from this address.",
                retry_after=math.ceil((1 - left) / self._limit),
            )
