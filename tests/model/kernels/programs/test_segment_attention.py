"""Float32 and float16 only: the interpreter takes the bits of a bfloat16 for a number in its products."""

from importlib import import_module

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import Segments, attend, attend_joined
from model.bounds import Bounds, padded_starts, starts
from model.device_attention import masked

CPU = torch.device("cpu")
BOUND = {torch.float32: 1e-5, torch.float16: 5e-3}
LENGTHS = st.lists(st.sampled_from([1, 3, 40, 70, 131]), min_size=1, max_size=4)
HEADS = st.sampled_from([(3, 1, 120), (4, 2, 128), (2, 2, 16), (1, 1, 80)])
DTYPES = st.sampled_from([torch.float32, torch.float16])


@settings(max_examples=10, deadline=None)
@given(lengths=LENGTHS, more=st.integers(0, 50), heads=HEADS, dtype=DTYPES, causal=st.booleans())
def test_the_kernel_is_its_twin(
    lengths: list[int], more: int, heads: tuple[int, int, int], dtype: torch.dtype, causal: bool
) -> None:
    program = import_module("model.kernels.programs.segment_attention")
    H, K, D = heads
    segments = Segments(tuple(lengths), tuple(each + more for each in lengths), causal, "plain")
    q = torch.randn(sum(lengths), H, D).to(dtype)
    k, v = torch.randn(2, sum(segments.kv_lengths), K, D).to(dtype)
    bounds = segments.bounds("triton", CPU)
    given = program.attend_segments(q, bounds.q_starts_B, (k, v, bounds.kv_starts_B), causal=causal)
    expected = attend(q.float(), k.float(), v.float(), segments)
    assert (given.float() - expected).norm() <= BOUND[dtype] * expected.norm()


@settings(max_examples=10, deadline=None)
@given(lengths=LENGTHS, heads=HEADS, dtype=DTYPES, seed=st.integers(0, 99))
def test_keys_that_lie_apart_are_read_as_if_joined(
    lengths: list[int], heads: tuple[int, int, int], dtype: torch.dtype, seed: int
) -> None:
    program = import_module("model.kernels.programs.segment_attention")
    torch.manual_seed(seed)
    H, K, D = heads
    apart = tuple(torch.randint(0, 90, (len(lengths),)).tolist())
    kv_lengths = tuple(map(sum, zip(lengths, apart, strict=True)))
    segments = Segments(tuple(lengths), kv_lengths, backend="plain", before_lengths=apart)
    q = torch.randn(sum(lengths), H, D).to(dtype)
    (k, v), (k_apart, v_apart) = (torch.randn(2, sum(each), K, D).to(dtype) for each in (lengths, apart))
    own = k, v, starts(segments.q_lengths, CPU)
    before = k_apart, v_apart, starts(apart, CPU)
    given = program.attend_segments(q, own[2], own, before)
    expected = attend_joined(q.float(), (k.float(), v.float()), (k_apart.float(), v_apart.float()), segments)
    assert (given.float() - expected).norm() <= BOUND[dtype] * expected.norm()


def test_every_layout_of_as_many_tokens_is_one_launch_and_padding_is_seen_by_nobody() -> None:
    program = import_module("model.kernels.programs.segment_attention")
    k, v = torch.randn(2, 200, 1, 16)
    q = torch.randn(200, 2, 16)
    results = []
    for padding in (1.0, -9.0):
        for tensor in (q, k, v):
            tensor[150:] = padding
        at = padded_starts((100, 50), 4, 200, CPU)
        results.append(program.attend_segments(q, at, (k, v, at))[:150])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    at = starts((100, 50), CPU)
    alone = masked(q[:150], k[:150], v[:150], Bounds(at, at, 100, 100))
    torch.testing.assert_close(results[0], alone, atol=1e-5, rtol=1e-5)


def test_the_operator_is_the_kernel() -> None:
    program = import_module("model.kernels.programs.segment_attention")
    k, v = torch.randn(2, 20, 1, 16)
    q, at = torch.randn(20, 2, 16), starts((12, 8), CPU)
    given = program.attend_segments_op(q, at, k, v, at, None, None, None, True)
    assert torch.equal(given, program.attend_segments(q, at, (k, v, at), causal=True))
    torch.library.opcheck(program.attend_segments_op, (q, at, k, v, at, k, v, at, False))
