"""The keys of a project: the opaque keys of new projects, and legacy JWTs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Keys:
    """The keys of one project. Each stack has random ones, so that tests can search for leaks."""

    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    publishable: str = field(default_factory=lambda: f"sb_publishable_{secrets.token_urlsafe(20)}")
    secret: str = field(default_factory=lambda: f"sb_secret_{secrets.token_urlsafe(20)}")

    def jwt(self, role: str, ttl: float = 3600, **claims: Any) -> str:
        """Return a JWT of a role, valid for `ttl` seconds; it has expired if `ttl` is negative."""
        now = int(time.time())
        body = {"iss": "supabase", "ref": "stand-in", "role": role, "iat": now, **claims}
        body.setdefault("exp", now + int(ttl))
        head = _b64(b'{"alg":"HS256","typ":"JWT"}') + "." + _b64(json.dumps(body).encode())
        return f"{head}.{self._signature(head)}"

    @property
    def anon_jwt(self) -> str:
        """The legacy publishable key."""
        return self.jwt("anon", 10 * 365 * 86400)

    @property
    def service_jwt(self) -> str:
        """The legacy secret key."""
        return self.jwt("service_role", 10 * 365 * 86400)

    def user_jwt(self, sub: str = "11111111-1111-4111-8111-111111111111") -> str:
        """Return the access token of a signed-in user, with the role authenticated."""
        return self.jwt("authenticated", sub=sub, aud="authenticated")

    def role_of(self, key: str) -> str | None:
        """Return the role of an API key, or None for a key that the gateway refuses."""
        if key == self.publishable:
            return "anon"
        if key == self.secret:
            return "service_role"
        claims = self.claims(key)
        return str(claims["role"]) if claims and claims.get("role") else None

    def claims(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a valid JWT, or None."""
        try:
            head, body, signature = token.rsplit(".", 2)
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            return None
        if not hmac.compare_digest(signature, self._signature(f"{head}.{body}")):
            return None
        return claims if claims.get("exp", time.time()) >= time.time() else None

    def _signature(self, signed: str) -> str:
        return _b64(hmac.new(self.jwt_secret.encode(), signed.encode(), hashlib.sha256).digest())
