import pytest
import torch
from torch import Tensor

from model.attention import Segments, attend, attend_joined
from model.bounds import Bounds, padded_starts, starts

CPU = torch.device("cpu")
LENGTHS, APART = (3, 5, 4), (4, 0, 7)


def draw(num_tokens: int, num_heads: int) -> Tensor:
    return torch.randn(num_tokens, num_heads, 8, generator=torch.Generator().manual_seed(num_tokens))


@pytest.mark.parametrize("causal", [False, True])
def test_segments_on_the_device_are_segments(causal: bool) -> None:
    segments = Segments(LENGTHS, (5, 5, 9), causal=causal)
    q, k, v = draw(12, 6), draw(19, 2), draw(19, 2) + 1
    given = attend(q, k, v, segments.bounds("plain", CPU))
    torch.testing.assert_close(given, attend(q, k, v, segments), atol=1e-6, rtol=1e-5)


def test_keys_that_lie_apart_are_read_as_if_joined() -> None:
    kv_lengths = tuple(map(sum, zip(LENGTHS, APART, strict=True)))
    segments = Segments(LENGTHS, kv_lengths, before_lengths=APART)
    q, own, before = draw(12, 6), (draw(12, 2), draw(12, 2) + 1), (draw(11, 2), draw(11, 2) + 1)
    on_device = Bounds(*[starts(LENGTHS, CPU)] * 2, 5, 5, before_starts_B=starts(APART, CPU))
    given = attend_joined(q, own, before, on_device)
    torch.testing.assert_close(given, attend_joined(q, own, before, segments), atol=1e-6, rtol=1e-5)


def test_nobody_sees_padding() -> None:
    results = []
    for padding in (0.0, 99.0):
        q, own, before = draw(16, 6), (draw(16, 2), draw(16, 2) + 1), (draw(13, 2), draw(13, 2) + 1)
        for tensor, end in ((q, 12), *((each, 12) for each in own), *((each, 11) for each in before)):
            tensor[end:] = padding
        at, apart = padded_starts(LENGTHS, 4, 16, CPU), padded_starts(APART, 4, 11, CPU)
        bounds = Bounds(at, at, 16, 16, before_starts_B=apart)
        results.append(attend_joined(q, own, before, bounds)[:12])
    assert torch.equal(*results)
