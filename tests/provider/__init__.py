"""A stand-in for a provider's embeddings API: a real HTTP server that tests script and inspect.

    with StandInProvider() as provider:
        client = AsyncOpenAI(base_url=provider.base_url, api_key=provider.api_key)
        provider.fail_next(429, times=2, retry_after=0.1)
        …
        assert provider.texts_embedded == Counter({"a text": 1})

`python -m tests.provider` runs the same server as a separate process.
"""

from tests.provider.behaviour import Behaviour, Failure
from tests.provider.standin import Call, StandInProvider

__all__ = ["Behaviour", "Call", "Failure", "StandInProvider"]
