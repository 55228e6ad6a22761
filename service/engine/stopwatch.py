"""How long one job waited and how long each of its stages took."""

from collections import defaultdict
from collections.abc import Callable
from time import perf_counter

from service.engine.job import Timings

Lap = Callable[[str, float], None]


class Stopwatch:
    """Splits the time since submission into laps: the queue, the prefill, every step, the decode.

    Attributes:
        stage: Where the job stands now.
    """

    def __init__(self, lap: Lap) -> None:
        self.stage = "queue"
        self._lap = lap
        self._begun = perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def enter(self, stage: str) -> None:
        """End the lap of the stage so far and begin one of this stage, which may be the same."""
        now = perf_counter()
        self._lap(self.stage, now - self._begun)
        self._seconds[self.stage] += now - self._begun
        self.stage, self._begun = stage, now

    @property
    def working_seconds(self) -> float:
        """Time since it left the queue, the open lap included."""
        if self.stage == "queue":
            return 0.0
        return sum(self._seconds.values()) - self._seconds["queue"] + perf_counter() - self._begun

    @property
    def timings(self) -> Timings:
        """The laps so far, summed by stage."""
        return Timings(
            queue_seconds=self._seconds["queue"],
            prefill_seconds=self._seconds["prefill"],
            denoise_seconds=self._seconds["denoise"],
            decode_seconds=self._seconds["decode"] + self._seconds["answer"],
        )
