import math

import pytest
import torch

from model.kernels.check import Check, check_all


def test_everything_that_can_be_used_is_checked_and_passes() -> None:
    checks = check_all(torch.device("cpu"))
    assert {"norm_add 2520", "gate", "attend_joined plain"} <= {check.name for check in checks}
    assert {check.dtype for check in checks} == {"float32", "bfloat16"}
    assert [check for check in checks if not check.ok] == []


def test_what_is_not_a_number_does_not_pass() -> None:
    assert not Check("gate", "float32", math.nan, 1.0).ok


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of Triton about itself
def test_every_kernel_and_backend_of_the_gpu_is_its_twin() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    checks = check_all(torch.device("cuda"))
    assert {"attend triton 21/7x120", "attend_joined triton"} <= {check.name for check in checks}
    assert [check for check in checks if not check.ok] == []
