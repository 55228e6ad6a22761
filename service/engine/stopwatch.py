"""How long one job waited, and how long it was in each of its stages."""

from collections import defaultdict
from time import perf_counter

from service.engine.job import Timings


class Stopwatch:
    """Splits the time since submission by stage; steps of other jobs in between count too.

    Attributes:
        stage: Where the job stands now.
        device_seconds: Its part of the steps that it was in.
        expected_seconds: What was expected of the whole.
    """

    def __init__(self, *, expected_seconds: float = 0.0) -> None:
        self.stage = "queue"
        self.device_seconds = 0.0
        self.expected_seconds = expected_seconds
        self._begun = perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def enter(self, stage: str) -> None:
        """Go on in this stage, which may be the same."""
        now = perf_counter()
        self._seconds[self.stage] += now - self._begun
        self.stage, self._begun = stage, now

    @property
    def timings(self) -> Timings:
        """What has passed so far, up to the last `enter`."""
        return Timings(
            queue_seconds=self._seconds["queue"],
            prefill_seconds=self._seconds["prefill"],
            denoise_seconds=self._seconds["denoise"],
            decode_seconds=self._seconds["decode"] + self._seconds["answer"],
            device_seconds=self.device_seconds,
            expected_seconds=self.expected_seconds,
        )
