import math

import pytest
import torch

from benchmarks.device.checks import compared, distance, run_checks


def test_distance_is_relative_and_over_all_tensors() -> None:
    wanted = [torch.ones(4), torch.full((2, 2), 2.0)]
    assert distance(wanted, wanted) == 0
    assert distance([each * 1.1 for each in wanted], wanted) == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_never_passes(bad: float) -> None:
    assert not compared("x", [torch.tensor([1.0, bad])], [torch.ones(2)], bound=1e9).passed


def test_attention_and_the_shipped_network_are_right_on_this_processor() -> None:
    checks = list(run_checks(torch.device("cpu"), seed=11))
    assert [check.name for check in checks if check.passed is False] == []
    ran = " ".join(check.name for check in checks if check.passed)
    assert all(word in ran for word in ("attend sdpa", "norm_add", "gate", "hbridge-tiny bfloat16"))
    assert {check.reason for check in checks if check.name == "attend varlen bfloat16"} == {
        "varlen needs a CUDA device, not cpu"
    }
