"""A time that is given, and what is left of it."""

from collections.abc import Callable
from time import monotonic

WRITE_SECONDS = 2.0
"""Kept back for what is written at the end."""


class Budget:
    """Seconds from now on.

    Args:
        seconds: Given.
        clock: Tells the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._begun = clock()

    @property
    def spent(self) -> float:
        """Seconds since it was given."""
        return self._clock() - self._begun

    @property
    def left(self) -> float:
        """Seconds to work in; never below 0."""
        return max(0.0, self.seconds - WRITE_SECONDS - self.spent)

    def why_not(self, expected_seconds: float) -> str:
        """Return why something cannot begin any more; nothing if it can."""
        left = self.left
        if left > 0 and expected_seconds <= left:
            return ""
        return f"out of time: about {expected_seconds:.0f} s needed, {left:.0f} s left of {self.seconds:.0f}"
