"""Split texts into passages, each with its own vector."""

from backline.passages.splitter import Piece, split

__all__ = ["Piece", "split"]
