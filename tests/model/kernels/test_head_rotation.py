import torch
from torch import nn

from model.kernels.head_rotation import norm_rotate_half, norm_rotate_pairs
from model.layers import RMSNorm


def test_no_angle_leaves_the_norm() -> None:
    norm, x_THD, zero = RMSNorm(8, 1e-5), torch.randn(3, 2, 8), torch.zeros(3, 4)
    assert torch.equal(norm_rotate_pairs(norm, x_THD, zero.cos(), zero.sin()), norm(x_THD))
    table = zero.repeat(1, 2).cos(), zero.repeat(1, 2).sin()
    assert torch.equal(norm_rotate_half(nn.Identity(), x_THD, *table), x_THD)


def test_rotations_keep_lengths() -> None:
    x_THD, angle_TE = torch.randn(3, 2, 8), torch.randn(3, 4)
    turned = norm_rotate_pairs(nn.Identity(), x_THD, angle_TE.cos(), angle_TE.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x_THD.norm(dim=-1))
