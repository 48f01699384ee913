"""Access control by host name, origin, key and request rate."""

from __future__ import annotations

import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from backline import errors
from backline.config import DEFAULT_PORTS, Settings, without_default_port
from backline.keys import ROLES, KeyRing, Role

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


@dataclass(frozen=True, slots=True)
class Access:
    """What the key of a request permits.

    Attributes:
        role: None without a valid key.
        name: of a key in the file of keys, for messages and the rate limit.
        rate_limit: requests a second, if the key has a limit of its own.
        problem: why the key is not valid, if that is known.

    """

    role: Role | None = None
    name: str = ""
    rate_limit: float | None = None
    problem: str | None = None

    def may(self, role: Role) -> bool:
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(role)


NO_KEY: Final = Access()


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
        self._ring = KeyRing(settings.keys_file) if settings.keys_file else None
        self.loopback = is_loopback(settings.host)
        has_key = self._key is not None or self._ring is not None
        if not has_key and not self.loopback:
            raise errors.ConfigurationError(
                f"On {settings.host} any client in the network could write. Set BACKLINE_API_KEY "
                "to a long random text, or BACKLINE_KEYS_FILE, or listen on 127.0.0.1."
            )
        self.key_required_for_writes = has_key
        self.key_required_for_reads = has_key and settings.protect_reads
        if settings.protect_reads and not has_key:
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
        if origin is None or self.allows_origin(origin):
            return
        if not _same_address(origin, host or ""):
            raise errors.ForbiddenError(
                f"Pages of {origin} may not use this server. To allow them, add the origin to "
                "BACKLINE_CORS_ORIGINS."
            )

    def allows_origin(self, origin: str) -> bool:
        """Return whether the settings name an origin."""
        return without_default_port(origin.lower()) in self._origins

    def access_of_key(self, key: str | None) -> Access:
        """Return what a key permits. Without any key of the server, everything."""
        if not self.key_required_for_writes:
            return Access(role="admin")
        if key is None:
            return Access()
        if self._key is not None and hmac.compare_digest(key.encode(), self._key):
            return Access(role="admin")
        stored = self._ring.find(key) if self._ring is not None else None
        if stored is None:
            return Access()
        if stored.expired():
            return Access(problem=f"The key {stored.name!r} has expired. Use a new one.")
        return Access(stored.role, stored.name, stored.rate_limit)

    def access(self, headers: Mapping[str, str]) -> Access:
        """Return what the key in the headers of a request permits."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")
        return self.access_of_key(key)

    def check(self, access: Access, role: Role) -> None:
        """Raise if a request needs a key of a role and does not carry it.

        Raises:
            UnauthorizedError: it has no key, or one that is unknown or has expired.
            ForbiddenError: its key has a lower role.
        """
        needs_key = self.key_required_for_reads or role != "read"
        if not (self.key_required_for_writes and needs_key) or access.may(role):
            return
        if access.role is None:
            raise errors.UnauthorizedError(access.problem)
        raise errors.ForbiddenError(
            f"The key {access.name!r} has the role {access.role}; this needs the role {role}."
        )


def _same_address(origin: str, host: str) -> bool:
    """Return whether an origin is the address in a Host header. A missing port is the scheme's."""
    try:
        page = urlsplit(origin)
        here = urlsplit(f"{page.scheme}://{host}")
        default = DEFAULT_PORTS.get(page.scheme)
        ports = page.port or default, here.port or default
    except ValueError:
        return False
    return page.hostname is not None and page.hostname == here.hostname and ports[0] == ports[1]


def _hostname(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class RateLimit:
    """A token bucket for each address or key: `rate` requests a second, or no limit if None."""

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings) -> RateLimit:
        default = None if is_loopback(settings.host) else PUBLIC_RATE
        return cls(settings.rate_limit or default)

    def take(self, address: str, access: Access = NO_KEY) -> None:
        """Count one request. Requests with a key of a name are counted together.

        Raises:
            RateLimitedError: the address or key has used up its burst. It carries the time to wait.
        """
        rate = access.rate_limit or self._rate
        if rate is None:
            return
        caller = f"key {access.name}" if access.name else address
        burst, now = rate * BURST_SECONDS, self._clock()
        tokens, last = self._buckets.pop(caller, (burst, now))
        tokens = min(burst, tokens + (now - last) * rate)
        self._buckets[caller] = (max(0.0, tokens - 1), now)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise errors.RateLimitedError(
                f"More than {rate:g} requests a second came "
                f"{f'with the key {access.name!r}' if access.name else 'from this address'}.",
                retry_after=math.ceil((1 - tokens) / rate),
            )
