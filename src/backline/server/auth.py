"""Access control by host name, origin, key and request rate."""

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

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
MAX_ADDRESSES: Final = 10_000
BURST_SECONDS: Final = 10
# Requests a second and address, unless set, where the server listens beyond loopback.
PUBLIC_RATE: Final = 20.0


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class AccessPolicy:
    """Which requests a server accepts.

    A browser sends requests of any page to any address, also to loopback, and DNS rebinding hides
    the address behind a foreign name. A loopback server therefore accepts only loopback host names.
    Writes and WebSockets of foreign origins are refused everywhere.

    Raises:
        ConfigurationError: the server would accept writes from the network without a key.
    """

    def __init__(self, settings: Settings) -> None:
        secret = settings.api_key or settings.function_secret
        self._key = secret.get_secret_value().encode() if secret else None
        self.loopback = is_loopback(settings.host)
        if self._key is None and not self.loopback:
            raise errors.ConfigurationError(
                f"On {settings.host} any client in the network could write. Set BACKLINE_API_KEY "
                "to a long random text, or listen on 127.0.0.1."
            )
        self.key_required_for_writes = self._key is not None
        self.key_required_for_reads = self._key is not None and settings.protect_reads
        if settings.protect_reads and self._key is None:
            raise errors.ConfigurationError("Protected reads need a key: set BACKLINE_API_KEY.")
        self._origins = frozenset(settings.cors_origins)
        self._hosts = self._accepted_hosts(settings)

    def _accepted_hosts(self, settings: Settings) -> frozenset[str] | None:
        """Return the accepted host names, or None to accept all."""
        allowed = {host.lower() for host in settings.allowed_hosts}
        if self.loopback:
            return frozenset(allowed | {*LOOPBACK_NAMES, settings.host})
        return frozenset(allowed | {settings.host}) if allowed else None

    def check_host(self, host: str | None) -> None:
        """Raise ForbiddenError for a Host header that is not an accepted name."""
        name = _hostname(host or "")
        if self._hosts is not None and name not in self._hosts:
            raise errors.ForbiddenError(
                f"This server does not accept the host name {name!r}. Use one of "
                f"{', '.join(sorted(self._hosts))}, or add it to BACKLINE_ALLOWED_HOSTS."
            )

    def check_origin(self, origin: str | None, host: str | None) -> None:
        """Raise ForbiddenError for a page of another origin, unless the origin is allowed."""
        if origin is None or origin.lower() in self._origins:
            return
        if urlsplit(origin).netloc.lower() != (host or "").lower():
            raise errors.ForbiddenError(
                f"Pages of {origin} may not use this server. To allow them, add the origin to "
                "BACKLINE_CORS_ORIGINS."
            )

    def accepts_key(self, key: str | None) -> bool:
        """Compare a key with the server's in constant time; True if the server has no key."""
        if self._key is None:
            return True
        return key is not None and hmac.compare_digest(key.encode(), self._key)

    def authorized(self, headers: Mapping[str, str]) -> bool:
        """Return whether the headers of a request carry the key."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")
        return self.accepts_key(key)

    def check_write(self, *, authorized: bool) -> None:
        if self.key_required_for_writes and not authorized:
            raise errors.UnauthorizedError

    def check_read(self, *, authorized: bool) -> None:
        if self.key_required_for_reads and not authorized:
            raise errors.UnauthorizedError


def _hostname(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class RateLimit:
    """A token bucket for each address: `rate` requests a second, or no limit if None."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings) -> RateLimit:
        default = None if is_loopback(settings.host) else PUBLIC_RATE
        return cls(settings.rate_limit or default)

    def take(self, address: str) -> None:
        """Count one request.

        Raises:
            RateLimitedError: the address has used up its burst. It carries the time to wait.
        """
        if self._rate is None:
            return
        burst, now = self._rate * BURST_SECONDS, self._clock()
        tokens, last = self._buckets.pop(address, (burst, now))
        tokens = min(burst, tokens + (now - last) * self._rate)
        self._buckets[address] = (max(0.0, tokens - 1), now)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise errors.RateLimitedError(
                f"More than {self._rate:g} requests a second came from this address.",
                retry_after=math.ceil((1 - tokens) / self._rate),
            )
