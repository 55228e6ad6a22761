import pytest
import torch

from model.attention import Heads
from model.backend_choice import Trial, available, choose, choose_both, problem, require, try_backends
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


def test_each_side_gets_its_own_and_ours_is_not_for_single_tokens() -> None:
    own, und = Heads(4, 2, 8), Heads(4, 2, 8, causal=True)
    asked: list[tuple[Heads, tuple[int, ...]]] = []

    def attempt(heads: Heads, lengths: tuple[int, ...]) -> list[Trial]:
        asked.append((heads, lengths))
        return [Trial("sdpa", 2.0), Trial("triton", 1.0)]

    assert choose_both((own, und), ((5, 5), (7,)), attempt) == ("triton", "sdpa")
    assert asked == [(own, (5, 5)), (und, (7,))]
    assert choose_both((own, None), ((5, 5), (7,)), attempt) == ("triton", "sdpa")
    assert len(asked) == 3
