from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.modulated_norm import norm_scale_plain
from model.layers import RMSNorm

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@settings(max_examples=12, deadline=None)
@given(
    width=st.sampled_from([2520, 840, 120, 64, 7]),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    has_factor=st.booleans(),
    has_around=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_kernel_is_its_twin(
    *, width: int, lengths: list[int], dtype: torch.dtype, has_factor: bool, has_around: bool, seed: int
) -> None:
    program = import_module("model.kernels.programs.modulated_norm")
    torch.manual_seed(seed)
    norm = RMSNorm(width, 1e-5).to(dtype).requires_grad_(False)
    norm.weight.normal_(1, 0.1)
    x, around = torch.randn(2, sum(lengths), width, dtype=dtype)
    factor = torch.randn(len(lengths), width, dtype=dtype) if has_factor else None
    place = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) if has_factor else None
    given = program.norm(x, norm.weight, norm.eps, factor, place, around if has_around else None)
    expected = norm_scale_plain(norm, x, factor, place) + (around if has_around else 0)
    assert given.dtype == dtype
    assert (given - expected).norm() <= BOUND[dtype] * expected.norm()


@pytest.mark.parametrize("num_times", [1, 2, 3])
def test_tokens_without_a_place_share_the_times_evenly(num_times: int) -> None:
    program = import_module("model.kernels.programs.modulated_norm")
    norm = RMSNorm(24, 1e-5).requires_grad_(False)
    x, factor = torch.randn(6, 24), torch.randn(num_times, 24)
    given = program.norm(x, norm.weight, norm.eps, factor)
    torch.testing.assert_close(given, norm_scale_plain(norm, x, factor), atol=1e-5, rtol=1e-5)
