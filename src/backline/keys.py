"""The file of keys: each has a name, a role and an expiry, and only its hash is stored."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from backline import errors

Role: TypeAlias = Literal["read", "write", "admin"]
ROLES: Final[tuple[Role, ...]] = ("read", "write", "admin")
"""Each role includes the ones before it."""

CHECK_SECONDS: Final = 1.0
"""How often the server looks whether the file has changed."""

_PREFIX: Final = "bl_"

log = structlog.get_logger("backline.server")


class StoredKey(BaseModel):
    """A key of the file.

    A key has 256 random bits, so that its plain SHA-256 cannot be inverted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    role: Role
    created: AwareDatetime
    expires: AwareDatetime | None = None
    rate_limit: Annotated[float, Field(gt=0)] | None = None

    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[StoredKey]


class KeyRing:
    """The keys of a file, which is read again when it changes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._keys: dict[str, StoredKey] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._checked = -CHECK_SECONDS
        self._keys = {key.sha256: key for key in read_keys(file)}
        self._stamp = _stamp(file)

    def find(self, key: str) -> StoredKey | None:
        """Return the entry of a key, or None."""
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            self._reload()
        return self._keys.get(_hash(key))

    def _reload(self) -> None:
        """Read the file if it has changed: without it there are no keys; broken, it is ignored."""
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        try:
            self._keys = {key.sha256: key for key in read_keys(self._file)}
        except errors.ConfigurationError as error:
            log.warning("keys not reloaded", error=str(error))
        self._stamp = stamp


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(file: Path) -> list[StoredKey]:
    """Return the keys of a file; none if it does not exist.

    Raises:
        ConfigurationError: the file cannot be read, or is malformed.
    """
    try:
        keys = _File.model_validate_json(file.read_bytes()).keys
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        place = error.errors()[0]["loc"] if isinstance(error, ValidationError) else str(error)
        raise errors.ConfigurationError(
            f"The file of keys {file} cannot be read: {place}. Write it with backline keys."
        ) from None
    if len({key.name for key in keys}) < len(keys):
        raise errors.ConfigurationError(f"The file of keys {file} has a name twice. Remove one.")
    return keys


def add_key(
    file: Path,
    name: str,
    role: Role,
    *,
    expires: datetime | None = None,
    rate_limit: float | None = None,
) -> str:
    """Add a key to a file, and return it. Nothing stores the key itself.

    Raises:
        UsageError: the file has a key of that name.
        ConfigurationError: the file cannot be read or written.
    """
    keys = read_keys(file)
    if any(key.name == name for key in keys):
        raise errors.UsageError(
            f"{file} has a key {name!r}. Revoke it first, or use another name for its successor."
        )
    key = _PREFIX + secrets.token_urlsafe(32)
    entry = StoredKey(
        name=name,
        sha256=_hash(key),
        role=role,
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
        rate_limit=rate_limit,
    )
    _write(file, [*keys, entry])
    return key


def revoke_key(file: Path, name: str) -> None:
    """Remove a key from a file.

    Raises:
        UsageError: the file has no key of that name.
        ConfigurationError: the file cannot be read or written.
    """
    keys = read_keys(file)
    rest = [key for key in keys if key.name != name]
    if len(rest) == len(keys):
        names = ", ".join(key.name for key in keys) or "none"
        raise errors.UsageError(f"{file} has no key {name!r}. It has: {names}.")
    _write(file, rest)


def _write(file: Path, keys: Sequence[StoredKey]) -> None:
    """Replace the file in one step, readable by its owner only."""
    content = {"keys": [key.model_dump(mode="json", exclude_none=True) for key in keys]}
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        new.touch(mode=0o600)
        new.write_text(json.dumps(content, indent=2) + "\n")
        new.replace(file)
    except OSError as error:
        raise errors.ConfigurationError(f"{file} cannot be written: {error.strerror}.") from None
