from itertools import count

import pytest

from service.engine import stopwatch
from service.engine.stopwatch import Stopwatch


def test_every_second_belongs_to_one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "perf_counter", map(float, count()).__next__)
    watch = Stopwatch()
    for stage in ("prefill", "denoise", "denoise", "decode", "done"):
        watch.enter(stage)
    timings = watch.timings
    assert (timings.queue_seconds, timings.prefill_seconds) == (1, 1)
    assert (timings.denoise_seconds, timings.decode_seconds) == (2, 1)
    assert timings.total_seconds == 5


def test_the_tokens_of_an_answer_count_as_its_decode() -> None:
    watch = Stopwatch()
    for stage in ("prefill", "answer", "answer", "done"):
        watch.enter(stage)
    assert watch.timings.decode_seconds > 0
    assert watch.timings.denoise_seconds == 0
