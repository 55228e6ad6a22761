import time

import torch

from service.doctor.speed import best_seconds, measure_speed


def test_a_processor_has_a_speed_and_no_way_from_the_host() -> None:
    speed = measure_speed("cpu", torch.float32)
    assert speed.matmul_flops_per_second > 0
    assert speed.copy_bytes_per_second > 0
    assert speed.host_copy_bytes_per_second is None


def test_the_shortest_of_a_few_calls_counts_and_the_first_does_not() -> None:
    pauses = iter([0.0, 0.03, 0.01, 0.03])
    assert 0.01 <= best_seconds(lambda: time.sleep(next(pauses)), "cpu", 3) < 0.03
