"""A provider that fails every batch with a certain word in it."""

from __future__ import annotations

from tests.provider import StandInProvider
from tests.provider.dialects import OPENAI, EmbeddingsRequest
from tests.provider.http import Answer


class PoisonousProvider(StandInProvider):
    """Responds with status 500 if any text of the request contains `word`."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def _answer(self, request: EmbeddingsRequest) -> Answer:
        if any(self._word in text for text in request.texts):
            return OPENAI.error(500, "The server had an error while processing your request.", None)
        return super()._answer(request)
