from importlib import import_module

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.swiglu import gate_plain

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 5), st.sampled_from([1, 100, 4096, 5001])),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_the_kernel_is_its_twin(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
    program = import_module("model.kernels.programs.swiglu")
    torch.manual_seed(seed)
    a, b = 3 * torch.randn(2, *shape, dtype=dtype)
    expected = gate_plain(a, b)
    assert (program.gate(a, b) - expected).norm() <= BOUND[dtype] * expected.norm()
