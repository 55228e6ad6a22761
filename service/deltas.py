"""A growing answer in pieces that never have to be taken back."""

from collections.abc import Sequence

UNFINISHED = "\ufffd"
"""What a decoder puts in the place of a letter of which not all bytes are there yet."""


class Deltas:
    """Cuts an answer in the making; all pieces together are the answer.

    Held back is what its end may still change: letters that are not complete, blanks, which an answer does
    not end with, and what may become a word that ends it.

    Args:
        stop: Words that end the answer and are not part of it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = stop
        self._told = 0

    def grow(self, text: str) -> str:
        """Return what is new and certain in the answer so far."""
        return self._next(self._certain(text).lstrip())

    def end(self, text: str) -> str:
        """Return what is left of the whole answer."""
        return self._next(text)

    def _next(self, text: str) -> str:
        new = text[self._told :]
        self._told = max(self._told, len(text))
        return new

    def _certain(self, text: str) -> str:
        text = text.rstrip(UNFINISHED)
        held = max((_overlap(text, word) for word in self._stop), default=0)
        return text[: len(text) - held].rstrip()


def _overlap(text: str, word: str) -> int:
    """Return how many letters at the end of a text may be the beginning of a word."""
    return max((size for size in range(1, len(word) + 1) if text.endswith(word[:size])), default=0)
