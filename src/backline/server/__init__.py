"""The HTTP and WebSocket server: a thin layer over the library."""

from backline.server.app import create_app

__all__ = ["create_app"]
