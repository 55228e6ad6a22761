import pytest
import torch

from model.attention import Heads
from model.backend_choice import Trial, available, choose, problem, require, try_backends
from model.errors import MissingCapability

CPU = torch.device("cpu")


def test_a_processor_has_the_backends_that_need_no_kernels() -> None:
    assert available(CPU, torch.float32) == ["sdpa", "plain"]


def test_what_cannot_be_used_says_why() -> None:
    assert "needs a CUDA device" in problem("varlen", CPU, torch.bfloat16)
    with pytest.raises(MissingCapability, match="triton needs a CUDA device, not cpu"):
        require("triton", CPU, torch.float32)
    assert require("sdpa", CPU, torch.float32) == "sdpa"


def test_every_backend_is_tried_and_the_fastest_right_one_is_chosen() -> None:
    trials = try_backends(CPU, torch.float32, Heads(4, 2, 16), (8, 8))
    assert {trial.backend: bool(trial.problem) for trial in trials} == {
        "sdpa": False,
        "cudnn": True,
        "varlen": True,
        "xformers": True,
        "triton": True,
    }
    assert choose(trials) == "sdpa"
    assert choose([Trial("sdpa", 2.0), Trial("varlen", 1.0), Trial("cudnn", problem="off")]) == "varlen"
