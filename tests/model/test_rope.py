from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.rope import axial_table, frequencies, mrope_table, rotate_half, rotate_pairs

SECTIONS = (2, 3, 3)
AXES = (4, 6, 6)
Rotate = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture
def x_THD() -> Tensor:  # noqa: N802
    return torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(0))


def ids(*rows: tuple[int, int, int]) -> Tensor:
    return torch.tensor(rows)


def half(x_THD: Tensor, ids_T3: Tensor) -> Tensor:
    return rotate_half(x_THD, *mrope_table(ids_T3, SECTIONS, 1e6))


def pairs(x_THD: Tensor, ids_T3: Tensor) -> Tensor:
    return rotate_pairs(x_THD, *axial_table(ids_T3, AXES, 1e4))


ROTATIONS = pytest.mark.parametrize("rotate", [half, pairs])


@ROTATIONS
def test_the_origin_turns_nothing(rotate: Rotate, x_THD: Tensor) -> None:
    torch.testing.assert_close(rotate(x_THD, torch.zeros(5, 3, dtype=torch.long)), x_THD)


@ROTATIONS
def test_lengths_are_kept(rotate: Rotate, x_THD: Tensor) -> None:
    turned = rotate(x_THD, torch.randint(0, 99, (5, 3)))
    torch.testing.assert_close(turned.norm(dim=-1), x_THD.norm(dim=-1))


@ROTATIONS
def test_products_depend_on_differences_of_positions_alone(rotate: Rotate, x_THD: Tensor) -> None:
    ids_T3 = torch.randint(0, 20, (5, 3), generator=torch.Generator().manual_seed(1))
    shift = torch.tensor([3, 5, 7])
    near, far = rotate(x_THD, ids_T3), rotate(x_THD, ids_T3 + shift)
    products = [torch.einsum("thd,shd->hts", each, each) for each in (near, far)]
    torch.testing.assert_close(products[0], products[1], atol=2e-5, rtol=0)


def test_each_section_follows_its_axis() -> None:
    angle = torch.atan2(*reversed(mrope_table(ids((1, 0, 0), (0, 1, 0), (0, 0, 1)), SECTIONS, 100.0)))
    moved = angle[:, :8] > 0
    expected = torch.tensor([[True] * 2 + [False] * 6, [False] * 2 + [True] * 3 + [False] * 3])
    assert torch.equal(moved[:2], expected)
    assert torch.equal(moved[2], ~(expected[0] | expected[1]))


def test_frequencies_go_on_over_the_sections_and_start_anew_on_the_axes() -> None:
    cos_TD, _ = mrope_table(ids((1, 1, 1)), SECTIONS, 1e6)
    torch.testing.assert_close(cos_TD[0, :8], frequencies(8, 1e6).cos())
    cos_TE, _ = axial_table(ids((1, 1, 1)), AXES, 1e4)
    expected = torch.cat([frequencies(dim // 2, 1e4).cos() for dim in AXES])
    torch.testing.assert_close(cos_TE[0], expected)


def test_neighbours_are_rotated_in_float32_and_returned_as_they_came(x_THD: Tensor) -> None:
    ids_T3 = torch.randint(0, 900, (5, 3), generator=torch.Generator().manual_seed(1))
    coarse = x_THD.to(torch.bfloat16)
    assert torch.equal(pairs(coarse, ids_T3), pairs(coarse.float(), ids_T3).to(torch.bfloat16))


def test_channel_pairs_are_halves_or_neighbours() -> None:
    one_hot = torch.zeros(1, 1, 16)
    one_hot[..., 0] = 1
    here = ids((1, 0, 0))
    assert half(one_hot, here).nonzero()[:, 2].tolist() == [0, 8]
    assert pairs(one_hot, here).nonzero()[:, 2].tolist() == [0, 1]
