"""The file of keys: names, roles, expiry, and that no key is stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backline import errors, keys
from backline.config import Settings
from backline.keys import KeyRing, Role
from backline.server.auth import AccessPolicy, RateLimit

SOON = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def policy(file: Path, **settings: object) -> AccessPolicy:
    return AccessPolicy(Settings(keys_file=file, **settings))


def test_the_file_holds_no_key_and_only_its_owner_reads_it(file: Path) -> None:
    key = keys.add_key(file, "ci", "write", expires=SOON, rate_limit=2)
    assert key not in file.read_text() and key[3:20] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    [stored] = keys.read_keys(file)
    assert (stored.name, stored.role, stored.expires) == ("ci", "write", SOON)
    assert [each.name for each in file.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("role", ["read", "write", "admin"])
def test_a_role_permits_itself_and_the_ones_before_it(file: Path, role: Role) -> None:
    key = keys.add_key(file, "ci", role)
    guard = policy(file, protect_reads=True)
    access = guard.access({"x-api-key": key})
    permitted = keys.ROLES[: keys.ROLES.index(role) + 1]
    for wanted in keys.ROLES:
        if wanted in permitted:
            guard.check(access, wanted)
        else:
            with pytest.raises(errors.ForbiddenError, match=f"'ci' has the role {role}"):
                guard.check(access, wanted)
    with pytest.raises(errors.UnauthorizedError):
        guard.check(guard.access({"x-api-key": key + "x"}), "read")


def test_an_expired_key_says_so(file: Path) -> None:
    key = keys.add_key(file, "old", "admin", expires=datetime.now(UTC) - timedelta(seconds=1))
    guard = policy(file)
    with pytest.raises(errors.UnauthorizedError, match="'old' has expired"):
        guard.check(guard.access({"authorization": f"Bearer {key}"}), "write")


def test_keys_are_rotated_while_the_server_runs(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CHECK_SECONDS", 0.0)
    old = keys.add_key(file, "old", "write")
    ring = KeyRing(file)
    assert ring.find(old)
    new = keys.add_key(file, "new", "write")
    assert ring.find(new) and ring.find(old)
    keys.revoke_key(file, "old")
    assert ring.find(new) and not ring.find(old)
    content = file.read_bytes()
    file.write_text("{broken")
    assert ring.find(new)
    file.write_bytes(content)
    assert ring.find(new)
    file.unlink()
    assert not ring.find(new)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"keys": [{}]}', '{"keys": [{"name": "a", "sha256": "x", "role": "read"}]}'],
)
def test_a_broken_file_is_refused_at_the_start(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(errors.ConfigurationError, match=r"keys\.json cannot be read"):
        policy(file)


def test_a_name_twice_is_refused(file: Path) -> None:
    keys.add_key(file, "ci", "read")
    with pytest.raises(errors.UsageError, match=r"has a key 'ci'\. Revoke it first"):
        keys.add_key(file, "ci", "read")
    entry = json.loads(file.read_text())["keys"][0]
    file.write_text(json.dumps({"keys": [entry, entry]}))
    with pytest.raises(errors.ConfigurationError, match="has a name twice"):
        keys.read_keys(file)
    with pytest.raises(errors.UsageError, match=r"no key 'gone'\. It has: ci"):
        file.write_text(json.dumps({"keys": [entry]}))
        keys.revoke_key(file, "gone")


def test_an_unreadable_file_is_named(file: Path) -> None:
    file.mkdir()
    with pytest.raises(errors.ConfigurationError, match="Is a directory"):
        keys.read_keys(file)


def test_the_file_of_keys_is_a_key_for_a_public_server(file: Path) -> None:
    keys.add_key(file, "ci", "read")
    assert policy(file, host="0.0.0.0").key_required_for_writes


def test_each_key_has_its_own_rate(file: Path) -> None:
    one = keys.add_key(file, "one", "write", rate_limit=1)
    two = keys.add_key(file, "two", "write")
    guard, rate = policy(file), RateLimit(2.0, clock=lambda: 0.0)

    def take(count: int, key: str | None, address: str = "a") -> None:
        for _ in range(count):
            rate.take(address, guard.access({"x-api-key": key} if key else {}))

    take(10, one)
    with pytest.raises(
        errors.RateLimitedError, match=r"More than 1 requests .* with the key 'one'"
    ):
        take(1, one, "b")
    take(20, two)
    with pytest.raises(errors.RateLimitedError, match=r"More than 2 requests .* the key 'two'"):
        take(1, two, "b")
    take(20, None)
    take(20, "unknown", "b")
    with pytest.raises(errors.RateLimitedError, match="from this address"):
        take(1, "unknown")
