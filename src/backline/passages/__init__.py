"""Split texts into passages, each with its own vector."""

from backline.passages.split import Piece, split

__all__ = ["Piece", "split"]
