import torch

from model.kernels.modulated_norm import norm_add, norm_scale, scale
from model.layers import RMSNorm


def test_without_a_factor_it_is_the_norm() -> None:
    norm, x = RMSNorm(8, 1e-5), torch.randn(3, 2, 8)
    assert torch.equal(norm_scale(norm, x), norm(x))


def test_places_and_even_shares_agree() -> None:
    x, factor = torch.randn(6, 8), torch.randn(2, 8)
    assert torch.equal(scale(x, factor, None), scale(x, factor, torch.tensor([0, 0, 0, 1, 1, 1])))


def test_a_factor_of_0_adds_nothing() -> None:
    norm, (x, around) = RMSNorm(8, 1e-5), torch.randn(2, 6, 8)
    assert torch.equal(norm_add(norm, x, around, torch.zeros(2, 8)), around)
