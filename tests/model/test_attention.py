import pytest
import torch
from torch import Tensor

from model.attention import Backend, Segments, attend, causal_mask, join
from model.backend_choice import available

BACKENDS = available(torch.device("cpu"), torch.float32)
H, K, D = 6, 2, 8
SHAPES = [((3, 5), (4, 7)), ((4, 4), (4, 4)), ((1, 3, 2), (6, 3, 9)), ((2, 2), (5, 5))]
BOTH = pytest.mark.parametrize("backend", BACKENDS)
ALL = pytest.mark.parametrize(("q_lengths", "kv_lengths"), SHAPES)


def tensors(segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    T, S = sum(segments.q_lengths), sum(segments.kv_lengths)
    shapes = ((T, H, D), (S, K, D), (S, K, D))
    q, k, v = (torch.randn(*shape, generator=generator) for shape in shapes)
    return q, k, v


def by_hand(q_THD: Tensor, k_SKD: Tensor, v_SKD: Tensor, segments: Segments) -> Tensor:
    out = []
    pieces = zip(
        q_THD.split(segments.q_lengths),
        k_SKD.split(segments.kv_lengths),
        v_SKD.split(segments.kv_lengths),
        strict=True,
    )
    for q, k, v in pieces:
        for i, query in enumerate(q):
            seen = len(k) - len(q) + i + 1 if segments.causal else len(k)
            for h in range(H):
                weights = (k[:seen, h // (H // K)] @ query[h] * D**-0.5).softmax(0)
                out.append(weights @ v[:seen, h // (H // K)])
    return torch.stack(out).view(-1, H, D)


@BOTH
@ALL
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_formula(
    backend: Backend, q_lengths: tuple[int, ...], kv_lengths: tuple[int, ...], causal: bool
) -> None:
    segments = Segments(q_lengths, kv_lengths, causal=causal, backend=backend)
    q, k, v = tensors(segments)
    torch.testing.assert_close(attend(q, k, v, segments), by_hand(q, k, v, segments), atol=1e-6, rtol=1e-5)


@BOTH
def test_a_segment_packed_with_others_is_the_segment_alone(backend: Backend) -> None:
    packed = Segments((3, 5), (4, 7), backend=backend)
    q, k, v = tensors(packed)
    alone = attend(q[:3], k[:4], v[:4], Segments((3,), (4,), backend=backend))
    torch.testing.assert_close(attend(q, k, v, packed)[:3], alone)


@ALL
def test_backends_have_the_same_gradients(q_lengths: tuple[int, ...], kv_lengths: tuple[int, ...]) -> None:
    gradients = []
    for backend in BACKENDS:
        segments = Segments(q_lengths, kv_lengths, backend=backend)
        inputs = [tensor.requires_grad_() for tensor in tensors(segments)]
        gradients.append(torch.autograd.grad(attend(*inputs, segments).square().sum(), inputs))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_the_last_query_sees_every_key() -> None:
    assert causal_mask(2, 3, torch.device("cpu")).tolist() == [[True, True, False], [True, True, True]]


def test_keys_that_lie_apart_stand_before_the_others_in_each_segment() -> None:
    segments = Segments((3, 5), (7, 7), before_lengths=(4, 2))
    joined = join(torch.arange(6), torch.arange(10, 18), segments)
    assert joined.tolist() == [0, 1, 2, 3, 10, 11, 12, 4, 5, 13, 14, 15, 16, 17]
