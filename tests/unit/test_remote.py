"""Rows are sent to the configured address of a remote service only."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from pydantic import SecretStr
from tests.provider import StandInProvider

from backline import errors
from backline.worker.remote import Remote, Target, api_target, edge_target

KEY = SecretStr("sk-stand-in")


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        (api_target("http://x", KEY), "BACKLINE_API_URL"),
        (edge_target("http://x", None, KEY), "BACKLINE_SUPABASE_URL"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_not_followed(target: Target, setting: str, status: int) -> None:
    with StandInProvider() as provider, StandInProvider() as other:
        location = f"http://127.0.0.1:{other.port}/v1/embeddings"
        provider.fail_next(status, headers={"location": f"{location}?token=secret"})
        collection = Mock()
        collection.name = "notes"
        url = f"{provider.base_url}/embeddings"
        headers = {"Authorization": "Bearer sk-stand-in"}
        remote = Remote(Target(target.transport, url, headers, url, 10.0), collection)

        with pytest.raises(errors.ProviderRefusedError, match=setting) as caught:
            await remote.upsert([("1", "a private text")])
        await remote.aclose()
        assert location in str(caught.value) and "secret" not in str(caught.value)
        assert other.calls == []
