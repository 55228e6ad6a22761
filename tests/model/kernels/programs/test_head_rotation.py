from importlib import import_module

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers import RMSNorm
from model.rope import rotate_half, rotate_pairs

BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@settings(max_examples=12, deadline=None)
@given(
    num_tokens=st.integers(0, 4),
    heads=st.sampled_from([(21, 120), (7, 120), (28, 128), (3, 16), (1, 6)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    has_norm=st.booleans(),
    pairs=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_kernel_is_its_twin(
    *, num_tokens: int, heads: tuple[int, int], dtype: torch.dtype, has_norm: bool, pairs: bool, seed: int
) -> None:
    program = import_module("model.kernels.programs.head_rotation")
    torch.manual_seed(seed)
    x_THD, D = torch.randn(num_tokens, *heads, dtype=dtype), heads[1]
    norm = RMSNorm(D, 1e-5).to(dtype).requires_grad_(False)
    norm.weight.normal_(1, 0.1)
    angles_TE = torch.randn(num_tokens, D // 2)
    table = angles_TE.cos(), angles_TE.sin()
    if not pairs:
        table = table[0].repeat(1, 2).to(dtype), table[1].repeat(1, 2).to(dtype)
    weight = norm.weight if has_norm else None
    given = program.norm_rotate(x_THD, weight, norm.eps, *table, pairs=pairs)
    rotate = rotate_pairs if pairs else rotate_half
    expected = rotate(norm(x_THD) if has_norm else x_THD, *table)
    assert given.dtype == dtype
    assert (given - expected).norm() <= BOUND[dtype] * expected.norm()
