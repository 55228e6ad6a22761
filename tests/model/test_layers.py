import pytest
import torch
from torch import Tensor, nn

from model.layers import (
    GatedFeedForward,
    RMSNorm,
    Sharing,
    TimestepEmbedding,
    interleave,
    part,
    patchify,
    time_sinusoid,
    unpatchify,
)

SIZES = [[(4, 6)], [(4, 6), (4, 6)], [(4, 6), (2, 8), (6, 2)]]


def latents(sizes: list[tuple[int, int]]) -> list[Tensor]:
    return [torch.randn(3, *size) for size in sizes]


@pytest.mark.parametrize("sizes", SIZES)
def test_unpatchify_undoes_patchify(sizes: list[tuple[int, int]]) -> None:
    before = latents(sizes)
    grids = [(rows // 2, columns // 2) for rows, columns in sizes]
    for old, new in zip(before, unpatchify(patchify(before, 2), grids, 2), strict=True):
        assert torch.equal(old, new)


def test_a_patch_goes_row_column_channel() -> None:
    latent_CYX = torch.arange(3 * 2 * 4).reshape(3, 2, 4)
    first, second = patchify([latent_CYX], 2)
    assert first.tolist() == [0, 8, 16, 1, 9, 17, 4, 12, 20, 5, 13, 21]
    assert torch.equal(second, first + 2)


def test_what_is_shared_is_computed_once_and_given_to_all() -> None:
    sharing = Sharing.of(["a", "b", "a", "c", "b"])
    assert sharing.pick(range(5)) == [0, 1, 3]
    packed = torch.tensor([1, 1, 1, 2, 3, 3])
    assert sharing.spread(packed, [3, 1, 2]).tolist() == [1, 1, 1, 2, 1, 1, 1, 3, 3, 2]
    assert Sharing.of("abc").is_idle
    assert not sharing.is_idle


@pytest.mark.parametrize("index", [0, 1, 2])
def test_part_undoes_interleave(index: int) -> None:
    lengths = [(2, 0, 3), (1, 4, 2)]
    streams = [torch.randn(sum(row[i] for row in lengths), 5) for i in range(3)]
    joined = interleave(*zip(streams, zip(*lengths, strict=True), strict=True))
    assert torch.equal(part(joined, lengths, index), streams[index])


def test_streams_join_row_by_row() -> None:
    joined = interleave((torch.tensor([1, 2, 3]), (2, 1)), (torch.tensor([7, 8, 9]), (1, 2)))
    assert joined.tolist() == [1, 2, 7, 3, 8, 9]


def test_the_norm_is_the_usual_one_with_and_without_gradients() -> None:
    ours, usual = RMSNorm(6, 1e-5), nn.RMSNorm(6, eps=1e-5)
    ours.weight.data = usual.weight.data = torch.randn(6)
    x = torch.randn(4, 6)
    torch.testing.assert_close(ours(x), usual(x))
    torch.testing.assert_close(ours(x.clone().requires_grad_()), usual(x))


def test_the_norm_has_the_right_gradients() -> None:
    norm = RMSNorm(6, 1e-5).double()
    norm.weight.data.normal_()
    x = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


def test_the_norm_keeps_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert RMSNorm(6, 1e-5)(torch.randn(4, 6, dtype=torch.bfloat16)).dtype == torch.float32


def test_time_zero_is_all_cosine() -> None:
    assert time_sinusoid(torch.zeros(2), 8, 1000.0).tolist() == [[1.0] * 4 + [0.0] * 4] * 2


def test_time_frequencies_fall_from_one_towards_a_ten_thousandth() -> None:
    angles = time_sinusoid(torch.tensor([1e-3]), 256, 1.0)[0, 128:].asin()
    torch.testing.assert_close(angles, 1e-3 * 1e4 ** (-torch.arange(128) / 128))


def test_time_is_embedded_in_the_dtype_of_the_weights() -> None:
    embedding = TimestepEmbedding(8, 6).to(torch.bfloat16)
    assert embedding(time_sinusoid(torch.rand(3), 8, 1000.0)).dtype == torch.bfloat16


def test_a_gate_is_opened_in_float32_and_rounded_once() -> None:
    z = torch.randn(64, 8).bfloat16()
    assert torch.equal(nn.functional.silu(z), nn.functional.silu(z.float()).bfloat16())


def test_a_closed_gate_feeds_nothing_forward() -> None:
    layer = GatedFeedForward(4, 8)
    layer.linear_1.weight.data.zero_()
    assert not layer(torch.randn(3, 4)).any()
