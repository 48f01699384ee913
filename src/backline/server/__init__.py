"""The HTTP and WebSocket server: thin over the library, as the command line is."""

from backline.server.app import create_app

__all__ = ["create_app"]
