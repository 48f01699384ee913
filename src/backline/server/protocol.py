"""The end of the socket that uvicorn leaves to us: connections that nobody reads are cut off."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CUT_SECONDS: Final = 5.0


class CuttingProtocol(WebSocketsSansIOProtocol):
    """A WebSocket whose end does not wait for ever for its client to read what is left.

    `transport.close()` sends what is buffered first, which to a client that never reads takes as
    long as the client likes, and the buffer is kept as long.
    """

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(CUT_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(CUT_SECONDS, self.transport.abort)
