import pytest

from service.engine.stopwatch import Stopwatch


def test_laps_add_up_to_the_timings() -> None:
    laps: list[tuple[str, float]] = []
    watch = Stopwatch(lambda stage, seconds: laps.append((stage, seconds)))
    assert watch.working_seconds == 0
    for stage in ("prefill", "denoise", "denoise", "decode", "done"):
        watch.enter(stage)
    assert [stage for stage, _ in laps] == ["queue", "prefill", "denoise", "denoise", "decode"]
    timings = watch.timings
    assert timings.total_seconds == pytest.approx(sum(seconds for _, seconds in laps))
    assert timings.device_seconds == pytest.approx(timings.total_seconds - timings.queue_seconds)
    assert watch.working_seconds >= timings.device_seconds


def test_the_tokens_of_an_answer_count_as_its_decode() -> None:
    watch = Stopwatch(lambda stage, seconds: None)
    for stage in ("prefill", "answer", "answer", "done"):
        watch.enter(stage)
    assert watch.timings.decode_seconds > 0
    assert watch.timings.denoise_seconds == 0
